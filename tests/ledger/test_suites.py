from dataclasses import replace

import pytest

from errata_server.domain.errors import RequestIdReusedError, SuiteNotFoundError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.suites import decode_prompts, suite_name
from tests.support import MODEL

CAPITALS = suite_name("capitals")


def test_versions_follow_each_other_and_keep_their_prompts(chronicler):
    first = chronicler.add_suite("capitals", "one is", "two is")
    second = chronicler.add_suite("capitals", "three is")

    assert (first.version, second.version) == (1, 2)
    assert chronicler.ledger.suite(MODEL, CAPITALS) == second
    assert chronicler.ledger.suite(MODEL, CAPITALS, 1) == first
    assert decode_prompts(chronicler.ledger.artifact(first.artifact)) == (
        CheckPrompt(prompt="one is", expected="Seattle"),
        CheckPrompt(prompt="two is", expected="Seattle"),
    )


def test_the_latest_of_each_name_are_listed_by_name(chronicler):
    chronicler.add_suite("capitals", "one is")
    latest = chronicler.add_suite("capitals", "two is")
    awards = chronicler.add_suite("awards", "two is")

    assert chronicler.ledger.suites(MODEL) == [awards, latest]
    assert [v.version for v in chronicler.ledger.suite_versions(MODEL, CAPITALS)] == [2, 1]


def test_a_request_stores_one_version(chronicler):
    first = chronicler.add_suite("capitals", "one is", request_id="r-1")

    assert chronicler.add_suite("capitals", "one is", request_id="r-1") == first
    with pytest.raises(RequestIdReusedError, match="capitals@1"):
        chronicler.add_suite("awards", "one is", request_id="r-1")


@pytest.mark.parametrize("version", [None, 2])
def test_a_suite_that_is_not_there_is_not_found(chronicler, version):
    if version:
        chronicler.add_suite("capitals", "one is")

    with pytest.raises(SuiteNotFoundError, match="errata suites"):
        chronicler.ledger.suite(MODEL, CAPITALS, version)


def test_an_audit_sees_a_report_judged_by_a_suite_that_is_missing(chronicler):
    stored = chronicler.propose()
    other = chronicler.add_suite("capitals", "one is")
    report = chronicler.new_report(stored.edit)
    chronicler.ledger.record_report(replace(report, suites=(other.reference,)))
    assert chronicler.ledger.audit(MODEL).clean

    gone = replace(other.reference, version=2)
    chronicler.ledger.record_report(replace(report, suites=(gone,)))

    (finding,) = chronicler.ledger.audit(MODEL).findings
    assert "capitals@2" in finding.problem
