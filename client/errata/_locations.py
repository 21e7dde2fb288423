"""The other locators: what they are, and what each found.

Invariant: every picture says what its locator cannot show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from errata._charts import Chart, ChartForm, Panel, Picture, heat_hue, quoted, unsigned
from errata._exhibits import Exhibit, Row
from errata._trace_types import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatorOption:
    """A number a locator can be told."""

    name: str
    meaning: str
    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """A way to ask where a model keeps something."""

    name: str
    title: str
    shows: str
    """What its picture can say."""

    cannot_show: str
    """What it cannot say."""

    source: str
    """The paper it is from."""

    options: tuple[LocatorOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Location(Exhibit):
    """What a locator found."""

    SCHEMA: ClassVar[str] = "errata.located/1"

    locator: Locator
    prompt: str
    subject: str
    answer: str
    predicted: str
    """The model's own next word."""

    tokens: tuple[str, ...]
    charts: tuple[Chart, ...]
    figures: Mapping[str, float]
    """Single numbers by name, such as ``attributes_rate``."""

    options: Mapping[str, float]
    """What the locator was told, defaults included."""

    warnings: tuple[str, ...]
    provenance: Provenance
    digest: str = ""
    """SHA-256 of the result in the ledger."""

    def rows(self) -> list[Row]:
        """A tidy table: a row for each chart, row and column that has a value."""
        return [
            {
                "chart": chart.title,
                "row": chart.rows[row],
                "column": chart.columns[column],
                "value": value,
                "low": chart.low[row][column] if chart.low else None,
                "high": chart.high[row][column] if chart.high else None,
                "unit": chart.unit,
            }
            for chart in self.charts
            for row, column, value in chart.cells()
        ]

    def arrays(self) -> dict[str, Any]:
        """What `to_numpy` has.

        For the chart at index N ``chartN`` with ``chartN_rows`` and ``chartN_columns``, and
        ``chartN_low`` and ``chartN_high`` where it has bounds.
        """
        named: dict[str, Any] = {}
        for index, chart in enumerate(self.charts):
            named[f"chart{index}"] = chart.values
            named[f"chart{index}_rows"] = chart.rows
            named[f"chart{index}_columns"] = chart.columns
            if chart.low and chart.high:
                named[f"chart{index}_low"] = chart.low
                named[f"chart{index}_high"] = chart.high
        return named

    def picture(self) -> Picture:
        """What `plot` draws, as data: its charts."""
        told = "".join(f"; {name} {value:g}" for name, value in sorted(self.options.items()))
        return Picture(
            title=f"{self.locator.title}: {quoted(self.prompt)}",
            subtitle=f"Answer {quoted(self.answer, 24)}; {self.provenance.words}{told}\n"
            f"{self._numbers}",
            panels=tuple(_panel(chart) for chart in self.charts),
            caption=f"Shows: {self.locator.shows}\nCannot show: {self.locator.cannot_show}\n"
            f"Source: {self.locator.source}",
            across=2,
            warnings=self.warnings,
        )

    @property
    def summary(self) -> str:
        """The finding in a line."""
        found = self._numbers or "see its charts"
        return f"{self.locator.name} of {quoted(self.prompt, 60)}: {found}"

    @property
    def _numbers(self) -> str:
        return ", ".join(
            f"{name} {unsigned(found)}" for name, found in sorted(self.figures.items())
        )


def _panel(chart: Chart) -> Panel:
    if chart.form is ChartForm.HEAT_MAP:
        return Panel(chart=chart, hue=heat_hue(chart))
    return Panel(chart=chart)
