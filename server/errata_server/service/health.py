"""The model's health: what its live edits do together, measured once a revision.

Invariant: what is answered was measured on the weights of the revision it names.
"""

import threading
from dataclasses import dataclass, field

from errata_server import telemetry
from errata_server.domain.health import Drift, Health, layer_health, problems
from errata_server.domain.policies import Policy
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.views import Pinned


@dataclass(slots=True, kw_only=True, eq=False)
class HealthMonitor:
    """Measures a revision's health, and remembers the last one."""

    engine: Engine
    serving: Serving
    drift_texts: tuple[str, ...]
    policy: Policy
    _base_perplexity: float | None = field(default=None, init=False)
    _last: Health | None = field(default=None, init=False)
    _measuring: threading.Lock = field(default_factory=threading.Lock, init=False)

    def at(self, pinned: Pinned) -> Health:
        """Of one revision; takes a pass over the fixed texts if it is not the last one asked."""
        with self._measuring:
            if self._last is None or self._last.revision != pinned.revision.id:
                self._last = self._measured(pinned)
            health = self._last
        telemetry.observe_health(health)
        return health

    def _measured(self, pinned: Pinned) -> Health:
        composition = pinned.revision.composition
        strains = self.engine.strains(pinned.weights.patches, self.serving.artifacts.load)
        drift = self._drift(pinned)
        layers = tuple(layer_health(s, drift, self.policy, composition) for s in strains)
        verdict, warnings = problems(layers, drift, self.policy, composition)
        return Health(
            revision=pinned.revision.id,
            weights_digest=pinned.weights.digest,
            verdict=verdict,
            live_edits=pinned.applied.active_count,
            drift=drift,
            warn_drift=self.policy.warn_cumulative_perplexity_rise,
            maximum_drift=self.policy.maximum_cumulative_perplexity_rise,
            layers=layers,
            warnings=warnings,
        )

    def _drift(self, pinned: Pinned) -> Drift:
        if not self.drift_texts:
            return Drift(base=0.0, served=0.0)
        if self._base_perplexity is None:
            base = self.serving.base().weights
            self._base_perplexity = self.engine.perplexity(self.drift_texts, base)
        if not pinned.weights.patches:
            return Drift(base=self._base_perplexity, served=self._base_perplexity)
        served = self.engine.perplexity(self.drift_texts, pinned.weights)
        return Drift(base=self._base_perplexity, served=served)
