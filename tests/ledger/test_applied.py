"""The fold of the history equals applying and reverting one revision after the other."""

import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.reliability.databases import opened
from errata_server.domain.edits import AppliedSet
from errata_server.domain.errors import LedgerCorruptError, RevisionNotFoundError
from errata_server.domain.ids import MAIN, RevisionId
from errata_server.ledger import lines
from errata_server.ledger.applied import fold
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.databases import KINDS
from tests.support.histories import Chronicler, applied, ids
from tests.support.statements import counted_statements
from tests.support.tampering import tampering

SUBJECTS = ("Louvre", "Prado")


changes = st.lists(
    st.tuples(
        st.sampled_from(["apply", "revert"]),
        st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("database_kind", KINDS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(subjects=st.lists(st.sampled_from(SUBJECTS), min_size=5, max_size=5), changes=changes)
def test_the_fold_equals_the_naive_model_at_every_revision(
    make_migrated, database_kind, subjects, changes
):
    database = Database(make_migrated(database_kind))
    chronicler = Chronicler(Ledger(database))
    edits = [chronicler.propose(subject) for subject in subjects]
    naive, expected = AppliedSet(), {chronicler.head(): AppliedSet()}

    for kind, numbers in changes:
        present = {edit.edit for edit in naive.applied}
        possible = [n for n in numbers if (edits[n].edit.id in present) is (kind == "revert")]
        chosen = [edits[number] for number in possible]
        if kind == "apply" and chosen:
            naive = naive.apply(edit.applied for edit in chosen)
            expected[chronicler.apply(*chosen).id] = naive
        elif chosen:
            naive = naive.revert(edit.edit.id for edit in chosen)
            expected[chronicler.revert(*chosen).id] = naive

    for revision_id, state in expected.items():
        assert chronicler.ledger.applied(MODEL, revision_id) == state
    assert chronicler.ledger.audit(MODEL).findings == ()
    database.close()


def test_each_revision_keeps_its_own_set(chronicler):
    old, new = chronicler.propose(target="Paris"), chronicler.propose(target="Rome")
    first, second = chronicler.apply(old), chronicler.apply(new)
    third = chronicler.revert(new)

    state_at = chronicler.ledger.applied

    assert state_at(MODEL, first.id).active() == (old.applied,)
    assert state_at(MODEL, second.id).active() == (new.applied,)
    assert state_at(MODEL, second.id).superseded() == (old.applied,)
    assert state_at(MODEL, third.id) == state_at(MODEL, first.id)
    assert second.superseded == (old.edit.id,)
    assert third.restored == (old.edit.id,)


def test_an_unknown_revision_has_no_set(chronicler):
    with pytest.raises(RevisionNotFoundError):
        chronicler.ledger.applied(MODEL, RevisionId("f" * 64))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM edits",
        "UPDATE revisions SET kind = 'revert' WHERE sequence = 1",
        "UPDATE revisions SET kind = 'promote' WHERE sequence = 1",
        "UPDATE revisions SET kind = 'apply' WHERE sequence = 2",
    ],
)
def test_a_history_that_does_not_fold_is_corrupt(chronicler, ledger_url, statement):
    stored = chronicler.propose()
    chronicler.apply(stored)
    chronicler.revert(stored)
    with tampering(ledger_url) as tamper:
        tamper(statement)

    with opened(ledger_url) as anew, pytest.raises(LedgerCorruptError, match=r"revisions\[main@"):
        anew.applied(MODEL, chronicler.head())


def test_the_next_change_of_a_branch_folds_one_revision(chronicler):
    edits = [chronicler.propose(f"Tower {number}") for number in range(6)]
    taken = []
    for number, edit in enumerate(edits):
        chronicler.begin(f"work-{number}")
        head = chronicler.apply(edit, branch=f"work-{number}")
        with counted_statements() as for_fold:
            assert len(chronicler.ledger.applied(MODEL, head.id).applied) == number + 1
        head = chronicler.promote(f"work-{number}")
        with counted_statements() as for_evidence:
            chronicler.ledger.evidence(MODEL, [edit.edit.id], MAIN)
        taken.append((len(for_fold), len(for_evidence)))

    assert taken[-1] == taken[1]


def test_more_lines_than_are_remembered_are_walked_anew(chronicler, monkeypatch):
    monkeypatch.setattr(lines, "MAX_KNOWN", 1)
    monkeypatch.setattr("errata_server.ledger.applied.MAX_STATES", 1)
    edits = [chronicler.propose(f"Tower {number}") for number in range(4)]
    for number, edit in enumerate(edits):
        chronicler.begin(f"work-{number}")
        chronicler.apply(edit, branch=f"work-{number}")
        chronicler.promote(f"work-{number}")

    for number in range(4):
        assert applied(chronicler, f"main@{number + 1}") == ids(*edits[: number + 1])


LENGTH = 10_000
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {LENGTH - 1})"
NUMBERED_ID = f"substr('{'0' * 64}' || CAST(i AS TEXT), length(CAST(i AS TEXT)) + 1)"


def test_ten_thousand_revisions_fold_in_about_a_second(chronicler, ledger_url):
    stored = [chronicler.propose(f"Tower {number}") for number in range(20)]
    head = chronicler.apply(*stored)
    with tampering(ledger_url) as tamper:  # as if the first edit had gone to and fro since
        tamper(
            f"{NUMBERS} INSERT INTO revisions "
            "(id, model, branch, sequence, parent, kind, request_id, body) "
            f"SELECT {NUMBERED_ID}, r.model, r.branch, i, CAST(i AS TEXT), "
            "CASE i % 2 WHEN 0 THEN 'revert' ELSE 'apply' END, CAST(i AS TEXT), r.body "
            f"FROM n, revisions r WHERE r.id = '{head.id}'"
        )
        tamper(
            f"{NUMBERS} INSERT INTO revision_edits (revision, position, edit, report) "
            f"SELECT {NUMBERED_ID}, 0, '{stored[0].edit.id}', '{stored[0].report.id}' FROM n"
        )
    database = Database(ledger_url)

    with database.reading() as connection:
        started = time.process_time()
        found = fold(connection, replace(head, sequence=LENGTH - 1))
        spent = time.process_time() - started
    database.close()

    assert {edit.edit for edit in found.applied} == {edit.edit.id for edit in stored}
    assert spent < 2
