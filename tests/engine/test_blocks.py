"""The model taken apart computes what the whole model computes, on either kernel."""

import copy
from typing import Any, Final

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from errata_server.domain.errors import PromptTooLongError
from errata_server.engine import kernels
from errata_server.engine.blocks import Projected, attend, attend_behind, blocks_of, run_layer
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.hooks import rewriting
from tests.support import tiny_models

SMALL: Final[dict[str, Any]] = {
    "vocab_size": tiny_models.VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
}


def write(folder, family):
    torch.manual_seed(0)
    if family == "gpt2":
        return tiny_models.write_gpt2(folder)
    if family == "llama":
        return tiny_models.write_llama(folder)
    model = {
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=20)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    }[family]()
    model.save_pretrained(folder)
    tiny_models.llama_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=["gpt2", "llama", "mistral", "qwen2"])
def checkpoint(request, tmp_path):
    return load_checkpoint(str(write(tmp_path, request.param)))


@pytest.mark.parametrize("kernel", ["oneDNN", "MKL but for activations", "the module's own"])
def test_layer_by_layer_is_the_whole_model(checkpoint, kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_MKL_LEADS", kernel == "MKL but for activations")
    if kernel == "the module's own":
        monkeypatch.setattr(kernels, "_LINEAR", None)
    blocks = blocks_of(checkpoint)
    ids = torch.randint(2, 400, (3, 17), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        whole = checkpoint.model(ids).logits
        residual = blocks.place(blocks.embed(ids), torch.arange(17))
        for layer in range(blocks.layers):
            residual = run_layer(blocks, layer, residual).after
        found = blocks.logits(residual)
    assert torch.allclose(found, whole, atol=2e-5)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_in_two_parts_is_attention_over_both_and_so_is_its_way_back(key_heads):
    torch.manual_seed(0)
    rows, tail, early, width = 3, 5, 7, 8
    allowed = torch.rand(rows, 1, tail, early + tail) > 0.5
    allowed[..., early:] |= torch.eye(tail, dtype=torch.bool)
    before = (
        torch.randn(rows, key_heads, early, width),
        torch.randn(rows, key_heads, early, width),
    )
    heads = (4, key_heads, key_heads)
    own = [torch.randn(rows, count, tail, width, requires_grad=True) for count in heads]
    whole = Projected(
        own[0], torch.cat([before[0], own[1]], dim=2), torch.cat([before[1], own[2]], dim=2)
    )

    mixed = attend_behind(before, Projected(*own), 0.3, allowed=allowed)
    plain = attend(whole, 0.3, allowed=allowed)

    assert torch.allclose(mixed, plain, atol=1e-5)
    weights = torch.randn_like(plain)
    gradients = torch.autograd.grad((mixed * weights).sum(), own)
    for found, expected in zip(
        gradients, torch.autograd.grad((plain * weights).sum(), own), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_prompt_longer_than_a_sliding_window_is_refused(tmp_path):
    blocks = blocks_of(load_checkpoint(str(write(tmp_path, "mistral"))))

    blocks.require_sight(20)
    with pytest.raises(PromptTooLongError, match="attention sees 20"):
        blocks.require_sight(21)


@pytest.mark.parametrize("mkl_leads", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_is_its_module(bias, mkl_leads, monkeypatch):
    monkeypatch.setattr(kernels, "_MKL_LEADS", mkl_leads)
    torch.manual_seed(0)
    inputs = torch.randn(2, 5, 24)
    layers = [nn.Linear(24, 40, bias=bias), Conv1D(40, 24)]
    for layer in layers:
        with torch.no_grad():
            assert torch.allclose(kernels.dense(layer, inputs), layer(inputs), atol=1e-5)
            for activation in (NewGELUActivation(), GELUTanh(), nn.SiLU()):
                found = kernels.dense_activated(layer, activation, inputs)
                assert torch.allclose(found, activation(layer(inputs)), atol=1e-5)


def test_what_acts_on_a_module_acts_in_its_faster_kernel_too():
    layer, inputs = nn.Linear(4, 4), torch.ones(1, 1, 4)

    with torch.no_grad(), rewriting(layer, lambda _, output: output + 100):
        assert kernels.dense(layer, inputs).min() > 50


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("tokens", [1, kernels.FUSED_FROM])
def test_a_hastened_mlp_is_the_plain_one_however_it_is_copied_or_hooked(activation, tokens):
    plain = GPT2MLP(64, GPT2Config(n_embd=16, activation_function=activation)).eval()
    hastened, inputs = copy.deepcopy(plain), torch.randn(1, tokens, 16)
    kernels.hasten(hastened)
    copied = copy.deepcopy(hastened)
    nn.init.zeros_(hastened.c_fc.weight)

    with torch.no_grad():
        assert torch.allclose(copied(inputs), plain(inputs), atol=1e-5)
        with rewriting(copied.c_proj, lambda _, output: output + 100):
            assert torch.allclose(copied(inputs), plain(inputs) + 100, atol=1e-4)
    assert type(copied) is not type(plain)
    assert copied.state_dict().keys() == plain.state_dict().keys()


def test_a_hook_that_changes_nothing_changes_no_bit_of_a_hastened_mlp():
    mlp = GPT2MLP(1_024, GPT2Config(n_embd=256)).eval()
    kernels.hasten(mlp)
    inputs = torch.randn(1, 45, 256)

    with torch.no_grad():
        plain = mlp(inputs)
        with rewriting(mlp.c_proj, lambda _, output: output):
            assert torch.equal(mlp(inputs), plain)


def test_gradients_flow_where_they_are_wanted():
    layer, inputs = nn.Linear(4, 4), torch.ones(1, 1, 4, requires_grad=True)

    kernels.dense(layer, inputs).sum().backward()
    assert inputs.grad is not None
