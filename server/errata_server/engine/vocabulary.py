"""Tokens a model has a row for but never learned: "glitch" tokens.

Training pulls every token it sees away from where all began; what it never saw stays near the
centre of the embeddings (Land and Bartolo 2024, arXiv:2405.05417). A target made of such a token
cannot be taught by one edit, and what it drags along is unpredictable.
"""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidFactError
from errata_server.engine.tokens import Tokens

UNTRAINED_SHARE: Final = 0.5
"""Distance from the centre, as a share of the median, below which a token counts as untrained."""


def untrained_tokens(embeddings: Float[Tensor, "vocab d_model"]) -> frozenset[int]:
    """Ids of the tokens whose embedding lies closer to the centre than trained ones do."""
    rows = embeddings.detach().float()
    distances = (rows - rows.mean(dim=0)).norm(dim=1)
    near = distances < UNTRAINED_SHARE * distances.median()
    return frozenset(near.nonzero()[:, 0].tolist())


def require_trained(tokens: Tokens, target: str, untrained: frozenset[int]) -> None:
    """Do nothing if the model has learned every token of ``target``.

    Raises:
        InvalidFactError: one of them is among the ``untrained``.
    """
    strange = untrained.intersection(tokens.target(target))
    if strange:
        token = tokens.decode([min(strange)])
        raise InvalidFactError(
            f"the target {target!r} holds the token {token!r}, which this model never learned; "
            "word it differently",
            field="target",
            target=target,
            token=token,
        )
