"""What is asked of a model in use, and what comes back."""

from dataclasses import dataclass

from errata_server.domain.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt; greedy unless ``temperature`` is above 0."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    """0 keeps every token."""

    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedChunk:
    """A piece of a continuation as it is made."""

    text: str
    tokens: int
    """Tokens generated so far, this chunk's included."""

    finish_reason: str = ""
    """``stop``, ``length`` or ``cancelled`` on the last chunk, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationScore:
    """How likely a continuation is after a prompt."""

    continuation: str
    log_probability: float
    """Sum over its tokens, natural logarithm."""

    token_log_probabilities: tuple[float, ...]
    tokens: tuple[str, ...]
    is_greedy: bool
    """Whether every token is the model's first choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScore:
    """A prompt's continuations, and a fingerprint of the numbers behind them."""

    scores: tuple[ContinuationScore, ...]
    logits_digest: Digest
    """SHA-256 over the prompt's logits at every position, computed alone in a batch of one:
    equal exactly if two revisions give the same bits on this machine."""
