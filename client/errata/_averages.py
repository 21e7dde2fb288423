"""Average causal traces: the indirect effects of many facts, aligned on the roles of tokens.

Invariants: bounds are bootstrap bounds over facts, at the confidence that is named; facts
whose answer the model does not give are dropped and listed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from errata import _trace_words as words
from errata._charts import Chart, ChartForm, Mark, Panel, Picture, signed
from errata._errors import InvalidInputError
from errata._exhibits import Exhibit, Row
from errata._trace_types import Corruption, Provenance, TokenRole, TraceKind, TraceMetric

_ROLES: Final = {
    TokenRole.FIRST_SUBJECT: "first subject token",
    TokenRole.MIDDLE_SUBJECT: "middle subject tokens",
    TokenRole.LAST_SUBJECT: "last subject token",
    TokenRole.FIRST_SUBSEQUENT: "first subsequent token",
    TokenRole.FURTHER: "further tokens",
    TokenRole.LAST: "last token",
    TokenRole.BEFORE: "before the subject",
    TokenRole.UNSPECIFIED: "unknown role",
}
"""In the order of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedFact:
    """One prompt with the subject it names."""

    prompt: str
    subject: str
    answer: str = ""
    """The model's own next word where empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectCurve:
    """Average indirect effect of one kind at one role, by layer, with bootstrap bounds."""

    kind: TraceKind
    role: TokenRole
    sites: int
    """Facts that have a token of this role."""

    effects: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedFact:
    """A fact that was not traced, and why."""

    prompt: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AverageTrace(Exhibit):
    """Average indirect effects over many facts."""

    SCHEMA: ClassVar[str] = "errata.average_trace/1"

    facts: int
    dropped: tuple[DroppedFact, ...]
    layers: int
    metric: TraceMetric
    corruption: Corruption
    window: int
    confidence: float
    clean: float
    corrupted: float
    total_effect: float
    total_effect_low: float
    total_effect_high: float
    curves: tuple[EffectCurve, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
    digest: str = ""
    """SHA-256 of the result in the ledger."""

    @property
    def kinds(self) -> tuple[TraceKind, ...]:
        """The kinds that were traced."""
        return tuple(dict.fromkeys(curve.kind for curve in self.curves))

    def of_kind(self, kind: TraceKind | str) -> tuple[EffectCurve, ...]:
        """The curves of one kind, a role each, from the subject's first token to the last.

        Raises:
            InvalidInputError: this kind was not traced.
        """
        found = [curve for curve in self.curves if curve.kind == kind]
        if not found:
            raise InvalidInputError(
                f"{str(kind)!r} was not traced, only {', '.join(self.kinds)}; ask for it with "
                "kinds=...",
                {"kind": str(kind)},
            )
        return tuple(sorted(found, key=lambda curve: list(_ROLES).index(curve.role)))

    def peak(self, kind: TraceKind | str) -> tuple[EffectCurve, int]:
        """The curve that goes highest and the layer where; it chooses no layer to edit."""
        curves = [curve for curve in self.of_kind(kind) if curve.effects]
        highest = max(curves, key=lambda curve: max(curve.effects))
        return highest, highest.effects.index(max(highest.effects))

    def rows(self) -> list[Row]:
        """A tidy table: a row for each kind, role and layer."""
        return [
            {
                "kind": str(curve.kind),
                "role": str(curve.role),
                "sites": curve.sites,
                "layer": layer,
                "effect": effect,
                "low": curve.low[layer],
                "high": curve.high[layer],
            }
            for curve in self.curves
            for layer, effect in enumerate(curve.effects)
        ]

    def arrays(self) -> dict[str, Any]:
        """What `to_numpy` has.

        For each kind ``KIND_roles`` and, of shape (role, layer), ``KIND_effects``, ``KIND_low`` and
        ``KIND_high``.
        """
        named: dict[str, Any] = {}
        for kind in self.kinds:
            curves = self.of_kind(kind)
            named[f"{kind}_roles"] = [str(curve.role) for curve in curves]
            named[f"{kind}_effects"] = [curve.effects for curve in curves]
            named[f"{kind}_low"] = [curve.low for curve in curves]
            named[f"{kind}_high"] = [curve.high for curve in curves]
        return named

    def picture(self) -> Picture:
        """What `plot` draws, as data: for each kind a heat map over roles, and its curves."""
        return Picture(
            title=f"Average indirect effects over {self.facts} facts",
            subtitle=f"{self._reading}; {self.corruption.words}; {len(self.dropped)} facts "
            f"dropped; {self.provenance.words}",
            panels=tuple(
                panel for kind in self.kinds for panel in (self._heat_map(kind), self._lines(kind))
            ),
            caption=f"Bands are {100 * self.confidence:g} % bootstrap bounds over facts. "
            f"{words.CAVEAT}",
            across=2,
            warnings=self.warnings,
        )

    def _heat_map(self, kind: TraceKind) -> Panel:
        curve, layer = self.peak(kind)
        return Panel(
            chart=self._chart(kind, ChartForm.HEAT_MAP, words.kind_title(kind, self.window)),
            hue=words.hue(kind),
            marks=(Mark(name="no effect", value=0.0),),
            peak=(self.of_kind(kind).index(curve), layer),
            note=f"peak {signed(curve.effects[layer])} at the {_ROLES[curve.role]}, layer {layer}",
        )

    def _lines(self, kind: TraceKind) -> Panel:
        chart = self._chart(kind, ChartForm.LINES, f"{words.kind_title(kind, self.window)}, bounds")
        return Panel(chart=chart)

    def _chart(self, kind: TraceKind, form: ChartForm, title: str) -> Chart:
        curves = self.of_kind(kind)

        def each(read: Callable[[EffectCurve], tuple[float, ...]]) -> tuple[tuple[float, ...], ...]:
            return tuple(read(curve) for curve in curves)

        return Chart(
            title=title,
            form=form,
            row_axis="role",
            column_axis=words.layer_axis(kind),
            rows=tuple(f"{_ROLES[curve.role]} (n = {curve.sites})" for curve in curves),
            columns=tuple(str(layer) for layer in range(self.layers)),
            unit=f"average indirect effect on {words.METRICS[self.metric]}",
            values=each(lambda curve: curve.effects),
            low=each(lambda curve: curve.low),
            high=each(lambda curve: curve.high),
        )

    @property
    def _reading(self) -> str:
        """Clean, corrupted and total effect."""
        return (
            f"{words.reading(self.metric, self.clean, self.corrupted)} "
            f"({signed(self.total_effect_low)} to {signed(self.total_effect_high)})"
        )

    @property
    def summary(self) -> str:
        """The averages in a line."""
        notes = (f"{kind} {self._heat_map(kind).note}" for kind in self.kinds)
        return f"{self.facts} facts, {self._reading}; {'; '.join(notes)}"
