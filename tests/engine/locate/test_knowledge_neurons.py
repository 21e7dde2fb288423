"""Integrated gradients are complete, equal to whole passes, and the neurons they find matter."""

from contextlib import ExitStack

import pytest
import torch

from errata_server.engine.locate.case import Steps
from errata_server.engine.locate.knowledge_neurons import (
    ROW,
    Neuron,
    attribute,
    change,
    other_prompts,
    strongest,
)
from errata_server.engine.locate.suffix import clean_run
from tests.support.locating import (
    KNOWN_CITIES,
    answer_probability,
    case,
    inputs_changed,
    located,
    projections,
    silent,
    whole_pass,
)

STEPS = 200
WIDTHS = {"gpt2": 192, "llama": 80}


def attributions(asked, steps=STEPS):
    clean = clean_run(asked, asked.ids)
    return [
        asked.step(lambda layer=layer: attribute(asked, clean, layer, steps), gradients=True)
        for layer in range(asked.blocks.layers)
    ]


def at_the_last_token(change_of):
    def changed(inputs):
        return torch.cat([inputs[:, :-1], change_of(inputs[:, -1:])], dim=1)

    return changed


def test_a_layers_attributions_add_up_to_what_its_neurons_do(deep):
    asked = case(deep)
    whole = answer_probability(asked)

    for layer, found in enumerate(attributions(asked)):
        with inputs_changed(projections(deep)[layer], at_the_last_token(lambda last: 0 * last)):
            without = answer_probability(asked)
        assert float(found.sum()) == pytest.approx(whole - without, abs=2e-3)
        assert abs(whole - without) > 1e-4


def whole_gradient(asked, module, share):
    """Neurons times the answer's gradient by them where they are ``share`` of what they are."""
    own = []

    def scaled(last):
        own[:] = [last.detach(), (share * last.detach()).requires_grad_()]
        return own[1]

    with inputs_changed(module, at_the_last_token(scaled)):
        logits = whole_pass(asked, gradients=True)[-1]
    answer = logits.softmax(dim=-1)[asked.answer_ids[0]]
    (gradient,) = torch.autograd.grad(answer, own[1])
    return (own[0] * gradient)[0, 0]


def test_gradients_equal_those_of_whole_passes(deep):
    asked, steps = case(deep), 4
    found = attributions(asked, steps)

    for layer, module in enumerate(projections(deep)):
        naive = sum(
            whole_gradient(asked, module, (step + 0.5) / steps) for step in range(steps)
        ) * (1 / steps)
        assert torch.allclose(found[layer], naive, atol=1e-5)
        assert naive.abs().max() > 1e-4


def test_the_strongest_neurons_are_those_with_the_largest_attribution():
    layers = [torch.tensor([0.1, -3.0, 0.5]), torch.tensor([0.2, 0.0, -1.0])]

    assert strongest(layers, 2) == (Neuron(0, 2), Neuron(1, 0))
    assert strongest(layers, 6) == (Neuron(0, 2), Neuron(1, 0), Neuron(0, 0))


@pytest.mark.parametrize(("way", "factor"), [(0, 0.0), (1, 2.0)])
def test_silencing_and_doubling_equal_whole_passes(deep, way, factor):
    asked = case(deep)
    sets = [(Neuron(0, 3), Neuron(0, 7), Neuron(2, 1)), (Neuron(1, 5),)]

    changes = change(asked, asked.ids, sets, Steps(silent, total=8))

    for neurons, relative in zip(sets, (changes.found, changes.random[0]), strict=True):
        with ExitStack() as stack:
            for layer, module in enumerate(projections(deep)):
                here = [neuron.index for neuron in neurons if neuron.layer == layer]

                def scale(last, here=here):
                    return last.index_fill(2, torch.tensor(here, dtype=torch.long), 0) + (
                        factor * (last - last.index_fill(2, torch.tensor(here), 0)) if here else 0
                    )

                stack.enter_context(inputs_changed(module, at_the_last_token(scale)))
            after = answer_probability(asked)
        assert relative[way] == pytest.approx(after / answer_probability(asked) - 1, abs=1e-4)


def test_what_is_found_matters_more_than_random_neurons_on_this_prompt_and_on_others(trained):
    asked = case(
        trained,
        prompt="You can visit Big Ben in",
        subject="Big Ben",
        known_facts=KNOWN_CITIES,
        answer="London",
    )
    assert asked.answer_ids[0] == asked.predicted

    findings = located(ROW, asked, neurons=20)

    figures = findings.figures
    assert figures["suppressed"] < 2 * figures["suppressed_random"] < 0.1
    assert figures["suppressed_elsewhere"] < figures["suppressed_elsewhere_random"]
    assert findings.charts[-1].columns == (
        "suppressed, this prompt",
        "doubled, this prompt",
        "suppressed, other prompts",
        "doubled, other prompts",
    )


def test_the_other_prompts_are_the_facts_other_templates(trained):
    asked = case(
        trained,
        prompt="You can visit Big Ben in",
        subject="Big Ben",
        known_facts=KNOWN_CITIES,
        answer="London",
    )

    prompts, warnings = other_prompts(asked)

    assert [trained.tokens.decode(ids) for ids in prompts] == [
        "Big Ben is in the city of",
        "Big Ben can be found in",
    ]
    assert warnings == ()


def test_without_known_facts_the_test_is_of_this_prompt_alone_and_says_so(gpt2):
    findings = located(ROW, case(gpt2, answer="Seattle Paris"))

    assert any("this prompt alone" in warning for warning in findings.warnings)
    assert any("reads the first" in warning for warning in findings.warnings)
    assert "suppressed_elsewhere" not in findings.figures


def test_the_same_seed_draws_the_same_random_neurons(gpt2):
    once = [located(ROW, case(gpt2, seed=seed)).figures["doubled_random"] for seed in (1, 1, 2)]

    assert once[0] == once[1] != once[2]
