"""Approximate screens of the causal trace: one backward pass in place of a run for each site.

What restoring a site would do is estimated by (clean - corrupted) times the score's gradient at
that site in the corrupted run. AtP takes the gradient as it is (Nanda 2023; Kramár 2024,
arXiv:2403.00745); RelP holds what bends it at its corrupted values: norms' denominators,
attention's weights, each activation's ratio of output to input, and a product's relevance is
shared by half (Jafari 2025, arXiv:2508.21258). Invariant: RelP changes gradients, never what
the model computes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from torch import Tensor, nn

from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.domain.traces import Corruption, Metric, TraceKind
from errata_server.engine.architecture import Layout
from errata_server.engine.checkpoint import Checkpoint
from errata_server.engine.hooks import rewriting
from errata_server.engine.locate.blocks import Blocks, LayerRun, run_layer
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.cells import WINDOWED, window_of
from errata_server.engine.locate.charts import chart
from errata_server.engine.locate.corruption import corrupt, subject_sigma
from errata_server.engine.locate.readouts import Readout, answer_readout
from errata_server.engine.locate.suffix import clean_run

KINDS: Final[Mapping[TraceKind, str]] = {
    TraceKind.HIDDEN: "single states",
    TraceKind.MLP: "MLP outputs",
    TraceKind.ATTN: "attention outputs",
}
SAMPLES: Final = 8
"""Corrupted samples in one pass there and back."""


class Method(StrEnum):
    """How gradients are taken."""

    ATP = "atp"
    RELP = "relp"


Grid = Float[Tensor, "seq layer"]
"""Estimated indirect effects: rows are tokens, columns layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The estimates of one method, and the scores they are about."""

    clean: float
    corrupted: float
    grids: Mapping[TraceKind, Grid]


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Estimate every site's indirect effect by each method."""
    corruption = Corruption(scale=options["scale"], samples=int(options["samples"]), seed=case.seed)
    window = int(options["window"])
    passes = math.ceil(corruption.samples / SAMPLES)
    steps = Steps(progress, total=len(Method) * (case.blocks.layers + passes))
    screens = {
        method: screen(case, method, corruption, window=window, steps=steps) for method in Method
    }
    charts = [
        _chart(case, method, kind, window, screens[method].grids[kind])
        for method in Method
        for kind in KINDS
    ]
    first = screens[Method.ATP]
    figures = {"clean": first.clean, "corrupted": first.corrupted}
    for method, found in screens.items():
        for kind in KINDS:
            peak = int(found.grids[kind].argmax())
            name = f"{method.value}_{kind.value}_peak"
            figures[f"{name}_token"] = float(peak // case.blocks.layers)
            figures[f"{name}_layer"] = float(peak % case.blocks.layers)
    return Findings(charts=tuple(charts), figures=figures)


def screen(
    case: Case, method: Method, corruption: Corruption, *, window: int, steps: Steps
) -> Screen:
    """The estimates of ``method``, of the answer's log-probability."""
    ids = [*case.ids, *case.answer_ids[:-1]]
    clean = clean_run(case, ids, steps).layers
    readout = answer_readout(
        case.blocks,
        Metric.LOG_PROBABILITY,
        answer=case.answer_ids,
        foil=0,
        clean=torch.zeros(0, device=case.blocks.device),
    )
    placed = case.step(partial(_corrupted, case, ids, corruption))
    scores, effects = [], []
    for rows in placed.split(SAMPLES):
        work = partial(_estimate, case, method, readout, clean, rows)
        found, estimated = case.step(work, gradients=True)
        scores.append(found)
        effects.append(estimated)
        steps.finish(method.value)
    sites = torch.cat(effects, dim=1).mean(dim=1)[:, :, : len(case.ids)]
    # The same run before the first corrupted token, up to how sums of other sizes round.
    sites[:, :, : case.subject_positions[0]] = 0
    tail = clean[-1].after[:, -readout.kept :]
    return Screen(
        clean=float(case.step(partial(readout.scores, tail))),
        corrupted=float(torch.cat(scores).mean()),
        grids={
            kind: _windowed(one, window) if kind in WINDOWED else one.T
            for kind, one in zip(KINDS, sites.double().cpu(), strict=True)
        },
    )


def rank_correlation(
    approximate: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]
) -> float:
    """Spearman's rank correlation of two grids, cell by cell; nan where one is constant."""
    first, second = torch.tensor(approximate).flatten(), torch.tensor(exact).flatten()
    if len(first.unique()) < 2 or len(second.unique()) < 2:
        return math.nan
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


@contextmanager
def linearised(checkpoint: Checkpoint) -> Iterator[None]:
    """Let gradients follow RelP's rules inside the block; it must be on the model thread."""
    model: nn.Module = checkpoint.model
    with ExitStack() as stack:
        for path, rewrite in _RULES[checkpoint.architecture.layout].items():
            layers = range(checkpoint.layers) if "{}" in path else [0]
            for layer in layers:
                module = model.get_submodule(path.format(layer))
                stack.enter_context(rewriting(module, partial(rewrite, module)))
        yield


def _hold_norm(module: Any, inputs: Tensor, outputs: Tensor) -> Tensor:  # noqa: ANN401, ARG001 - of several families
    """The norm with its denominator held."""
    states = inputs.float()
    if isinstance(module, nn.LayerNorm):
        centred = states - states.mean(dim=-1, keepdim=True)
        spread = (centred.pow(2).mean(dim=-1, keepdim=True) + module.eps).rsqrt()
        return (centred * spread.detach()).to(inputs.dtype) * module.weight + module.bias
    spread = (states.pow(2).mean(dim=-1, keepdim=True) + module.variance_epsilon).rsqrt()
    held: Tensor = module.weight * (states * spread.detach()).to(inputs.dtype)
    return held


def _hold_ratio(_: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The activation as a product with its ratio of output to input, which is held."""
    safe = torch.where(inputs == 0, torch.ones_like(inputs), inputs)
    return inputs * (outputs / safe).detach()


def _hold_half_ratio(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    return _halve(module, inputs, _hold_ratio(module, inputs, outputs))


def _halve(_: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:  # noqa: ARG001 - as rewrites are called
    """One factor of a product: it takes half of the product's relevance."""
    return (outputs + outputs.detach()) / 2


def _hold(_: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:  # noqa: ARG001 - as rewrites are called
    return outputs.detach()


def _hold_two_thirds(_: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:  # noqa: ARG001 - as rewrites are called
    """Queries and keys held, values not, where one projection makes all three."""
    queries, keys, values = outputs.chunk(3, dim=-1)
    return torch.cat([queries.detach(), keys.detach(), values], dim=-1)


_Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
_RULES: Final[Mapping[Layout, Mapping[str, _Rule]]] = {
    Layout.GPT2: {
        "transformer.h.{}.ln_1": _hold_norm,
        "transformer.h.{}.attn.c_attn": _hold_two_thirds,
        "transformer.h.{}.ln_2": _hold_norm,
        "transformer.h.{}.mlp.act": _hold_ratio,
        "transformer.ln_f": _hold_norm,
    },
    Layout.LLAMA: {
        "model.layers.{}.input_layernorm": _hold_norm,
        "model.layers.{}.self_attn.q_proj": _hold,
        "model.layers.{}.self_attn.k_proj": _hold,
        "model.layers.{}.post_attention_layernorm": _hold_norm,
        "model.layers.{}.mlp.act_fn": _hold_half_ratio,
        "model.layers.{}.mlp.up_proj": _halve,
        "model.norm": _hold_norm,
    },
}


def _corrupted(
    case: Case, ids: Sequence[int], corruption: Corruption
) -> Float[Tensor, "sample seq d_model"]:
    """The residual streams of the corrupted runs before the first layer; the trace's own noise."""
    blocks, tokens = case.blocks, case.runner.tokens
    sigma = subject_sigma(blocks, tokens, case.known_facts.subjects)
    hidden = corrupt(blocks, ids, case.subject_positions, corruption, sigma=sigma)
    return blocks.place(hidden.embeddings, torch.arange(len(ids), device=blocks.device))


def gradients(
    blocks: Blocks, readout: Readout, placed: Float[Tensor, "batch seq d_model"]
) -> tuple[Float[Tensor, " batch"], list[LayerRun], Float[Tensor, "kind layer batch seq d_model"]]:
    """(scores, runs, gradient of each row's score at every site of each kind)."""
    residual = placed.detach().requires_grad_()
    runs = []
    for layer in range(blocks.layers):
        runs.append(run_layer(blocks, layer, residual))
        residual = runs[-1].after
    scores = readout.scores(residual[:, -readout.kept :])
    sites = [_site(one, kind) for kind in KINDS for one in runs]
    taken = torch.autograd.grad(scores.sum(), sites)
    return scores.detach(), runs, torch.stack(taken).unflatten(0, (len(KINDS), -1))


def _estimate(
    case: Case,
    method: Method,
    readout: Readout,
    clean: Sequence[LayerRun],
    placed: Float[Tensor, "sample seq d_model"],
) -> tuple[Float[Tensor, " sample"], Float[Tensor, "kind sample layer seq"]]:
    """(scores, estimated effects) of a few corrupted runs; must run on the model thread."""
    with ExitStack() as stack:
        if method is Method.RELP:
            stack.enter_context(linearised(case.runner.checkpoint))
        scores, runs, slopes = gradients(case.blocks, readout, placed)
    effects = []
    for kind, by_layer in zip(KINDS, slopes, strict=True):
        changes = torch.stack(
            [_site(a, kind) - _site(b, kind).detach() for a, b in zip(clean, runs, strict=True)]
        )
        effects.append((changes * by_layer).float().sum(dim=-1).transpose(0, 1))
    return scores, torch.stack(effects)


def _site(layer: LayerRun, kind: TraceKind) -> Float[Tensor, "batch seq d_model"]:
    if kind is TraceKind.HIDDEN:
        return layer.after
    return layer.mlp if kind is TraceKind.MLP else layer.attention


def _windowed(sites: Float[Tensor, "layer seq"], window: int) -> Grid:
    """Each layer's window summed, as the causal trace's windows restore them together."""
    layers = len(sites)
    ranges = [window_of(layer, layers, window) for layer in range(layers)]
    return torch.stack([sites[first:end].sum(dim=0) for first, end in ranges], dim=1)


def _chart(case: Case, method: Method, kind: TraceKind, window: int, grid: Grid) -> Chart:
    name = "AtP" if method is Method.ATP else "RelP"
    what = KINDS[kind] if kind not in WINDOWED else f"{KINDS[kind]}, {window} layers"
    return chart(
        ChartForm.HEAT_MAP,
        f"{name}, an approximation of the causal trace: {what}",
        list(zip(case.token_texts, grid.tolist(), strict=True)),
        columns=case.layer_names,
        axes=("token", "layer"),
        unit="estimated indirect effect on the answer's log-probability",
    )


ROW: Final = Row(
    locator=Locator(
        name="attribution",
        title="Attribution (approximate)",
        shows="Roughly what a causal trace would, from a few passes whatever the prompt's length: "
        "which sites are worth tracing exactly.",
        cannot_show="The indirect effects themselves: it follows slopes at the corrupted run, and "
        "what saturates or acts only together is misjudged. Trace what matters.",
        source="Kramár et al. 2024, arXiv:2403.00745 (AtP); Jafari et al. 2025, "
        "arXiv:2508.21258 (RelP)",
        options=(
            LocatorOption(
                name="window",
                meaning="layers taken together for MLP and attention outputs",
                default=10,
                minimum=1,
                maximum=1_000,
            ),
            LocatorOption(
                name="samples", meaning="corrupted runs", default=10, minimum=1, maximum=1_000
            ),
            LocatorOption(
                name="scale",
                meaning="noise, in standard deviations of subjects' embeddings",
                default=3,
                minimum=0.01,
                maximum=100,
            ),
        ),
    ),
    run=run,
)
