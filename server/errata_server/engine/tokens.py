"""From text to tokens: where a subject ends, what a target is made of, padded batches.

Invariants: a subject's last token is found by character offsets, never by counting; padding
is on the left, so that the last column is every prompt's last token.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from errata_server.domain.errors import (
    InvalidFactError,
    PromptTooLongError,
    SubjectNotFoundError,
)
from errata_server.domain.traces import TokenRole

KEPT: Final = 4_096
"""Texts whose tokens are remembered."""

BEFORE: Final = "x"
"""A text for another to follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The tokens of a text, with the special ones the tokenizer adds by itself."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Where each token's characters begin and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Texts as left-padded tokens."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]

    @property
    def positions(self) -> Int[Tensor, "batch seq"]:
        """Each token's position in its own text; 0 on padding."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer with the questions errata asks of it."""

    tokenizer: PreTrainedTokenizerBase
    context: int
    device: torch.device
    _encoded: Callable[[str], Encoded] = field(init=False, repr=False, compare=False)
    _begins_afresh: bool = field(init=False, repr=False, compare=False)
    """Whether the tokenizer puts a space before every text, also before one that goes on."""

    def __post_init__(self) -> None:
        # A check asks the same texts of several banks, and drift texts with every edit.
        object.__setattr__(self, "_encoded", lru_cache(KEPT)(partial(_encoded, self.tokenizer)))
        first, second, both = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (BEFORE, f" {BEFORE}", f"{BEFORE} {BEFORE}")
        )
        object.__setattr__(self, "_begins_afresh", first + second != both)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with the special tokens the tokenizer adds by itself."""
        return list(self.encoded(text).ids)

    def encoded(self, text: str) -> Encoded:
        """As `encode`, with where each token's characters are."""
        return self._encoded(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def piece(self, token: int) -> str:
        """Text of one token as a picture shows it: special ones by name, bytes as they are."""
        text = str(self.tokenizer.decode([token], skip_special_tokens=False))
        if "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
            return str(self.tokenizer.convert_ids_to_tokens(token))
        return text

    def fit(self, text: str, *, room: int = 0) -> list[int]:
        """Token ids of ``text``, checked to leave ``room`` tokens of the context.

        Raises:
            PromptTooLongError: it does not fit, or is empty.
        """
        ids = self.encode(text)
        if not ids:
            raise PromptTooLongError("the prompt has no tokens; give some text", field="prompt")
        self.fit_ids(len(ids), room=room)
        return ids

    def fit_ids(self, tokens: int, *, room: int = 0) -> None:
        """Nothing, if ``tokens`` leave ``room`` in the context.

        Raises:
            PromptTooLongError: they do not.
        """
        if tokens + room > self.context:
            raise PromptTooLongError(
                f"the prompt has {tokens} tokens and {room} are to follow, but the model "
                f"sees {self.context}; shorten it",
                field="prompt",
                tokens=tokens,
                room=room,
                context=self.context,
            )

    def target(self, text: str) -> list[int]:
        """Token ids of a target as it continues a prompt: after a space.

        Raises:
            InvalidFactError: the target has no tokens or an unknown one.
        """
        ids = self.continuation(f" {text}")
        if not ids or not set(ids).isdisjoint(self.tokenizer.all_special_ids):
            raise InvalidFactError(
                f"the target {text!r} has no tokens of its own in this model's vocabulary, or "
                "holds a special token; word it differently",
                field="target",
                target=text,
            )
        return ids

    def continuation(self, text: str) -> list[int]:
        """Token ids of ``text`` exactly as written, as it would follow a prompt."""
        if self._begins_afresh:
            found = self.encoded(BEFORE + text)
            starts = [begin for begin, _ in found.offsets]
            if len(BEFORE) in starts:
                return list(found.ids[starts.index(len(BEFORE)) :])
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def subject_end(self, text: str, subject: str) -> int:
        """Index, counted from the end (-1 is the last token), of the subject's last token.

        Where ``text`` names the subject more than once, the last mention counts.

        Raises:
            SubjectNotFoundError: ``text`` does not name the subject.
        """
        start = text.rfind(subject)
        if start < 0:
            raise SubjectNotFoundError(
                f"the prompt {text!r} does not name the subject {subject!r}",
                prompt=text,
                subject=subject,
            )
        last = start + len(subject)
        offsets = self.encoded(text).offsets
        # From the end: a character split over several tokens gives them all its offsets.
        for index, (begin, end) in reversed(list(enumerate(offsets))):
            if begin < last <= end:
                return index - len(offsets)
        raise SubjectNotFoundError(
            f"the tokens of {subject!r} cannot be told apart in {text!r}",
            prompt=text,
            subject=subject,
        )

    def place(self, text: str, subject: str, role: TokenRole) -> int:
        """Index, counted from the end, of the token of ``role`` at the subject's last mention.

        A one-token subject's first token is also its last.

        Raises:
            SubjectNotFoundError: ``text`` does not name the subject, or nothing follows it.
        """
        end = self.subject_end(text, subject)
        if role is TokenRole.LAST_SUBJECT:
            return end
        if role is TokenRole.LAST:
            return -1
        if role is TokenRole.FIRST_SUBSEQUENT and end < -1:
            return end + 1
        if role is TokenRole.FIRST_SUBJECT:
            # An earlier mention may overlap the last one, but never begins with it.
            start = text.rfind(subject)
            offsets = self.encoded(text).offsets
            return next(i for i, (_, stop) in enumerate(offsets) if stop > start) - len(offsets)
        raise SubjectNotFoundError(
            f"{text!r} has no token that is the {role.value} of {subject!r}",
            prompt=text,
            subject=subject,
        )

    def mentions(self, text: str, subject: str, *, end: int | None = None) -> list[int]:
        """Indices of all tokens that hold some of ``subject``, wherever ``text`` names it.

        Args:
            end: Mentions that go beyond this character do not count.

        Raises:
            SubjectNotFoundError: ``text`` does not name the subject.
        """
        starts = [m.start() for m in re.finditer(re.escape(subject), text[:end])] if subject else []
        if not starts:
            raise SubjectNotFoundError(
                f"the prompt {text!r} does not name the subject {subject!r}",
                prompt=text,
                subject=subject,
            )
        return [
            index
            for index, (begin, end) in enumerate(self.encoded(text).offsets)
            if any(begin < start + len(subject) and end > start for start in starts)
        ]

    def pad(self, rows: Sequence[Sequence[int]]) -> Batch:
        """``rows`` as one left-padded batch."""
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0  # masked, so any id does
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[index, width - len(row) :] = 1
        return Batch(ids=ids.to(self.device), mask=mask.to(self.device))


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    found = tokenizer(text, return_offsets_mapping=True)
    return Encoded(ids=tuple(found["input_ids"]), offsets=tuple(found["offset_mapping"]))


def join(prefix: str, text: str) -> str:
    """``text`` behind ``prefix``, with one space between; ``text`` alone after no prefix."""
    return f"{prefix} {text}" if prefix else text
