"""Causal traces: how far restoring each site of a corrupted run brings the answer back.

Invariants: grids are laid out token by token, layer by layer; an effect is a restored score
less the corrupted one, and higher scores always mean more of the answer. A trace explains
where an answer is carried; it does not choose the layer to edit (Hase 2023,
arXiv:2301.04213): `Client.calibrate` does, by editing.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from errata import _figures
from errata import _trace_words as words
from errata._charts import Hue, Mark, Panel, Picture, capital, quoted
from errata._errors import InvalidInputError
from errata._exhibits import Cell, Exhibit, Row
from errata._intervals import half_width
from errata._trace_types import (
    Corruption,
    Peak,
    Provenance,
    TracedToken,
    TraceGrid,
    TraceKind,
    TraceMetric,
)

if TYPE_CHECKING:
    from errata._canvas import Axes, Figure

T = TypeVar("T")


_SMALL_EFFECT: Final = 0.1
"""A total effect below this share of the clean score (or this many nats or logits) is too small
to divide by."""

Grid = tuple[tuple[float, ...], ...]
"""A value for each token (row) and layer (column)."""

Bounds = tuple[float, float] | None
"""Low and high; None for a single sample, which says nothing of its own spread."""


class Grids(Exhibit):
    """Effects by kind, token and layer: a trace, or the difference of two."""

    __slots__ = ()

    tokens: tuple[TracedToken, ...]

    @property
    @abstractmethod
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds there are, in the order they were asked for."""

    @abstractmethod
    def effects(self, kind: TraceKind | str) -> Grid:
        """The effect at each token (row) and layer (column).

        Raises:
            InvalidInputError: this kind was not traced.
        """

    @abstractmethod
    def standard_errors(self, kind: TraceKind | str) -> Grid:
        """The standard error of each effect; 0 for a single sample."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """Samples of the corruption behind each effect."""

    @abstractmethod
    def picture(self, kind: TraceKind | str | None = None) -> Picture:
        """What `plot` draws, as data: tokens down, layers across, a panel a kind."""

    def plot(self, kind: TraceKind | str | None = None, *, ax: "Axes | None" = None) -> "Figure":
        """Its heat maps, or that of one kind; on ``ax`` where matplotlib axes are given.

        Raises:
            InvalidInputError: it has no such kind, or ``ax`` is given for several.
            MissingExtraError: matplotlib is not installed.
        """
        picture = self.picture(kind)
        return _figures.draw(picture) if ax is None else _figures.draw_on(ax, picture)

    def peak(self, kind: TraceKind | str) -> Peak:
        """The site with the largest effect; it explains, it chooses no layer to edit."""
        effects = self.effects(kind)
        weight, token, layer = max(
            (self._weight(effect), -t, -i)
            for t, row in enumerate(effects)
            for i, effect in enumerate(row)
        )
        del weight
        effect = effects[-token][-layer]
        return Peak(kind=TraceKind(kind), token=-token, layer=-layer, effect=effect)

    def intervals(
        self, kind: TraceKind | str, confidence: float = 0.95
    ) -> tuple[tuple[Bounds, ...], ...]:
        """Bounds of each effect over the samples of the corruption (Student's t).

        Raises:
            InvalidInputError: ``confidence`` is not between 0 and 1.
        """

        def bounds(effect: float, error: float) -> Bounds:
            reach = half_width(error, self.samples, confidence)
            return None if reach is None else (effect - reach, effect + reach)

        return _cellwise(bounds, self.effects(kind), self.standard_errors(kind))

    def _rows_of(self, kind: TraceKind, **measured: Grid) -> list[Row]:
        """A row a cell: which site it is, then what was measured there."""
        errors, intervals = self.standard_errors(kind), self.intervals(kind)
        found: list[Row] = []
        for index, token in enumerate(self.tokens):
            for layer, bounds in enumerate(intervals[index]):
                low, high = bounds or (None, None)
                site: Row = {"kind": str(kind), "token_index": index, "token": token.text}
                role: Row = {"role": str(token.role), "corrupted": token.corrupted}
                values: Row = {name: grid[index][layer] for name, grid in measured.items()}
                spread: dict[str, Cell] = {"standard_error": errors[index][layer]}
                found.append(
                    {**site, **role, "layer": layer, **values, **spread, "low": low, "high": high}
                )
        return found

    @staticmethod
    def _weight(effect: float) -> float:
        """What a peak is the largest of."""
        return effect

    def _chosen(self, kind: TraceKind | str | None) -> tuple[TraceKind, ...]:
        if kind is None:
            return self.kinds
        self.effects(kind)
        return (TraceKind(kind),)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CausalTrace(Grids):
    """How far restoring each site brings the answer back."""

    SCHEMA: ClassVar[str] = "errata.causal_trace/1"

    prompt: str
    subject: str
    tokens: tuple[TracedToken, ...]
    layers: int
    answer: str
    answer_tokens: int
    predicted: str
    """The model's own next word in the clean run."""

    foil: str
    metric: TraceMetric
    corruption: Corruption
    noise: float
    """Standard deviation of the noise as added; 0 with replacements."""

    noise_source: str
    """What sigma was taken from, such as ``1209 known subjects``."""

    window: int
    """Layers restored together for MLP and attention."""

    clean: float
    corrupted: float
    """Mean of ``corrupted_samples``."""

    corrupted_samples: tuple[float, ...]
    grids: tuple[TraceGrid, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
    proxy_labels: tuple[str, ...] = ()
    """(negative, positive), with a proxy."""

    digest: str = ""
    """SHA-256 of the result in the ledger."""

    @property
    def total_effect(self) -> float:
        """Clean less corrupted."""
        return self.clean - self.corrupted

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds that were traced."""
        return tuple(grid.kind for grid in self.grids)

    @property
    def samples(self) -> int:
        """Samples of the corruption: draws of noise, or other subjects."""
        return len(self.corrupted_samples)

    def grid(self, kind: TraceKind | str) -> TraceGrid:
        """The restored scores of one kind.

        Raises:
            InvalidInputError: this kind was not traced.
        """
        found = next((grid for grid in self.grids if grid.kind == kind), None)
        if found is None:
            raise InvalidInputError(
                f"{str(kind)!r} was not traced, only {', '.join(self.kinds)}; ask for it with "
                "kinds=...",
                {"kind": str(kind)},
            )
        return found

    def effects(self, kind: TraceKind | str) -> Grid:
        """The indirect effect at each token (row) and layer (column): restored less corrupted.

        Raises:
            InvalidInputError: this kind was not traced.
        """
        return _cellwise(lambda score: score - self.corrupted, self.grid(kind).scores)

    def standard_errors(self, kind: TraceKind | str) -> Grid:
        """Of the paired difference to the corrupted run; 0 for a single sample."""
        return self.grid(kind).standard_errors

    def fractions(self, kind: TraceKind | str) -> Grid | None:
        """The effects as shares of the total effect; None where that is too small to divide by."""
        relative = self.metric in {TraceMetric.PROBABILITY, TraceMetric.PROXY}
        enough = _SMALL_EFFECT * (abs(self.clean) if relative else 1.0)
        total = self.total_effect
        if not total or abs(total) < enough:
            return None
        return _cellwise(lambda effect: effect / total, self.effects(kind))

    def minus(self, other: "CausalTrace") -> "TraceDifference":
        """This trace less another of the same prompt, such as of the revision before an edit.

        The answers may differ, and are both named.

        Raises:
            InvalidInputError: tokens, kinds, metric or window are not the same.
        """
        return TraceDifference(trace=self, against=other)

    def rows(self) -> list[Row]:
        """A tidy table: a row for each kind, token and layer; bounds are of 95 %."""
        return [
            row
            for grid in self.grids
            for row in self._rows_of(grid.kind, score=grid.scores, effect=self.effects(grid.kind))
        ]

    def arrays(self) -> dict[str, Any]:
        """What `to_numpy` has.

        For each kind ``KIND_scores``, ``KIND_effects`` and ``KIND_standard_errors``, of shape
        (token, layer), and beside them tokens, roles and the scores without restoring.
        """
        named: dict[str, Any] = {}
        for grid in self.grids:
            named[f"{grid.kind}_scores"] = grid.scores
            named[f"{grid.kind}_effects"] = self.effects(grid.kind)
            named[f"{grid.kind}_standard_errors"] = grid.standard_errors
        return named | {
            "tokens": [token.text for token in self.tokens],
            "roles": [str(token.role) for token in self.tokens],
            "corrupted_tokens": [token.corrupted for token in self.tokens],
            "corrupted_samples": self.corrupted_samples,
            "clean": self.clean,
            "corrupted": self.corrupted,
        }

    def picture(self, kind: TraceKind | str | None = None) -> Picture:
        """What `plot` draws, as data: tokens down, layers across, a panel a kind."""
        first = words.first_shown(self.tokens)
        return Picture(
            title=f"Causal trace of {quoted(self.prompt)}",
            subtitle=f"{capital(self.reading)}; {self.corruption.words}; {self.provenance.words}",
            panels=tuple(self._panel(chosen, first) for chosen in self._chosen(kind)),
            caption=f"A cell is the corrupted run with that site restored; * marks corrupted "
            f"tokens. {words.left_out(first)}{words.CAVEAT}",
            warnings=self.warnings,
        )

    def _panel(self, kind: TraceKind, first: int) -> Panel:
        peak = self.peak(kind)
        return Panel(
            chart=words.token_chart(
                self.tokens[first:],
                self.grid(kind).scores[first:],
                kind=kind,
                window=self.window,
                unit=words.read_out(self.metric, self.answer, self.foil, self.proxy_labels),
            ),
            hue=words.hue(kind),
            centre=self.corrupted,
            counted=" above the corrupted run",
            marks=(
                Mark(name="corrupted", value=self.corrupted),
                Mark(name="clean", value=self.clean),
            ),
            peak=words.outlined(peak, first),
            note=words.peak(peak, self.tokens),
        )

    @property
    def reading(self) -> str:
        """Answer, clean and corrupted score and total effect, in words."""
        proxied = self.metric is TraceMetric.PROXY and self.proxy_labels
        said = ("label", self.proxy_labels[-1]) if proxied else ("answer", self.answer)
        named = f"{said[0]} {quoted(said[1], 24)}"
        return words.reading(self.metric, self.clean, self.corrupted, named=named)

    @property
    def summary(self) -> str:
        """The trace in a line."""
        peaks = (f"{k} {words.peak(self.peak(k), self.tokens)}" for k in self.kinds)
        return f"{quoted(self.prompt, 60)}: {self.reading}; {'; '.join(peaks)}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TraceDifference(Grids):
    """The effects of one trace less those of another, such as after and before an edit."""

    SCHEMA: ClassVar[str] = "errata.trace_difference/1"

    trace: CausalTrace
    against: CausalTrace

    def __post_init__(self) -> None:
        for name, (ours, theirs) in {
            "tokens": tuple([t.text for t in trace.tokens] for trace in self._both),
            "kinds": tuple([*map(str, trace.kinds)] for trace in self._both),
            "metric": tuple(str(trace.metric) for trace in self._both),
            "window": tuple(trace.window for trace in self._both),
            "layers": tuple(trace.layers for trace in self._both),
        }.items():
            if ours != theirs:
                raise InvalidInputError(
                    f"these traces cannot be compared: the {name} of one are {ours}, of the "
                    f"other {theirs}; trace the same prompt in the same way twice",
                    {"field": name},
                )

    @property
    def _both(self) -> tuple[CausalTrace, CausalTrace]:
        return self.trace, self.against

    @property
    def tokens(self) -> tuple[TracedToken, ...]:  # type: ignore[override]
        """The tokens both traces have."""
        return self.trace.tokens

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds both traces have."""
        return self.trace.kinds

    @property
    def samples(self) -> int:
        """Samples of the corruption, of the trace that has fewer."""
        return min(trace.samples for trace in self._both)

    def effects(self, kind: TraceKind | str) -> Grid:
        """The difference of the indirect effects.

        Raises:
            InvalidInputError: this kind was not traced.
        """
        return _cellwise(lambda a, b: a - b, *(trace.effects(kind) for trace in self._both))

    def standard_errors(self, kind: TraceKind | str) -> Grid:
        """Of the difference, as if the traces' samples had nothing in common.

        They share their draws, so that this is rather too large than too small.
        """
        return _cellwise(math.hypot, *(trace.standard_errors(kind) for trace in self._both))

    def rows(self) -> list[Row]:
        """A tidy table: a row for each kind, token and layer; bounds are of 95 %."""
        return [
            row
            for kind in self.kinds
            for row in self._rows_of(
                kind,
                effect=self.trace.effects(kind),
                effect_against=self.against.effects(kind),
                difference=self.effects(kind),
            )
        ]

    def arrays(self) -> dict[str, Any]:
        """What `to_numpy` has: for each kind ``KIND_differences`` and ``KIND_standard_errors``."""
        named: dict[str, Any] = {"tokens": [token.text for token in self.tokens]}
        for kind in self.kinds:
            named[f"{kind}_differences"] = self.effects(kind)
            named[f"{kind}_standard_errors"] = self.standard_errors(kind)
        return named

    def picture(self, kind: TraceKind | str | None = None) -> Picture:
        """What `plot` draws, as data: tokens down, layers across, a panel a kind."""
        first = words.first_shown(self.tokens)
        ours, theirs = (f"{t.provenance.words}: {t.reading}" for t in self._both)
        return Picture(
            title=f"Difference of two causal traces of {quoted(self.trace.prompt)}",
            subtitle=f"{ours}\nminus {theirs}",
            panels=tuple(self._panel(chosen, first) for chosen in self._chosen(kind)),
            caption="A cell is the indirect effect in the first less that in the second; * marks "
            f"corrupted tokens. {words.left_out(first)}{words.CAVEAT}",
            warnings=tuple(dict.fromkeys((*self.trace.warnings, *self.against.warnings))),
        )

    def _panel(self, kind: TraceKind, first: int) -> Panel:
        peak = self.peak(kind)
        return Panel(
            chart=words.token_chart(
                self.tokens[first:],
                self.effects(kind)[first:],
                kind=kind,
                window=self.trace.window,
                unit=f"difference of effects on {words.METRICS[self.trace.metric]}",
            ),
            hue=Hue.TEAL,
            marks=(Mark(name="no difference", value=0.0),),
            peak=words.outlined(peak, first),
            note=words.peak(peak, self.tokens, name="largest"),
        )

    @staticmethod
    def _weight(effect: float) -> float:
        return abs(effect)

    @property
    def summary(self) -> str:
        """The difference in a line."""
        peaks = (f"{k} {words.peak(self.peak(k), self.tokens, name='largest')}" for k in self.kinds)
        ours, theirs = (f"{t.provenance.words} ({t.reading})" for t in self._both)
        return f"{quoted(self.trace.prompt, 60)}: {ours} minus {theirs}; {'; '.join(peaks)}"


def _cellwise(function: Callable[..., T], *grids: Grid) -> tuple[tuple[T, ...], ...]:
    """``function`` of the values each cell has in ``grids``."""
    return tuple(
        tuple(function(*values) for values in zip(*rows, strict=True))
        for rows in zip(*grids, strict=True)
    )
