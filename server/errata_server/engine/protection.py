"""The matrix M of a linear method at one layer, and what its ridge is counted in."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.linear import LinearMethod, Protection
from errata_server.engine.solve import factor_second_moment, null_space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Protector:
    """M of one layer."""

    directions: Callable[[Float[Tensor, "key d_in"]], Float[Tensor, "key d_in"]]
    """Keys to ``M k``, row by row, in float64."""

    leverage: float
    """``tr(M C)``: the mean of ``k^T M k`` over ordinary keys."""

    factor: Float[Tensor, "d_in d_in"]
    """Cholesky factor of the second moment, whatever M is: keys are told apart by it."""


def protector(method: LinearMethod, moment: Float[Tensor, "d_in d_in"], ridge: float) -> Protector:
    """What ``method`` spares at the layer with second moment ``moment``.

    Args:
        ridge: The profile's, of the second moment.

    Raises:
        InvalidInputError: the second moment is not positive definite, or has no null space.
    """
    factor = factor_second_moment(moment, ridge)
    match method.protection:
        case Protection.SECOND_MOMENT:
            return Protector(
                directions=lambda keys: torch.cholesky_solve(keys.double().T, factor).T,
                leverage=float(len(moment)),  # of C with its ridge: tr(C^-1 C)
                factor=factor,
            )
        case Protection.NULL_SPACE:
            projector = null_space(moment, method.null_share)
            return Protector(
                directions=lambda keys: keys.double() @ projector,
                leverage=float((projector * moment.double()).sum()),
                factor=factor,
            )
        case Protection.NOTHING:
            return Protector(
                directions=lambda keys: keys.double(),
                leverage=float(moment.double().trace()),
                factor=factor,
            )
