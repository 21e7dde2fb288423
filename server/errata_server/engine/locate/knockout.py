"""Attention knockout: which layers carry what to the last token (Geva 2023, arXiv:2304.14767).

The positions that are read out are kept from attending to a set of positions in a window of
layers. Only those positions change, so a cell restarts from the clean run where its window
begins. Invariant: equal to a whole forward pass with the attention mask edited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.domain.traces import Metric
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.cells import window_of
from errata_server.engine.locate.charts import chart
from errata_server.engine.locate.readouts import Readout, answer_readout
from errata_server.engine.locate.suffix import CleanRun, clean_run, rows_together, run_behind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """Positions blocked in the layers [first, end)."""

    blocked: tuple[int, ...]
    first: int
    end: int


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Block each set of positions in every window, and in every single layer."""
    layers = case.blocks.layers
    asked = int(options["window"])
    window = min(asked, max(1, layers // 2))
    widths = sorted({window, 1}, reverse=True)
    ids = [*case.ids, *case.answer_ids[:-1]]
    sets, empty = _blocked_sets(case, len(ids))
    cells = [
        _Cell(blocked=sets[name], first=first, end=end)
        for width in widths
        for name in sets
        for first, end in (window_of(layer, layers, width) for layer in range(layers))
    ]
    together = rows_together(len(ids))
    steps = Steps(progress, total=layers * (1 + -(-len(cells) // together)))
    readout = _readout(case)
    clean = clean_run(case, ids, steps)
    before = float(case.step(partial(readout.scores, _tail(clean.layers[-1].after, readout))))
    scores: list[float] = []
    for start in range(0, len(cells), together):
        scores += _walk(case, clean, cells[start : start + together], readout, steps)
    changes = [score / before - 1 if before > 0 else None for score in scores]
    charts = tuple(
        _chart(case, width, tuple(sets), changes[at * len(sets) * layers :])
        for at, width in enumerate(widths)
    )
    return Findings(
        charts=charts,
        figures={"probability": before, "window": float(window)} | _deepest(charts[0]),
        warnings=(*_window_warning(asked, window, layers), *empty),
    )


def _blocked_sets(case: Case, tokens: int) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Positions by name, disjoint, and a warning for each name that stands for none."""
    last = len(case.ids) - 1
    subject = tuple(at for at in case.subject_positions if at < last)
    sets = {
        "subject": subject,
        "other tokens": tuple(at for at in range(last) if at not in subject),
        "last token": tuple(range(last, tokens)),
    }
    sets = {name: at for name, at in sets.items() if at}
    if last == 0:  # nothing would be left to attend to
        sets.pop("last token")
    missing = [name for name in ("subject", "other tokens", "last token") if name not in sets]
    return sets, tuple(
        f"there is nothing to block for {name!r}: the prompt has no such position before its "
        "last token"
        for name in missing
    )


def _readout(case: Case) -> Readout:
    nothing = torch.zeros(0, device=case.blocks.device)
    return answer_readout(
        case.blocks, Metric.PROBABILITY, answer=case.answer_ids, foil=0, clean=nothing
    )


def _tail(states: Float[Tensor, "batch seq d_model"], readout: Readout) -> Tensor:
    return states[:, -readout.kept :]


def _walk(
    case: Case, clean: CleanRun, cells: Sequence[_Cell], readout: Readout, steps: Steps
) -> list[float]:
    """Probability of the answer in each cell; every layer's weights are read once."""
    blocks, tokens = case.blocks, clean.tokens
    order = sorted(range(len(cells)), key=lambda index: cells[index].first)
    ordered = [cells[index] for index in order]
    causal = torch.ones(readout.kept, tokens, dtype=torch.bool).tril(tokens - readout.kept)
    masks = torch.stack([_mask(cell, causal) for cell in ordered]).to(blocks.device)
    states = _tail(clean.layers[0].before, readout)[:0]

    def advance(layer: int) -> Tensor:
        here = clean.layers[layer]
        born = sum(cell.first <= layer for cell in ordered)
        if not born:
            return states
        joining = _tail(here.before, readout).expand(born - len(states), -1, -1)
        blocking = torch.tensor([cell.end > layer for cell in ordered[:born]], device=blocks.device)
        allowed = masks[:born] | (~blocking[:, None, None] & causal.to(blocks.device))
        return run_behind(blocks, layer, torch.cat([states, joining]), here, allowed=allowed)

    for layer in range(blocks.layers):
        states = case.step(partial(advance, layer))
        steps.finish("knockout")
    scores = case.step(partial(readout.scores, states)).tolist()
    found = dict(zip(order, scores, strict=True))
    return [found[index] for index in range(len(cells))]


def _mask(cell: _Cell, causal: Bool[Tensor, "own seq"]) -> Bool[Tensor, "own seq"]:
    allowed = causal.clone()
    allowed[:, list(cell.blocked)] = False
    return allowed


def _chart(case: Case, width: int, names: Sequence[str], changes: Sequence[float | None]) -> Chart:
    layers = case.blocks.layers
    window = "each single layer" if width == 1 else f"{width} layers around each"
    return chart(
        ChartForm.LINES,
        f"Attention of the last token blocked in {window}",
        [(name, changes[at * layers : (at + 1) * layers]) for at, name in enumerate(names)],
        columns=case.layer_names,
        axes=("blocked", "layer"),
        unit="relative change of the answer's probability",
    )


def _deepest(chart: Chart) -> dict[str, float]:
    """The largest drop of each line, and the layer it is at."""
    figures = {}
    for name, values in zip(chart.rows, chart.values, strict=True):
        drops = [(value, layer) for layer, value in enumerate(values) if value is not None]
        if drops:
            key = name.replace(" ", "_")
            figures[f"{key}_largest_drop"] = max(0.0, -min(drops)[0])
            figures[f"{key}_largest_drop_layer"] = float(min(drops)[1])
    return figures


def _window_warning(asked: int, window: int, layers: int) -> tuple[str, ...]:
    if window == asked:
        return ()
    return (
        f"a window of {asked} layers would cover most of this model's {layers}; "
        f"{window} are blocked together",
    )


ROW: Final = Row(
    locator=Locator(
        name="knockout",
        title="Attention knockout",
        shows="In which layers the last token must look at the subject, or at the other tokens, "
        "for the answer to come out.",
        cannot_show="Where the fact is kept: it sees what moves to the last token, not what was "
        "written at the subject before, and later layers can make up for a blocked one.",
        source="Geva et al. 2023, arXiv:2304.14767",
        options=(
            LocatorOption(
                name="window",
                meaning="layers blocked together, at most half the model's",
                default=9,
                minimum=1,
                maximum=99,
            ),
        ),
    ),
    run=run,
)
