"""Colour bars beside heat maps: how far they go, and what is named along them.

Invariant: a diverging scale reaches as far below its centre as above it, so that equal effects
have equal colours; the bar shows the part of it that the values take.
"""

from typing import TYPE_CHECKING

from errata._canvas import FAINT, INK, drawable, styled
from errata._charts import Mark, Panel, unsigned

if TYPE_CHECKING:
    from errata._canvas import Axes, QuadMesh


def limits(panel: Panel, reach: float) -> tuple[float, float]:
    """The ends of the colour scale; never of no length."""
    if panel.diverges:
        reach = reach or abs(panel.centre) or 1.0
        return panel.centre - reach, panel.centre + reach
    values = [value for _, _, value in panel.chart.cells()] or [0.0]
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def add(
    axes: "Axes", mesh: "QuadMesh", panel: Panel, *, unit: str, size: float, width: float
) -> None:
    """Put a colour bar beside a heat map, with round values and the panel's marks along it."""
    figure = axes.get_figure()
    assert figure is not None, "drawn axes are on a figure"  # noqa: S101 - narrows the type
    beside = axes.inset_axes((1.025, 0.0, width, 1.0))
    bar = figure.colorbar(mesh, cax=beside)
    low, high = _shown_range(panel, *mesh.get_clim())
    beside.set_ylim(low, high)
    ticks = _bar_ticks(panel, low, high)
    bar.set_ticks([place for place, _ in ticks], labels=[name for _, name in ticks])
    for tick in beside.get_yticklabels():
        tick.set(**styled())
    for mark in panel.marks:
        if low <= mark.value <= high:
            beside.axhline(mark.value, color=INK, linewidth=1.0)
    beside.minorticks_off()
    beside.tick_params(labelsize=size, colors=INK, length=2.5, width=0.6)
    bar.outline.set(edgecolor=FAINT, linewidth=0.6)
    bar.set_label(unit, fontsize=size, **styled())


def _shown_range(panel: Panel, low: float, high: float) -> tuple[float, float]:
    """What part of the scale the bar shows: as far as values and the centre go."""
    if not panel.diverges or not panel.reach:
        return low, high
    values = [value for _, _, value in panel.chart.cells()]
    first, last = min(*values, panel.centre), max(*values, panel.centre)
    margin = 0.02 * (last - first)
    return max(low, first - margin), min(high, last + margin)


def _bar_ticks(panel: Panel, low: float, high: float) -> list[tuple[float, str]]:
    """Round values along the bar, and its marks by name in place of values close to them."""
    span = high - low
    named: list[tuple[float, str]] = []
    for mark in sorted(panel.marks, key=lambda mark: mark.value != panel.centre):
        place, name = _mark_tick(mark, low, high)
        if all(abs(place - taken) > 0.05 * span for taken, _ in named):
            named.append((place, name))
    step = _round_step(span / 5)
    first = int(low / step) - 1
    plain = (step * (first + index) for index in range(9))
    return named + [
        (value, _number(value, step))
        for value in plain
        if low <= value <= high and all(abs(value - at) > 0.06 * span for at, _ in named)
    ]


def _mark_tick(mark: Mark, low: float, high: float) -> tuple[float, str]:
    name = drawable(f"{unsigned(mark.value)} {mark.name}")
    if mark.value > high:
        return high, f"\u2191 {name}"
    if mark.value < low:
        return low, f"\u2193 {name}"
    return mark.value, name


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least ``least``."""
    power = 1.0
    while power > least:
        power /= 10
    while power * 10 <= least:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)


def _number(value: float, step: float) -> str:
    text = f"{value:.10g}" if step >= 1 else f"{round(value / step) * step:.4g}"
    return text.replace("-", "\u2212")
