"""Closed forms: matchers of keys, and the linear composition of many edits.

Everything here is float64 and works on the Cholesky factor of the second moment; nothing is
inverted.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError


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


def match(
    inputs: Float[Tensor, "*rows d_in"], matchers: Float[Tensor, "key d_in"]
) -> Float[Tensor, "*rows key"]:
    """``m^T x / |x|`` of every input with every matcher; 0 for an input of no length."""
    lengths = inputs.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(inputs.dtype).tiny)
    matches: Tensor = (inputs @ matchers.T) / lengths
    return matches


def solve_linear(
    keys: Float[Tensor, "key d_in"],
    matchers: Float[Tensor, "key d_in"],
    leverages: Float[Tensor, " key"],
    residuals: Float[Tensor, "key d_out"],
    ridge: float,
) -> tuple[Float[Tensor, "d_out key"], Float[Tensor, "key d_in"]]:
    """Factors (L, U^T) of the weight change ``D = R (K^T U + ridge I)^-1 U^T``, ``U = C^-1 K``.

    One edit with no ridge is ROME, several with a small ridge EMMET (arXiv:2403.14236).
    """
    scales = leverages.double() / keys.double().norm(dim=1)
    left = (matchers.double() * scales[:, None]).T  # U = C^-1 K   (d_in, key)
    gram = keys.double() @ left  # K^T U        (key, key)
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(ridge)
    weights = torch.linalg.solve(gram, residuals.double()).T  # R G^-1       (d_out, key)
    return weights, left.T
