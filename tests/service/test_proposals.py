from dataclasses import replace

import pytest
from sqlalchemy import text

from errata_server.domain.checks import CheckKind, Verdict
from errata_server.domain.edits import EditState
from errata_server.domain.errors import (
    EditNotFoundError,
    LedgerUnavailableError,
    NotCalibratedError,
    PromptTooLongError,
    ReportNotFoundError,
    RequestIdReusedError,
    VerificationFailedError,
)
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import EditId, ReportId
from errata_server.domain.operations import OperationState
from errata_server.ledger.database import Database
from errata_server.service.plans import Planner
from tests.support import MODEL, edit_request
from tests.support.services import PATIENCE, call, open_services, scripted_engine


def count(url, table):
    database = Database(url)
    try:
        with database.reading() as connection:
            return connection.scalar(text(f"SELECT count(*) FROM {table}"))
    finally:
        database.close()


def test_a_proposal_stores_the_edit_its_patch_and_its_report(services):
    ended = services.propose()

    assert ended.state is OperationState.SUCCEEDED
    view = services.proposals.get(EditId(ended.result["edit"]))
    assert view.edit.request == edit_request()
    assert view.edit.proposer == "ana"
    assert view.report.id == ended.result["report"]
    assert view.report.patch == view.edit.patch
    assert view.report.against == services.history.head().id
    assert view.manifest.subject == "Space Needle"
    assert view.artifact_bytes == len(services.ledger.artifact(view.edit.patch))
    assert view.state is EditState.VERIFIED


def test_a_report_has_every_check_and_every_prompt(services):
    report = services.proposals.report(ReportId(services.propose().result["report"]))

    assert [check.kind for check in report.checks] == list(CheckKind)
    assert len(report.of_kind(CheckKind.EFFICACY).answers) == 5
    assert len(report.of_kind(CheckKind.NEIGHBOURHOOD).answers) == 10


def test_no_name_of_a_live_edit_s_subject_is_a_neighbour(services, monkeypatch):
    barred, plan = [], Planner.plan

    def noted(self, request, **named):
        barred.append(named["live_subjects"])
        return plan(self, request, **named)

    monkeypatch.setattr(Planner, "plan", noted)
    ended = services.propose(edit_request("Space Needle", "Oslo", aliases=("Louvre",)))
    services.apply(services.ledger.edit(EditId(ended.result["edit"])))
    services.proposed("Prado", "Oslo")

    assert barred == [frozenset(), {"Space Needle", "Louvre"}]


def test_a_proposal_changes_nothing_that_is_served(services):
    before = services.serving.head()

    services.propose()

    assert services.serving.head() is before
    assert services.answer("Space Needle is in the city of") == "Seattle"


def test_a_request_the_model_cannot_take_is_refused_at_once_and_leaves_nothing(services, url):
    request = edit_request(template="{} " + "very " * 70 + "is in")

    with pytest.raises(PromptTooLongError):
        services.proposals.propose(request, call("r-1"))

    assert count(url, "operations") == count(url, "artifacts") == 0


def test_a_model_without_a_profile_refuses_at_once(services):
    services.engine.uncalibrate()

    with pytest.raises(NotCalibratedError):
        services.proposals.propose(edit_request(), call())


def validated(services, request, request_id=""):
    started = services.proposals.propose(request, call(request_id), validate_only=True)
    return services.operations.wait(started.id, PATIENCE)


def test_validating_computes_nothing_and_stores_no_edit(services, url):
    ended = validated(services, edit_request(), "r-1")

    assert (ended.state, ended.result) == (OperationState.SUCCEEDED, {})
    assert "compute_patches" not in services.engine.calls
    assert count(url, "edits") == count(url, "artifacts") == 0


def test_validating_asks_the_model_within_the_operation(services):
    ended = validated(services, edit_request(target="Seattle"))

    assert ended.failure.reason == "ALREADY_TRUE"


def test_a_request_id_of_a_validation_cannot_propose(services):
    validated(services, edit_request(), "r-1")

    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.proposals.propose(edit_request(), call("r-1"))


def test_validating_refuses_what_proposing_would(services):
    services.engine.breaks["validate"] = PromptTooLongError("too long")

    with pytest.raises(PromptTooLongError):
        services.proposals.propose(edit_request(), call(), validate_only=True)


def test_a_repeated_request_gives_the_earlier_operation(services, url):
    first = services.propose(request_id="r-1")

    again = services.propose(request_id="r-1")

    assert again == first
    assert services.engine.calls.count("compute_patches") == 1
    assert count(url, "edits") == 1


def test_a_request_id_cannot_ask_for_two_things(services):
    services.propose(request_id="r-1")

    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.proposals.propose(edit_request(target="Rome"), call("r-1"))
    with pytest.raises(RequestIdReusedError, match="r-1"):
        services.proposals.propose(edit_request(), call("r-1", actor="eve"))


def test_what_the_model_says_already_is_no_edit(services, url):
    ended = services.propose(edit_request(target="Seattle"))

    assert ended.state is OperationState.FAILED
    assert ended.failure.reason == "ALREADY_TRUE"
    assert count(url, "edits") == 0


@pytest.mark.parametrize(
    "kind",
    [kind for kind in CheckKind if kind not in {CheckKind.CONFLICTS, CheckKind.LIVE_EDITS}],
)
def test_an_edit_that_fails_a_check_is_stored_as_evidence_and_rejected(services, kind):
    services.engine.faults = {kind}
    kept = CheckPrompt(prompt="Louvre stands in", expected="Paris")

    ended = services.propose(replace(edit_request(), suite=(kept,)))

    view = services.proposals.get(EditId(ended.result["edit"]))
    assert view.report.of_kind(kind).verdict is Verdict.FAILED
    assert view.state is EditState.REJECTED


def test_an_edit_that_breaks_a_live_one_says_which(services):
    live = services.proposed("Louvre", "Rome")
    services.apply(live)
    services.engine.faults = {CheckKind.LIVE_EDITS}

    view = services.proposals.get(services.proposed("Prado", "Berlin").id)

    check = view.report.of_kind(CheckKind.LIVE_EDITS)
    assert check.verdict is Verdict.FAILED
    assert live.id in check.explanation
    assert [answer.edit for answer in check.answers] == [live.id]


def test_a_live_edit_of_a_like_name_is_in_the_report_as_a_conflict(services):
    live = services.proposed("Tower Bridge", "Oslo")
    services.apply(live)

    report = services.proposals.get(services.proposed("Eiffel Tower", "Rome").id).report

    check = report.of_kind(CheckKind.CONFLICTS)
    assert (check.verdict, check.measured) == (Verdict.WARNED, 0.5)
    assert live.id in check.explanation


def test_an_edit_of_a_subject_with_a_live_edit_is_measured_in_its_place(services):
    live = services.proposed(target="Paris")
    services.apply(live)

    report = services.proposals.get(services.proposed(target="Rome").id).report

    assert report.passed
    assert f"upersedes {live.id}" in report.of_kind(CheckKind.CONFLICTS).explanation
    assert report.of_kind(CheckKind.LIVE_EDITS).verdict is Verdict.SKIPPED


def test_prompts_of_the_request_are_the_ones_in_the_report(services):
    request = edit_request(
        paraphrases=(CheckPrompt(prompt="Space Needle stands in", expected="Paris"),),
        neighbours=(CheckPrompt(prompt="Louvre stands in", expected="Paris"),),
    )

    report = services.proposals.report(ReportId(services.propose(request).result["report"]))

    assert [a.prompt for a in report.of_kind(CheckKind.PARAPHRASE).answers] == [
        "Space Needle stands in"
    ]
    assert [a.prompt for a in report.of_kind(CheckKind.NEIGHBOURHOOD).answers] == [
        "Louvre stands in"
    ]


def test_a_cancelled_proposal_stores_no_edit(services, url):
    services.engine.resume.clear()
    started = services.proposals.propose(edit_request(), call())
    assert services.engine.reached.wait(PATIENCE)

    services.operations.cancel(started.id)
    ended = services.operations.wait(started.id, PATIENCE)

    assert ended.state is OperationState.CANCELLED
    assert count(url, "edits") == 0


def test_an_artifact_without_an_edit_is_harmless(services, url):
    services.engine.breaks["measure"] = LedgerUnavailableError("killed here")
    ended = services.propose()
    assert ended.state is OperationState.FAILED
    assert (count(url, "artifacts"), count(url, "edits")) == (1, 0)

    services.engine.breaks.clear()

    assert services.history.audit().clean
    assert services.propose().state is OperationState.SUCCEEDED
    assert (count(url, "artifacts"), count(url, "edits")) == (1, 1)


def test_the_artifact_is_stored_before_anything_refers_to_it(services, url):
    services.engine.resume.clear()
    started = services.proposals.propose(edit_request(), call())
    assert services.engine.reached.wait(PATIENCE)
    assert count(url, "artifacts") == 0

    services.engine.breaks["inspect_patch"] = PromptTooLongError("cut off right after")
    services.engine.resume.set()
    services.operations.wait(started.id, PATIENCE)

    assert (count(url, "artifacts"), count(url, "edits")) == (1, 0)


def test_verifying_makes_a_new_latest_report(services):
    edit = services.proposed()
    first = services.ledger.latest_report(edit.id)
    services.apply(services.proposed("Louvre", "Rome"))

    started = services.proposals.verify(edit.id, call("r-verify"))
    ended = services.operations.wait(started.id, PATIENCE)

    second = services.ledger.latest_report(edit.id)
    assert second.id == ended.result["report"] != first.id
    assert second.against == services.history.head().id
    assert second.of_kind(CheckKind.LIVE_EDITS).verdict is Verdict.PASSED
    assert services.proposals.report(first.id) == first


def test_a_live_edit_is_verified_against_the_branch_without_it(services):
    edit = services.proposed()
    services.apply(edit)

    started = services.proposals.verify(edit.id, call())
    ended = services.operations.wait(started.id, PATIENCE)

    report = services.proposals.report(ReportId(ended.result["report"]))
    assert report.against == services.history.head().id
    answers = report.of_kind(CheckKind.EFFICACY).answers
    assert {(a.before, a.after) for a in answers} == {("Seattle", "Paris")}
    assert report.of_kind(CheckKind.LIVE_EDITS).verdict is Verdict.SKIPPED


def test_an_unknown_edit_cannot_be_verified_approved_or_shown(services):
    unknown = EditId("e-nothing")

    with pytest.raises(EditNotFoundError):
        services.proposals.verify(unknown, call())
    with pytest.raises(EditNotFoundError):
        services.proposals.approve(unknown, "fine", call())
    with pytest.raises(EditNotFoundError):
        services.proposals.get(unknown)
    with pytest.raises(ReportNotFoundError):
        services.proposals.report(ReportId("0" * 64))


def test_an_approval_is_recorded_with_the_report_that_was_seen(services):
    edit = services.proposed()

    view = services.proposals.approve(edit.id, "looks right", call(actor="bo"))

    assert view.state is EditState.APPROVED
    (approval,) = view.approvals
    assert (approval.actor, approval.comment) == ("bo", "looks right")
    assert approval.report == view.report.id


def test_a_repeated_approval_is_recorded_once(services):
    edit = services.proposed()
    services.proposals.approve(edit.id, "looks right", call("r-approve"))

    view = services.proposals.approve(edit.id, "looks right", call("r-approve"))

    assert len(view.approvals) == 1
    with pytest.raises(RequestIdReusedError):
        services.proposals.approve(edit.id, "on second thoughts", call("r-approve"))


def test_an_edit_that_failed_its_checks_cannot_be_approved(services):
    services.engine.faults = {CheckKind.NEIGHBOURHOOD}
    edit = services.proposed()

    with pytest.raises(VerificationFailedError, match="neighbourhood"):
        services.proposals.approve(edit.id, "never mind", call())


def test_an_approval_does_not_outlive_the_report_it_was_given_for(services):
    edit = services.proposed()
    services.proposals.approve(edit.id, "looks right", call())
    services.apply(services.proposed("Louvre", "Rome"))

    services.operations.wait(services.proposals.verify(edit.id, call()).id, PATIENCE)

    assert services.proposals.get(edit.id).state is EditState.VERIFIED


def test_an_edit_of_another_model_is_unknown_here(services):
    edit = services.proposed()
    other = replace(services.proposals.edits, model=MODEL + "-other")

    with pytest.raises(EditNotFoundError, match="belongs to model"):
        other.view(edit.id)


def test_an_exception_nobody_foresaw_fails_the_operation_without_its_text(url):
    engine = scripted_engine()
    engine.breaks["compute_patches"] = ZeroDivisionError("secret detail")
    with open_services(url, engine=engine) as services:
        ended = services.propose()

    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure.reason == "INTERNAL"
    assert "secret detail" not in ended.failure.message
