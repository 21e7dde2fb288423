"""Knowledge neurons: integrated gradients over MLP neurons (Dai 2022, arXiv:2104.08696).

A neuron is one input of a layer's MLP output projection at the last token. Its attribution is
its activation times the mean gradient of the answer's probability while the layer's activations
grow from nothing to what they are; the found neurons are then silenced and doubled, beside as
many random ones. Unlike the paper, neurons are not refined over paraphrases, so that the other
prompts of the test were not used to find them. Invariant: a layer's attributions add up to what
its activations change in the answer's probability, to the error of the sum over steps.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import capture
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.charts import cells, chart
from errata_server.engine.locate.suffix import CleanRun, attend_behind, clean_run, run_behind

THRESHOLD: Final = 0.2
"""Share of the largest attribution that makes a neuron count, as in the paper."""

RANDOM_SETS: Final = 10
OTHER_PROMPTS: Final = 8
SUPPRESS: Final = 0.0
AMPLIFY: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class Neuron:
    """One input of a layer's MLP output projection."""

    layer: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Relative change of the answer's probability on one prompt."""

    found: tuple[float, float]
    """Suppressed, amplified."""

    random: tuple[tuple[float, float], ...]
    """The same for each set of random neurons."""


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """Find the neurons, then silence and double them."""
    layers = case.blocks.layers
    prompts, warnings = other_prompts(case)
    steps = Steps(progress, total=2 * layers + (1 + len(prompts)) * 2 * layers)
    clean = clean_run(case, case.ids, steps)
    attributions = []
    for layer in range(layers):
        work = partial(attribute, case, clean, layer, int(options["steps"]))
        attributions.append(case.step(work, gradients=True))
        steps.finish("integrated gradients")
    found = strongest(attributions, int(options["neurons"]))
    sets = [found, *_random_sets(case, found, attributions[0].numel())]
    changes = [change(case, ids, sets, steps) for ids in (case.ids, *prompts)]
    counts = _over_threshold(attributions)
    return Findings(
        charts=(
            *_attribution_charts(case, attributions, counts, int(options["neurons"])),
            _test_chart(changes),
        ),
        figures=_figures(found, counts, changes),
        warnings=(*case.first_token_warnings, *warnings),
    )


def attribute(case: Case, clean: CleanRun, layer: int, steps: int) -> Float[Tensor, " d_in"]:
    """Attribution of each of the layer's neurons; needs gradients.

    The sum over steps takes the middles of its intervals, which is closer to the integral
    than the paper's right ends.
    """
    activations, middle = _activations(case, clean, layer)
    shares = (torch.arange(steps, device=activations.device) + 0.5) / steps
    scaled = (shares[:, None, None].to(activations.dtype) * activations).requires_grad_()
    state = middle + _module(case, layer)(scaled)
    for above in range(layer + 1, case.blocks.layers):
        state = run_behind(case.blocks, above, state, clean.layers[above])
    (gradient,) = torch.autograd.grad(_probability(case, state).sum(), scaled)
    return (activations[0, 0] * gradient.mean(dim=0)[0]).float().detach()


def _activations(
    case: Case, clean: CleanRun, layer: int
) -> tuple[Float[Tensor, "1 1 d_in"], Float[Tensor, "1 1 d_model"]]:
    """The neurons at the last token, and the residual stream their output is added to."""
    middle = clean.layers[layer].middle[:, -1:]
    with capture(_module(case, layer)) as seen:
        case.blocks.mlp_output(layer, middle)
    return seen.last, middle


def _module(case: Case, layer: int) -> torch.nn.Module:
    checkpoint = case.runner.checkpoint
    return projection(checkpoint.model, checkpoint.projection_path(layer))


def _probability(case: Case, state: Float[Tensor, "batch 1 d_model"]) -> Float[Tensor, " batch"]:
    logits = case.blocks.logits(state[:, -1])
    return functional.softmax(logits, dim=-1)[:, case.answer_ids[0]]


def strongest(attributions: Sequence[Float[Tensor, " d_in"]], count: int) -> tuple[Neuron, ...]:
    """The ``count`` neurons with the largest attribution, those above 0 only."""
    stacked = torch.stack(list(attributions))
    width = stacked.shape[1]
    values, places = stacked.flatten().topk(min(count, stacked.numel()))
    return tuple(
        Neuron(place // width, place % width)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
        if value > 0
    )


def _random_sets(case: Case, found: Sequence[Neuron], width: int) -> list[tuple[Neuron, ...]]:
    """Sets of other neurons, each with as many in every layer as ``found``."""
    chance = random.Random(case.seed)
    layers = [neuron.layer for neuron in found]
    sets = []
    for _ in range(RANDOM_SETS):
        drawn: list[Neuron] = []
        for layer in sorted(set(layers)):
            taken = {neuron.index for neuron in found if neuron.layer == layer}
            others = [index for index in range(width) if index not in taken]
            drawn += [Neuron(layer, at) for at in chance.sample(others, layers.count(layer))]
        sets.append(tuple(drawn))
    return sets


def other_prompts(case: Case) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Token ids of the fact's other known templates, and a warning where there are none."""
    tokens, texts = case.runner.tokens, []
    for fact in case.known_facts.of_subject(case.subject):
        if tokens.target(fact.object)[0] == case.answer_ids[0]:
            templates = case.known_facts.templates[fact.relation]
            texts += [template.replace(PLACEHOLDER, case.subject) for template in templates]
    others = [text for text in dict.fromkeys(texts) if text != case.prompt][:OTHER_PROMPTS]
    if not others:
        return [], (
            f"no known fact says {case.answer!r} of {case.subject!r}, so the neurons are "
            "tested on this prompt alone",
        )
    return [tuple(tokens.fit(text)) for text in others], ()


def change(
    case: Case, ids: Sequence[int], sets: Sequence[Sequence[Neuron]], steps: Steps
) -> Changes:
    """The change on one prompt when each set of neurons is silenced, and doubled.

    The first of ``sets`` are the found neurons; all sets go up the layers together.
    """
    clean = clean_run(case, ids, steps)
    rows = [(neurons, factor) for neurons in sets for factor in (SUPPRESS, AMPLIFY)]
    state = clean.layers[0].before[:, -1:].repeat(len(rows) + 1, 1, 1)
    for layer in range(case.blocks.layers):
        state = case.step(partial(_scaled_layer, case, clean, layer, state, rows))
        steps.finish("suppress and amplify")
    before, *after = case.step(partial(_probability, case, state)).tolist()
    relative = [value / before - 1 if before > 0 else 0.0 for value in after]
    pairs = list(zip(relative[::2], relative[1::2], strict=True))
    return Changes(found=pairs[0], random=tuple(pairs[1:]))


def _scaled_layer(
    case: Case,
    clean: CleanRun,
    layer: int,
    state: Float[Tensor, "batch 1 d_model"],
    rows: Sequence[tuple[Sequence[Neuron], float]],
) -> Float[Tensor, "batch 1 d_model"]:
    """One layer with each row's neurons multiplied; the first row is left alone."""
    blocks = case.blocks
    middle = state + attend_behind(blocks, layer, state, clean.layers[layer])
    with capture(_module(case, layer)) as seen:
        output = blocks.mlp_output(layer, middle)
    activations = seen.last.clone()
    for row, (neurons, factor) in enumerate(rows, start=1):
        here = [neuron.index for neuron in neurons if neuron.layer == layer]
        activations[row, :, here] *= factor
    if any(neuron.layer == layer for neurons, _ in rows for neuron in neurons):
        output = _module(case, layer)(activations)
    return middle + output


def _over_threshold(attributions: Sequence[Float[Tensor, " d_in"]]) -> list[int]:
    limit = THRESHOLD * max(float(layer.max()) for layer in attributions)
    return [int((layer > limit).sum()) if limit > 0 else 0 for layer in attributions]


def _attribution_charts(
    case: Case, attributions: Sequence[Float[Tensor, " d_in"]], counts: list[int], ranks: int
) -> tuple[Chart, ...]:
    tops = [layer.topk(min(ranks, layer.numel())).values.tolist() for layer in attributions]
    by_rank = [(f"neuron {rank + 1}", [top[rank] for top in tops]) for rank in range(len(tops[0]))]
    return (
        chart(
            ChartForm.BARS,
            f"Neurons above {THRESHOLD:.0%} of the largest attribution",
            [("neurons", counts)],
            columns=case.layer_names,
            axes=("what", "layer"),
            unit="neurons",
        ),
        chart(
            ChartForm.HEAT_MAP,
            "Attribution of each layer's strongest neurons at the last token",
            by_rank,
            columns=case.layer_names,
            axes=("rank in its layer", "layer"),
            unit="probability of the answer",
        ),
        chart(
            ChartForm.LINES,
            "Attribution of all of a layer's neurons",
            [("sum", [float(layer.sum()) for layer in attributions])],
            columns=case.layer_names,
            axes=("what", "layer"),
            unit="probability of the answer",
        ),
    )


def _test_chart(changes: Sequence[Changes]) -> Chart:
    """Mean change here and on the other prompts; bounds are the least and the most."""
    groups = [
        (f"{verb}, {where}", way, group)
        for where, group in (("this prompt", changes[:1]), ("other prompts", changes[1:]))
        for way, verb in enumerate(("suppressed", "doubled"))
        if group
    ]
    found = [[one.found[way] for one in group] for _, way, group in groups]
    chance = [[row[way] for one in group for row in one.random] for _, way, group in groups]
    made = chart(
        ChartForm.BARS,
        "The answer's probability with neurons silenced and doubled",
        [
            ("found neurons", [_mean(values) for values in found]),
            ("random neurons", [_mean(values) for values in chance]),
        ],
        columns=[name for name, _, _ in groups],
        axes=("neurons", "what was done"),
        unit="relative change of the answer's probability",
    )
    low = tuple(cells([min(values) for values in rows]) for rows in (found, chance))
    high = tuple(cells([max(values) for values in rows]) for rows in (found, chance))
    return replace(made, low=low, high=high)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _figures(
    found: Sequence[Neuron], counts: Sequence[int], changes: Sequence[Changes]
) -> dict[str, float]:
    figures = {"neurons": float(len(found)), "neurons_over_threshold": float(sum(counts))}
    for name, group in (("", changes[:1]), ("_elsewhere", changes[1:])):
        for way, verb in enumerate(("suppressed", "doubled")):
            if group:
                chance = [row[way] for one in group for row in one.random]
                figures[f"{verb}{name}"] = _mean([one.found[way] for one in group])
                figures[f"{verb}{name}_random"] = _mean(chance)
    return figures


ROW: Final = Row(
    locator=Locator(
        name="knowledge_neurons",
        title="Knowledge neurons",
        shows="Which MLP neurons at the last token push the answer up, and how much of the "
        "answer goes when they are silenced, beside random ones.",
        cannot_show="That the fact is kept in these neurons: much of what they push is the "
        "kind of answer and its grammar (Niu et al. 2024, arXiv:2405.02421), and only the last "
        "token is looked at.",
        source="Dai et al. 2022, arXiv:2104.08696",
        options=(
            LocatorOption(
                name="steps",
                meaning="steps of the integrated gradients",
                default=20,
                minimum=1,
                maximum=300,
            ),
            LocatorOption(
                name="neurons",
                meaning="neurons silenced and doubled, the strongest first",
                default=10,
                minimum=1,
                maximum=500,
            ),
        ),
    ),
    run=run,
)
