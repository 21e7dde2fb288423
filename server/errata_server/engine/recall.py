"""What the model said, kept for every bank that has the same say in it.

A guarded bank changes a text only where a guard fires, and its guards see the base model's keys
as long as one projection is edited. So two banks of which the same edits fire at the same tokens
of a text give the same text, and what was said with one is not computed again for the other:
with most edits and most prompts that is the base model's own answer. Invariants: what is given
is what would be computed, but for the rounding of another batch's shape; a linear branch, or
guards at two projections, share with nobody but themselves.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.generation import GenerationOptions
from errata_server.engine.answers import (
    CONTINUED,
    SCORED_TOKENS,
    continue_rows,
    in_batches,
    losses,
    perplexity_of,
    rows_of,
)
from errata_server.engine.bank import Bank, GuardedBranch
from errata_server.engine.runner import Runner

KEPT_TOKENS: Final = 1_000_000
"""Of answers, 36 bytes each; a firing edit counts as six."""

KEPT_LOSSES: Final = 20_000
"""Some hundred bytes each."""

KEPT_BYTES: Final = 320 * 1024 * 1024
"""Of base keys, so that a text is not run again for every bank."""

GREEDY: Final = GenerationOptions()

VARIANTS: Final = 8
"""Continuations of one prompt that are kept."""

Say = tuple[tuple[int, Hashable], ...]
"""Which edits fire at which tokens of a text: the say a bank has in it. Empty: the base's text."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Continuation:
    """What followed a prompt, with the say its bank had in prompt and continuation."""

    ids: tuple[int, ...]
    ended: bool
    """Whether the model ended the text; more tokens would then not follow."""

    say: Say

    def reaches(self, new_tokens: int) -> bool:
        """Whether it tells what ``new_tokens`` come to; a shorter text is a longer one's start."""
        return self.ended or len(self.ids) >= new_tokens


@dataclass(slots=True)
class _Kept(Generic[T]):
    """The values kept latest, by key, of a total size at most."""

    most: int
    size: Callable[[T], int] = lambda _: 1
    values: OrderedDict[Hashable, T] = field(default_factory=OrderedDict)
    held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Hashable) -> T | None:
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
            return self.values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        with self.lock:
            self._drop(self.values.pop(key, None))
            self.values[key] = value
            self.held += self.size(value)
            while self.held > self.most:
                self._drop(self.values.popitem(last=False)[1])

    def _drop(self, value: T | None) -> None:
        if value is not None:
            self.held -= self.size(value)


class Recall:
    """A runner that does not say twice what it has said; safe to share between threads."""

    def __init__(self, runner: Runner) -> None:
        self.runner: Final = runner
        self._continuations: _Kept[tuple[_Continuation, ...]] = _Kept(KEPT_TOKENS, size=_tokens)
        self._losses: _Kept[tuple[float, int]] = _Kept(KEPT_LOSSES)
        self._keys: _Kept[Float[Tensor, "token d_in"]] = _Kept(KEPT_BYTES, size=_bytes)

    def continue_prompts(
        self,
        prompts: Sequence[str],
        bank: Bank,
        *,
        new_tokens: int | Sequence[int],
        options: GenerationOptions | None = None,
    ) -> list[str]:
        """As `answers.continue_greedily`.

        Args:
            prompts: What is continued.
            bank: What the model answers with.
            new_tokens: How many tokens may follow, all prompts or each.
            options: How tokens are chosen.

        Raises:
            PromptTooLongError: a prompt does not fit the context.
        """
        options = options or GREEDY
        runner = self.runner
        rooms = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else list(new_tokens)
        rows = [
            tuple(runner.tokens.fit(prompt, room=room))
            for prompt, room in zip(prompts, rooms, strict=True)
        ]
        keys = [_asked(row, options) for row in rows]
        found = self._remembered(rows, keys, bank, rooms)
        missing = [i for i in range(len(rows)) if i not in found]
        end = runner.checkpoint.tokenizer.eos_token_id
        for some in in_batches(missing, lambda i: len(rows[i]) + rooms[i], tokens=CONTINUED):
            said = continue_rows(
                runner,
                [rows[i] for i in some],
                bank,
                rooms=[rooms[i] for i in some],
                options=options,
            )
            says = self._says([rows[i] + ids for i, ids in zip(some, said, strict=True)], bank)
            for i, ids, say in zip(some, said, says, strict=True):
                kept = (self._continuations.get(keys[i]) or ())[1 - VARIANTS :]
                ended = end in ids
                self._continuations.put(keys[i], (*kept, _Continuation(ids, ended, say)))
                found[i] = ids
        return [runner.tokens.decode(found[i]) for i in range(len(rows))]

    def _remembered(
        self,
        rows: Sequence[tuple[int, ...]],
        keys: Sequence[Hashable],
        bank: Bank,
        rooms: Sequence[int],
    ) -> dict[int, tuple[int, ...]]:
        """Continuations that were said before and that ``bank`` would say too, by place."""
        known = [
            (place, kept)
            for place, key in enumerate(keys)
            for kept in self._continuations.get(key) or ()
            if kept.reaches(rooms[place])
        ]
        says = self._says([rows[place] + kept.ids for place, kept in known], bank)
        found = {}
        for (place, kept), say in zip(known, says, strict=True):
            ids = kept.ids[: rooms[place]]
            length = len(rows[place]) + len(ids)
            if _until(length, say) == _until(length, kept.say):
                found[place] = ids
        return found

    def differing(self, prompts: Sequence[str], first: Bank, second: Bank) -> list[str]:
        """Those of ``prompts`` in which the two banks do not have the same say.

        Raises:
            PromptTooLongError: a prompt does not fit the context.
        """
        rows = [tuple(self.runner.tokens.fit(prompt)) for prompt in prompts]
        known = [self._known(row) for row in rows]
        says = zip(rows, self._says(known, first), self._says(known, second), strict=True)
        differs = [_until(len(row), one) != _until(len(row), other) for row, one, other in says]
        return [prompt for prompt, other in zip(prompts, differs, strict=True) if other]

    def keys(self, prompts: Sequence[str], module: str) -> list[Float[Tensor, "token d_in"]]:
        """What the base model's projection ``module`` receives at every token of ``prompts``.

        Raises:
            PromptTooLongError: a prompt does not fit the context.
        """
        rows = [tuple(self.runner.tokens.fit(prompt)) for prompt in prompts]
        found = self._keys_of([self._known(row) for row in rows], module)
        return [keys[: len(row)] for row, keys in zip(rows, found, strict=True)]

    def _known(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """``row`` with what is known to follow it: the keys at its tokens are among that's."""
        kept = self._continuations.get(_asked(row, GREEDY))
        return row + kept[-1].ids if kept else row

    def perplexity(self, texts: Sequence[str], bank: Bank) -> float:
        """As `answers.perplexity`; 1 where there is no text."""
        if not texts:
            return 1.0
        rows = rows_of(self.runner, texts)
        keys = list(zip(rows, self._says(rows, bank), strict=True))
        found = {key: loss for key in keys if (loss := self._losses.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        for some in in_batches(missing, lambda key: len(key[0]), tokens=SCORED_TOKENS):
            for key, loss in zip(
                some, losses(self.runner, [row for row, _ in some], bank), strict=True
            ):
                self._losses.put(key, loss)
                found[key] = loss
        return perplexity_of([found[key] for key in keys])

    def _says(self, rows: Sequence[tuple[int, ...]], bank: Bank) -> list[Say]:
        """The say ``bank`` has in each of ``rows``."""
        if not bank.branches or not rows:
            return [()] * len(rows)
        branch = bank.branches[0]
        if len(bank.branches) > 1 or not isinstance(branch, GuardedBranch):
            return [((0, bank.digest()),)] * len(rows)
        keys = self._keys_of(rows, branch.module)
        nearest = branch.nearest(torch.cat(keys))
        says: list[Say] = []
        for fires, found in zip(
            nearest.fires.split([len(row) for row in rows]),
            nearest.keys.split([len(row) for row in rows]),
            strict=True,
        ):
            places = fires.nonzero()[:, 0].tolist()
            owners = branch.owners[found[fires]].tolist()
            names = [_name(branch.residuals[owner]) for owner in owners]
            says.append(tuple(zip(places, names, strict=True)))
        return says

    def _keys_of(
        self, rows: Sequence[tuple[int, ...]], module: str
    ) -> list[Float[Tensor, "token d_in"]]:
        """What the base model's projection receives at every token of ``rows``."""
        found = {row: self._keys.get((module, row)) for row in rows}
        missing = [row for row, keys in found.items() if keys is None]
        for some in in_batches(missing, len):
            (inputs,) = self.runner.inputs(self.runner.tokens.pad(some), [module])
            for row, keys in zip(some, inputs, strict=True):
                own = found[row] = keys[len(keys) - len(row) :].clone()
                self._keys.put((module, row), own)
        return [keys for row in rows if (keys := found[row]) is not None]


def _asked(row: tuple[int, ...], options: GenerationOptions) -> Hashable:
    """All that decides what follows ``row``, but for how much of it is asked for."""
    return (row, options.temperature, options.top_k, options.seed)


def _until(length: int, say: Say) -> Say:
    """The ``say`` in the first ``length`` tokens of a text."""
    return tuple((place, name) for place, name in say if place < length)


def _tokens(kept: tuple[_Continuation, ...]) -> int:
    return sum(1 + len(one.ids) + 6 * len(one.say) for one in kept)


def _bytes(keys: Float[Tensor, "token d_in"]) -> int:
    return keys.numel() * keys.element_size()


def _name(residual: Float[Tensor, " d_out"]) -> str:
    return hashlib.sha256(residual.cpu().contiguous().numpy().data).hexdigest()
