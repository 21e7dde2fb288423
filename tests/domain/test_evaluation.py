import math
from dataclasses import replace

import pytest

from errata_server.domain.checks import CheckKind, Verdict
from errata_server.domain.evaluation import evaluate
from errata_server.domain.ids import Digest, EditId, ProfileId
from errata_server.domain.measurements import Answer, Measurements, PatchInspection
from errata_server.domain.patches import Composition, OptimisationRecord, PatchManifest
from errata_server.domain.policies import Policy

RECORD = OptimisationRecord(
    steps=20,
    restarts=0,
    loss=0.1,
    target_probability=0.97,
    converged=True,
    residual_norm=2.0,
    clamp_fraction=0.5,
    key_agreement=0.9,
)
MANIFEST = PatchManifest(
    model_digest=Digest("m" * 64),
    profile=ProfileId("p" * 64),
    module="h.1.mlp.c_proj",
    layer=1,
    d_in=8,
    d_out=4,
    subject="Space Needle",
    keys=1,
    leverages=(1.0,),
    guard_width=0.3,
    optimisation=RECORD,
)
INSPECTION = PatchInspection(
    finite=True,
    own_matches=(("Today, Space Needle", 0.9), ("Later, Space Needle", 1.1)),
    corpus_firings=0,
    corpus_keys=1_000,
    neighbour_matches=(("Louvre is in", 0.1),),
    conflicts=((EditId("e-1"), 0.02),),
    fires_on_live=(),
)
SOURCES = {
    "efficacy": "bare and after 4 texts",
    "paraphrases": "other templates",
    "neighbours": "known facts",
    "prefixed_neighbours": "edit sentence first",
    "same_subject": "other relations",
    "fluency": "starters",
    "drift_texts": "2 fixed texts",
    "live_facts": "1 edit drawn",
    "suite": "20 suite capitals@1",
}


def answer(*, before: bool = True, after: bool = True, edit: str = "", prompt: str = "p") -> Answer:
    return Answer(
        prompt=prompt,
        expected="Paris",
        before="Paris" if before else "Rome",
        after="Paris" if after else "Rome",
        held_before=before,
        held_after=after,
        edit=edit,
    )


MEASURED = Measurements(
    efficacy=(answer(before=False),) * 4,
    paraphrases=(answer(before=False),) * 3,
    neighbours=(answer(),) * 10,
    prefixed_neighbours=(answer(),) * 10,
    same_subject=(answer(),),
    live_facts=(answer(edit="e-1"),) * 20,
    suite=(answer(),) * 20,
    neighbour_divergence=0.001,
    entropy_before=5.0,
    entropy_after=4.9,
    perplexity_base=20.0,
    perplexity_before=20.0,
    perplexity_after=20.001,
)


def checked(
    kind,
    *,
    manifest=MANIFEST,
    inspection=INSPECTION,
    measured=MEASURED,
    sources=SOURCES,
    policy=None,
):
    checks = evaluate(manifest, inspection, measured, sources, policy or Policy())
    return next(check for check in checks if check.kind is kind)


def lost(count, of=10):
    return (answer(after=False, prompt="lost"),) * count + (answer(),) * (of - count)


def test_every_kind_is_checked_once_and_in_order():
    checks = evaluate(MANIFEST, INSPECTION, MEASURED, SOURCES, Policy())

    assert [check.kind for check in checks] == list(CheckKind)


def test_a_good_edit_passes_every_check():
    checks = evaluate(MANIFEST, INSPECTION, MEASURED, SOURCES, Policy())

    assert {check.verdict for check in checks} == {Verdict.PASSED}


def test_every_explanation_is_one_sentence():
    for check in evaluate(MANIFEST, INSPECTION, None, SOURCES, Policy()):
        assert check.explanation[0].isupper()
        assert check.explanation.endswith(".")
        assert not check.explanation.endswith("..")


def test_a_patch_that_is_not_finite_is_failed_and_not_measured():
    inspection = replace(INSPECTION, finite=False)

    checks = evaluate(MANIFEST, inspection, None, SOURCES, Policy())

    verdicts = {check.kind: check.verdict for check in checks}
    assert verdicts[CheckKind.FINITE] is Verdict.FAILED
    assert verdicts[CheckKind.EFFICACY] is Verdict.SKIPPED
    assert verdicts[CheckKind.LIVE_EDITS] is Verdict.SKIPPED


def test_a_value_that_did_not_converge_fails_and_says_how_far_it_came():
    manifest = replace(
        MANIFEST, optimisation=replace(RECORD, converged=False, target_probability=0.31)
    )

    check = checked(CheckKind.CONVERGED, manifest=manifest)

    assert check.verdict is Verdict.FAILED
    assert "0.310" in check.explanation


@pytest.mark.parametrize(
    ("converged", "verdict"), [(True, Verdict.WARNED), (False, Verdict.FAILED)]
)
def test_a_value_at_the_clamp_is_warned_about_if_it_works_and_failed_if_not(converged, verdict):
    record = replace(RECORD, clamp_fraction=1.0, converged=converged)

    check = checked(CheckKind.CLAMP, manifest=replace(MANIFEST, optimisation=record))

    assert check.verdict is verdict


def test_a_guard_deaf_to_its_own_subject_fails():
    matches = (("a", 1.0), ("b", 0.5), ("c", 0.6), ("d", 0.71))

    check = checked(CheckKind.RECOGNITION, inspection=replace(INSPECTION, own_matches=matches))

    assert (check.verdict, check.measured) == (Verdict.FAILED, 0.5)


def test_no_match_is_too_good_for_the_guard():
    """As `GuardedBranch.rewrite` has it: what fires there is reported here (ADR 0014)."""
    seen = replace(
        INSPECTION, own_matches=(("a", 1.6),), neighbour_matches=(("Louvre is in", 1.6),)
    )

    assert checked(CheckKind.RECOGNITION, inspection=seen).verdict is Verdict.PASSED
    assert checked(CheckKind.SELECTIVITY, inspection=seen).verdict is Verdict.WARNED


def test_the_linear_composition_has_no_guard_to_check():
    policy = Policy(composition=Composition.LINEAR)

    assert checked(CheckKind.RECOGNITION, policy=policy).verdict is Verdict.SKIPPED
    assert checked(CheckKind.SELECTIVITY, policy=policy).verdict is Verdict.SKIPPED


def test_a_guard_that_fires_on_ordinary_text_fails():
    inspection = replace(INSPECTION, corpus_firings=2)

    check = checked(CheckKind.SELECTIVITY, inspection=inspection)

    assert (check.verdict, check.measured) == (Verdict.FAILED, 0.002)


def test_a_guard_that_fires_on_a_neighbour_is_warned_about_by_name():
    inspection = replace(INSPECTION, neighbour_matches=(("Louvre is in", 1.1),))

    check = checked(CheckKind.SELECTIVITY, inspection=inspection)

    assert check.verdict is Verdict.WARNED
    assert "Louvre is in" in check.explanation


def test_the_known_subjects_a_guard_keeps_off_are_named():
    manifest = replace(MANIFEST, decoys=("Space Noodle", "Space Noodle", "Needle"))

    check = checked(CheckKind.SELECTIVITY, manifest=manifest)

    assert check.verdict is Verdict.PASSED
    assert "off 2 known subjects: Space Noodle, Needle" in check.explanation


def test_a_close_live_edit_is_warned_about_by_name():
    inspection = replace(INSPECTION, conflicts=((EditId("e-near"), 0.4), (EditId("e-far"), 0.01)))

    check = checked(CheckKind.CONFLICTS, inspection=inspection)

    assert (check.verdict, check.measured) == (Verdict.WARNED, 0.4)
    assert "e-near" in check.explanation
    assert "e-far" not in check.explanation


def test_firing_on_a_live_edit_is_warned_about_however_far_it_is():
    inspection = replace(INSPECTION, fires_on_live=(EditId("e-1"),))

    assert checked(CheckKind.CONFLICTS, inspection=inspection).verdict is Verdict.WARNED


def test_a_superseded_edit_is_named():
    check = checked(CheckKind.CONFLICTS, sources=SOURCES | {"supersedes": "e-old"})

    assert "supersedes e-old" in check.explanation


def test_one_prompt_of_its_own_answered_otherwise_fails_an_edit():
    measured = replace(MEASURED, efficacy=lost(1, of=8))

    check = checked(CheckKind.EFFICACY, measured=measured)

    assert (check.verdict, check.measured) == (Verdict.FAILED, 7 / 8)
    assert len(check.answers) == 8


@pytest.mark.parametrize(("held", "verdict"), [(2, Verdict.PASSED), (1, Verdict.FAILED)])
def test_two_paraphrases_of_three_are_enough(held, verdict):
    measured = replace(MEASURED, paraphrases=lost(3 - held, of=3))

    assert checked(CheckKind.PARAPHRASE, measured=measured).verdict is verdict


def test_a_check_without_prompts_is_skipped_and_says_why():
    sources = SOURCES | {"neighbours": "no known facts are loaded"}

    check = checked(
        CheckKind.NEIGHBOURHOOD, measured=replace(MEASURED, neighbours=()), sources=sources
    )

    assert check.verdict is Verdict.SKIPPED
    assert (check.measured, check.threshold, check.comparison) == (None, None, "")
    assert "no known facts are loaded" in check.explanation


def test_a_broken_neighbour_fails_the_edit_and_is_named():
    check = checked(CheckKind.NEIGHBOURHOOD, measured=replace(MEASURED, neighbours=lost(1)))

    assert (check.verdict, check.measured) == (Verdict.FAILED, 0.1)
    assert "lost" in check.explanation


def test_a_gain_does_not_make_up_for_a_loss():
    neighbours = (*lost(1, of=9), answer(before=False, after=True))

    check = checked(CheckKind.NEIGHBOURHOOD, measured=replace(MEASURED, neighbours=neighbours))

    assert check.measured == 0.1


def test_what_did_not_hold_before_is_not_broken():
    neighbours = (answer(before=False, after=False),) * 5 + (answer(),) * 5

    check = checked(CheckKind.NEIGHBOURHOOD, measured=replace(MEASURED, neighbours=neighbours))

    assert (check.verdict, check.measured) == (Verdict.PASSED, 0.0)


def test_neighbours_the_model_never_knew_are_no_evidence():
    neighbours = (answer(before=False, after=False),) * 5

    check = checked(CheckKind.NEIGHBOURHOOD, measured=replace(MEASURED, neighbours=neighbours))

    assert check.verdict is Verdict.SKIPPED
    assert len(check.answers) == 5


@pytest.mark.parametrize(("count", "verdict"), [(2, Verdict.PASSED), (3, Verdict.FAILED)])
def test_a_quarter_of_the_prefixed_neighbours_may_be_lost(count, verdict):
    measured = replace(MEASURED, prefixed_neighbours=lost(count))

    assert checked(CheckKind.PREFIXED_NEIGHBOURHOOD, measured=measured).verdict is verdict


def test_no_other_fact_of_the_subject_may_be_lost():
    measured = replace(MEASURED, same_subject=lost(1, of=30))

    assert checked(CheckKind.SAME_SUBJECT, measured=measured).verdict is Verdict.FAILED


def test_a_neighbourhood_that_diverges_fails():
    measured = replace(MEASURED, neighbour_divergence=0.051)

    assert checked(CheckKind.NEIGHBOUR_DIVERGENCE, measured=measured).verdict is Verdict.FAILED


def test_one_edit_may_raise_perplexity_by_a_thousandth():
    allowed = replace(MEASURED, perplexity_after=20.0199)
    too_much = replace(MEASURED, perplexity_after=20.021)

    assert checked(CheckKind.PERPLEXITY, measured=allowed).verdict is Verdict.PASSED
    assert checked(CheckKind.PERPLEXITY, measured=too_much).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("after", "verdict"),
    [(20.3, Verdict.PASSED), (20.5, Verdict.WARNED), (21.1, Verdict.FAILED)],
)
def test_all_edits_together_are_warned_about_and_then_failed(after, verdict):
    measured = replace(MEASURED, perplexity_before=after, perplexity_after=after)

    assert checked(CheckKind.CUMULATIVE_PERPLEXITY, measured=measured).verdict is verdict
    assert checked(CheckKind.PERPLEXITY, measured=measured).verdict is Verdict.PASSED


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_fails_and_is_not_stored(value):
    measured = replace(MEASURED, perplexity_after=value, neighbour_divergence=value)

    for kind in (
        CheckKind.PERPLEXITY,
        CheckKind.CUMULATIVE_PERPLEXITY,
        CheckKind.NEIGHBOUR_DIVERGENCE,
    ):
        check = checked(kind, measured=measured)
        assert (check.verdict, check.measured) == (Verdict.FAILED, None)


@pytest.mark.parametrize("nothing", [0.0, math.nan])
def test_without_drift_texts_perplexity_is_skipped(nothing):
    measured = replace(
        MEASURED, perplexity_base=nothing, perplexity_before=nothing, perplexity_after=nothing
    )

    assert checked(CheckKind.PERPLEXITY, measured=measured).verdict is Verdict.SKIPPED
    assert checked(CheckKind.CUMULATIVE_PERPLEXITY, measured=measured).verdict is Verdict.SKIPPED


def test_a_model_that_repeats_itself_fails():
    check = checked(CheckKind.FLUENCY, measured=replace(MEASURED, entropy_after=4.4))

    assert check.verdict is Verdict.FAILED
    assert check.measured == pytest.approx(0.88)


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [(0, Verdict.PASSED), (1, Verdict.WARNED), (2, Verdict.FAILED)],
)
def test_one_live_fact_in_twenty_may_break_with_a_warning(broken, verdict):
    facts = (answer(after=False, edit="e-broken"),) * broken
    facts += (answer(edit="e-1"),) * (20 - broken)

    check = checked(CheckKind.LIVE_EDITS, measured=replace(MEASURED, live_facts=facts))

    assert check.verdict is verdict
    assert ("e-broken" in check.explanation) == (broken > 0)


@pytest.mark.parametrize(
    ("broken", "allowed", "verdict"),
    [(0, 0.0, Verdict.PASSED), (1, 0.0, Verdict.FAILED), (1, 0.05, Verdict.PASSED)],
)
def test_a_suite_lets_go_of_what_the_policy_allows(broken, allowed, verdict):
    check = checked(
        CheckKind.SUITE,
        measured=replace(MEASURED, suite=lost(broken, 20)),
        policy=Policy(maximum_suite_drop=allowed),
    )

    assert check.verdict is verdict
    assert check.measured == broken / 20
    assert "20 suite capitals@1" in check.explanation
    assert ("store a new version" in check.explanation) == (verdict is Verdict.FAILED)


def test_live_facts_that_did_not_hold_before_are_not_counted():
    facts = (answer(before=False, after=False, edit="e-1"), answer(edit="e-2"))

    check = checked(CheckKind.LIVE_EDITS, measured=replace(MEASURED, live_facts=facts))

    assert (check.verdict, check.measured) == (Verdict.PASSED, 1.0)


def test_a_policy_sets_the_thresholds():
    policy = Policy(maximum_neighbourhood_drop=0.2, minimum_efficacy=0.5)
    measured = replace(MEASURED, neighbours=lost(2), efficacy=lost(4, of=8))

    assert checked(CheckKind.NEIGHBOURHOOD, measured=measured, policy=policy).threshold == 0.2
    assert checked(CheckKind.NEIGHBOURHOOD, measured=measured, policy=policy).verdict is (
        Verdict.PASSED
    )
    assert checked(CheckKind.EFFICACY, measured=measured, policy=policy).verdict is Verdict.PASSED
