"""A decoder taken apart: the steps of one layer, each to be run on any rows and positions.

The steps are the checkpoint's own modules in its own order, so what they compute is what the
whole model computes; a bank that is installed on the model acts in them too. Invariants: a
step works token by token except `attend`; nothing here knows what it is taken apart for.
"""

import abc
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from errata_server.domain.errors import PromptTooLongError
from errata_server.engine.architecture import Layout
from errata_server.engine.checkpoint import Checkpoint
from errata_server.engine.kernels import dense, dense_activated


class Projected(NamedTuple):
    """What attention works on; query heads may share key heads."""

    queries: Float[Tensor, "batch head seq head_width"]
    keys: Float[Tensor, "batch key_head seq head_width"]
    values: Float[Tensor, "batch key_head seq head_width"]


class Blocks(abc.ABC):
    """The layers of one checkpoint; every method must run on a model thread."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.model.config
        self._model: Any = checkpoint.model
        self.layers: int = checkpoint.layers
        self.heads: int = config.num_attention_heads
        self.d_model: int = config.hidden_size
        description = checkpoint.description
        self.d_in: int = description.d_in
        self.vocabulary: int = description.vocabulary
        self.device: torch.device = checkpoint.model.device
        self.dtype: torch.dtype = checkpoint.model.dtype

    @property
    @abc.abstractmethod
    def key_heads(self) -> int:
        """Heads of keys and values; a divisor of ``heads``."""

    @property
    @abc.abstractmethod
    def head_width(self) -> int:
        """Width of one head."""

    @property
    @abc.abstractmethod
    def sight(self) -> int | None:
        """Positions a token can attend to, where fewer than the context."""

    @abc.abstractmethod
    def place(
        self, embeddings: Float[Tensor, "batch seq d_model"], positions: Int[Tensor, "... seq"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream before the first layer; ``positions`` of all rows or of each."""

    @abc.abstractmethod
    def project(
        self,
        layer: int,
        residual: Float[Tensor, "batch seq d_model"],
        positions: Int[Tensor, "... seq"],
    ) -> Projected:
        """Queries, keys and values, norm and positions included."""

    @abc.abstractmethod
    def scaling(self, layer: int) -> float:
        """What query-key products are multiplied by."""

    @abc.abstractmethod
    def attention_output(
        self, layer: int, mixed: Float[Tensor, "batch seq d_heads"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """What attention adds to the residual stream."""

    @abc.abstractmethod
    def mlp_output(
        self, layer: int, middle: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """What the MLP adds to the residual stream behind attention, norm included."""

    @property
    @abc.abstractmethod
    def final_norm(self) -> nn.Module:
        """The norm behind the last layer."""

    def embed(self, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """Token embeddings, without positions."""
        return self._model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def logits(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Logits, in fp32, of states behind the last layer."""
        head = self._model.get_output_embeddings()
        return dense(head, self.final_norm(residual)).float()

    def require_sight(self, tokens: int) -> None:
        """Do nothing if every token of a prompt sees all before it.

        Raises:
            PromptTooLongError: the model's attention window is shorter.
        """
        if self.sight is not None and tokens > self.sight:
            raise PromptTooLongError(
                f"the prompt has {tokens} tokens, but this model's attention sees {self.sight}; "
                "errata works within that; shorten it",
                field="prompt",
                tokens=tokens,
                context=self.sight,
            )


class _GPT2Blocks(Blocks):
    @property
    def key_heads(self) -> int:
        return self.heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.heads

    @property
    def sight(self) -> int | None:
        return None

    @property
    def final_norm(self) -> nn.Module:
        return self._model.transformer.ln_f  # type: ignore[no-any-return]

    def place(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return embeddings + self._model.transformer.wpe(positions)  # type: ignore[no-any-return]

    def project(self, layer: int, residual: Tensor, positions: Tensor) -> Projected:  # noqa: ARG002 - in the residual already
        block = self._model.transformer.h[layer]
        both = dense(block.attn.c_attn, block.ln_1(residual)).split(self.d_model, dim=-1)
        return Projected(*(_by_head(part, self.head_width) for part in both))

    def scaling(self, layer: int) -> float:
        return float(self._model.transformer.h[layer].attn.scaling)

    def attention_output(self, layer: int, mixed: Tensor) -> Tensor:
        return dense(self._model.transformer.h[layer].attn.c_proj, mixed)

    def mlp_output(self, layer: int, middle: Tensor) -> Tensor:
        block = self._model.transformer.h[layer]
        inner = dense_activated(block.mlp.c_fc, block.mlp.act, block.ln_2(middle))
        return dense(block.mlp.c_proj, inner)


class _LlamaBlocks(Blocks):
    @property
    def key_heads(self) -> int:
        count: int = self._model.config.num_key_value_heads
        return count

    @property
    def head_width(self) -> int:
        width: int = self._model.model.layers[0].self_attn.head_dim
        return width

    @property
    def sight(self) -> int | None:
        config = self._model.config.to_dict()  # what a family has no word for is absent
        if config.get("use_sliding_window", True) is False:
            return None
        window: int | None = config.get("sliding_window")
        return window

    @property
    def final_norm(self) -> nn.Module:
        return self._model.model.norm  # type: ignore[no-any-return]

    def place(self, embeddings: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - rotated in `project`
        return embeddings

    def project(self, layer: int, residual: Tensor, positions: Tensor) -> Projected:
        block = self._model.model.layers[layer]
        attention, normed = block.self_attn, block.input_layernorm(residual)
        queries, keys, values = (
            _by_head(dense(projection, normed), self.head_width)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cos, sin = self._model.model.rotary_emb(residual, torch.atleast_2d(positions))
        rotated, turned = apply_rotary_pos_emb(queries, keys, cos, sin)
        return Projected(rotated, turned, values)

    def scaling(self, layer: int) -> float:
        return float(self._model.model.layers[layer].self_attn.scaling)

    def attention_output(self, layer: int, mixed: Tensor) -> Tensor:
        return dense(self._model.model.layers[layer].self_attn.o_proj, mixed)

    def mlp_output(self, layer: int, middle: Tensor) -> Tensor:
        block = self._model.model.layers[layer]
        mlp, normed = block.mlp, block.post_attention_layernorm(middle)
        gate = dense_activated(mlp.gate_proj, mlp.act_fn, normed)
        return dense(mlp.down_proj, gate * dense(mlp.up_proj, normed))


def _by_head(part: Tensor, width: int) -> Tensor:
    heads: Tensor = part.unflatten(-1, (-1, width)).transpose(-2, -3)
    return heads


_LAYOUTS: Final[dict[Layout, type[Blocks]]] = {Layout.GPT2: _GPT2Blocks, Layout.LLAMA: _LlamaBlocks}


def blocks_of(checkpoint: Checkpoint) -> Blocks:
    """The layers of ``checkpoint``."""
    return _LAYOUTS[checkpoint.architecture.layout](checkpoint)


def attend(
    projected: Projected, scaling: float, *, allowed: Bool[Tensor, "... seq key"] | None = None
) -> Float[Tensor, "batch seq d_heads"]:
    """Causal attention over whole rows: what each head mixed, side by side.

    Args:
        allowed: Which keys each position may look at, causality included; all before it
            where None.
    """
    mixed = functional.scaled_dot_product_attention(
        *projected,
        attn_mask=allowed,
        is_causal=allowed is None,
        scale=scaling,
        enable_gqa=True,
    )
    return mixed.transpose(1, 2).flatten(2)


def attend_behind(
    before: tuple[
        Float[Tensor, "batch key_head before head_width"],
        Float[Tensor, "batch key_head before head_width"],
    ],
    projected: Projected,
    scaling: float,
    *,
    allowed: Bool[Tensor, "batch 1 seq key"],
) -> Float[Tensor, "batch seq d_heads"]:
    """As `attend`, with the keys and values of ``before`` too, which take no gradient.

    Of many short rows, most of them padding, torch's fused kernel takes longer than its parts do,
    and its way back goes through what is before as well.
    """
    keys, values = before
    shared = projected.queries.shape[1] // keys.shape[1]  # query heads of a key head
    queries = projected.queries.unflatten(1, (-1, shared)) * scaling
    met = [queries @ part[:, :, None].mT for part in (keys, projected.keys)]
    scores = torch.cat(met, dim=-1).masked_fill(~allowed[:, :, None], -torch.inf)
    weights = scores.float().softmax(dim=-1).to(scores.dtype)
    early, own = weights.split([part.shape[-1] for part in met], dim=-1)
    mixed: Tensor = early @ values[:, :, None] + own @ projected.values[:, :, None]
    return mixed.flatten(1, 2).transpose(1, 2).flatten(2)


class LayerRun(NamedTuple):
    """One layer's steps over whole rows."""

    before: Float[Tensor, "batch seq d_model"]
    projected: Projected
    attention: Float[Tensor, "batch seq d_model"]
    middle: Float[Tensor, "batch seq d_model"]
    """Behind attention."""

    mlp: Float[Tensor, "batch seq d_model"]
    after: Float[Tensor, "batch seq d_model"]


def run_layer(
    blocks: Blocks,
    layer: int,
    residual: Float[Tensor, "batch seq d_model"],
    *,
    allowed: Bool[Tensor, "... seq key"] | None = None,
    positions: Int[Tensor, "... seq"] | None = None,
) -> LayerRun:
    """One layer over whole rows; ``allowed`` as for `attend`, positions from 0 where None."""
    if positions is None:
        positions = torch.arange(residual.shape[1], device=residual.device)
    projected = blocks.project(layer, residual, positions)
    mixed = attend(projected, blocks.scaling(layer), allowed=allowed)
    attention = blocks.attention_output(layer, mixed)
    middle = residual + attention
    mlp = blocks.mlp_output(layer, middle)
    return LayerRun(residual, projected, attention, middle, mlp, middle + mlp)
