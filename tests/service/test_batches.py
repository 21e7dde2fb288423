"""Batches: every fact ends in an edit or a failure, and a batch that was cut off goes on."""

import threading
import time

import pytest

from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import (
    InvalidFactError,
    InvalidInputError,
    NotCalibratedError,
    PromptTooLongError,
    RequestIdReusedError,
    UnavailableError,
)
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.ids import EditId
from errata_server.domain.operations import OperationState
from errata_server.service import batches
from errata_server.service.proposals import Proposals
from tests.support import edit_request
from tests.support.databases import row_count
from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import PATIENCE, call, open_services

SUBJECTS = ("Space Needle", "Louvre", "Prado", "Big Ben")


def moved(*subjects, target="Oslo"):
    return [edit_request(subject, target) for subject in subjects]


def run(services, requests, request_id="", **options):
    started = services.batches.propose(requests, call(request_id), **options)
    ended = services.operations.wait(started.id, PATIENCE)
    assert ended.done
    return ended


def test_every_fact_becomes_an_edit_with_a_report(services):
    ended = run(services, moved(*SUBJECTS), "b-1")

    assert ended.state is OperationState.SUCCEEDED
    assert ended.result["batch"] == "b-1"
    assert [row["places"] for row in ended.result["edits"]] == [[0], [1], [2], [3]]
    for row, subject in zip(ended.result["edits"], SUBJECTS, strict=True):
        view = services.proposals.get(EditId(row["edit"]))
        assert (view.edit.request.subject, view.report.id) == (subject, row["report"])
        assert view.edit.proposer == "ana"
    assert not ended.result["failures"]


def test_facts_of_one_subject_become_one_edit(services):
    second = edit_request("Prado", "Oslo", template="{} stands in")

    ended = run(services, [*moved("Prado", "Louvre"), second])

    (prado, louvre) = ended.result["edits"]
    assert (prado["places"], louvre["places"]) == ([0, 2], [1])
    assert len(services.ledger.edit(EditId(prado["edit"])).request.facts) == 2


def test_facts_that_contradict_each_other_fail_and_the_rest_is_kept(services):
    ended = run(services, [*moved("Prado", "Louvre"), *moved("Prado", target="Rome")])

    assert [row["places"] for row in ended.result["edits"]] == [[1]]
    failures = ended.result["failures"]
    assert [(f["places"], f["reason"]) for f in failures] == [
        ([0], "INVALID_FACT"),
        ([2], "INVALID_FACT"),
    ]
    assert "several targets" in failures[0]["message"]


def test_each_failure_says_where_and_why(services):
    malformed = InvalidFactError("target is empty", field="target")
    long = edit_request("Big Ben", "Oslo", template="{} " + "very " * 70 + "is in")
    known = edit_request("Space Needle", "Seattle")

    ended = run(services, [malformed, *moved("Louvre"), long, known])

    assert ended.state is OperationState.SUCCEEDED
    assert [row["places"] for row in ended.result["edits"]] == [[1]]
    assert [(f["places"], f["subject"], f["reason"]) for f in ended.result["failures"]] == [
        ([0], "", "INVALID_FACT"),
        ([2], "Big Ben", "PROMPT_TOO_LONG"),
        ([3], "Space Needle", "ALREADY_TRUE"),
    ]


@pytest.mark.parametrize(
    ("owner", "step"), [(ScriptedEngine, "compute_patches"), (Proposals, "store")]
)
def test_a_batch_that_runs_twice_at_once_is_stored_once(services, url, monkeypatch, owner, step):
    results, does = [], getattr(owner, step)

    def after_the_other_run(self, *arguments, **named):
        monkeypatch.setattr(owner, step, does)
        results.append(run(services, moved(*SUBJECTS), "b-2", batch="one").result)
        return does(self, *arguments, **named)

    monkeypatch.setattr(owner, step, after_the_other_run)
    results.append(run(services, moved(*SUBJECTS), "b-1", batch="one").result)

    first, second = results
    assert first["edits"] == second["edits"]
    assert len(first["edits"]) == len(SUBJECTS)
    assert first["failures"] == second["failures"] == []
    assert row_count(url, "edits") == len(SUBJECTS)


def test_an_edit_that_fails_its_checks_is_an_edit_all_the_same(services):
    services.engine.faults = {CheckKind.EFFICACY}

    ended = run(services, moved("Louvre", "Prado"))

    reports = [services.proposals.report(row["report"]) for row in ended.result["edits"]]
    assert [report.passed for report in reports] == [False, False]


def test_near_subjects_are_named_in_the_result_and_in_the_reports(services):
    ended = run(services, moved("Tower Bridge", "Eiffel Tower", "Prado"))

    (pair,) = ended.result["near"]
    assert {pair["first"], pair["second"]} == {"Tower Bridge", "Eiffel Tower"}
    bridge, eiffel, prado = (
        services.proposals.report(row["report"]).of_kind(CheckKind.CONFLICTS).explanation
        for row in ended.result["edits"]
    )
    assert "'Eiffel Tower' (0.50)" in bridge
    assert "'Tower Bridge' (0.50)" in eiffel
    assert "proposed with it" not in prado


def test_an_edit_that_would_fire_on_anothers_subject_says_so(services):
    ended = run(services, moved("Tower", "Eiffel Tower"))

    first, second = (
        services.proposals.report(row["report"]).of_kind(CheckKind.CONFLICTS).explanation
        for row in ended.result["edits"]
    )
    assert "this edit would fire on it" in first
    assert "its edit would fire on this subject" in second


def test_together_every_edit_is_checked_beside_the_others(services):
    apart = run(services, moved("Louvre", "Prado", "Big Ben"), batch="apart")
    together = run(services, moved("Louvre", "Prado", "Big Ben"), batch="together", together=True)

    def live(ended):
        reports = [services.proposals.report(row["report"]) for row in ended.result["edits"]]
        return [len(report.of_kind(CheckKind.LIVE_EDITS).answers) for report in reports]

    assert live(apart) == [0, 0, 0]
    assert live(together) == [2, 2, 2]


def test_other_facts_about_the_subject_are_held(services):
    run(services, moved("Space Needle", "Nowhere Hall"))

    held = services.engine.held
    assert held["Space Needle"]
    assert all("Space Needle" in prompt for prompt in held["Space Needle"])
    assert "Space Needle is in the city of" not in held["Space Needle"]
    assert held["Nowhere Hall"] == ()  # nothing else is known about it


@pytest.mark.parametrize("together", [False, True])
def test_edits_are_rehearsed_some_at_a_time_before_they_are_checked(url, together, monkeypatch):
    monkeypatch.setattr(batches, "TOGETHER", 3)
    with open_services(url) as services:
        ended = run(services, moved(*SUBJECTS), "r-1", together=together)

        asked = [call for call in services.engine.calls if call in {"rehearse", "measure"}]
        assert ended.state is OperationState.SUCCEEDED
        assert asked == ["rehearse", "measure", "measure"] * 2


def test_what_the_plans_of_a_batch_ask_the_base_model_is_asked_together_first(services):
    run(services, moved(*SUBJECTS))

    first, *later = services.engine.continued
    assert len(later) >= len(SUBJECTS)
    assert {prompt for prompts in later for prompt in prompts} <= set(first)


def test_a_rehearsal_that_cannot_be_asked_fails_no_edit(url):
    with open_services(url) as services:
        services.engine.breaks["rehearse"] = PromptTooLongError("too long", field="prompt")

        ended = run(services, moved(*SUBJECTS), "r-1")

        assert len(ended.result["edits"]) == len(SUBJECTS)
        assert ended.result["failures"] == []


def test_a_batch_that_was_cut_off_goes_on_where_it_stopped(url, monkeypatch):
    monkeypatch.setattr(batches, "TOGETHER", 1)
    with open_services(url) as services:
        services.engine.interludes["measure"] = lambda: services.engine.breaks.update(
            {"compute_patches": UnavailableError("gone")}
        )
        cut = run(services, moved(*SUBJECTS), "r-1", batch="b-1")

    assert cut.state is OperationState.FAILED
    assert row_count(url, "edits") == 1
    with open_services(url) as services:
        ended = run(services, moved(*SUBJECTS), "r-2", batch="b-1")
        assert len(ended.result["edits"]) == len(SUBJECTS)
        assert services.engine.calls.count("compute_patches") == len(SUBJECTS) - 1

        again = run(services, moved(*SUBJECTS), "r-3", batch="b-1")
        assert again.result["edits"] == ended.result["edits"]
        assert services.engine.calls.count("compute_patches") == len(SUBJECTS) - 1
    assert row_count(url, "edits") == len(SUBJECTS)


@pytest.mark.parametrize("together", [False, True])
def test_parts_of_a_batch_go_on_side_by_side_and_miss_and_double_nothing(
    url, together, monkeypatch
):
    monkeypatch.setattr(batches, "TOGETHER", 2)
    at_once, most, does = [0], [0], ScriptedEngine.compute_patches

    def computing(self, *arguments, **named):
        at_once[0] += 1
        time.sleep(0.05)
        most[0] = max(most[0], at_once[0])
        at_once[0] -= 1
        return does(self, *arguments, **named)

    monkeypatch.setattr(ScriptedEngine, "compute_patches", computing)
    requests = [*moved(*SUBJECTS), edit_request("Space Needle Annex", "Oslo")]
    with open_services(url) as services:
        services.engine.streams = 2
        services.engine.breaks["rehearse"] = PromptTooLongError("too long", field="prompt")
        requests[2] = edit_request("Prado", "Oslo", template="{} " + "very " * 70 + "is in")

        ended = run(services, [*requests, *moved("Colosseum")], together=together)

        assert ended.state is OperationState.SUCCEEDED
        assert [row["places"] for row in ended.result["edits"]] == [[0], [1], [3], [4], [5]]
        assert [row["places"] for row in ended.result["failures"]] == [[2]]
        assert ended.progress.total == 6
        assert most == [2]
    assert row_count(url, "edits") == 5


def test_a_stream_that_fails_ends_the_batch_and_what_another_stored_is_kept(url, monkeypatch):
    monkeypatch.setattr(batches, "TOGETHER", 2)
    stored, does = threading.Event(), ScriptedEngine.compute_patches

    def gone(self, requests, **named):
        if requests[0].subject == SUBJECTS[1]:  # the other part
            assert stored.wait(PATIENCE)
            raise UnavailableError("gone")
        return does(self, requests, **named)

    monkeypatch.setattr(ScriptedEngine, "compute_patches", gone)
    store = Proposals.store

    def storing(self, edit, **named):
        report = store(self, edit, **named)
        stored.set()
        return report

    monkeypatch.setattr(Proposals, "store", storing)
    with open_services(url) as services:
        services.engine.streams = 2
        cut = run(services, moved(*SUBJECTS), "r-1", batch="b-1")
        kept = row_count(url, "edits")
        monkeypatch.setattr(ScriptedEngine, "compute_patches", does)
        ended = run(services, moved(*SUBJECTS), "r-2", batch="b-1")

    assert (cut.state, cut.failure.reason) == (OperationState.FAILED, "UNAVAILABLE")
    assert kept == 2
    assert [row["places"] for row in ended.result["edits"]] == [[0], [1], [2], [3]]
    assert row_count(url, "edits") == len(SUBJECTS)


def test_parts_are_of_like_size_and_leave_nothing_out():
    for count in (0, 1, 7, 15, 16, 31, 64, 65, 2_000):
        parts = batches._parts(range(count))
        sizes = [len(part) for part in parts]
        assert sorted(place for part in parts for place in part) == list(range(count))
        assert all(0 < size <= batches.TOGETHER for size in sizes)
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert len(parts) > 1 or count < 2 * batches.FEWEST


def test_another_batch_of_the_same_facts_is_computed_anew(services, url):
    run(services, moved("Louvre"), batch="b-1")
    run(services, moved("Louvre"), batch="b-2")

    assert row_count(url, "edits") == 2


def test_a_repeated_request_gives_the_earlier_operation(services):
    first = run(services, moved("Louvre"), "r-1")

    assert services.batches.propose(moved("Louvre"), call("r-1")).id == first.id
    with pytest.raises(RequestIdReusedError):
        services.batches.propose(moved("Prado"), call("r-1"))


def test_a_batch_can_be_cancelled_between_its_edits(services, url):
    services.engine.resume.clear()
    started = services.batches.propose(moved(*SUBJECTS), call())
    assert services.engine.reached.wait(PATIENCE)

    services.operations.cancel(started.id)
    services.engine.resume.set()

    assert services.operations.wait(started.id, PATIENCE).state is OperationState.CANCELLED
    assert row_count(url, "edits") < len(SUBJECTS)


def test_progress_counts_edits_and_tells_the_pace(services):
    seen = []
    services.engine.step_seconds = 0.02
    started = services.batches.propose(moved(*SUBJECTS), call())
    while not (operation := services.operations.wait(started.id, 0.01)).done:
        seen.append(operation.progress)

    totals = {progress.total for progress in seen if progress.total}
    assert totals == {len(SUBJECTS)}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert any("edits a minute" in progress.note for progress in seen)


@pytest.mark.parametrize("requests", [[], moved("Prado") * 2_001], ids=["none", "too many"])
def test_a_batch_of_no_size_is_refused(services, requests):
    with pytest.raises(InvalidInputError, match="1 to 2000"):
        services.batches.propose(requests, call())


def test_a_model_without_a_profile_takes_no_batch(services):
    services.engine.uncalibrate()

    with pytest.raises(NotCalibratedError):
        services.batches.propose(moved("Prado"), call())


def test_more_facts_about_a_subject_than_an_edit_takes_fail_together(services):
    facts = [
        EditRequest(subject="Prado", facts=(Fact(template=f"{{}} {n}", target="Oslo"),))
        for n in range(33)
    ]

    ended = run(services, [*facts, *moved("Louvre")])

    (failure,) = ended.result["failures"]
    assert failure["places"] == list(range(33))
    assert len(ended.result["edits"]) == 1
