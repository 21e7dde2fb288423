"""Pictures in the terminal: grids of shaded cells, and tables.

Invariant: a cell's sign and digits say all that its colour says.
"""

import math
from collections.abc import Iterator
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from errata._charts import Chart, ChartForm, Hue, Panel, Picture, label
from errata.cli._render import cell, number, table

_CELL: Final = 4
"""Columns a cell of a grid takes."""

_LONGEST_NAME: Final = 34
_LONGEST_HEAD: Final = 11

_NOTHING: Final = "\u00b7"

_COLOURS: Final = {
    Hue.PURPLE: ((94, 60, 153), (230, 97, 1)),
    Hue.GREEN: ((27, 120, 55), (118, 42, 131)),
    Hue.RED: ((178, 24, 43), (33, 102, 172)),
    Hue.TEAL: ((1, 102, 94), (140, 81, 10)),
    Hue.SEQUENTIAL: ((37, 52, 148), (37, 52, 148)),
}
"""Of what lies above the centre, and below."""


def picture(shown: Picture, width: int, *, grids_only: bool = False) -> Iterator[RenderableType]:
    """Everything the picture shows; only its grids where the rest repeats them."""
    yield shown.title
    yield from shown.subtitle.splitlines()
    for panel in shown.panels:
        if panel.chart.form is ChartForm.HEAT_MAP:
            yield from _grid(panel, width)
        elif not grids_only:
            yield _columns(panel.chart)
    yield ""
    yield from shown.caption.splitlines()


def _grid(panel: Panel, width: int) -> Iterator[RenderableType]:
    """A heat map: rows down, columns across, in as many blocks as the screen needs."""
    chart, unit = panel.chart, _unit(panel)
    yield ""
    yield f"{chart.title}: {chart.unit}{panel.counted}, in units of {unit:g}"
    if panel.note:
        yield panel.note
    names = [label(row, _LONGEST_NAME) for row in chart.rows]
    room = max((len(name) for name in names), default=0) + 2
    cells = _cell_width(chart)
    blocks = math.ceil(len(chart.columns) * cells / max(width - room, cells)) or 1
    size = math.ceil(len(chart.columns) / blocks)
    for start in range(0, len(chart.columns), max(size, 1)):
        block = range(start, min(start + size, len(chart.columns)))
        yield _block(panel, names, block, cells)


def _cell_width(chart: Chart) -> int:
    """Columns a cell takes: room for three digits, and for names across if they are longer."""
    longest = max((len(label(column)) for column in chart.columns), default=0)
    return max(_CELL, min(longest, _LONGEST_HEAD) + 1)


def _block(panel: Panel, names: list[str], block: range, width: int) -> Table:
    chart, reach, unit = panel.chart, panel.reach, _unit(panel)
    drawn = Table.grid(padding=(0, 0))
    drawn.add_column(no_wrap=True)
    for _ in block:
        drawn.add_column(justify="right", width=width, no_wrap=True)
    heads = (cell(label(chart.columns[column], width - 1), "dim") for column in block)
    drawn.add_row(cell(f"{chart.row_axis} "), *heads)
    for index, name in enumerate(names):
        values = (chart.values[index][column] for column in block)
        shades = (_shaded(panel, value, unit=unit, reach=reach, width=width) for value in values)
        drawn.add_row(cell(f"{name}  "), *shades)
    return drawn


def _unit(panel: Panel) -> float:
    """What a cell counts in: the largest is shown with two digits."""
    reach = panel.reach
    if not reach or not math.isfinite(reach):
        return 1.0
    return float(10.0 ** (math.floor(math.log10(reach)) - 1))


def _shaded(panel: Panel, value: float | None, *, unit: float, reach: float, width: int) -> Text:
    """A cell: its sign and digits, on a shade of its hue."""
    if value is None:
        return cell("")
    offset = value - panel.centre
    count = round(offset / unit)
    if not count:
        return Text(_NOTHING, style="dim")
    digits = f"{count:+d}" if panel.diverges else str(count)
    above, below = _COLOURS[panel.hue]
    share = min(abs(offset) / reach, 1.0)
    red, green, blue = (
        round(255 + (tone - 255) * (0.1 + 0.9 * share)) for tone in (above if offset > 0 else below)
    )
    ink = "white" if share > 0.5 else "black"
    return Text(f"{digits:>{width}}", style=f"{ink} on rgb({red},{green},{blue})")


def _columns(chart: Chart) -> Table:
    """Lines and bars as a table: a line a column of the chart, with bounds where it has them."""
    return table(
        (chart.column_axis, *(label(row, 40) for row in chart.rows)),
        (
            (name, *(_measured(chart, row, column) for row in range(len(chart.rows))))
            for column, name in enumerate(chart.columns)
        ),
        f"{chart.title} ({chart.unit})" if chart.unit else chart.title,
    )


def _measured(chart: Chart, row: int, column: int) -> str:
    value = chart.values[row][column]
    if not (chart.low and chart.high):
        return number(value)
    low, high = chart.low[row][column], chart.high[row][column]
    if value is None or low is None or high is None:
        return number(value)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
