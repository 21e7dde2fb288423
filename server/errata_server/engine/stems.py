"""Stems: what several prompts begin with, run once for all of them.

Prompts of one kind have the same sentence before them, and so the same keys and values; a row then
goes on from a copy of its stem's.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import torch

from errata_server.engine.blocks import blocks_of
from errata_server.engine.runner import Runner
from errata_server.engine.tokens import Batch

SHORTEST: Final = 6
"""Tokens of a stem at least: shorter ones are shared by chance."""

WORTH: Final = 0.15
"""Share of all tokens that stems must save to be worth a pass of their own."""

Row = Sequence[int]


def stems_of(rows: Sequence[Row]) -> list[int]:
    """With how many tokens each of ``rows`` begins that others begin with too; 0 if with few.

    One token at least is left: what follows a row follows its last.
    """
    order = sorted(range(len(rows)), key=lambda place: list(rows[place]))
    shared = [_shared(rows[one], rows[other]) for one, other in pairwise(order)]
    found = [0] * len(rows)
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or shared[end - 1] < SHORTEST:
            if end - start > 1:
                length = min(shared[start : end - 1])
                for place in order[start:end]:
                    found[place] = length
            start = end
    return found


def _shared(one: Row, other: Row) -> int:
    """Tokens with which both begin, each of them longer than that."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), max(most, 0))


def begin(runner: Runner, rows: Sequence[Row], *, most: int) -> tuple[Batch, Any]:
    """``rows`` as a batch to be continued, and a cache that holds their stems; None without any.

    Args:
        runner: Answers with the bank of the block this is called in.
        rows: Prompts.
        most: Tokens of one pass.
    """
    lengths = stems_of(rows)
    stems = list(dict.fromkeys(tuple(row[:n]) for row, n in zip(rows, lengths, strict=True) if n))
    saved = sum(lengths) - sum(map(len, stems))
    whole = runner.tokens.pad(rows)
    if saved < WORTH * sum(map(len, rows)) or blocks_of(runner.checkpoint).sight is not None:
        return whole, None  # a window of attention would count the padding behind a stem
    first = runner.tokens.pad(stems)
    if first.ids.numel() > most:
        return whole, None
    names = {stem: place for place, stem in enumerate(stems)}
    chosen = torch.tensor(
        [names.get(tuple(row[:n]), 0) for row, n in zip(rows, lengths, strict=True)],
        device=runner.device,
    )
    with torch.no_grad():
        output = runner.model(
            input_ids=first.ids,
            attention_mask=first.mask,
            position_ids=first.positions,
            use_cache=True,
            logits_to_keep=1,
        )
    cache = output.past_key_values
    cache.batch_select_indices(chosen)
    rest = runner.tokens.pad([row[n:] for row, n in zip(rows, lengths, strict=True)])
    begun = torch.tensor(lengths, device=runner.device)[:, None] > 0
    mask = torch.cat([first.mask[chosen] * begun, rest.mask], dim=1)
    return Batch(ids=torch.cat([first.ids[chosen], rest.ids], dim=1), mask=mask), cache
