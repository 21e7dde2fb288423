"""What is drawn, as data: charts, how they are coloured, and what is written around them.

Invariants: a picture says everything its reader sees, so that matplotlib, the terminal and a
notebook without matplotlib show the same. Values are laid out ``values[row][column]``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LONGEST_LABEL: Final = 20
"""Characters of a token that are shown."""

_WHITE_SPACE: Final = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d", "": "\u2205"}


class ChartForm(StrEnum):
    """How a chart is drawn."""

    UNSPECIFIED = "unspecified"
    HEAT_MAP = "heat_map"
    """Rows down, columns across, a colour a value."""

    LINES = "lines"
    """A line a row over the columns."""

    BARS = "bars"
    """A group of bars a column, a bar a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A named matrix with what its rows and columns are."""

    title: str
    form: ChartForm
    row_axis: str
    column_axis: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    unit: str
    values: tuple[tuple[float | None, ...], ...]
    """``values[row][column]``; None where there is nothing to say."""

    low: tuple[tuple[float | None, ...], ...] = ()
    """Lower bounds in the shape of ``values``, or empty."""

    high: tuple[tuple[float | None, ...], ...] = ()

    def cells(self) -> Iterator[tuple[int, int, float]]:
        """Row, column and value wherever there is a value."""
        for row, values in enumerate(self.values):
            for column, value in enumerate(values):
                if value is not None:
                    yield row, column, value


class Hue(StrEnum):
    """What a heat map's colours run through; all of them safe for the colour-blind."""

    PURPLE = "purple"
    """Orange below the centre, purple above: hidden states."""

    GREEN = "green"
    """Purple below, green above: MLP outputs."""

    RED = "red"
    """Blue below, red above: attention outputs."""

    TEAL = "teal"
    """Brown below, teal above: differences."""

    SEQUENTIAL = "sequential"
    """From light to dark, where no value is special."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A value that is named on a colour bar."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A chart, and what its colours mean."""

    chart: Chart
    hue: Hue = Hue.SEQUENTIAL
    centre: float = 0.0
    """The value in the middle of a diverging scale, where nothing is shown."""

    counted: str = ""
    """How ``value - centre`` is put where digits stand for it: `` above the corrupted run``."""

    marks: tuple[Mark, ...] = ()
    peak: tuple[int, int] | None = None
    """Row and column of the cell that is outlined."""

    note: str = ""
    """Under the title, such as where the peak is."""

    @property
    def diverges(self) -> bool:
        """Whether both signs of ``value - centre`` mean something."""
        return self.hue is not Hue.SEQUENTIAL

    @property
    def reach(self) -> float:
        """The largest distance of a value from the centre."""
        return max((abs(value - self.centre) for _, _, value in self.chart.cells()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Panels that are shown together."""

    title: str
    subtitle: str
    panels: tuple[Panel, ...]
    caption: str
    across: int = 3
    """Panels beside each other."""

    warnings: tuple[str, ...] = ()
    """Of the measurement."""

    @property
    def words(self) -> str:
        """What the picture shows, for those who cannot see it."""
        notes = [f"{panel.chart.title}: {panel.note}" for panel in self.panels if panel.note]
        return ". ".join([self.title, self.subtitle, *notes])


def heat_hue(chart: Chart) -> Hue:
    """A diverging scale for a heat map with both signs, else a sequential one."""
    negative = any(value < 0 for _, _, value in chart.cells())
    return Hue.TEAL if negative else Hue.SEQUENTIAL


def capital(sentence: str) -> str:
    """A sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def signed(value: float) -> str:
    """A number with its sign, as it is printed."""
    return f"{value:+.3g}".replace("-", "\u2212")


def unsigned(value: float) -> str:
    """A number, as it is printed; a whole one with all its digits."""
    whole = float(value).is_integer() and abs(value) < 1e9
    return (f"{int(value):,}" if whole else f"{value:.3g}").replace("-", "\u2212")


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """``text`` on one short line: white space and control characters made visible."""
    bare = text.strip(" ") or "\u2423" * len(text)
    seen = "".join(_visible(character) for character in bare) or _WHITE_SPACE[""]
    return seen if len(seen) <= longest else f"{seen[: longest - 1]}\u2026"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return _WHITE_SPACE.get(character) or character.encode("unicode_escape").decode()


def quoted(text: str, longest: int = 120) -> str:
    """``text`` in quotation marks, on one line."""
    return f"\u201c{label(text, longest)}\u201d"
