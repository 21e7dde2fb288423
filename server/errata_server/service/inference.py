"""Asking the model, at any revision.

Invariant: a reply comes from one `Pinned` from its first token to its last.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.generation import GeneratedChunk, GenerationOptions, PromptScore
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.views import Pinned


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inference:
    """Continuations and scores from the served weights."""

    engine: Engine
    serving: Serving

    def generate(
        self, prompt: str, options: GenerationOptions, reference: str = "", min_sequence: int = 0
    ) -> tuple[Pinned, Iterator[GeneratedChunk]]:
        """Continue ``prompt`` at a revision; close the iterator to stop early.

        Raises:
            InvalidInputError: the prompt is empty or an option is out of range.
            PromptTooLongError: prompt and continuation do not fit the context.
            RevisionNotFoundError: ``reference`` names no revision.
            UnavailableError: this server has not caught up with ``min_sequence`` yet.
        """
        _require_prompt(prompt)
        _require_options(options)
        pinned = self.serving.at(reference, min_sequence)
        return pinned, self.engine.generate(prompt, options, pinned.weights)

    def score(
        self, prompt: str, continuations: Sequence[str], reference: str = "", min_sequence: int = 0
    ) -> tuple[Pinned, PromptScore]:
        """How likely each continuation is after ``prompt`` at a revision.

        Raises:
            InvalidInputError: the prompt or a continuation is empty.
            PromptTooLongError: prompt and continuation do not fit the context.
            RevisionNotFoundError: ``reference`` names no revision.
            UnavailableError: this server has not caught up with ``min_sequence`` yet.
        """
        _require_prompt(prompt)
        if not all(continuations):
            raise InvalidInputError("a continuation is empty", field="continuations")
        pinned = self.serving.at(reference, min_sequence)
        return pinned, self.engine.score(prompt, continuations, pinned.weights)


def _require_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise InvalidInputError("the prompt is empty; give some text", field="prompt")


def _require_options(options: GenerationOptions) -> None:
    if options.max_new_tokens < 1:
        raise InvalidInputError(
            f"max_new_tokens must be at least 1, not {options.max_new_tokens}",
            field="max_new_tokens",
        )
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        raise InvalidInputError(
            f"temperature must be a number of at least 0, not {options.temperature}",
            field="temperature",
        )
    if options.top_k < 0:
        raise InvalidInputError(f"top_k must be at least 0, not {options.top_k}", field="top_k")
