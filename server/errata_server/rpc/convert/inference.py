"""Prompts, options, pieces of text and scores."""

from collections.abc import Sequence
from typing import Final

from errata.v1 import inference_pb2
from errata_server.domain.errors import InvalidInputError, PromptTooLongError
from errata_server.domain.generation import GeneratedChunk, GenerationOptions, PromptScore
from errata_server.rpc.convert import revisions, values
from errata_server.service.views import Pinned

DEFAULT_NEW_TOKENS: Final = 32
MOST_CONTINUATIONS: Final = 256
_LONGEST_PROMPT: Final = 200_000
_LONGEST_CONTINUATION: Final = 20_000
_MOST_STOPS: Final = 16
_LARGEST_TEMPERATURE: Final = 100.0


def options(message: inference_pb2.GenerateRequest) -> GenerationOptions:
    """How to continue the prompt.

    Raises:
        InvalidInputError: a number is negative, NaN or too large, or a stop text is empty.
    """
    stops = tuple(message.stop)
    if len(stops) > _MOST_STOPS or not all(stops):
        raise InvalidInputError(
            f"stop may have {_MOST_STOPS} texts, none of them empty", field="stop"
        )
    return GenerationOptions(
        max_new_tokens=values.count(message.max_new_tokens, "max_new_tokens") or DEFAULT_NEW_TOKENS,
        temperature=values.number(message.temperature, "temperature", at_most=_LARGEST_TEMPERATURE),
        top_k=values.count(message.top_k, "top_k"),
        seed=values.count(message.seed, "seed"),
        stop=stops,
    )


def prompt(text: str) -> str:
    """A prompt as given, white space included: it is part of what the model reads.

    Raises:
        InvalidInputError: it is empty.
        PromptTooLongError: no model here has a context for that many characters.
    """
    if not text:
        raise InvalidInputError("prompt is empty; give some text", field="prompt")
    if len(text) > _LONGEST_PROMPT:
        raise PromptTooLongError(
            f"prompt has {len(text)} characters; at most {_LONGEST_PROMPT} are read",
            field="prompt",
            limit=_LONGEST_PROMPT,
        )
    return text


def continuations(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts to score after a prompt.

    Raises:
        InvalidInputError: there is none, too many, or one is empty or too long.
    """
    if not 1 <= len(texts) <= MOST_CONTINUATIONS:
        raise InvalidInputError(
            f"continuations has {len(texts)} texts; give 1 to {MOST_CONTINUATIONS}",
            field="continuations",
        )
    for place, text in enumerate(texts):
        if not 1 <= len(text) <= _LONGEST_CONTINUATION:
            raise InvalidInputError(
                f"continuations[{place}] has {len(text)} characters; "
                f"1 to {_LONGEST_CONTINUATION} are allowed",
                field=f"continuations[{place}]",
            )
    return tuple(texts)


def chunk_message(pinned: Pinned, chunk: GeneratedChunk) -> inference_pb2.GenerateResponse:
    """A piece of a continuation and the weights it came from."""
    return inference_pb2.GenerateResponse(
        served=revisions.served(pinned),
        text=chunk.text,
        tokens=chunk.tokens,
        finish_reason=chunk.finish_reason,
    )


def score_message(pinned: Pinned, score: PromptScore) -> inference_pb2.ScoreResponse:
    """Log-probabilities and the weights they came from."""
    return inference_pb2.ScoreResponse(
        served=revisions.served(pinned),
        scores=[
            inference_pb2.ContinuationScore(
                continuation=row.continuation,
                log_probability=row.log_probability,
                token_log_probabilities=row.token_log_probabilities,
                tokens=row.tokens,
                is_greedy=row.is_greedy,
            )
            for row in score.scores
        ],
        logits_digest=score.logits_digest,
    )
