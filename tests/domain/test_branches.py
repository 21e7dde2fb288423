import pytest

from errata_server.domain.branches import branch_name, is_approved
from errata_server.domain.edits import Approval
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import EditId, ReportId
from tests.support import NOON

REPORT = ReportId("r" * 64)


def approval(actor, report=REPORT):
    return Approval(edit=EditId("e-1"), report=report, actor=actor, comment="seen", created_at=NOON)


@pytest.mark.parametrize(
    "name", ["canary", "main", "release-2.1", "Q3_fixes", "a", "cafe", "x" * 64, "headless"]
)
def test_a_name_of_a_branch_is_taken_as_it_is(name):
    assert branch_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "7", "2026-03", "-x", ".hidden", "a b", "a/b", "a@1", "x" * 65, "café", "a\n", "naïve"],
)
def test_what_cannot_name_a_branch_is_refused(name):
    with pytest.raises(InvalidInputError, match="cannot name a branch") as refused:
        branch_name(name)

    assert refused.value.metadata["field"] == "branch"


@pytest.mark.parametrize("name", ["base", "Base", "deadbeef", "FACADE", "e-12ab", "e-0123456789ab"])
def test_a_name_that_reads_as_something_else_is_refused(name):
    with pytest.raises(InvalidInputError, match="would be taken for"):
        branch_name(name)


def test_only_another_s_approval_of_the_very_report_counts():
    other = ReportId("s" * 64)

    assert is_approved(REPORT, "ana", [approval("ana"), approval("ben")])
    assert not is_approved(REPORT, "ana", [])
    assert not is_approved(REPORT, "ana", [approval("ana")])
    assert not is_approved(REPORT, "ana", [approval("ben", other)])
