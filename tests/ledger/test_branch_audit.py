"""What is done to branches, promotions and protection behind a ledger's back is found.

Each tampering runs in a transaction that is rolled back, so one ledger serves them all. Those
that recompute a revision's id as well are found by replaying what it claims.
"""

import pytest
from sqlalchemy import select, text, update

from errata_server.domain import canonical
from errata_server.domain.edits import Approval
from errata_server.domain.ids import RequestId
from errata_server.ledger.audit import audit
from errata_server.ledger.tables import metadata
from tests.support import MODEL, NOON
from tests.support.tampering import disarmed_ledger

REVISIONS = metadata.tables["revisions"]
OTHER = canonical.digest(b"another")


def write_history(chronicler):
    """Main protected at 3 and promoted to at 4; canary from main@1, trial from canary@2."""
    kept, gone, new = (chronicler.propose(name) for name in ("Louvre", "Prado", "Big Ben"))
    late = chronicler.propose("Tower Bridge")
    chronicler.apply(kept, gone)
    chronicler.begin("canary")
    chronicler.protect()
    chronicler.revert(gone, branch="canary")
    chronicler.apply(new, branch="canary")
    chronicler.begin("trial", "canary")
    approval = Approval(
        edit=new.edit.id, report=new.report.id, actor="ben", comment="seen", created_at=NOON
    )
    chronicler.ledger.record_approval(approval, RequestId("a-1"))
    chronicler.promote("canary")
    chronicler.apply(late, branch="canary")
    chronicler.promote("canary", "trial")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def disarmed(request, tmp_path_factory):
    """A ledger with branches, whose triggers somebody has dropped."""
    folder = tmp_path_factory.mktemp("audited_branches")
    with disarmed_ledger(request, folder, write_history) as database:
        yield database


@pytest.fixture
def connection(disarmed):
    with disarmed._engine.connect() as opened:
        if opened.dialect.name == "sqlite":
            opened.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        yield opened
        opened.rollback()


def findings(connection):
    found = {}
    for finding in audit(connection, MODEL).findings:
        found.setdefault(finding.row, set()).add(finding.problem)
    return found


def row_at(connection, branch, sequence):
    columns = REVISIONS.c
    statement = select(REVISIONS).where(columns.branch == branch, columns.sequence == sequence)
    return connection.execute(statement).one()


def forge(connection, branch, sequence, **changes):
    """Change a revision's body, and everything that names it by its id, as a thief would."""
    row = row_at(connection, branch, sequence)
    body = canonical.decode(bytes(row.body)) | changes
    forged = canonical.encode({name: value for name, value in body.items() if value is not None})
    new = canonical.digest(forged)
    connection.execute(
        text("UPDATE revision_edits SET revision = :new WHERE revision = :old"),
        {"new": new, "old": row.id},
    )
    connection.execute(
        text("UPDATE branches SET head = :new WHERE head = :old"), {"new": new, "old": row.id}
    )
    values = {"id": new, "body": forged}
    for column in ("kind", "parent"):
        values |= {column: changes[column]} if column in changes else {}
    connection.execute(update(REVISIONS).where(REVISIONS.c.id == row.id).values(values))


def test_a_history_of_branches_is_clean(connection):
    result = audit(connection, MODEL)

    assert [f for f in result.findings if not f.row.startswith("triggers[")] == []  # set aside here
    assert result.revisions == 10


HEADS = [("main", 3), ("trial", 1)]
"""Promotions that are heads: nothing above them gives a forged one away."""


@pytest.mark.parametrize(("branch", "sequence"), HEADS)
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"removed": None, "edits": []}, "not in the row and in the revision's body alike"),
        ({"active_set_digest": OTHER}, "its active_set_digest is not what the history gives"),
        ({"active_count": 7}, "its active_count is not what the history gives"),
        ({"weights_digest": OTHER}, "its weights_digest is not what the history gives"),
        ({"restored": ["e-1"]}, "its restored is not what the history gives"),
        ({"source": None}, "a promotion, and nothing else, has a source"),
        ({"source": OTHER}, "the revision it takes its state from is missing"),
        ({"kind": "policy"}, "a promotion, and nothing else, has a source"),
        ({"kind": "branch"}, "which its place does not allow"),
        ({"parent": OTHER}, "its parent is not the revision before it"),
    ],
)
def test_a_promotion_that_says_something_else_is_found(
    connection, branch, sequence, changes, problem
):
    forge(connection, branch, sequence, **changes)

    found = findings(connection)

    assert any(problem in said for problems in found.values() for said in problems), found
    assert any(row.startswith(f"revisions[{branch}@{sequence}]") for row in found) or (
        "revision_edits" in "".join(found)
    )


def test_a_promotion_s_source_is_held_against_what_was_there(connection):
    """The state of another revision, claimed with all its digests."""
    earlier = row_at(connection, "canary", 1)
    forge(connection, "main", 3, source=earlier.id)

    problems = findings(connection)["revisions[main@3]"]

    assert "its edits are not what the history gives" in problems
    assert "its active_set_digest is not what the history gives" in problems


def test_an_edit_left_out_of_a_promotion_is_found_even_with_its_rows(connection):
    row = row_at(connection, "main", 3)
    connection.execute(
        text("DELETE FROM revision_edits WHERE revision = :id AND position = 1"), {"id": row.id}
    )
    forge(connection, "main", 3, removed=None)

    problems = findings(connection)["revisions[main@3]"]

    assert problems == {"its removed are not what the history gives"}


def test_a_branch_said_to_begin_elsewhere_is_found_by_what_follows(connection):
    """Canary from the base, with all digests of the base: it reverts what was never there."""
    base = row_at(connection, "main", 0)
    body = canonical.decode(bytes(base.body))
    taken = ("active_count", "active_set_digest", "weights_digest")
    forge(connection, "canary", 0, parent=base.id, **{name: body[name] for name in taken})

    found = findings(connection)

    assert "revisions[canary@0]" not in found, "its beginning is consistent in itself"
    assert "revisions[canary@1]" in found


def test_a_promotion_that_loses_changes_of_its_branch_is_found(connection):
    """Main's policy forged into the change it should not have lost."""
    gone = row_at(connection, "main", 1)
    earlier = canonical.decode(bytes(row_at(connection, "main", 1).body))
    start = row_at(connection, "main", 0)
    forge(
        connection,
        "trial",
        0,
        parent=gone.id,
        **{name: earlier[name] for name in ("active_count", "active_set_digest", "weights_digest")},
    )
    assert start.id != gone.id

    found = findings(connection)["revisions[trial@1]"]

    assert "its edits are not what the history gives" in found


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"active_set_digest": OTHER}, "its active_set_digest is not what the history gives"),
        ({"weights_digest": OTHER}, "its weights_digest is not what the history gives"),
        ({"protected": True}, "its protection is not what the history gives"),
        ({"parent": OTHER}, "the revision it takes its state from is missing"),
        ({"parent": ""}, "the base's revision, and no other, has no parent"),
        ({"kind": "policy"}, "which its place does not allow"),
        ({"source": OTHER}, "a promotion, and nothing else, has a source"),
    ],
)
def test_the_beginning_of_a_branch_that_says_something_else_is_found(connection, changes, problem):
    forge(connection, "trial", 0, **changes)

    found = findings(connection)

    said = found["revisions[trial@0]"]
    assert any(problem in one for one in said), found


@pytest.mark.parametrize(
    ("sequence", "changes", "problem"),
    [
        (2, {"protected": None}, "its protection is not what the history gives"),
        (2, {"weights_digest": OTHER}, "its weights_digest is not what the history gives"),
        (3, {"protected": None}, "its protection is not what the history gives"),
        (1, {"protected": True}, "its protection is not what the history gives"),
        (1, {"protected": True}, "without an approval by another than its proposer"),
        (1, {"removed": [{"edit": "e", "edit_digest": "", "patch": "", "report": ""}]}, "removed"),
    ],
)
def test_protection_that_history_does_not_give_is_found(connection, sequence, changes, problem):
    forge(connection, "main", sequence, **changes)

    said = findings(connection)[f"revisions[main@{sequence}]"]

    assert any(problem in one for one in said), said


def test_an_approval_that_a_protected_branch_rests_on_is_missed(connection):
    connection.execute(text("DELETE FROM approvals"))

    found = findings(connection)

    assert {row for row in found if row.startswith("revisions[")} == {"revisions[main@3]"}
    assert "without an approval" in "".join(found["revisions[main@3]"])


@pytest.mark.parametrize("branch", ["canary", "trial"])
def test_a_branch_that_is_gone_is_named(connection, branch):
    connection.execute(text(f"DELETE FROM branches WHERE name = '{branch}'"))

    assert f"branches[{branch}]" in findings(connection)


def test_two_branches_that_begin_in_each_other_are_found_and_end_the_audit(connection):
    trial = row_at(connection, "trial", 0)
    forge(connection, "canary", 0, parent=trial.id)

    found = findings(connection)

    said = found.get("revisions[canary@0]", set()) | found.get("revisions[trial@0]", set())
    assert any("missing, or follows from it" in one for one in said)
