"""Pictures as matplotlib figures.

Invariants: nothing is cut off or clipped to a colour it has not: a scale reaches as far as the
values do, in both directions; text of others is drawn as text, never as mathematics.
"""

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from errata import _canvas, _colour_bars
from errata._canvas import FAINT, INK, MISSING, drawable, styled
from errata._charts import LONGEST_LABEL, Chart, ChartForm, Hue, Panel, Picture, label
from errata._errors import InvalidInputError

if TYPE_CHECKING:
    from errata._canvas import Axes, Figure

_MAPS: Final = {
    Hue.PURPLE: "PuOr",
    Hue.GREEN: "PRGn",
    Hue.RED: "RdBu_r",
    Hue.TEAL: "BrBG",
    Hue.SEQUENTIAL: "YlGnBu",
}
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: Final = ("-", "--", "-.", ":")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

_TITLE: Final = 10.5
_BODY: Final = 8.5
_SMALL: Final = 7.5
_FEW_COLUMNS: Final = 8
_WORD: Final = 14
"""Characters of a column's name on one line, where columns are few."""

_LEADING: Final = 1.25
"""Height of a line, as a multiple of its size."""

_LEFT: Final = 0.012
_ROW: Final = 0.24
"""Inches a row of a heat map takes, if there is room."""

_LOWEST_LABEL: Final = 0.14
"""Inches between the labels of two rows."""

_TALLEST: Final = 12.0
_NARROWEST: Final = 2.6
_WIDEST: Final = 4.4
_NARROWEST_PICTURE: Final = 6.4
_WIDEST_PICTURE: Final = 14.6
_CHARACTER: Final = 0.068
"""Inches a character takes at the size of labels, rather too much than too little."""

_WIDE_CHARACTER: Final = 0.078
"""The same, at the size of a panel's title."""

_NARROW_CHARACTER: Final = 0.06
"""As `_CHARACTER`, about."""


def draw(picture: Picture) -> "Figure":
    """The whole picture on a figure of its own.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    _canvas.require()
    panels = picture.panels
    widest = max((_width(panel) for panel in panels), default=_NARROWEST)
    across = max(1, min(picture.across, len(panels), int(_WIDEST_PICTURE / widest)))
    lines = [panels[start : start + across] for start in range(0, len(panels), across)]
    heights = [max(map(_height, line)) for line in lines]
    around = _Words.of(picture, max(across * widest, _NARROWEST_PICTURE))
    figure = _canvas.new_figure(around.width, sum(heights) + around.height)
    reach = _reaches(panels)
    if panels:
        grid = figure.subplots(
            len(lines), across, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        spaces = [axes for row in grid for axes in row]
        for axes, panel in zip(spaces, panels, strict=False):
            _panel(axes, panel, reach[panel.chart.unit])
        for axes in spaces[len(panels) :]:
            axes.set_axis_off()
        _same_scale(spaces, panels)
    around.write(figure)
    return figure


def draw_on(axes: "Axes", picture: Picture) -> "Figure":
    """The one panel of a picture, on axes that are there already.

    Raises:
        InvalidInputError: the picture has several panels.
    """
    if len(picture.panels) != 1:
        raise InvalidInputError(
            f"axes hold one panel, this picture has {len(picture.panels)}; name the kind to draw"
        )
    (panel,) = picture.panels
    _panel(axes, panel, panel.reach)
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes that are given are on a figure"  # noqa: S101 - narrows the type
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What stands above and below the panels, wrapped to the figure's width."""

    width: float
    title: str
    subtitle: str
    caption: str

    @classmethod
    def of(cls, picture: Picture, width: float) -> "_Words":
        across = int((width - 0.3) / _CHARACTER)
        caption = "\n".join([picture.caption, *(f"Note: {said}" for said in picture.warnings)])
        return cls(
            width=width,
            title=_wrapped(drawable(picture.title), int(across * 0.72)),
            subtitle=_wrapped(drawable(picture.subtitle), across),
            caption=_wrapped(drawable(caption), int(across * 1.12)),
        )

    @property
    def height(self) -> float:
        """Inches the words take, about."""
        above = _lines_of(self.title) * _TITLE + _lines_of(self.subtitle) * _BODY
        return (above + _lines_of(self.caption) * _SMALL) * _LEADING / 72 + 0.3

    def write(self, figure: "Figure") -> None:
        """The title makes room for the subtitle, which the layout knows nothing of."""
        height = figure.get_figheight()
        top = _lines_of(self.title) * _TITLE
        room = math.ceil(_lines_of(self.subtitle) * _BODY / _TITLE + 0.1)
        figure.suptitle(
            self.title + "\n" * room, x=_LEFT, ha="left", size=_TITLE, weight="bold", **styled()
        )
        figure.text(
            _LEFT,
            1 - (top * _LEADING / 72 + 0.1) / height,
            self.subtitle,
            ha="left",
            va="top",
            size=_BODY,
            in_layout=False,
            **styled(),
        )
        figure.supxlabel(self.caption, x=_LEFT, ha="left", size=_SMALL, **styled(FAINT))


def _reaches(panels: Sequence[Panel]) -> dict[str, float]:
    """How far the colours of each unit reach: panels in one unit can be compared."""
    reaches: dict[str, float] = {}
    for panel in panels:
        unit, reach = panel.chart.unit, panel.reach if panel.diverges else 0.0
        reaches[unit] = max(reaches.get(unit, 0.0), reach)
    return reaches


def _lines_of(text: str) -> int:
    return text.count("\n") + 1


def _same_scale(spaces: Sequence["Axes"], panels: Sequence[Panel]) -> None:
    """Lines in the same unit are drawn to the same scale, so that they can be compared."""
    drawn: dict[str, list[Axes]] = {}
    for axes, panel in zip(spaces, panels, strict=False):
        if panel.chart.form is ChartForm.LINES and panel.chart.unit:
            drawn.setdefault(panel.chart.unit, []).append(axes)
    for group in drawn.values():
        limits = [limit for axes in group for limit in axes.get_ylim()]
        for axes in group:
            axes.set_ylim(min(limits), max(limits))


def _width(panel: Panel) -> float:
    """Inches a panel takes with what stands beside it, about."""
    names = _CHARACTER * max(map(len, panel.chart.rows), default=0)
    return _inner_width(panel.chart) + names + 1.4


def _inner_width(chart: Chart) -> float:
    match chart.form:
        case ChartForm.HEAT_MAP:
            return min(max(0.2 * len(chart.columns), _NARROWEST), _WIDEST)
        case ChartForm.BARS:
            return min(max(0.16 * len(chart.columns) * len(chart.rows), 3.6), 7.0)
        case _:
            return min(max(0.2 * len(chart.columns), 3.6), _WIDEST)


def _height(panel: Panel) -> float:
    """Inches a panel takes with what stands above and below it, about."""
    slant = 0.6 if _slanted(panel.chart) else 0.0
    return _inner_height(panel.chart) + 0.69 + 0.16 * _lines_of(_heading(panel)) + slant


def _inner_height(chart: Chart) -> float:
    if chart.form is ChartForm.HEAT_MAP:
        return min(max(_ROW * len(chart.rows), 1.3), _TALLEST)
    return max(2.0, 0.19 * len(chart.rows) + 0.2)


def _heading(panel: Panel) -> str:
    """What stands above a panel, wrapped to its width."""
    said = f"{panel.chart.title}\n{panel.note}" if panel.note else panel.chart.title
    return _wrapped(drawable(said), int((_inner_width(panel.chart) + 1.0) / _WIDE_CHARACTER))


def _unit(chart: Chart) -> str:
    """What stands upright beside a panel, wrapped to its height."""
    return _wrapped(drawable(chart.unit), int(_inner_height(chart) / _CHARACTER))


def _panel(axes: "Axes", panel: Panel, reach: float) -> None:
    axes.set_facecolor("white")
    empty = not (panel.chart.rows and panel.chart.columns)
    draw_form = _nothing if empty else _FORMS.get(panel.chart.form, _heat_map)
    draw_form(axes, panel, reach)
    axes.set_title(_heading(panel), loc="left", fontsize=_BODY + 0.5, **styled())
    axes.tick_params(labelsize=_SMALL, colors=INK, length=2.5, width=0.6)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.6)


def _nothing(axes: "Axes", panel: Panel, reach: float) -> None:
    del panel, reach
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", size=_BODY, **styled(FAINT))


def _heat_map(axes: "Axes", panel: Panel, reach: float) -> None:
    chart = panel.chart
    axes.set_facecolor(MISSING)
    values = [[float("nan") if v is None else v for v in row] for row in chart.values]
    low, high = _colour_bars.limits(panel, reach)
    mesh = axes.pcolormesh(
        values,
        cmap=_MAPS[panel.hue],
        vmin=low,
        vmax=high,
        edgecolors="white",
        linewidth=0.5 if len(chart.columns) <= 40 and len(chart.rows) <= 40 else 0.0,
    )
    axes.invert_yaxis()
    if panel.peak is not None:
        _outline(axes, *panel.peak)
    _column_ticks(axes, chart, offset=0.5)
    _row_ticks(axes, chart)
    numbered = any(row.isdigit() for row in chart.rows)  # names speak for themselves
    _axis_names(axes, chart.column_axis, chart.row_axis if numbered else "")
    _colour_bars.add(
        axes, mesh, panel, unit=_unit(chart), size=_SMALL, width=0.12 / _inner_width(chart)
    )


def _outline(axes: "Axes", row: int, column: int) -> None:
    axes.plot(
        [column, column + 1, column + 1, column, column],
        [row, row, row + 1, row + 1, row],
        color=INK,
        linewidth=1.3,
        solid_joinstyle="miter",
        clip_on=False,
    )


def _row_ticks(axes: "Axes", chart: Chart) -> None:
    height = min(_ROW, _TALLEST / max(len(chart.rows), 1))
    shown = range(0, len(chart.rows), max(1, math.ceil(_LOWEST_LABEL / height)))
    axes.set_yticks([row + 0.5 for row in shown])
    axes.set_yticklabels([drawable(chart.rows[row]) for row in shown], **styled())


def _column_ticks(axes: "Axes", chart: Chart, *, offset: float = 0.0) -> None:
    count = len(chart.columns)
    slanted = _slanted(chart)
    every = _every(count, 40 if slanted else 12)
    shown = range(0, count, every)
    axes.set_xticks([column + offset for column in shown])
    turned: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    )
    names = [_column_name(chart, column) for column in shown]
    axes.set_xticklabels(names, **turned, **styled())


def _slanted(chart: Chart) -> bool:
    """Whether the names of columns are too long to stand beside each other."""
    if all(column.isdigit() for column in chart.columns):
        return False  # numbers in order: every so-manieth will do
    widths = [
        max(map(len, _column_name(chart, column).split("\n"))) * _NARROW_CHARACTER
        for column in range(len(chart.columns))
    ]
    room = _inner_width(chart) / max(len(widths), 1)
    return any((one + other) / 2 + 0.03 > room for one, other in itertools.pairwise(widths))


def _column_name(chart: Chart, column: int) -> str:
    """A column's name; over several lines where there are few."""
    name = drawable(label(chart.columns[column], 2 * LONGEST_LABEL))
    if len(chart.columns) <= _FEW_COLUMNS:
        return _wrapped(name, _WORD)
    return label(name)


def _every(count: int, most: int) -> int:
    """Show every so-manieth of ``count`` ticks, a round number, to show at most ``most``."""
    steps = (factor * int(10**power) for power in range(9) for factor in (1, 2, 5))
    return next(step for step in steps if count <= most * step)


def _lines(axes: "Axes", panel: Panel, _: float) -> None:
    chart = panel.chart
    places = range(len(chart.columns))
    for index, (name, values) in enumerate(zip(chart.rows, chart.values, strict=True)):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(
            places,
            _numbers(values),
            color=colour,
            linestyle=_DASHES[index % len(_DASHES)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=3.2 if len(chart.columns) <= 30 else 0,
            linewidth=1.3,
            label=_legend_name(name),
        )
        if chart.low and chart.high:
            axes.fill_between(
                places,
                _numbers(chart.low[index]),
                _numbers(chart.high[index]),
                color=colour,
                alpha=0.16,
                linewidth=0,
            )
    _over_columns(axes, chart)


def _bars(axes: "Axes", panel: Panel, _: float) -> None:
    chart = panel.chart
    width = 0.8 / max(len(chart.rows), 1)
    for index, (name, values) in enumerate(zip(chart.rows, chart.values, strict=True)):
        places = [c - 0.4 + width * (index + 0.5) for c in range(len(chart.columns))]
        axes.bar(
            places,
            _numbers(values),
            width=width * 0.92,
            color=_COLOURS[index % len(_COLOURS)],
            hatch=("", "//", "..", "xx")[index // len(_COLOURS) % 4],
            label=_legend_name(name),
        )
        if chart.low and chart.high:
            axes.vlines(
                places,
                _numbers(chart.low[index]),
                _numbers(chart.high[index]),
                color=INK,
                linewidth=0.9,
            )
    _over_columns(axes, chart)


def _over_columns(axes: "Axes", chart: Chart) -> None:
    """What lines and bars have in common."""
    axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes.grid(axis="y", color=MISSING, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _column_ticks(axes, chart)
    _axis_names(axes, chart.column_axis, _unit(chart))
    if len(chart.rows) > 1:
        legend = axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            prop={"size": _SMALL, "family": list(_canvas.families())},
            labelcolor=INK,
            title=drawable(chart.row_axis),
            title_fontproperties={"size": _SMALL, "family": list(_canvas.families())},
            alignment="left",
        )
        legend.get_title().set(color=INK, parse_math=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)


def _legend_name(name: str) -> str:
    """A name that matplotlib shows: it hides those that begin with an underscore."""
    shown = drawable(label(name, 32))
    return f"\u200a{shown}" if shown.startswith("_") else shown


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _axis_names(axes: "Axes", across: str, up: str) -> None:
    axes.set_xlabel(drawable(across), fontsize=_SMALL + 0.5, **styled())
    axes.set_ylabel(drawable(up), fontsize=_SMALL + 0.5, **styled())


def _wrapped(text: str, width: int) -> str:
    return "\n".join(
        line for part in text.split("\n") for line in textwrap.wrap(part, max(width, 1)) or [""]
    )


_FORMS: Final[dict[ChartForm, Callable[["Axes", Panel, float], None]]] = {
    ChartForm.HEAT_MAP: _heat_map,
    ChartForm.LINES: _lines,
    ChartForm.BARS: _bars,
}
