"""Linear methods: how edits become one weight change, a row each.

All rows are one formula, ``D = R (K^T M K + lambda I)^-1 (M K)^T``, with K the edits' keys and
R their residuals; they differ in M, in lambda, and in how many layers share the residual.
Invariant: a row holds no number that depends on a model; lambda is counted in leverages of an
ordinary key of that model, ``tr(M C)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.evaluation import MINIMUM_LIVE_EDITS
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy


class Protection(StrEnum):
    """What a weight change spares: the matrix M."""

    NOTHING = "nothing"
    """M = I: every direction costs the same."""

    SECOND_MOMENT = "second_moment"
    """M = C^-1: the least disturbance of ordinary outputs on average."""

    NULL_SPACE = "null_space"
    """M = P: no change at all in the directions that ordinary keys use most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMethod:
    """One row: M, lambda and the layers it is spread over."""

    name: str
    protection: Protection
    ridge: float
    """lambda over the mean leverage of an ordinary key; 0 gives every key its whole residual."""

    layers: int = 1
    """Layers that share the residual."""

    null_share: float = 0.0
    """P spans the directions whose eigenvalue of C is below this share of the mean one."""

    def span(self, edited: int, total: int) -> range:
        """The layers written to: those up to ``edited``, or from the first where that is too low.

        Args:
            edited: The edited layer of the profile.
            total: Layers of the model.

        Raises:
            InvalidInputError: the model has fewer layers.
        """
        if self.layers > total:
            raise InvalidInputError(
                f"the method {self.name!r} is spread over {self.layers} layers, but the model "
                f"has {total}; choose one with fewer",
                field="method",
                method=self.name,
            )
        last = max(edited, self.layers - 1)
        return range(last - self.layers + 1, last + 1)


LINEAR_METHODS: Final[Mapping[str, LinearMethod]] = {
    row.name: row
    for row in (
        LinearMethod(name="linear", protection=Protection.SECOND_MOMENT, ridge=0.01),
        LinearMethod(name="rome", protection=Protection.SECOND_MOMENT, ridge=0.0),
        LinearMethod(name="emmet", protection=Protection.SECOND_MOMENT, ridge=0.016),
        LinearMethod(name="memit", protection=Protection.SECOND_MOMENT, ridge=0.1, layers=3),
        LinearMethod(
            name="alphaedit",
            protection=Protection.NULL_SPACE,
            ridge=0.1,
            layers=3,
            null_share=0.5,
        ),
        LinearMethod(name="plain", protection=Protection.NOTHING, ridge=0.01),
    )
}
"""``linear`` is the default, and what serves a branch of linear composition. The others have
the published lambdas in our unit: EMMET's 100 over 6,400 (GPT-2 XL, arXiv:2403.14236), MEMIT's
about 1 (15,000 over 14,336 and 16,384, arXiv:2210.07229). AlphaEdit's threshold of eigenvalues
(arXiv:2410.02355) is a share of the mean one here, since spectra differ in scale. ``plain``
stands for implementations that leave the second moment out."""

DEFAULT_METHOD: Final = LINEAR_METHODS["linear"]

EXPORT_POLICY: Final = Policy(
    composition=Composition.LINEAR,
    minimum_efficacy=MINIMUM_LIVE_EDITS,
    maximum_perplexity_rise=0.01,
    warn_cumulative_perplexity_rise=0.05,
    maximum_cumulative_perplexity_rise=0.2,
)
"""What many edits are held to as one weight change. Efficacy is that of re-checked live edits,
not of one edit's own prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMeasurements:
    """What the model does with a weight change, as shares of 1."""

    efficacy: float
    paraphrase: float
    neighbourhood_drop: float
    perplexity_rise: float


def failed_checks(measured: ExportMeasurements, policy: Policy) -> tuple[CheckKind, ...]:
    """The checks a weight change of many edits does not pass; what is not a number fails."""
    passed = {
        CheckKind.EFFICACY: measured.efficacy >= policy.minimum_efficacy,
        CheckKind.PARAPHRASE: measured.paraphrase >= policy.minimum_paraphrase,
        CheckKind.NEIGHBOURHOOD: measured.neighbourhood_drop <= policy.maximum_neighbourhood_drop,
        CheckKind.CUMULATIVE_PERPLEXITY: measured.perplexity_rise
        <= policy.maximum_cumulative_perplexity_rise,
    }
    return tuple(kind for kind, fine in passed.items() if not fine)


def linear_method(name: str) -> LinearMethod:
    """The row called ``name``.

    Raises:
        InvalidInputError: there is none.
    """
    row = LINEAR_METHODS.get(name)
    if row is None:
        raise InvalidInputError(
            f"there is no linear method {name!r}; there are {', '.join(LINEAR_METHODS)}",
            field="method",
            method=name,
        )
    return row
