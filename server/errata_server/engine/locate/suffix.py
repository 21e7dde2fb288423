"""The clean run layer by layer, and runs that differ from it in their last positions alone.

What changes at the end of a prompt changes nothing before it, so such a run needs the clean
run's keys and values and no more. Invariant: a suffix nothing was done to is the clean run's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata_server.engine.blocks import Blocks, LayerRun, Projected, attend, run_layer
from errata_server.engine.locate.case import Case, Steps

POSITIONS: Final = 8_192
"""Keys and values a layer holds at once, over all rows that walk up together."""


def rows_together(tokens: int) -> int:
    """How many rows of ``tokens`` walk up the layers together."""
    return max(1, POSITIONS // tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRun:
    """Every layer over one row of tokens."""

    layers: tuple[LayerRun, ...]

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.layers[0].before.shape[1]

    @property
    def states(self) -> list[Float[Tensor, "seq d_model"]]:
        """The residual stream before the first layer and behind each."""
        return [self.layers[0].before[0], *(layer.after[0] for layer in self.layers)]


def clean_run(case: Case, ids: Sequence[int], steps: Steps | None = None) -> CleanRun:
    """The model as it is over ``ids``, a step a layer."""
    residual = case.step(partial(_placed, case, ids))
    layers = []
    for layer in range(case.blocks.layers):
        layers.append(case.step(partial(run_layer, case.blocks, layer, residual)))
        residual = layers[-1].after
        if steps is not None:
            steps.finish("clean run")
    return CleanRun(layers=tuple(layers))


def _placed(case: Case, ids: Sequence[int]) -> Float[Tensor, "1 seq d_model"]:
    row = case.row(ids)
    positions = torch.arange(row.shape[1], device=row.device)
    return case.blocks.place(case.blocks.embed(row), positions)


def attend_behind(
    blocks: Blocks,
    layer: int,
    suffix: Float[Tensor, "batch own d_model"],
    clean: LayerRun,
    *,
    allowed: Bool[Tensor, "batch own seq"] | None = None,
) -> Float[Tensor, "batch own d_model"]:
    """What attention adds to the last positions of rows that are clean before them.

    Args:
        allowed: Which positions each may look at, causality included; all before it where None.
    """
    own, seq = suffix.shape[1], clean.before.shape[1]
    positions = torch.arange(seq - own, seq, device=suffix.device)
    projected = blocks.project(layer, suffix, positions)
    if allowed is None:
        allowed = torch.ones(own, seq, dtype=torch.bool, device=suffix.device).tril(seq - own)
        allowed = allowed.expand(len(suffix), own, seq)
    behind = Projected(
        projected.queries,
        _behind(clean.projected.keys, projected.keys),
        _behind(clean.projected.values, projected.values),
    )
    mixed = attend(behind, blocks.scaling(layer), allowed=allowed[:, None])
    return blocks.attention_output(layer, mixed)


def _behind(
    clean: Float[Tensor, "1 key_head seq head_width"],
    own: Float[Tensor, "batch key_head own head_width"],
) -> Float[Tensor, "batch key_head seq head_width"]:
    before = clean[:, :, : clean.shape[2] - own.shape[2]]
    return torch.cat([before.expand(len(own), -1, -1, -1), own], dim=2)


def run_behind(
    blocks: Blocks,
    layer: int,
    suffix: Float[Tensor, "batch own d_model"],
    clean: LayerRun,
    *,
    allowed: Bool[Tensor, "batch own seq"] | None = None,
) -> Float[Tensor, "batch own d_model"]:
    """One layer over the last positions of rows that are clean before them."""
    middle = suffix + attend_behind(blocks, layer, suffix, clean, allowed=allowed)
    return middle + blocks.mlp_output(layer, middle)
