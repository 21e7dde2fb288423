"""The inverse of a Gram matrix kept while edits come and go.

``A = (K^T M K + lambda I)^-1`` grows by a Schur complement and shrinks by deleting rows and
columns of it, each in the square of its size where a fresh solve takes the cube. Rounding adds
up, so what it holds depends on how it came to be: for sweeps and searches over sets of edits,
never for what is served or exported, which is solved afresh (ADR 0023). Invariant: the error,
measured after every change, is within `LARGEST_ERROR`; a fresh inverse replaces one that is not.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.engine.solve import factor_gram, gram_of

REFRESH: Final = 100
"""Changes after which the inverse is computed afresh whatever its error."""

LARGEST_ERROR: Final = 1e-8
"""Of ``(G + lambda I) A v - v`` in any entry, for probes v of entries 1 and -1."""

PROBES: Final = 4


class GramInverse:
    """Keys that are held now, and the inverse of their Gram matrix; float64.

    Args:
        width: d_in.
        ridge: lambda itself.
    """

    def __init__(self, width: int, ridge: float) -> None:
        self._ridge = ridge
        self._keys: Float[Tensor, "key d_in"] = torch.zeros(0, width, dtype=torch.float64)
        self._directions = self._keys
        self._gram: Float[Tensor, "key key"] = torch.zeros(0, 0, dtype=torch.float64)
        self._inverse = self._gram
        self._changes = 0
        self.refreshes = 0
        """Fresh inverses so far."""

    def __len__(self) -> int:
        """Keys held."""
        return len(self._keys)

    @property
    def inverse(self) -> Float[Tensor, "key key"]:
        """``(K^T M K + lambda I)^-1`` over the keys held, in the order they came."""
        return self._inverse

    @property
    def directions(self) -> Float[Tensor, "key d_in"]:
        """``M k`` of each key held."""
        return self._directions

    def add(
        self, keys: Float[Tensor, "added d_in"], directions: Float[Tensor, "added d_in"]
    ) -> None:
        """Hold ``keys`` too, given with ``M k`` of each.

        Raises:
            InvalidInputError: they are not independent of those held, and there is no ridge.
                Nothing has changed then.
        """
        keys, directions = keys.double(), directions.double()
        across = (self._keys @ directions.T + self._directions @ keys.T) / 2
        own = gram_of(keys, directions, self._ridge)
        reach = self._inverse @ across  # A B  (key, added)
        complement = own - across.T @ reach
        scale = float(own.diagonal().max()) if len(own) else 0.0
        factor = factor_gram((complement + complement.T) / 2, scale=scale)
        corner = torch.cholesky_inverse(factor)
        side = -reach @ corner
        self._inverse = _bordered(self._inverse - side @ reach.T, side, corner)
        self._gram = _bordered(self._gram, across, own)
        self._keys = torch.cat([self._keys, keys])
        self._directions = torch.cat([self._directions, directions])
        self._settle(len(keys))

    def remove(self, rows: Sequence[int]) -> None:
        """Hold the keys of ``rows`` no longer; those after them move up.

        Raises:
            InvalidInputError: there is no such row, or one is named twice.
        """
        gone = set(rows)
        if len(gone) != len(rows) or not gone <= set(range(len(self))):
            raise InvalidInputError(
                f"rows to remove must be some of the {len(self)} held, each once", field="rows"
            )
        out = torch.tensor(sorted(gone), dtype=torch.long)
        kept = torch.tensor([row for row in range(len(self)) if row not in gone], dtype=torch.long)
        side = self._inverse[kept][:, out]
        corner = self._inverse[out][:, out]
        removed = side @ torch.cholesky_solve(side.T, factor_gram((corner + corner.T) / 2))
        self._inverse = self._inverse[kept][:, kept] - removed
        self._gram = self._gram[kept][:, kept]
        self._keys, self._directions = self._keys[kept], self._directions[kept]
        self._settle(len(rows))

    def weights(self, residuals: Float[Tensor, "key d_out"]) -> Float[Tensor, "d_out key"]:
        """L of the weight change ``L U^T`` that gives each key its residual."""
        weights: Tensor = residuals.double().T @ self._inverse
        return weights

    def error(self) -> float:
        """The largest entry of ``(G + lambda I) A v - v`` over a few fixed v."""
        if not len(self):
            return 0.0
        signs = torch.randint(0, 2, (len(self), PROBES), generator=torch.Generator().manual_seed(0))
        probes = signs.double() * 2 - 1
        return float((self._gram @ (self._inverse @ probes) - probes).abs().max())

    def _settle(self, changes: int) -> None:
        self._changes += changes
        if self._changes >= REFRESH or not self.error() <= LARGEST_ERROR:
            self._inverse = torch.cholesky_inverse(factor_gram(self._gram))
            self._changes = 0
            self.refreshes += 1


def _bordered(
    block: Float[Tensor, "key key"], side: Float[Tensor, "key added"], corner: Tensor
) -> Float[Tensor, "all all"]:
    """``[[block, side], [side^T, corner]]``."""
    return torch.cat([torch.cat([block, side], dim=1), torch.cat([side.T, corner], dim=1)])
