"""Where each model family keeps what errata edits: one table, no branches on names.

Invariant: a checkpoint whose family is not listed is refused, unless its projection is named
by hand; nothing is guessed from a path or a parameter's shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from torch import nn

from errata_server.domain.errors import UnsupportedModelError


class Layout(StrEnum):
    """How a family's blocks are put together; `errata_server.engine.blocks` reads them."""

    GPT2 = "gpt2"
    """Learned positions, LayerNorm, one projection for queries, keys and values."""

    LLAMA = "llama"
    """Rotary positions, RMSNorm, grouped queries, a gated MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Module paths of one family, with ``{}`` for the layer."""

    family: str
    projection: str
    """The MLP output projection: its input is the key, its output the value."""

    embeddings: str
    layers: str
    """Attribute of the config that holds the number of layers."""

    layout: Layout


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    row.family: row
    for row in (
        Architecture(
            family="gpt2",
            projection="transformer.h.{}.mlp.c_proj",
            embeddings="transformer.wte",
            layers="n_layer",
            layout=Layout.GPT2,
        ),
        Architecture(
            family="llama",
            projection="model.layers.{}.mlp.down_proj",
            embeddings="model.embed_tokens",
            layers="num_hidden_layers",
            layout=Layout.LLAMA,
        ),
        Architecture(
            family="mistral",
            projection="model.layers.{}.mlp.down_proj",
            embeddings="model.embed_tokens",
            layers="num_hidden_layers",
            layout=Layout.LLAMA,
        ),
        Architecture(
            family="qwen2",
            projection="model.layers.{}.mlp.down_proj",
            embeddings="model.embed_tokens",
            layers="num_hidden_layers",
            layout=Layout.LLAMA,
        ),
    )
}


def architecture_of(model_type: str) -> Architecture:
    """The row of the table for ``config.model_type``.

    Raises:
        UnsupportedModelError: the family is not in the table.
    """
    row = ARCHITECTURES.get(model_type)
    if row is None:
        raise UnsupportedModelError(
            f"checkpoints of type {model_type!r} are not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}",
            architecture=model_type,
        )
    return row


def projection(model: nn.Module, path: str) -> nn.Module:
    """The module at ``path``.

    Raises:
        UnsupportedModelError: the checkpoint has no such module.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise UnsupportedModelError(
            f"this checkpoint has no module {path!r}, where its family keeps the MLP output "
            "projection",
            module=path,
        ) from None
