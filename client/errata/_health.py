"""The model's health, and what asking live edits again came to."""

from dataclasses import dataclass

from errata._types import Answer, Served, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHealth:
    """How many edits of one layer the model bears."""

    layer: int
    module: str
    live_edits: int
    keys: int
    width: int
    """Most keys that one weight change can hold apart."""

    firings: int
    """Of the ordinary keys, those a guard fires on whose text does not name its subject."""

    ordinary_keys: int
    disturbance: float
    """What the edits as one weight change would do to ordinary outputs, as a share of them."""

    budget: int | None
    """Edits after which a warning is to be expected if further ones are like these; None where
    nothing points to a limit yet."""

    limited_by: str
    """What sets the budget: ``firings``, ``disturbance`` or ``drift``."""

    @property
    def firing_share(self) -> float:
        """Of the ordinary keys."""
        return self.firings / self.ordinary_keys if self.ordinary_keys else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHealth:
    """How far the live edits have moved the model."""

    served: Served
    verdict: Verdict
    """Warned: retrain soon; failed: the model is hurt already."""

    live_edits: int
    perplexity_base: float
    """Of fixed texts on the base model; 0 where the server has none."""

    perplexity: float
    warn_drift: float
    maximum_drift: float
    layers: tuple[LayerHealth, ...]
    warnings: tuple[str, ...]

    @property
    def drift(self) -> float:
        """Rise of perplexity over the base."""
        return self.perplexity / self.perplexity_base - 1 if self.perplexity_base else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEdit:
    """One live edit asked for its facts again."""

    edit: str
    subject: str
    conflict: float
    """The largest with another live edit."""

    nearest: str
    """That other edit; empty where there is none."""

    held: bool
    answers: tuple[Answer, ...]
    """Before is the untouched base model, after the revision that was verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVerification:
    """What asking live edits again came to."""

    served: Served
    live_edits: int
    in_conflict: int
    drawn: int
    seed: int
    passed: bool
    """Whether every fact that was asked still holds."""

    edits: tuple[CheckedEdit, ...]
    health: ModelHealth
    seconds: float
    digest: str

    @property
    def failures(self) -> tuple[CheckedEdit, ...]:
        """The edits that no longer hold."""
        return tuple(checked for checked in self.edits if not checked.held)
