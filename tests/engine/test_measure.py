"""Measurements: every prompt before and after, and the numbers drawn from them."""

import math
from dataclasses import replace

import pytest

from errata_server.domain.errors import CancelledError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import EditId
from errata_server.domain.measurements import LiveFact, VerificationPlan
from errata_server.domain.patches import Composition
from errata_server.engine.answers import perplexity
from errata_server.engine.bank import compose
from errata_server.engine.measure import measure, ngram_entropy
from errata_server.engine.recall import Recall
from errata_server.engine.runner import BASE
from tests.support import tiny_models


def check(subject, expected, template=tiny_models.TEMPLATES[0]):
    return CheckPrompt(prompt=template.format(subject), expected=expected)


PLAN = VerificationPlan(
    efficacy=(check("Louvre", "Rome"),),
    paraphrases=(check("Louvre", "Paris", tiny_models.TEMPLATES[1]),),
    neighbours=(check("Prado", "Madrid"), check("Colosseum", "Rome")),
    prefixed_neighbours=(check("Louvre is in Rome. Prado", "Madrid"),),
    same_subject=(),
    fluency=("It rained all week.", "They say it every day."),
    drift_texts=(*tiny_models.PROSE, "Louvre is in the city of Paris."),
    live_facts=(LiveFact(edit=EditId("e-1"), prompt=check("Big Ben", "London")),),
)
EMPTY = VerificationPlan(
    efficacy=(),
    paraphrases=(),
    neighbours=(),
    prefixed_neighbours=(),
    same_subject=(),
    fluency=(),
    drift_texts=(),
)


def silent(_):
    """Progress nobody follows."""


@pytest.fixture(scope="module")
def broken(trained):
    """A patch that makes the model stumble over the Louvre."""
    patch = tiny_models.simple_patch(trained, "Louvre", seed=4, norm=200.0)
    return compose([patch], Composition.GUARDED, trained.device)


@pytest.fixture(scope="module")
def measured(trained, broken):
    return measure(Recall(trained), PLAN, before=BASE, after=broken, progress=silent)


def test_answers_are_judged_as_they_were_given(measured):
    (efficacy,) = measured.efficacy
    (paraphrase,) = measured.paraphrases

    assert efficacy.before.startswith("Paris")
    assert (efficacy.held_before, efficacy.held_after) == (False, False)
    assert paraphrase.held_before
    assert paraphrase.before == "Paris."


def test_other_subjects_answers_stay(measured):
    assert [a.held_before and a.held_after for a in measured.neighbours] == [True, True]
    assert [a.before for a in measured.neighbours] == [a.after for a in measured.neighbours]
    assert measured.neighbour_divergence == 0.0


def test_live_facts_keep_the_edit_they_belong_to(measured):
    (live,) = measured.live_facts

    assert live.edit == "e-1"
    assert live.held_before
    assert live.held_after


def test_a_patch_that_changes_the_subject_shows_in_its_answers(trained, broken):
    plan = VerificationPlan(
        efficacy=(),
        paraphrases=(),
        neighbours=(check("Louvre", "Paris"),),
        prefixed_neighbours=(),
        same_subject=(),
        fluency=(),
        drift_texts=("Louvre is in the city of Paris.",),
    )

    found = measure(Recall(trained), plan, before=BASE, after=broken, progress=silent)

    assert found.neighbours[0].held_before
    assert not found.neighbours[0].held_after
    ids = trained.tokens.pad([trained.tokens.encode(plan.neighbours[0].prompt)])
    first, second = (trained.logits(ids, b)[0, -1].double().softmax(-1) for b in (BASE, broken))
    assert found.neighbour_divergence == pytest.approx(
        float((first * (first / second).log()).sum()), rel=1e-3
    )
    assert found.neighbour_divergence > 0.1
    assert found.perplexity_after > found.perplexity_before
    assert found.perplexity_before == found.perplexity_base


def test_perplexities_are_of_base_before_and_after(trained, broken):
    found = measure(Recall(trained), PLAN, before=broken, after=BASE, progress=silent)

    assert found.perplexity_before > found.perplexity_base == found.perplexity_after
    assert found.perplexity_base == pytest.approx(perplexity(trained, PLAN.drift_texts, BASE))
    assert found.perplexity_before == pytest.approx(perplexity(trained, PLAN.drift_texts, broken))


def test_the_divergence_is_the_mean_over_all_neighbours(trained, broken):
    neighbours = (check("Louvre", "Paris"), check("Prado", "Madrid"), check("Big Ben", "London"))
    plan = replace(EMPTY, neighbours=neighbours)

    found = measure(Recall(trained), plan, before=BASE, after=broken, progress=silent)

    total = 0.0
    for neighbour in neighbours:
        batch = trained.tokens.pad([trained.tokens.encode(neighbour.prompt)])
        first, second = (
            trained.logits(batch, bank)[0, -1].log_softmax(-1) for bank in (BASE, broken)
        )
        total += float((first.exp() * (first - second)).sum())
    assert found.neighbour_divergence > 0.1
    assert found.neighbour_divergence == pytest.approx(total / 3, rel=1e-3)


def test_the_same_bank_twice_differs_in_nothing(trained, broken):
    found = measure(Recall(trained), PLAN, before=broken, after=broken, progress=silent)

    assert found.neighbour_divergence == 0.0
    assert found.entropy_before == found.entropy_after > 0
    assert found.perplexity_before == found.perplexity_after
    for group in (found.efficacy, found.paraphrases, found.neighbours, found.live_facts):
        assert all(a.before == a.after and a.held_before == a.held_after for a in group)


def test_an_empty_plan_measures_nothing_and_fails_at_nothing(trained):
    found = measure(Recall(trained), EMPTY, before=BASE, after=BASE, progress=silent)

    assert found.efficacy == found.live_facts == ()
    assert (found.neighbour_divergence, found.entropy_after) == (0.0, 0.0)
    assert found.perplexity_after == found.perplexity_base == 1.0


def test_progress_comes_after_every_stage_and_may_cancel(trained):
    seen = []

    def cancel(progress):
        seen.append(progress)
        if len(seen) == 3:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        measure(Recall(trained), PLAN, before=BASE, after=BASE, progress=cancel)

    assert [p.done for p in seen] == [1, 2, 3]
    assert {p.total for p in seen} == {9}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 0.0),
        (["a"], 0.0),
        (["a", "a", "a", "a"], 0.0),
        # bigrams ab, bc: 1 bit, weight 2/3; one trigram: 0 bits; mean of the two
        (["a", "b", "c"], 1 / 3),
        # bigrams ab, bc, cd: log2 3; trigrams abc, bcd: 1 bit
        (["a", "b", "c", "d"], (2 / 3 * math.log2(3) + 4 / 3) / 2),
        # bigrams ab twice, ba once; trigrams aba, bab
        (["a", "b", "a", "b"], (2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3) / 2),
    ],
)
def test_the_entropy_is_that_of_pairs_and_triples_weighted(words, expected):
    assert ngram_entropy(words) == pytest.approx(expected)


def test_a_suite_is_asked_like_any_group(trained):
    plan = replace(PLAN, suite=PLAN.neighbours)

    measured = measure(Recall(trained), plan, before=BASE, after=BASE, progress=lambda _: None)

    assert measured.suite == measured.neighbours
    assert len(measured.suite) == len(PLAN.neighbours) > 0
