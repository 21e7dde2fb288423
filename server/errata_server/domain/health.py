"""How far live edits have moved the model, and how many more it bears.

Invariants: nothing here is measured, only judged; a budget is an extrapolation from the edits
that are live and says what limits it, and where nothing points to a limit there is none.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.checks import Verdict
from errata_server.domain.ids import BranchName, Digest, EditId, RevisionId
from errata_server.domain.measurements import Answer
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy

WARN_FIRINGS: Final = 0.01
"""Share of ordinary keys that live guards may fire on before health is warned about."""

WARN_DISTURBANCE: Final = 0.01
MAXIMUM_DISTURBANCE: Final = 0.03
"""Of ordinary outputs, by all edits as one weight change."""

NEAR_BUDGET: Final = 0.8
"""Share of a budget from which it is nearly used up."""

FEWEST_FOR_BUDGET: Final = 10
"""Live edits below which their average says too little of further ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStrain:
    """What is seen of one layer's live edits without the model's answers."""

    layer: int
    module: str
    live_edits: int
    keys: int
    width: int
    """Of the projection's input: no more keys than this are independent."""

    firings: int
    """Ordinary keys a guard fires on, those whose text names its subject left out."""

    ordinary_keys: int
    disturbance: float
    """``tr(D C D^T) / tr(W C W^T)``: the edits as one weight change, on ordinary keys."""

    @property
    def firing_share(self) -> float:
        """Of the sample of ordinary keys."""
        return self.firings / self.ordinary_keys if self.ordinary_keys else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Perplexity of fixed texts; 0 where the server has none."""

    base: float
    served: float

    @property
    def rise(self) -> float:
        """Over the base; NaN, which counts as hurt, where it cannot be computed."""
        if self.base == self.served == 0:
            return 0.0
        return self.served / self.base - 1 if self.base > 0 else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHealth:
    """One layer's strain and the budget that follows from it."""

    strain: LayerStrain
    budget: int | None
    """Edits after which a warning is to be expected; None where nothing points to a limit."""

    limited_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of the model at one revision."""

    revision: RevisionId
    weights_digest: Digest
    verdict: Verdict
    live_edits: int
    drift: Drift
    warn_drift: float
    maximum_drift: float
    layers: tuple[LayerHealth, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEdit:
    """One live edit asked for its facts again."""

    edit: EditId
    subject: str
    conflict: float
    """The largest with another live edit."""

    nearest: str
    """That other edit; empty where there is none."""

    answers: tuple[Answer, ...]
    """Before is the untouched base model, after the revision that was verified."""

    @property
    def held(self) -> bool:
        """Whether every fact of it holds."""
        return all(answer.held_after for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVerification:
    """What asking live edits again came to."""

    revision: RevisionId
    sequence: int
    branch: BranchName
    weights_digest: Digest
    live_edits: int
    in_conflict: int
    drawn: int
    seed: int
    edits: tuple[CheckedEdit, ...]
    """Those that failed first, then by conflict."""

    health: Health
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether everything that was asked holds."""
        return all(checked.held for checked in self.edits)


@dataclass(frozen=True, slots=True)
class _Limit:
    """One figure that grows with the edits, and where it is warned about."""

    name: str
    share: float
    """The figure over its threshold."""

    def budget(self, edits: int) -> int | None:
        """Edits at which the threshold is reached if further ones are like these."""
        if edits < FEWEST_FOR_BUDGET or not self.share > 0:
            return None
        return math.floor(edits / self.share)


def layer_health(
    strain: LayerStrain, drift: Drift, policy: Policy, composition: Composition
) -> LayerHealth:
    """The budget of one layer: what would be reached first."""
    of_layer = (
        _Limit("firings", strain.firing_share / WARN_FIRINGS)
        if composition is Composition.GUARDED
        else _Limit("disturbance", strain.disturbance / WARN_DISTURBANCE)
    )
    warn = policy.warn_cumulative_perplexity_rise
    limits = (of_layer, _Limit("drift", drift.rise / warn if warn > 0 else 0.0))
    budgets = [
        (budget, limit.name)
        for limit in limits
        if (budget := limit.budget(strain.live_edits)) is not None
    ]
    if not budgets:
        return LayerHealth(strain=strain, budget=None, limited_by="")
    budget, name = min(budgets)
    return LayerHealth(strain=strain, budget=budget, limited_by=name)


def problems(
    layers: Sequence[LayerHealth], drift: Drift, policy: Policy, composition: Composition
) -> tuple[Verdict, tuple[str, ...]]:
    """What the figures come to, and a sentence for each that is too high."""
    found = [*_drift_problems(drift, policy)]
    for layer in layers:
        found += _layer_problems(layer, composition)
    verdicts = {verdict for verdict, _ in found}
    worst = Verdict.FAILED if Verdict.FAILED in verdicts else Verdict.WARNED
    return (worst if found else Verdict.PASSED), tuple(text for _, text in found)


def _drift_problems(drift: Drift, policy: Policy) -> Iterator[tuple[Verdict, str]]:
    warn = policy.warn_cumulative_perplexity_rise
    most = policy.maximum_cumulative_perplexity_rise
    said = f"perplexity of fixed texts is {100 * drift.rise:.3g} % above the base model's"
    if not drift.rise <= most:
        yield (
            Verdict.FAILED,
            f"{said}, over the limit of {100 * most:g} %: the model is hurt; revert edits, or "
            "train them in and begin a new ledger",
        )
    elif not drift.rise <= warn:
        yield (
            Verdict.WARNED,
            f"{said} (warned from {100 * warn:g} %): retrain soon, or revert edits that are no "
            "longer needed",
        )


def _layer_problems(layer: LayerHealth, composition: Composition) -> Iterator[tuple[Verdict, str]]:
    strain = layer.strain
    if composition is Composition.GUARDED:
        if strain.firing_share > WARN_FIRINGS:
            yield (
                Verdict.WARNED,
                f"guards at layer {strain.layer} fire on {100 * strain.firing_share:.3g} % of "
                f"ordinary keys (warned from {100 * WARN_FIRINGS:g} %): retrain soon, or revert "
                "edits of ordinary words",
            )
    elif strain.disturbance > WARN_DISTURBANCE:
        hurt = strain.disturbance > MAXIMUM_DISTURBANCE
        yield (
            Verdict.FAILED if hurt else Verdict.WARNED,
            f"edits at layer {strain.layer} disturb ordinary outputs by "
            f"{100 * strain.disturbance:.3g} % (warned from {100 * WARN_DISTURBANCE:g} %, limit "
            f"{100 * MAXIMUM_DISTURBANCE:g} %): retrain {'now' if hurt else 'soon'}",
        )
    if layer.budget is not None and strain.live_edits >= NEAR_BUDGET * layer.budget:
        yield (
            Verdict.WARNED,
            f"layer {strain.layer} holds {strain.live_edits} edits of the about {layer.budget} "
            f"it bears at this rate ({layer.limited_by}): retrain soon",
        )
