"""The one-pass schedule: all cells walk up the layers together, each joining at its birth.

Only what an intervention can change is computed: positions from its token on, layers from its
birth on, and behind the last layer the positions that are read out. Keys and values of the
positions before its token are those of the corrupted run of the same sample, shared by all
cells of a token. See `docs/adr/0015-one-pass-tracing.md` for why this equals whole passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.traces import TraceKind
from errata_server.engine.blocks import Blocks, LayerRun, Projected, run_layer
from errata_server.engine.locate.cells import Part, Trajectory
from errata_server.engine.locate.readouts import Readout
from errata_server.engine.runner import Runs

SLICE: Final = 1_024
"""Positions that go through a layer together; enough to fill the matrix kernels."""


class _Held(NamedTuple):
    """Trajectories held to other values in a layer: to the clean run's, to the corrupted one's."""

    clean: list[int]
    corrupted: list[int]


@dataclass(slots=True, eq=False)
class _Column:
    """A part's states on their way up."""

    part: Part
    blocks: Blocks
    tokens: int
    kept: int
    states: Float[Tensor, "sample trajectory seq d_model"] = field(init=False)
    births: list[int] = field(init=False)
    final: Float[Tensor, "sample trajectory kept d_model"] = field(init=False)

    def __post_init__(self) -> None:
        part, blocks = self.part, self.blocks
        shape = (len(part.samples), len(part.trajectories))
        self.births = [one.birth for one in part.trajectories]
        own = self.tokens - part.token
        self.states, self.final = (
            torch.empty(*shape, kept, blocks.d_model, device=blocks.device, dtype=blocks.dtype)
            for kept in (own, self.kept)
        )

    def advance(self, layer: int, base: LayerRun, *, slice_size: int) -> None:
        """Take the living through ``layer``, then add those born behind it."""
        living = sum(birth < layer for birth in self.births)
        own = self.states.shape[2]
        width = max(1, slice_size // (len(self.part.samples) * own))
        for start in range(0, living, width):
            stop = min(start + width, living)
            self._step(layer, base, slice(start, stop))
        for index, one in enumerate(self.part.trajectories):
            if one.birth == layer:
                self._bear(index, one, base)
        if layer == self.blocks.layers - 1:
            newborn = slice(living, None)
            self.final[:, newborn] = self.states[:, newborn, own - self.kept :]

    def _step(self, layer: int, base: LayerRun, some: slice) -> None:
        token, blocks = self.part.token, self.blocks
        samples, own = len(self.part.samples), self.states.shape[2]
        last = layer == blocks.layers - 1
        # Behind the last layer only the positions read out matter; the others give keys alone.
        wanted = self.kept if last else own
        states = self.states[:, some]
        positions = torch.arange(token, self.tokens, device=states.device)
        projected = blocks.project(layer, states.flatten(0, 1), positions)
        mixed = _attend_beside(
            projected,
            *self._shared(base),
            scaling=blocks.scaling(layer),
            samples=samples,
            wanted=wanted,
        )
        attention = blocks.attention_output(layer, mixed).unflatten(0, (samples, -1))
        here = wanted == own  # whether the intervened token is among the wanted
        if here:
            self._hold(attention, layer, some, base.attention, TraceKind.ATTN)
        middle = states[:, :, own - wanted :] + attention
        mlp = blocks.mlp_output(layer, middle.flatten(0, 1)).unflatten(0, (samples, -1))
        if here:
            self._hold(mlp, layer, some, base.mlp, TraceKind.MLP)
        (self.final if last else self.states)[:, some] = middle + mlp

    def _shared(self, base: LayerRun) -> tuple[Tensor, Tensor]:
        """Keys and values of the positions before the part's token, a row a sample."""
        rows = slice(1 + self.part.samples.start, 1 + self.part.samples.stop)
        before = slice(None, self.part.token)
        return base.projected.keys[rows, :, before], base.projected.values[rows, :, before]

    def _hold(
        self, outputs: Tensor, layer: int, some: slice, base: Tensor, what: TraceKind
    ) -> None:
        """Put other values in the place of the outputs at the part's token."""
        held = _held(self.part.trajectories[some], layer, what)
        if held.clean:
            outputs[:, held.clean, 0] = base[0, self.part.token]
        if held.corrupted:
            outputs[:, held.corrupted, 0] = self._corrupted(base)[:, None, self.part.token]

    def _corrupted(self, base: Tensor) -> Tensor:
        return base[1 + self.part.samples.start : 1 + self.part.samples.stop]

    def _bear(self, index: int, one: Trajectory, base: LayerRun) -> None:
        """The state of a trajectory as it leaves the corrupted run, or its parent."""
        if one.parent is not None:
            parent = self.part.trajectories.index(one.parent)
            self.states[:, index] = self.states[:, parent]
            return
        token = self.part.token
        self.states[:, index] = self._corrupted(base.after)[:, token:]
        if one.kind is TraceKind.MLP:
            restored = self._corrupted(base.middle)[:, token] + base.mlp[0, token]
        elif one.kind is TraceKind.ATTN:
            middle = self._corrupted(base.before)[:, token] + base.attention[0, token]
            restored = middle + self.blocks.mlp_output(one.birth, middle[:, None])[:, 0]
        else:
            restored = base.after[0, token].expand_as(self.states[:, index, 0])
        self.states[:, index, 0] = restored


def _held(trajectories: Sequence[Trajectory], layer: int, what: TraceKind) -> _Held:
    severed = TraceKind.SEVERED_MLP if what is TraceKind.MLP else TraceKind.SEVERED_ATTN
    alive = [
        (index, one.kind)
        for index, one in enumerate(trajectories)
        if one.birth < layer < one.held_until
    ]
    return _Held(
        clean=[index for index, kind in alive if kind is what],
        corrupted=[index for index, kind in alive if kind is severed],
    )


def _attend_beside(
    projected: Projected,
    keys: Float[Tensor, "sample key_head before head_width"],
    values: Float[Tensor, "sample key_head before head_width"],
    *,
    scaling: float,
    samples: int,
    wanted: int,
) -> Float[Tensor, "batch wanted d_heads"]:
    """Attention of the last ``wanted`` positions over shared keys and each row's own ones.

    Rows are samples times trajectories. All queries of a sample meet its shared keys in one
    product, so that these are never copied.
    """
    own = projected.keys.shape[2]
    key_heads = projected.keys.shape[1]
    queries = projected.queries[:, :, own - wanted :]
    # sample, key head, trajectory, query head of it, position, width
    queries = queries.unflatten(1, (key_heads, -1)).unflatten(0, (samples, -1)).transpose(1, 2)
    own_keys, own_values = (
        part.unflatten(0, (samples, -1)).transpose(1, 2)
        for part in (projected.keys, projected.values)
    )
    heads = queries.shape[3]
    before = (queries.flatten(2, 4) @ keys.mT).unflatten(2, queries.shape[2:5])
    after = (queries.flatten(3, 4) @ own_keys.mT).unflatten(3, (heads, wanted))
    later = torch.ones(wanted, own, dtype=torch.bool, device=after.device).triu(own - wanted + 1)
    after = after.masked_fill(later, -torch.inf)
    scores = torch.cat([before, after], dim=-1).float() * scaling
    weights = scores.softmax(dim=-1).to(values.dtype)
    first, second = weights.split([keys.shape[2], own], dim=-1)
    mixed = (first.flatten(2, 4) @ values).unflatten(2, queries.shape[2:5])
    mixed += (second.flatten(3, 4) @ own_values).unflatten(3, (heads, wanted))
    # back to: row, position, head, width
    together: Tensor = mixed.permute(0, 2, 4, 1, 3, 5).flatten(3, 5).flatten(0, 1)
    return together


def walk(
    placed: Float[Tensor, "batch seq d_model"],
    parts: Sequence[Part],
    *,
    readout: Readout,
    slice_size: int,
    run: Runs,
) -> Iterator[list[Float[Tensor, "sample trajectory"]]]:
    """One walk through the layers: nothing after each step, then the scores of every part.

    A step takes one part through one layer, and a caller may leave between any two.

    Args:
        placed: The residual stream before the first layer: the clean run in row 0, a
            corrupted one of each sample behind it.
        slice_size: Positions that go through a layer together.
        run: Runs one step on a model thread.
    """
    blocks, tokens = readout.blocks, placed.shape[1]
    columns = [
        _Column(part=part, blocks=blocks, tokens=tokens, kept=readout.kept) for part in parts
    ]
    residual = placed
    for layer in range(blocks.layers):
        base = run(partial(run_layer, blocks, layer, residual))
        for column in columns:
            run(partial(column.advance, layer, base, slice_size=slice_size))
            yield []
        residual = base.after
    yield [run(partial(readout.scores, column.final)) for column in columns]
