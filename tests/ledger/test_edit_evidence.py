"""Many edits asked about together: as one after the other, in as many statements as one."""

import pytest

from errata_server.domain.errors import LedgerCorruptError
from errata_server.domain.ids import MAIN
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.edit_evidence import EditEvidence
from tests.support import MODEL
from tests.support.statements import counted_statements
from tests.support.tampering import tampering


@pytest.fixture
def edits(chronicler):
    """One never touched, one reported twice and approved twice, one applied, one reverted."""
    plain, reported, applied, reverted = (chronicler.propose(f"Tower {n}") for n in range(4))
    chronicler.ledger.record_report(chronicler.new_report(reported.edit))
    for request in ("r-1", "r-2"):
        chronicler.approve(reported, request)
    chronicler.apply(applied, reverted)
    chronicler.revert(reverted)
    return [stored.edit.id for stored in (plain, reported, applied, reverted)]


def test_many_edits_get_what_each_gets_alone(ledger, edits):
    ever_applied = {
        reference.edit
        for revision in ledger.revisions(MODEL, MAIN, limit=1_000)
        if revision.kind is RevisionKind.APPLY
        for reference in revision.edits
    }
    alone = {
        edit: EditEvidence(
            report=ledger.latest_report(edit),
            approvals=tuple(ledger.approvals(edit)),
            was_applied=edit in ever_applied,
        )
        for edit in edits
    }

    found = ledger.evidence(MODEL, edits)
    assert found.of == alone
    assert found.applied == ledger.applied(MODEL, ledger.head(MODEL, MAIN).id)
    assert [len(evidence.approvals) for evidence in alone.values()] == [0, 2, 0, 0]
    assert [evidence.was_applied for evidence in alone.values()] == [False, False, True, True]


def test_many_edits_take_no_more_statements_than_one(ledger, edits):
    each = []
    for edit in edits:
        with counted_statements() as for_one:
            ledger.evidence(MODEL, [edit])
        each.append(len(for_one))
    with counted_statements() as for_all:
        ledger.evidence(MODEL, edits)

    assert len(for_all) <= max(each)


def test_nothing_asked_is_nothing_found(ledger, edits):
    assert ledger.evidence(MODEL, []).of == {}


def test_an_edit_without_a_report_is_named(ledger, edits, ledger_url):
    with tampering(ledger_url) as execute:
        execute(f"DELETE FROM reports WHERE edit = '{edits[0]}'")

    with pytest.raises(LedgerCorruptError, match="has no report"):
        ledger.evidence(MODEL, edits)


def test_artifacts_come_together_and_hashed(ledger, edits, ledger_url):
    digests = [ledger.edit(edit).patch for edit in edits]
    found = ledger.artifacts([*digests, "0" * 64])
    assert found == {digest: ledger.artifact(digest) for digest in digests}

    with tampering(ledger_url) as execute:
        other = f"SELECT payload FROM artifacts WHERE digest = '{digests[1]}'"
        execute(f"UPDATE artifacts SET payload = ({other}) WHERE digest = '{digests[0]}'")
    with pytest.raises(LedgerCorruptError):
        ledger.artifacts(digests)
