"""What errata knows of a base model: its identity, and the calibrated profile edits use.

Invariant: a profile's id is the SHA-256 of its canonical body, and every patch names it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

from errata_server.domain import canonical
from errata_server.domain.ids import Digest, ProfileId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A loaded checkpoint as seen from outside the engine."""

    digest: Digest
    """SHA-256 over the checkpoint's weights and tokenizer as loaded."""

    source: str
    """The path's last component or the hub id it was loaded from; never a full path."""

    architecture: str
    """Family in the architecture table, such as ``gpt2`` or ``llama``."""

    layers: int
    d_model: int
    d_in: int
    vocabulary: int
    context: int
    """Most tokens a prompt and its continuation may have together."""

    parameters: int
    dtype: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything an edit needs that is not in the request, found by `Calibrate`.

    The model itself is asked, in place of a table of hyper-parameters for each model.
    """

    model_digest: Digest
    layer: int
    """The edited layer l*, chosen by sweeping real edits over the layers."""

    module: str
    """Dotted path of the edited projection in the checkpoint."""

    d_in: int
    d_out: int
    prefixes: tuple[str, ...]
    """Texts put before a prompt; the empty string stands for the bare prompt."""

    learning_rate: float
    clamp: float
    """Largest norm of the value residual, as a multiple of the base value's norm."""

    max_steps: int
    kl_weight: float
    decay_weight: float
    stop_probability: float
    """Optimisation stops once the target has this probability in every context."""

    guard_width: float
    """tau: an edit fires where its match exceeds 1 - tau."""

    ridge: float
    """Added to the second moment, as a multiple of its mean diagonal."""

    moment_corpus: Digest
    moment_tokens: int
    sequence_length: int
    mean_value_norm: float
    """Mean norm of the value residuals of the calibration's edits."""

    seed: int
    evidence: tuple[dict[str, float], ...] = ()
    """The calibration sweep's rows, so that a reader sees why these values."""

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; what is hashed is what is stored."""
        return canonical.encode(asdict(self))

    @property
    def id(self) -> ProfileId:
        """SHA-256 of `body`."""
        return ProfileId(canonical.digest(self.body))

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        return cls.from_json(canonical.decode(body))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """A profile from its fields as JSON values."""
        fields = dict(value)
        fields["prefixes"] = tuple(fields["prefixes"])
        fields["evidence"] = tuple(fields["evidence"])
        return cls(**fields)
