"""Closed forms: matchers of keys, and the joint solve of many edits.

Everything here is float64 and works on Cholesky factors; nothing is inverted.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError

SMALLEST_PIVOT: Final = 1e-12
"""Of the largest one in a Gram matrix's factor; what is below is rounding."""


def factor_second_moment(
    moment: Float[Tensor, "d_in d_in"], ridge: float
) -> Float[Tensor, "d_in d_in"]:
    """Lower Cholesky factor of ``C + ridge * mean(diag C) * I``, in float64.

    Raises:
        InvalidInputError: the result is not positive definite; more text or ridge is needed.
    """
    regular = moment.double().clone()
    regular.diagonal().add_(ridge * float(regular.diagonal().mean()))
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(regular)
    if int(info) != 0 or not bool(torch.isfinite(factor).all()):
        raise InvalidInputError(
            "the second moment is not positive definite; collect it over more text or raise "
            "the ridge",
            field="ridge",
            ridge=ridge,
        )
    return factor


def match_keys(
    keys: Float[Tensor, "key d_in"], factor: Float[Tensor, "d_in d_in"]
) -> tuple[Float[Tensor, "key d_in"], Float[Tensor, " key"]]:
    """Matchers ``C^-1 k |k| / (k^T C^-1 k)`` of each key, and the leverages ``k^T C^-1 k``.

    The matcher is ROME's left vector (arXiv:2202.05262, eq. 2) scaled so that ``m^T x / |x|``
    is 1 for its own key. Dividing by the input's length makes the match deaf to how strongly
    a context speaks and leaves what it speaks of.
    """
    whitened = torch.cholesky_solve(keys.double().T, factor).T  # C^-1 k      (key, d_in)
    leverages = (whitened * keys.double()).sum(dim=1)  # k^T C^-1 k  (key)
    return whitened * (keys.double().norm(dim=1) / leverages)[:, None], leverages


def match_each(
    groups: Sequence[Float[Tensor, "_ d_in"]], factor: Float[Tensor, "d_in d_in"]
) -> list[tuple[Tensor, Tensor]]:
    """As `match_keys`, of the keys of each of ``groups``, found in one solve."""
    if not groups:
        return []
    matchers, leverages = match_keys(torch.cat(list(groups)), factor)
    sizes = [len(keys) for keys in groups]
    return list(zip(matchers.split(sizes), leverages.split(sizes), strict=True))


def match(
    inputs: Float[Tensor, "*rows d_in"], matchers: Float[Tensor, "key d_in"]
) -> Float[Tensor, "*rows key"]:
    """``m^T x / |x|`` of every input with every matcher; 0 for an input of no length."""
    matches: Tensor = (inputs @ matchers.T) / lengths_of(inputs)
    return matches


def lengths_of(inputs: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows 1"]:
    """``|x|`` of every input; what may be divided by for one of no length."""
    lengths: Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
    return lengths.clamp(min=torch.finfo(inputs.dtype).tiny)


def directions_of(
    keys: Float[Tensor, "key d_in"],
    matchers: Float[Tensor, "key d_in"],
    leverages: Float[Tensor, " key"],
) -> Float[Tensor, "key d_in"]:
    """``C^-1 k`` of each key, from its matcher; see `match_keys`."""
    scales = leverages.double() / keys.double().norm(dim=1)
    directions: Tensor = matchers.double() * scales[:, None]
    return directions


def null_space(moment: Float[Tensor, "d_in d_in"], share: float) -> Float[Tensor, "d_in d_in"]:
    """Projector onto the eigenvectors of C whose eigenvalue is below ``share`` of the mean one.

    AlphaEdit's P (arXiv:2410.02355); its threshold there is a number of its own for each model.

    Raises:
        InvalidInputError: there is no such direction.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    unused = vectors[:, values < share * values.mean()]
    if unused.shape[1] == 0:
        raise InvalidInputError(
            f"no direction of the keys has less than {share:g} of the mean second moment, so "
            "there is no null space to write into; raise the share or choose another method",
            field="null_share",
            share=share,
        )
    projector: Tensor = unused @ unused.T
    return projector


def gram_of(
    keys: Float[Tensor, "key d_in"], directions: Float[Tensor, "key d_in"], ridge: float
) -> Float[Tensor, "key key"]:
    """``K^T M K + ridge I``, in float64 and exactly symmetric."""
    gram = keys.double() @ directions.double().T
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(ridge)
    return gram


def factor_gram(gram: Float[Tensor, "key key"], *, scale: float = 0.0) -> Float[Tensor, "key key"]:
    """Lower Cholesky factor of ``gram``.

    Args:
        scale: What a pivot must not be negligible to; the largest on the diagonal where smaller.

    Raises:
        InvalidInputError: it is not positive definite beyond rounding.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal().square()
    least = SMALLEST_PIVOT * max([scale, *gram.diagonal().tolist()])
    if int(info) != 0 or not bool((pivots > least).all()):
        raise InvalidInputError(
            f"the {len(gram)} keys of these edits do not tell their values apart; use a method "
            "with a ridge, or fewer edits",
            field="ridge",
            keys=len(gram),
        )
    return factor


def solve_linear(
    keys: Float[Tensor, "key d_in"],
    directions: Float[Tensor, "key d_in"],
    residuals: Float[Tensor, "key d_out"],
    ridge: float,
) -> tuple[Float[Tensor, "d_out key"], Float[Tensor, "key d_in"]]:
    """Factors (L, U^T) of the weight change ``D = R (K^T U + ridge I)^-1 U^T``, ``U = M K``.

    One key with no ridge and ``M = C^-1`` is ROME, several with a small ridge EMMET
    (arXiv:2403.14236), ``M = P`` AlphaEdit.

    Args:
        directions: Rows of ``U^T``.
        ridge: lambda itself.

    Raises:
        InvalidInputError: the keys are not independent and there is no ridge.
    """
    factor = factor_gram(gram_of(keys, directions, ridge))
    weights = torch.cholesky_solve(residuals.double(), factor).T  # R G^-1  (d_out, key)
    return weights, directions.double()


def disturbance(
    left: Float[Tensor, "d_out rank"],
    right: Float[Tensor, "rank d_in"],
    moment: Float[Tensor, "d_in d_in"],
) -> float:
    """``tr(D C D^T)`` of ``D = left @ right``, without ever writing D out."""
    left, right = left.double().cpu(), right.double().cpu()
    middle = right @ moment.double().cpu() @ right.T  # R C R^T  (rank, rank)
    return float(((left.T @ left) * middle).sum())
