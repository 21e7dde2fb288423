"""Dense layers by the faster of two kernels.

On the CPU in float32, torch sends matrix products to MKL, which on processors of others than Intel
runs at half the speed of oneDNN, which also has the tanh GELU in one pass (ADR 0015).
torch itself uses the same operator in compiled models. Invariants: a module that a hook acts on,
or whose weights want a gradient, runs itself; gradients of its input flow through either kernel;
the choice is the same in every process of a machine.
"""

from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from errata_server.engine.hooks import is_hooked

_LINEAR: Any
try:
    _LINEAR = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - it has no public name
except AttributeError:  # torch built without oneDNN
    _LINEAR = None


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not on Linux
        return False


_MKL_LEADS: Final = _is_intel()
"""By a fifth where rows are some tens, by half below; a fused activation is worth more."""

FUSED_FROM: Final = 16
"""Tokens from which on a fused activation is worth a kernel that is slow with few."""


def dense(module: nn.Module, inputs: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
    """``module(inputs)`` for a dense layer, be it a Linear or GPT-2's Conv1D."""
    return _dense(module, inputs, "none", "")


def dense_activated(
    module: nn.Module, activation: nn.Module, inputs: Float[Tensor, "*rows d_in"]
) -> Float[Tensor, "*rows d_out"]:
    """``activation(module(inputs))``."""
    if isinstance(activation, NewGELUActivation | GELUTanh):
        if _fits(module, inputs) and not torch.is_grad_enabled():
            return _dense(module, inputs, "gelu", "tanh")
        return functional.gelu(dense(module, inputs), approximate="tanh")
    return activation(dense(module, inputs))  # type: ignore[no-any-return]


def hasten(model: nn.Module) -> None:
    """Let GPT-2's MLPs in ``model`` run on these kernels in whole passes too."""
    for module in model.modules():
        if type(module) is GPT2MLP:
            module.__class__ = _HastenedMLP


class _HastenedMLP(GPT2MLP):
    """One that takes many tokens through oneDNN, and few as it ever did: MKL then leads."""

    def forward(  # type: ignore[override]  # which says tuple and means tensor
        self, hidden_states: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "batch seq d_model"]:
        if self.training or hidden_states.numel() < FUSED_FROM * hidden_states.shape[-1]:
            return super().forward(hidden_states)  # type: ignore[arg-type]
        # The projection is the module itself, hooked or not: an edit elsewhere changes no bit here.
        inner = dense_activated(self.c_fc, self.act, hidden_states)
        return self.c_proj(inner)  # type: ignore[no-any-return]


def _dense(module: nn.Module, inputs: Tensor, activation: str, variant: str) -> Tensor:
    if (_MKL_LEADS and activation == "none") or not _fits(module, inputs):
        return module(inputs)  # type: ignore[no-any-return]
    weight: Tensor = module.get_parameter("weight")
    bias = dict(module.named_parameters()).get("bias")
    if isinstance(module, Conv1D):
        weight = weight.T
    if torch.is_grad_enabled():
        return _FrozenDense.apply(inputs, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return _LINEAR(inputs, weight, bias, activation, [], variant)  # type: ignore[no-any-return]


def _fits(module: nn.Module, inputs: Tensor) -> bool:
    return (
        _LINEAR is not None
        and isinstance(module, nn.Linear | Conv1D)
        and inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and not is_hooked(module)
        and not (torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()))
    )


class _FrozenDense(torch.autograd.Function):
    """A dense layer through whose input alone gradients flow, forward and back in one kernel."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401 - torch's, untyped
        inputs: Float[Tensor, "*rows d_in"],
        weight: Float[Tensor, "d_out d_in"],
        bias: Float[Tensor, " d_out"] | None,
    ) -> Float[Tensor, "*rows d_out"]:
        context.save_for_backward(weight)
        return _LINEAR(inputs, weight, bias, "none", [], "")  # type: ignore[no-any-return]

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 - torch's, untyped
        *gradients: Tensor,
    ) -> tuple[Float[Tensor, "*rows d_in"], None, None]:
        (weight,) = context.saved_tensors
        return _LINEAR(gradients[0].contiguous(), weight.T, None, "none", [], ""), None, None
