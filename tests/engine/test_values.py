"""Values: the residual found makes the model say the target, within its bounds."""

import pytest
import torch

from errata_server.domain.errors import CancelledError, InvalidFactError, PromptTooLongError
from errata_server.domain.facts import EditRequest, Fact
from errata_server.engine import values
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.tokens import join
from errata_server.engine.values import ESSENCE, STEP_SIZES, _Descent, optimise_value, state_problem
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
    problem = state_problem(trained, MOVED, tight)

    solution = optimise_value(trained, MOVED, tight, progress=silent)

    limit = 0.05 * problem.value_norm
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


def naive_loss(runner, request, profile, residual):
    """The objective, context by context, each unpadded and run alone."""
    losses = []
    module = projection(runner.model, profile.module)

    def log_probabilities(ids, place):
        def add(_, output):
            mark = torch.zeros(output.shape[1], 1)
            mark[place] = 1
            return output + mark * residual

        with rewriting(module, add), torch.enable_grad():
            logits = runner.model(input_ids=torch.tensor([ids])).logits[0]
        return logits.log_softmax(-1)

    for fact in request.facts:
        target = runner.tokens.target(fact.target)
        for prefix in profile.prefixes:
            text = join(prefix, fact.prompt(request.subject))
            ids = runner.tokens.encode(text)
            place = len(ids) + runner.tokens.subject_end(text, request.subject)
            scores = log_probabilities([*ids, *target], place)
            losses.append(-sum(scores[len(ids) - 1 + i, t] for i, t in enumerate(target)))
    essence = runner.tokens.encode(ESSENCE.format(request.subject))
    place = len(essence) + runner.tokens.subject_end(
        ESSENCE.format(request.subject), request.subject
    )
    now = log_probabilities(essence, place)[-1]
    base = runner.logits(runner.tokens.pad([essence]))[0, -1].log_softmax(-1)
    drift = (now.exp() * (now - base)).sum()
    problem = state_problem(runner, request, profile)
    decay = residual.norm() / problem.value_norm**2
    loss = sum(losses) / len(losses)
    return loss + profile.kl_weight * drift + profile.decay_weight * decay


@pytest.mark.parametrize("family", ["trained", "llama"])
def test_loss_and_gradient_of_the_batch_are_the_naive_sum_over_contexts(request, family):
    runner = request.getfixturevalue(family)
    profile = tiny_models.tiny_profile(runner, layer=0, kl_weight=0.7, decay_weight=0.3)
    start = torch.randn(tiny_models.D_MODEL, generator=torch.Generator().manual_seed(3))
    batched = start.clone().requires_grad_()
    descent = _Descent(
        runner=runner,
        problem=state_problem(runner, LONG_TARGETS, profile),
        profile=profile,
        residual=batched,
        optimiser=torch.optim.SGD([batched], lr=0.0),
        limit=1e9,
    )
    alone = start.clone().requires_grad_()

    look, _ = runner.lane.run(lambda: descent.step(update=True))
    naive = runner.lane.run(lambda: naive_loss(runner, LONG_TARGETS, profile, alone))
    naive.backward()

    assert float(look.loss.detach()) == pytest.approx(float(naive.detach()), rel=1e-4)
    assert batched.grad is not None
    assert alone.grad is not None
    scale = float(alone.grad.abs().max())
    assert torch.allclose(batched.grad, alone.grad, atol=1e-4 * max(scale, 1.0))


def test_the_value_norm_is_of_the_base_output_at_the_subject(llama):
    profile = tiny_models.tiny_profile(llama, layer=1)
    module = llama.checkpoint.projection_path(1)
    subject = "Eiffel Tower"
    texts = [join(p, f.prompt(subject)) for f in TWO_FACTS.facts for p in profile.prefixes]
    texts += [ESSENCE.format(subject)]
    weight = projection(llama.model, module).get_parameter("weight")
    norms = []
    for text in texts:
        ids = llama.tokens.encode(text)
        (keys,) = llama.inputs(llama.tokens.pad([ids]), [module])
        norms.append(float((weight @ keys[0, llama.tokens.subject_end(text, subject)]).norm()))

    problem = state_problem(llama, TWO_FACTS, profile)

    assert problem.value_norm == pytest.approx(sum(norms) / len(norms), rel=1e-4)


def test_a_prompt_too_long_with_its_prefix_is_refused(gpt2):
    profile = tiny_models.tiny_profile(gpt2, layer=0, prefixes=("", "They say. " * 40))

    with pytest.raises(PromptTooLongError):
        state_problem(gpt2, MOVED, profile)


def test_a_target_with_a_special_token_is_refused(gpt2):
    spoilt = EditRequest(
        subject="Prado", facts=(Fact(template="{} is in", target=f"Rome{tiny_models.END}"),)
    )

    with pytest.raises(InvalidFactError):
        state_problem(gpt2, spoilt, tiny_models.tiny_profile(gpt2, layer=0))
