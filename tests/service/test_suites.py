import pytest

from errata_server.domain.checks import CheckKind, Verdict
from errata_server.domain.errors import (
    InvalidInputError,
    PromptTooLongError,
    RequestIdReusedError,
    SuiteNotFoundError,
    VerificationFailedError,
)
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import MAIN, EditId, ReportId
from errata_server.domain.operations import OperationState
from errata_server.domain.policies import Policy
from errata_server.domain.suites import SuiteReference, suite_name
from tests.support import edit_request
from tests.support.services import PATIENCE, call, open_services

CAPITALS = suite_name("capitals")
NEEDLE = CheckPrompt(prompt="Space Needle stands in", expected="Seattle")
LOUVRE = CheckPrompt(prompt="Louvre stands in", expected="Paris")


def suite_check(services, ended):
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    return services.proposals.report(ReportId(ended.result["report"])).of_kind(CheckKind.SUITE)


def test_without_a_suite_the_check_is_skipped_and_the_report_names_none(services):
    ended = services.propose()

    assert suite_check(services, ended).verdict is Verdict.SKIPPED
    assert services.proposals.report(ReportId(ended.result["report"])).suites == ()


def test_a_stored_suite_that_an_edit_breaks_keeps_it_from_going_live(services):
    services.upkeep.suites.add(CAPITALS, (NEEDLE, LOUVRE), call())

    ended = services.propose()

    check = suite_check(services, ended)
    assert check.verdict is Verdict.FAILED
    assert (check.measured, check.threshold) == (0.5, 0.0)
    assert [answer.prompt for answer in check.answers] == [NEEDLE.prompt, LOUVRE.prompt]
    assert [answer.held_after for answer in check.answers] == [False, True]
    assert "suite capitals@1" in check.explanation
    with pytest.raises(VerificationFailedError, match="Space Needle stands in"):
        services.changes.apply([EditId(ended.result["edit"])], MAIN, call())


def test_a_report_says_which_version_judged_the_edit(services):
    first = services.upkeep.suites.add(CAPITALS, (NEEDLE,), call()).version
    judged = services.propose()
    second = services.upkeep.suites.add(CAPITALS, (LOUVRE,), call()).version
    again = services.proposals.verify(EditId(judged.result["edit"]), call())
    again = services.operations.wait(again.id, PATIENCE)

    reports = [
        services.proposals.report(ReportId(ended.result["report"])) for ended in (judged, again)
    ]

    assert [report.suites for report in reports] == [
        (SuiteReference(name=CAPITALS, version=1, digest=first.artifact),),
        (SuiteReference(name=CAPITALS, version=2, digest=second.artifact),),
    ]
    assert [report.passed for report in reports] == [False, True]
    assert services.upkeep.suites.get(CAPITALS, 1).prompts == (NEEDLE,)


def test_a_retired_suite_judges_nothing(services):
    services.upkeep.suites.add(CAPITALS, (NEEDLE,), call())
    services.upkeep.suites.add(CAPITALS, (), call())

    assert suite_check(services, services.propose()).verdict is Verdict.SKIPPED
    assert services.upkeep.suites.get(CAPITALS).version.version == 2


def test_a_suite_that_is_not_there_cannot_be_retired(services):
    with pytest.raises(SuiteNotFoundError, match="errata suites"):
        services.upkeep.suites.add(CAPITALS, (), call())


def test_prompts_that_come_with_a_request_judge_it_and_its_verifications(services):
    request = edit_request()
    request = type(request)(subject=request.subject, facts=request.facts, suite=(NEEDLE,))

    ended = services.propose(request)
    again = services.proposals.verify(EditId(ended.result["edit"]), call(), suite=(LOUVRE,))
    again = services.operations.wait(again.id, PATIENCE)

    assert suite_check(services, ended).verdict is Verdict.FAILED
    assert "1 given with the edit" in suite_check(services, ended).explanation
    assert len(suite_check(services, again).answers) == 2
    assert services.proposals.get(EditId(ended.result["edit"])).edit.request.suite == (NEEDLE,)


def test_a_prompt_that_was_wrong_before_blocks_nothing(services):
    wrong = CheckPrompt(prompt="Space Needle stands in", expected="Oslo")
    services.upkeep.suites.add(CAPITALS, (wrong, LOUVRE), call())

    assert suite_check(services, services.propose()).verdict is Verdict.PASSED


def test_a_policy_may_let_some_of_a_suite_go(url):
    with open_services(url, policy=Policy(maximum_suite_drop=0.5)) as services:
        services.upkeep.suites.add(CAPITALS, (NEEDLE, LOUVRE), call())

        assert suite_check(services, services.propose()).verdict is Verdict.PASSED


def test_a_repeated_request_stores_nothing_twice(services):
    first = services.upkeep.suites.add(CAPITALS, (NEEDLE,), call("r-1"))
    second = services.upkeep.suites.add(CAPITALS, (NEEDLE,), call("r-1"))

    assert first == second
    with pytest.raises(RequestIdReusedError, match="capitals@1"):
        services.upkeep.suites.add(CAPITALS, (LOUVRE,), call("r-1"))
    assert len(services.upkeep.suites.list(CAPITALS).items) == 1


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ((NEEDLE, NEEDLE), InvalidInputError, "twice"),
        ((CheckPrompt(prompt="very " * 70, expected="x"),), PromptTooLongError, "context"),
        (
            tuple(CheckPrompt(prompt=f"{n} is", expected="x") for n in range(1_001)),
            InvalidInputError,
            "at most 1000",
        ),
    ],
    ids=["one twice", "too long", "too many"],
)
def test_prompts_that_cannot_be_run_are_refused(services, prompts, error, words):
    with pytest.raises(error, match=words):
        services.upkeep.suites.add(CAPITALS, prompts, call())
    with pytest.raises(error, match=words):
        services.proposals.verify(services.proposed().id, call(), suite=prompts)

    assert services.upkeep.suites.list().items == ()


def test_suites_are_listed_by_name_and_a_suite_s_versions_newest_first(services):
    for name in ("capitals", "Zoos", "awards"):
        services.upkeep.suites.add(suite_name(name), (LOUVRE,), call())
    services.upkeep.suites.add(CAPITALS, (NEEDLE,), call())

    first = services.upkeep.suites.list(page_size=2)
    rest = services.upkeep.suites.list(page_size=2, page_token=first.next_token)

    listed = [str(version.reference) for version in (*first.items, *rest.items)]
    assert listed == ["Zoos@1", "awards@1", "capitals@2"]
    assert rest.next_token == ""
    assert [version.version for version in services.upkeep.suites.list(CAPITALS).items] == [2, 1]
