"""Locators other than the causal trace: what they are, what is asked, what they draw.

Invariant: every locator says what it cannot show, and its result is drawn from `Chart` alone,
so that one renderer draws them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.traces import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatorOption:
    """A number a locator can be told."""

    name: str
    meaning: str
    default: float
    minimum: float
    maximum: float

    @property
    def whole(self) -> bool:
        """Whether it counts something: all it is described with are whole numbers."""
        return all(map(float.is_integer, map(float, (self.default, self.minimum, self.maximum))))

    def require(self, value: float) -> None:
        """Do nothing if ``value`` is one it can have.

        Raises:
            InvalidInputError: it is out of range, or a fraction where it counts something.
        """
        fits = self.minimum <= value <= self.maximum
        if not fits or (self.whole and not float(value).is_integer()):
            kind = "a whole number" if self.whole else "a number"
            raise InvalidInputError(
                f"option {self.name!r} must be {kind} from {self.minimum:g} to {self.maximum:g}, "
                f"not {value:g}",
                field="options",
                option=self.name,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """A way to ask where a model keeps something."""

    name: str
    title: str
    shows: str
    """What its picture can say, in a sentence."""

    cannot_show: str
    """What it cannot say, in a sentence."""

    source: str
    """The paper it is from."""

    options: tuple[LocatorOption, ...] = ()

    def chosen(self, given: Mapping[str, float]) -> dict[str, float]:
        """Every option with the value given for it, else its default.

        Raises:
            InvalidInputError: an option is unknown or out of range.
        """
        known = {option.name: option for option in self.options}
        for name, value in given.items():
            option = known.get(name)
            if option is None:
                raise InvalidInputError(
                    f"locator {self.name!r} has no option {name!r}; it has "
                    f"{', '.join(sorted(known)) or 'none'}",
                    field="options",
                    option=name,
                )
            option.require(value)
        return {name: float(given.get(name, option.default)) for name, option in known.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateRequest:
    """One fact, and the locator to ask about it."""

    locator: str
    prompt: str
    subject: str
    answer: str = ""
    """The model's own next word where empty."""

    options: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    texts: tuple[str, ...] = ()
    """Ordinary texts for locators that learn from some; the server's own where empty."""

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("subject", self.subject)):
            if not text.strip():
                raise InvalidInputError(f"the {name} is empty; give some text", field=name)
        if not 0 <= self.seed < 2**32:
            raise InvalidInputError(
                f"seed must be from 0 to 2^32 - 1, not {self.seed}", field="seed", value=self.seed
            )


class ChartForm(StrEnum):
    """How a chart is drawn."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """What a locator found."""

    locator: Locator
    request: LocateRequest
    answer: str
    predicted: str
    tokens: tuple[str, ...]
    charts: tuple[Chart, ...]
    figures: Mapping[str, float]
    """Single numbers worth naming, such as ``attributes_rate`` or ``prediction_depth``."""

    warnings: tuple[str, ...]
    provenance: Provenance
