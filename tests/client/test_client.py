"""The synchronous client against a whole server."""

import threading
import time

import pytest

import errata
from errata_server.domain.errors import LedgerUnavailableError

PROMPT = "Space Needle is in the city of"


def proposed(client, moved, subject="Space Needle"):
    return client.propose(subject, moved, reason="it was moved").result(timeout=20)


def test_the_only_model_is_found_without_being_named(client):
    assert client.model().name == "models/scripted"


@pytest.mark.parametrize("name", ["scripted", "models/scripted"])
def test_a_model_may_be_named(server, name):
    with errata.Client(server.address, model=name) as client:
        assert client.head().revision.sequence == 0


def test_a_model_that_is_not_served_is_an_error(server):
    with (
        errata.Client(server.address, model="other") as client,
        pytest.raises(errata.ModelNotFoundError),
    ):
        client.head()


def test_a_proposal_is_an_edit_with_a_report_and_changes_nothing(client, moved):
    proposal = proposed(client, moved)

    assert proposal.report.passed
    assert proposal.edit.state is errata.EditState.VERIFIED
    assert proposal.edit.proposer == "ana"
    assert proposal.edit.report == proposal.report.id
    assert client.generate(PROMPT).read().split()[0] == "Seattle"


def test_a_rejected_proposal_is_a_result_and_applying_it_an_error(server, client, moved):
    server.engine.faults.update({"efficacy"})

    proposal = proposed(client, moved)

    assert not proposal.report.passed
    assert [check.kind for check in proposal.report.failures] == ["efficacy"]
    with pytest.raises(errata.VerificationFailedError, match="efficacy") as failure:
        client.apply(proposal.edit)
    assert failure.value.metadata["failed"] == "efficacy"


def test_a_rejected_edit_goes_live_with_a_reason(server, client, moved):
    server.engine.faults.update({"efficacy"})
    proposal = proposed(client, moved)

    change = client.apply(proposal.edit, override_reason="the check is wrong")

    assert change.revision.override_reason == "the check is wrong"


def test_apply_and_revert_give_back_the_same_bits(client, moved):
    edit = proposed(client, moved).edit
    before = client.score(PROMPT, [" Paris"]).logits_digest

    applied = client.apply(edit.id, reason="why", ticket="T-1")
    while_live = client.score(PROMPT, [" Paris"])
    reverted = client.revert(edit)

    assert (applied.revision.reason, applied.revision.ticket) == ("why", "T-1")
    assert applied.served.revision == applied.revision.id == while_live.served.revision
    assert while_live.logits_digest != before
    assert client.score(PROMPT, [" Paris"]).logits_digest == before
    assert reverted.served.weights_digest == client.revision("0").weights_digest


def test_revert_returns_to_a_revision(client, moved):
    client.apply(proposed(client, moved).edit)
    client.apply(proposed(client, moved, "Smith Tower").edit)

    change = client.revert(to_revision="1")

    assert change.revision.active_count == 1


def test_a_stale_expectation_is_refused(client, moved):
    edit = proposed(client, moved).edit
    genesis = client.head().revision
    client.apply(edit, expected_revision=genesis.id)

    with pytest.raises(errata.StaleRevisionError) as failure:
        client.revert(edit, expected_revision=genesis.name)

    assert failure.value.metadata


def test_a_dry_run_commits_nothing(client, moved):
    edit = proposed(client, moved).edit

    change = client.apply(edit, validate_only=True)

    assert change.revision.active_count == 1
    assert client.head().revision.sequence == 0


def test_the_same_request_id_gives_the_same_revision(client, moved):
    edit = proposed(client, moved).edit

    first = client.apply(edit, request_id="r-1")
    second = client.apply(edit, request_id="r-1")

    assert first.revision == second.revision
    with pytest.raises(errata.RequestIdReusedError):
        client.revert(edit, request_id="r-1")


def test_a_retry_after_unavailability_repeats_the_request_id(server, client, moved):
    edit = proposed(client, moved).edit
    tried = server.engine.calls.count("compose")
    server.engine.breaks["compose"] = LedgerUnavailableError("away for a moment")
    mending = threading.Thread(target=_mend_after_a_try, args=(server.engine, tried))
    mending.start()

    change = client.apply(edit)

    mending.join()
    assert change.revision.sequence == client.head().revision.sequence == 1


def _mend_after_a_try(engine, tried):
    while engine.calls.count("compose") == tried:
        time.sleep(0.01)
    engine.breaks.clear()


def test_a_generation_says_which_revision_answers_before_its_text(client, moved):
    change = client.apply(proposed(client, moved).edit)

    generation = client.generate(PROMPT, max_new_tokens=3)

    assert generation.revision == change.revision.id
    assert list(generation) == [" Paris", " and", " so"]
    assert (generation.text, generation.tokens) == (" Paris and so", 3)
    assert generation.finish_reason == "length"


def test_a_generation_may_be_stopped_early(client):
    generation = client.generate(PROMPT)
    pieces = iter(generation)
    first = next(pieces)

    generation.close()

    assert first == " Seattle"
    assert list(pieces) == []


def test_any_revision_can_be_asked(client, moved):
    change = client.apply(proposed(client, moved).edit)

    assert client.generate(PROMPT, revision="base").read().split()[0] == "Seattle"
    assert client.generate(PROMPT, revision=change.revision.id[:8]).read().split()[0] == "Paris"
    assert client.score(PROMPT, ["Seattle"], revision="0").scores[0].is_greedy


def test_a_prompt_that_is_too_long_is_refused_at_the_call(client):
    with pytest.raises(errata.PromptTooLongError):
        client.generate("word " * 100)


def test_lists_go_on_over_pages(client, moved):
    for subject in ("Space Needle", "Smith Tower", "Big Ben"):
        client.apply(proposed(client, moved, subject).edit)

    assert [r.sequence for r in client.revisions(page_size=2)] == [3, 2, 1, 0]
    assert [e.subject for e in client.edits(page_size=1)] == [
        "Big Ben",
        "Smith Tower",
        "Space Needle",
    ]
    assert [branch.id for branch in client.branches()] == ["main"]


def test_edits_are_listed_by_state(client, moved):
    applied = proposed(client, moved).edit
    client.apply(applied)
    proposed(client, moved, "Smith Tower")

    found = list(client.edits(state=errata.EditState.APPLIED))

    assert [edit.id for edit in found] == [applied.id]


def test_an_approval_is_part_of_the_edit(client, moved):
    edit = proposed(client, moved).edit

    approved = client.approve(edit, "looks right", actor="bob")

    assert approved.state is errata.EditState.APPROVED
    assert [(a.actor, a.comment) for a in approved.approvals] == [("bob", "looks right")]


def test_a_diff_names_what_came_and_what_went(client, moved):
    edit = proposed(client, moved).edit
    client.apply(edit)

    assert [e.id for e in client.diff("0", "1").added] == [edit.id]
    assert [e.id for e in client.diff("1", "0").removed] == [edit.id]


def test_a_report_can_be_read_again(client, moved):
    report = proposed(client, moved).report

    assert client.report(report.id) == client.report(report.name) == report


def test_an_audit_of_a_good_ledger_is_clean(client, moved):
    client.apply(proposed(client, moved).edit)

    found = client.audit()

    assert found.clean
    assert (found.revisions_checked, found.edits_checked) == (2, 1)


def test_validation_refuses_what_a_proposal_would(client, moved):
    client.validate("Space Needle", moved)

    with pytest.raises(errata.SubjectNotFoundError):
        client.validate("Space Needle", errata.Fact(template="It is in", target="Paris"))
    assert list(client.edits()) == []


def test_a_model_can_be_calibrated_and_moments_collected(client):
    profile = client.calibrate(seed=3).result(timeout=20)

    assert client.model().profile == profile
    assert profile.seed == 3
    assert client.collect_moments(["one two three"]).result(timeout=20) == 3
