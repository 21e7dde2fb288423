"""What a residual can reach: the layers above its own, the positions from its token on.

All else is the base model's, whatever the residual: the states of its own layer, and above it
the keys and values of the positions before its token. They are computed once; a pass with a
residual starts from them. Invariants: what a pass computes is what the whole model would; only
the positions asked for meet the vocabulary; the base weights take no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from errata_server.engine.blocks import Blocks, Projected, attend_behind, run_layer
from errata_server.engine.runner import Runs

SLICE: Final = 512
"""Positions of the base, padding included, that go through the layers in one step; every one of
them meets every other in attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt, the token that gets a residual, and the positions that are read."""

    ids: tuple[int, ...]
    place: int
    """Index of the token that gets the residual."""

    reads: int
    """Positions read, counted back from the last."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reach:
    """Rows of prompts as far as a residual reaches them, the residual's token first."""

    blocks: Blocks
    layer: int
    states: Float[Tensor, "row tail d_model"]
    """Behind the edited layer, without a residual."""

    before: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of the positions before, for every layer above the edited one."""

    real: Bool[Tensor, "row tail"]
    """Which of the positions are not padding: dense layers run over those alone."""

    allowed: Bool[Tensor, "row 1 tail key"]
    positions: Int[Tensor, "row tail"]
    read_rows: Int[Tensor, " read"]
    read_columns: Int[Tensor, " read"]
    value_norms: Float[Tensor, " row"]
    """|v0|: lengths of the base values at the residual's tokens."""

    def logits(self, residuals: Float[Tensor, "row d_model"]) -> Float[Tensor, "read vocab"]:
        """Logits at every read position, row by row, with each row's residual added."""
        blocks, real = self.blocks, self.real
        moved = self.states[:, :1] + residuals[:, None].to(self.states.dtype)
        states = torch.cat([moved, self.states[:, 1:]], dim=1)[real][None]
        positions = self.positions[real][None]
        places = (real.flatten().cumsum(0) - 1).view_as(real)  # of a position among the real ones
        read = places[self.read_rows, self.read_columns]
        for layer, before in enumerate(self.before, start=self.layer + 1):
            projected = blocks.project(layer, states, positions)
            padded = Projected(
                *(_padded(part[0].transpose(0, 1), real).transpose(1, 2) for part in projected)
            )
            mixed = attend_behind(before, padded, blocks.scaling(layer), allowed=self.allowed)
            if layer == blocks.layers - 1:  # behind it only what is read matters
                states = states[:, read]
                mixed = mixed[self.read_rows, self.read_columns][None]
            else:
                mixed = mixed[real][None]
            middle = states + blocks.attention_output(layer, mixed)
            states = middle + blocks.mlp_output(layer, middle)
        return blocks.logits(states[0] if self.before else states[0, read])

    def keep(self, rows: Int[Tensor, " kept"]) -> "Reach":
        """The same for some of the rows, in the order given (ascending)."""
        places = torch.full((len(self.states),), -1, device=rows.device)
        places[rows] = torch.arange(len(rows), device=rows.device)
        renamed = places[self.read_rows]
        return replace(
            self,
            states=self.states[rows],
            before=tuple((keys[rows], values[rows]) for keys, values in self.before),
            real=self.real[rows],
            allowed=self.allowed[rows],
            positions=self.positions[rows],
            read_rows=renamed[renamed >= 0],
            read_columns=self.read_columns[renamed >= 0],
            value_norms=self.value_norms[rows],
        )


def reach_of(blocks: Blocks, rows: Sequence[Row], layer: int, *, run: Runs) -> Reach:
    """What residuals at ``layer`` reach in ``rows``: the base model, run once.

    Args:
        run: Runs one step on a model thread, where the base model answers.

    Raises:
        PromptTooLongError: a row is longer than the model's attention window.
    """
    for row in rows:
        blocks.require_sight(len(row.ids))
    widest = max(len(row.ids) for row in rows)
    size = max(1, SLICE // widest)
    before = max(1, *(row.place for row in rows))  # attention wants a key, be it masked
    after = max(len(row.ids) - row.place for row in rows)
    parts = []
    for start in range(0, len(rows), size):
        part = align(rows[start : start + size], before, after, blocks)
        parts.append(run(partial(_base, blocks, part, layer)))
    aligned = align(rows, before, after, blocks)
    read = [
        (index, len(row.ids) - row.place - row.reads + step)
        for index, row in enumerate(rows)
        for step in range(row.reads)
    ]
    place = torch.tensor(read, device=blocks.device)
    layers = zip(*(part.before for part in parts), strict=True)
    return Reach(
        blocks=blocks,
        layer=layer,
        states=torch.cat([part.states for part in parts]),
        before=tuple(
            (torch.cat([keys for keys, _ in layer_]), torch.cat([values for _, values in layer_]))
            for layer_ in layers
        ),
        real=aligned.mask[:, before:],
        allowed=aligned.allowed()[:, :, before:],
        positions=aligned.positions[:, before:],
        read_rows=place[:, 0],
        read_columns=place[:, 1],
        value_norms=torch.cat([part.value_norms for part in parts]),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aligned:
    """Rows padded on both sides, so that every residual's token is in one column."""

    ids: Int[Tensor, "row seq"]
    mask: Bool[Tensor, "row seq"]
    positions: Int[Tensor, "row seq"]
    column: int

    def allowed(self) -> Bool[Tensor, "row 1 seq seq"]:
        """Which positions may look at which: real ones before them, and always themselves."""
        width = self.ids.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=self.ids.device).tril()
        itself = torch.eye(width, dtype=torch.bool, device=self.ids.device)
        seen: Tensor = (earlier & self.mask[:, None, None, :]) | itself
        return seen


def align(rows: Sequence[Row], before: int, after: int, blocks: Blocks) -> Aligned:
    """``rows`` with ``before`` columns before the residual's token and ``after`` from it on."""
    lefts = [torch.tensor(row.ids[: row.place][::-1], dtype=torch.long) for row in rows]
    rights = [torch.tensor(row.ids[row.place :], dtype=torch.long) for row in rows]
    blank = [torch.zeros(before, dtype=torch.long), torch.zeros(after, dtype=torch.long)]
    left = pad_sequence([*lefts, blank[0]], batch_first=True, padding_value=-1)[:-1].flip(1)
    right = pad_sequence([*rights, blank[1]], batch_first=True, padding_value=-1)[:-1]
    ids = torch.cat([left, right], dim=1).to(blocks.device)
    mask = ids >= 0
    return Aligned(
        ids=ids.clamp(min=0),
        mask=mask,
        positions=(mask.cumsum(dim=1) - 1).clamp(min=0),
        column=before,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Base:
    """What the base model computes of some rows."""

    states: Float[Tensor, "row tail d_model"]
    before: list[tuple[Tensor, Tensor]]
    value_norms: Float[Tensor, " row"]


def _base(blocks: Blocks, rows: Aligned, layer: int) -> _Base:
    """The base model over the real tokens of all rows, one after the other: none is padding."""
    column, real = rows.column, rows.mask
    owners, columns = real.nonzero(as_tuple=True)
    positions = rows.positions[real][None]
    allowed = (owners[:, None] == owners) & (positions[0][:, None] >= positions[0])
    early = columns < column
    residual = blocks.place(blocks.embed(rows.ids[real][None]), positions)
    for below in range(layer):
        residual = run_layer(blocks, below, residual, allowed=allowed, positions=positions).after
    edited = run_layer(blocks, layer, residual, allowed=allowed, positions=positions)
    states, earlier = edited.after[:, early], allowed[early][:, early]
    before = []
    for above in range(layer + 1, blocks.layers):
        if above == blocks.layers - 1:  # its keys and values are all that is needed of it
            projected = blocks.project(above, states, positions[:, early])
        else:
            above_run = run_layer(
                blocks, above, states, allowed=earlier, positions=positions[:, early]
            )
            projected, states = above_run.projected, above_run.after
        keys, values = (
            _padded(part[0].transpose(0, 1), real[:, :column]).transpose(1, 2).contiguous()
            for part in (projected.keys, projected.values)
        )
        before.append((keys, values))
    return _Base(
        states=_padded(edited.after[0, ~early], real[:, column:]),
        before=before,
        value_norms=edited.mlp[0, columns == column].float().norm(dim=1),
    )


def _padded(tokens: Float[Tensor, "token ..."], real: Bool[Tensor, "row seq"]) -> Tensor:
    """Rows of ``tokens``, zero where there is none."""
    rows = tokens.new_zeros((*real.shape, *tokens.shape[1:]))
    rows[real] = tokens
    return rows
