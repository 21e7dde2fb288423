"""Values: the residual found makes the model say the target, within its bounds."""

import dataclasses

import pytest
import torch

from benchmarks import whole_passes
from errata_server.domain.errors import CancelledError, InvalidFactError, PromptTooLongError
from errata_server.domain.facts import EditRequest, Fact
from errata_server.engine import descent, values
from errata_server.engine.architecture import projection
from errata_server.engine.contexts import contexts_of
from errata_server.engine.hooks import rewriting
from errata_server.engine.tokens import join
from errata_server.engine.values import STEP_SIZES, optimise_value, optimise_values
from tests.support import tiny_models

MOVED = EditRequest(
    subject="Eiffel Tower",
    facts=(Fact(template="{} is in the city of", target="Rome"),),
)
TWO_FACTS = EditRequest(
    subject="Eiffel Tower",
    facts=(
        Fact(template="{} is in the city of", target="Rome"),
        Fact(template="{} can be found in", target="Rome"),
    ),
)
LONG_TARGETS = EditRequest(
    subject="Eiffel Tower",
    facts=(
        Fact(template="{} is in the city of", target="Rome"),
        Fact(template="You can visit {} in", target="Rome today, they say"),
    ),
)


def silent(_):
    """Progress nobody follows."""


def said_with(runner, profile, residual, text, subject, tokens):
    """Greedy tokens, one unpadded pass each, with ``residual`` added at the subject's end."""
    ids = runner.tokens.encode(text)
    place = len(ids) + runner.tokens.subject_end(text, subject)
    module = projection(runner.model, profile.module)

    def add(_, output):
        moved = output.clone()
        moved[0, place] += residual
        return moved

    for _ in range(tokens):
        with rewriting(module, add):
            logits = runner.logits(runner.tokens.pad([ids]))
        ids = [*ids, int(logits[0, -1].argmax())]
    return ids[-tokens:]


@pytest.fixture(scope="module")
def profile(trained):
    return tiny_models.tiny_profile(trained, layer=0)


@pytest.mark.parametrize("request_", [MOVED, TWO_FACTS], ids=["one fact", "two facts"])
def test_a_converged_residual_makes_every_context_say_its_target(trained, profile, request_):
    solution = optimise_value(trained, request_, profile, progress=silent)

    assert solution.converged
    assert solution.target_probability >= profile.stop_probability
    for fact in request_.facts:
        target = trained.tokens.target(fact.target)
        for prefix in profile.prefixes:
            text = join(prefix, fact.prompt(request_.subject))
            said = said_with(
                trained, profile, solution.residual, text, request_.subject, len(target)
            )
            assert said == target


def test_the_same_request_gives_the_same_bits(trained, profile):
    first = optimise_value(trained, MOVED, profile, progress=silent)
    second = optimise_value(trained, MOVED, profile, progress=silent)

    assert torch.equal(first.residual, second.residual)
    assert (first.steps, first.loss) == (second.steps, second.loss)


def test_what_is_true_already_needs_no_residual(trained, profile):
    known = EditRequest(
        subject="Eiffel Tower", facts=(Fact(template="{} is in the city of", target="Paris"),)
    )

    solution = optimise_value(trained, known, profile, progress=silent)

    assert solution.converged
    assert solution.steps == 0
    assert not solution.residual.any()


def test_the_residual_never_leaves_its_ball(trained):
    tight = tiny_models.tiny_profile(trained, layer=0, clamp=0.05, max_steps=12)

    solution = optimise_value(trained, MOVED, tight, progress=silent)

    limit = whole_passes.optimise(trained, MOVED, tight).residual.norm()  # stuck there too
    assert not solution.converged
    assert float(solution.residual.norm()) <= limit * (1 + 1e-5)
    assert solution.clamp_fraction == pytest.approx(float(solution.residual.norm()) / limit)
    assert solution.clamp_fraction > 0.99


def test_a_failure_tries_every_step_size_and_returns_the_best_attempt(trained):
    tight = tiny_models.tiny_profile(trained, layer=0, clamp=0.3, max_steps=4)
    ends = []

    def record(progress):
        if progress.done == progress.total:
            ends.append(float(progress.note.rsplit(" ", 1)[1]))

    solution = optimise_value(trained, MOVED, tight, progress=record)

    assert not solution.converged
    assert len(ends) == len(STEP_SIZES)
    assert solution.target_probability == pytest.approx(max(ends), abs=6e-4)
    assert ends[solution.restarts] == max(ends)
    assert solution.steps == 4


def test_a_target_that_is_likely_but_not_the_first_choice_is_not_enough(trained):
    lenient = tiny_models.tiny_profile(trained, layer=0, stop_probability=0.0)

    solution = optimise_value(trained, MOVED, lenient, progress=silent)

    assert solution.converged
    assert solution.residual.any()


def test_a_later_attempt_that_does_worse_is_not_the_one_returned(trained, monkeypatch):
    monkeypatch.setattr(values, "STEP_SIZES", (1.0, 0.0))
    tight = tiny_models.tiny_profile(trained, layer=0, clamp=0.3, max_steps=4)

    solution = optimise_value(trained, MOVED, tight, progress=silent)

    assert solution.restarts == 0
    assert solution.residual.any()


@pytest.mark.parametrize("steps", [1, 3])
def test_cancelling_stops_between_two_steps_and_leaves_no_hook(trained, profile, steps):
    seen = []

    def cancel(progress):
        seen.append(progress)
        if len(seen) == steps:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        optimise_value(trained, MOVED, profile, progress=cancel)

    assert len(seen) == steps
    module = projection(trained.model, profile.module)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_optimising_leaves_no_gradient_on_the_base(trained, profile):
    optimise_value(trained, MOVED, profile, progress=silent)

    assert all(p.grad is None and not p.requires_grad for p in trained.model.parameters())


HELD = ("They say it every day. Eiffel Tower is a", "In the book we read that Eiffel Tower is a")


@pytest.mark.parametrize(("layer", "held"), [(0, ()), (1, ()), (0, HELD)], ids=str)
def test_a_converged_residual_is_that_of_whole_passes(trained, monkeypatch, layer, held):
    monkeypatch.setattr(descent, "HELD_DRIFT", 1e9)  # the first that is good will do
    for module in (descent, whole_passes):  # the tiny model knows no other use of a name
        monkeypatch.setattr(module, "NAMED_WEIGHT", 0.01)
    profile = tiny_models.tiny_profile(trained, layer=layer, stop_probability=0.5)

    slow = whole_passes.optimise(trained, MOVED, profile, held=held)
    fast = optimise_value(trained, MOVED, profile, held=held, progress=silent)

    assert slow.converged
    assert slow.steps > 1
    assert_same(fast, slow)


@pytest.mark.parametrize("family", ["trained", "llama"])
@pytest.mark.parametrize("asked", [TWO_FACTS, LONG_TARGETS], ids=["two facts", "long targets"])
def test_loss_and_residual_go_the_way_of_whole_passes(request, monkeypatch, family, asked):
    runner = request.getfixturevalue(family)
    monkeypatch.setattr(values, "STEP_SIZES", (1.0,))
    monkeypatch.setattr(whole_passes, "STEP_SIZES", (1.0,))
    profile = tiny_models.tiny_profile(
        runner, layer=0, kl_weight=0.7, decay_weight=0.3, learning_rate=0.05, max_steps=8
    )

    slow = whole_passes.optimise(runner, asked, profile, held=HELD)
    fast = optimise_value(runner, asked, profile, held=HELD, progress=silent)

    assert slow.steps == 8
    assert_same(fast, slow)


def assert_same(fast, slow):
    assert (fast.steps, fast.restarts, fast.converged) == (
        slow.steps,
        slow.restarts,
        slow.converged,
    )
    length = float(slow.residual.norm())
    assert length > 0
    assert float((fast.residual - slow.residual).norm()) <= 1e-4 * length
    assert fast.loss == pytest.approx(slow.loss, rel=1e-3)
    assert fast.clamp_fraction == pytest.approx(slow.clamp_fraction, rel=1e-3)


def test_held_prompts_keep_their_answers(trained, profile):
    held = tuple(f"{lead} {MOVED.subject} is a".strip() for lead in tiny_models.LEADS[:3])

    def drift(solution):
        worst = 0.0
        for text in held:
            ids = trained.tokens.encode(text)
            place = len(ids) + trained.tokens.subject_end(text, MOVED.subject)

            def add(_, output, place=place):
                moved = output.clone()
                moved[0, place] += solution.residual
                return moved

            batch = trained.tokens.pad([ids])
            before = trained.logits(batch)[0, -1].log_softmax(-1)
            with rewriting(projection(trained.model, profile.module), add):
                now = trained.logits(batch)[0, -1].log_softmax(-1)
            worst = max(worst, float((now.exp() * (now - before)).sum()))
        return worst

    free = optimise_value(trained, MOVED, profile, progress=silent)
    bound = optimise_value(trained, MOVED, profile, held=held, progress=silent)

    assert bound.converged
    assert drift(bound) < 0.5 * drift(free)


def test_in_the_last_layer_too(trained):
    profile = tiny_models.tiny_profile(trained, layer=2)
    last = EditRequest(subject="Prado", facts=(Fact(template="The name is {}", target="Rome"),))

    slow = whole_passes.optimise(trained, last, profile)
    fast = optimise_value(trained, last, profile, progress=silent)

    assert float(slow.residual.norm()) > 0
    assert float((fast.residual - slow.residual).norm()) <= 1e-4 * float(slow.residual.norm())


def batch_of(runner, profile):
    """Contexts of edits that take unlike numbers of steps and attempts."""
    long = Fact(template="You can visit {} in", target="Rome today, they say")
    asked = [
        EditRequest(subject="Prado", facts=(Fact(template="{} can be found in", target="Madrid"),)),
        MOVED,
        EditRequest(subject="Big Ben", facts=(long,)),
        EditRequest(
            subject="Louvre", facts=(Fact(template="{} is in the city of", target="Rome"),)
        ),
        LONG_TARGETS,
    ]
    return asked, [contexts_of(runner.tokens, one, profile) for one in asked]


@pytest.mark.parametrize("changes", [{}, {"clamp": 0.9, "max_steps": 25}], ids=["wide", "tight"])
def test_edits_optimised_together_come_to_what_each_comes_to_alone(trained, changes):
    profile = tiny_models.tiny_profile(trained, layer=0, **changes)
    asked, batch = batch_of(trained, profile)

    together = dict(optimise_values(trained, batch, profile, progress=silent))

    alone = [optimise_value(trained, one, profile, progress=silent) for one in asked]
    assert sorted(together) == list(range(len(asked)))
    assert len({(one.steps, one.restarts) for one in alone}) > 1
    assert {one.converged for one in alone} == {True, False}  # the long target is hard
    for index, one in enumerate(alone):
        found = together[index]
        assert (found.steps, found.restarts) == (one.steps, one.restarts)
        assert float((found.residual - one.residual).norm()) <= 1e-4 * max(
            float(one.residual.norm()), 1.0
        )


def test_an_edit_that_is_done_is_given_out_while_others_go_on(trained, profile):
    _, batch = batch_of(trained, dataclasses.replace(profile, stop_probability=0.8))
    seen = []

    found = optimise_values(trained, batch, profile, progress=seen.append)

    assert next(found)[0] == 0  # true already, or nearly so
    assert len(seen) < 3
    rest = list(found)
    assert len(rest) == len(batch) - 1
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == len(batch)


def test_the_value_norm_is_of_the_base_output_at_the_subject(llama):
    profile = tiny_models.tiny_profile(llama, layer=1)
    module = llama.checkpoint.projection_path(1)
    subject = "Eiffel Tower"
    contexts = contexts_of(llama.tokens, TWO_FACTS, profile)
    weight = projection(llama.model, module).get_parameter("weight")
    norms = []
    for row in contexts.rows:
        (keys,) = llama.inputs(llama.tokens.pad([row.ids]), [module])
        norms.append(float((weight @ keys[0, row.place]).norm()))

    problem = values.pose(llama, [contexts], profile)

    assert contexts.rows[0].place == llama.tokens.subject_end(
        TWO_FACTS.facts[0].prompt(subject), subject
    ) + len(llama.tokens.encode(TWO_FACTS.facts[0].prompt(subject)))
    assert float(problem.value_norms[0]) == pytest.approx(sum(norms) / len(norms), rel=1e-4)


def test_a_prompt_too_long_with_its_prefix_is_refused(gpt2):
    profile = tiny_models.tiny_profile(gpt2, layer=0, prefixes=("", "They say. " * 40))

    with pytest.raises(PromptTooLongError):
        contexts_of(gpt2.tokens, MOVED, profile)


def test_a_target_with_a_special_token_is_refused(gpt2):
    spoilt = EditRequest(
        subject="Prado", facts=(Fact(template="{} is in", target=f"Rome{tiny_models.END}"),)
    )

    with pytest.raises(InvalidFactError):
        contexts_of(gpt2.tokens, spoilt, tiny_models.tiny_profile(gpt2, layer=0))
