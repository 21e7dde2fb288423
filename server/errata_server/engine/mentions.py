"""Mentions: the texts that name each edit's subject, and the model at its last token there.

A text ends with the subject's last token: what follows changes nothing at it. Invariant: the
order is edit by edit, name by name, and of a name as `errata_server.engine.keys.group_mentions`
wants it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata_server.domain.facts import EditRequest
from errata_server.engine.architecture import projection
from errata_server.engine.bank import Bank
from errata_server.engine.blocks import blocks_of, run_layer
from errata_server.engine.hooks import capture
from errata_server.engine.keys import context_texts, group_mentions
from errata_server.engine.reach import Row, align
from errata_server.engine.runner import Runner

ROWS: Final = 64
"""Mentions in one step of the lane."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """The model at every mention."""

    keys: Float[Tensor, "mention d_in"]
    """What one layer's projection receives."""

    states: Float[Tensor, "mention d_model"]
    """Behind one layer, the same or a later one."""


class _Name(NamedTuple):
    """A subject or an alias."""

    mentions: range
    others: int
    """How many of them come before the bare one."""


class Mentions:
    """Every mention of some edits' subjects, ready to be looked at again and again.

    Raises:
        SubjectNotFoundError: a name cannot be told apart in a mention.
        PromptTooLongError: a mention does not fit the context.
    """

    def __init__(
        self, runner: Runner, requests: Sequence[EditRequest], prefixes: Sequence[str]
    ) -> None:
        self._runner = runner
        self._blocks = blocks_of(runner.checkpoint)
        self._names: list[_Name] = []
        self._rows: list[Row] = []
        owners: list[int] = []
        for edit, request in enumerate(requests):
            for name in request.names:
                others = context_texts(name, prefixes, mentioned=True)
                texts = [*others, name, *(request.prompts if name == request.subject else ())]
                start = len(self._rows)
                self._names.append(_Name(range(start, start + len(texts)), len(others)))
                self._rows += [self._row(text, name) for text in texts]
                owners += [edit] * len(texts)
        self.owners: Int[Tensor, " mention"] = torch.tensor(owners, dtype=torch.long)
        """The edit each mention is of."""

    def _row(self, text: str, subject: str) -> Row:
        tokens = self._runner.tokens
        ids = tokens.fit(text)
        kept = tuple(ids[: len(ids) + tokens.subject_end(text, subject) + 1])
        self._blocks.require_sight(len(kept))
        return Row(ids=kept, place=len(kept) - 1, reads=1)

    def look(self, layer: int, last: int, bank: Bank) -> Seen:
        """Keys at ``layer`` and states behind ``last``, with ``bank`` in place."""
        order = sorted(range(len(self._rows)), key=lambda row: len(self._rows[row].ids))
        found = [
            self._look_at(
                [self._rows[row] for row in order[start : start + ROWS]], layer, last, bank
            )
            for start in range(0, len(order), ROWS)
        ]
        back = torch.tensor(order).argsort()
        keys, states = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
        return Seen(keys=keys, states=states)

    def _look_at(
        self, rows: Sequence[Row], layer: int, last: int, bank: Bank
    ) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_model"]]:
        blocks, checkpoint = self._blocks, self._runner.checkpoint
        module = projection(checkpoint.model, checkpoint.projection_path(layer))
        aligned = align(rows, max(row.place for row in rows), 1, blocks)

        def step() -> tuple[Tensor, Tensor]:
            residual = blocks.place(blocks.embed(aligned.ids), aligned.positions)
            with capture(module) as seen:
                for index in range(last + 1):
                    residual = run_layer(
                        blocks,
                        index,
                        residual,
                        allowed=aligned.allowed(),
                        positions=aligned.positions,
                    ).after
            return seen.last[:, -1].float().cpu(), residual[:, -1].float().cpu()

        return self._runner.run(step, bank)

    def groups(
        self, keys: Float[Tensor, "mention d_in"], factor: Float[Tensor, "d_in d_in"]
    ) -> Iterator[list[int]]:
        """Mentions that share a key, group by group; see `group_mentions`."""
        rows = [keys[list(name.mentions)] for name in self._names]
        found = group_mentions(rows, [name.others for name in self._names], factor)
        for name, (groups, _) in zip(self._names, found, strict=True):
            yield from ([name.mentions[place] for place in group] for group in groups)
