"""The thresholds a branch holds its edits to.

Invariant: a policy's digest is over its canonical body and is named in every report.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest
from errata_server.domain.patches import Composition

_ADDED_LATER: Final = {"maximum_suite_drop": 0.0}
"""Values the first release did not have: left out of the body while they have their default,
so that a policy keeps the digest older reports name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Thresholds of the checks; the defaults are for one guarded edit.

    Fractions are of 1, points are percentage points over 100.
    """

    composition: Composition = Composition.GUARDED
    minimum_efficacy: float = 1.0
    """Share of the edit's own prompts answered with the target."""

    minimum_paraphrase: float = 2 / 3
    maximum_neighbourhood_drop: float = 0.03
    maximum_prefixed_neighbourhood_drop: float = 0.25
    maximum_same_subject_drop: float = 0.0
    maximum_neighbour_divergence: float = 0.05
    """Nats."""

    maximum_perplexity_rise: float = 0.001
    """Of one edit, over the branch as it is."""

    warn_cumulative_perplexity_rise: float = 0.02
    maximum_cumulative_perplexity_rise: float = 0.05
    """Of all live edits, over the base."""

    minimum_entropy_ratio: float = 0.9
    maximum_clamp_fraction: float = 0.999
    minimum_recognition: float = 0.8
    """Share of unseen contexts in which the guard recognises its own subject."""

    maximum_corpus_firing_rate: float = 0.001
    """Share of ordinary keys the guard may fire on."""

    warn_conflict: float = 0.1
    """Whitened cosine with a live edit's key from which that edit is re-checked."""

    live_edit_sample: int = 20
    """Live edits re-checked besides those in conflict."""

    maximum_suite_drop: float = 0.0
    """Share of the owner's regression prompts right before and wrong after."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "composition", Composition(self.composition))
        for name, value in asdict(self).items():
            if name != "composition" and not (
                isinstance(value, int | float) and math.isfinite(value) and value >= 0
            ):
                raise InvalidInputError(
                    f"policy value {name} must be a number of at least 0, not {value!r}",
                    field=name,
                )

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field, later ones only where they are not the default."""
        values = asdict(self)
        for name, default in _ADDED_LATER.items():
            if values[name] == default:
                del values[name]
        return canonical.encode(values)

    @property
    def digest(self) -> Digest:
        """SHA-256 of `body`."""
        return canonical.digest(self.body)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """A policy from a file's values; what is left out keeps its default.

        Raises:
            InvalidInputError: a name is not a policy value, or a value is no number.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise InvalidInputError(
                f"unknown policy values {', '.join(unknown)}; known are {', '.join(sorted(known))}",
                field=unknown[0],
            )
        return cls(**value)
