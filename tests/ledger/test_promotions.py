"""Promoting: a branch has what another has, in one revision, or is left as it is."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from benchmarks.reliability.databases import opened
from errata_server.domain import canonical
from errata_server.domain.errors import (
    BranchNotFoundError,
    DivergedError,
    InvalidInputError,
    LedgerCorruptError,
    RevisionNotFoundError,
    StaleRevisionError,
)
from errata_server.domain.ids import MAIN, BranchName, RevisionId
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger import tables
from tests.support import MODEL
from tests.support.histories import applied, clean, ids
from tests.support.tampering import tampering

CANARY = BranchName("canary")
OTHER = canonical.digest(b"another")


def test_a_promotion_has_the_state_of_its_source_and_lists_what_changed(chronicler):
    kept, gone, new = (chronicler.propose(name) for name in ("Louvre", "Prado", "Big Ben"))
    chronicler.apply(kept, gone)
    chronicler.begin("canary")
    chronicler.revert(gone, branch="canary")
    source = chronicler.apply(new, branch="canary")

    made = chronicler.promote("canary")

    assert (made.branch, made.sequence, made.source) == (MAIN, 2, source.id)
    assert [one.edit for one in made.edits] == ids(new)
    assert [one.edit for one in made.removed] == ids(gone)
    assert applied(chronicler, "main") == applied(chronicler, "canary") == ids(kept, new)
    assert made.active_set_digest == source.active_set_digest
    assert chronicler.ledger.revision(MODEL, made.id) == made
    assert clean(chronicler)


def test_the_order_in_which_a_source_applied_its_edits_decides_which_are_active(chronicler):
    old, new = chronicler.propose(target="Rome"), chronicler.propose(target="Berlin")
    chronicler.apply(old, new)
    chronicler.begin("canary")
    chronicler.revert(old, branch="canary")
    chronicler.apply(old, branch="canary")

    made = chronicler.promote("canary")

    assert (made.edits, made.removed) == ((), ())
    assert (made.superseded, made.restored) == ((new.edit.id,), (old.edit.id,))
    assert applied(chronicler, "main") == ids(new, old)
    assert clean(chronicler)


def test_a_branch_goes_on_after_a_promotion_and_is_promoted_again(chronicler):
    edits = [chronicler.propose(f"Tower {number}") for number in range(4)]
    chronicler.begin("canary")
    for edit in edits[:2]:
        chronicler.apply(edit, branch="canary")
        chronicler.promote("canary")
    chronicler.apply(edits[2])
    chronicler.promote("main", "canary")
    chronicler.revert(edits[0], branch="canary")
    chronicler.promote("canary")
    chronicler.apply(edits[3])

    assert applied(chronicler, "main") == ids(edits[1], edits[2], edits[3])
    assert applied(chronicler, "main@3") == ids(edits[0], edits[1], edits[2])
    assert applied(chronicler, "canary") == ids(edits[1], edits[2])
    assert clean(chronicler)


def test_a_target_with_a_change_of_its_own_is_not_moved(chronicler):
    first, second, third = (chronicler.propose(f"Tower {number}") for number in range(3))
    chronicler.apply(first)
    chronicler.begin("canary")
    chronicler.apply(second, branch="canary")
    chronicler.apply(third)

    with pytest.raises(DivergedError, match="branch create NAME --from main") as refused:
        chronicler.promote("canary")
    assert refused.value.metadata["edits"] == second.edit.id
    with pytest.raises(DivergedError):
        chronicler.promote("main", "canary")

    chronicler.revert(third)
    with pytest.raises(DivergedError):  # the history of main has what canary's has not
        chronicler.promote("canary")
    chronicler.begin("again")
    chronicler.apply(second, branch="again")
    chronicler.promote("again")
    assert applied(chronicler, "main") == ids(first, second)
    assert clean(chronicler)


def test_a_change_of_policy_is_nothing_that_could_be_lost(chronicler):
    chronicler.begin("canary")
    chronicler.apply(chronicler.propose(), branch="canary")
    chronicler.protect()
    chronicler.protect(protected=False)

    assert chronicler.promote("canary").sequence == 3


def test_a_change_promoted_and_taken_back_on_the_target_is_one_of_its_own(chronicler):
    first, second = chronicler.propose(), chronicler.propose("Louvre")
    chronicler.begin("canary")
    chronicler.apply(first, branch="canary")
    chronicler.promote("canary")
    chronicler.revert(first)
    chronicler.apply(second, branch="canary")

    with pytest.raises(DivergedError):
        chronicler.promote("canary")


def test_a_promotion_made_on_heads_that_have_moved_is_stale(chronicler):
    first, second = chronicler.propose(), chronicler.propose("Louvre")
    chronicler.begin("canary")
    chronicler.apply(first, branch="canary")
    made = chronicler.next_promotion("canary")
    moved = chronicler.apply(second, branch="canary")

    with pytest.raises(StaleRevisionError, match="'canary' has moved on") as refused:
        chronicler.ledger.append(made)
    assert refused.value.metadata["head"] == moved.id

    made = chronicler.next_promotion("canary")
    chronicler.protect()
    with pytest.raises(StaleRevisionError, match="'main' is at"):
        chronicler.ledger.append(made)
    assert chronicler.ledger.head(MODEL, MAIN).kind is RevisionKind.POLICY


def test_a_repeated_promotion_gets_the_first_though_both_branches_moved(chronicler):
    first, second = chronicler.propose(), chronicler.propose("Louvre")
    chronicler.begin("canary")
    chronicler.apply(first, branch="canary")
    made = chronicler.promote("canary")
    chronicler.apply(second, branch="canary")
    chronicler.promote("canary")

    assert chronicler.ledger.append(made) == made
    assert chronicler.ledger.head(MODEL, MAIN).sequence == 2


def test_a_promotion_that_cannot_be_one_is_refused(chronicler):
    chronicler.begin("canary")
    chronicler.apply(chronicler.propose(), branch="canary")
    good = chronicler.next_promotion("canary")
    cases = (
        (RevisionNotFoundError, replace(good, source=RevisionId(OTHER))),
        (InvalidInputError, replace(good, source=RevisionId(""))),
        (InvalidInputError, replace(good, source=chronicler.head())),
        (InvalidInputError, replace(good, kind=RevisionKind.POLICY)),
        (BranchNotFoundError, replace(good, branch=BranchName("nothing"))),
    )

    for error, revision in cases:
        with pytest.raises(error):
            chronicler.ledger.append(revision)

    assert chronicler.ledger.append(good) == good


def test_an_edit_was_applied_where_a_line_leads_to_the_branch(chronicler):
    here, there, later = (chronicler.propose(f"Tower {number}") for number in range(3))
    chronicler.apply(here)
    chronicler.revert(here)
    chronicler.begin("canary")
    chronicler.apply(there, branch="canary")
    chronicler.apply(later)

    def was_applied(edit, branch):
        return chronicler.ledger.evidence(MODEL, [edit], branch).of[edit].was_applied

    assert was_applied(here.edit.id, CANARY)
    assert not was_applied(there.edit.id, MAIN)
    assert not was_applied(later.edit.id, CANARY)

    chronicler.begin("trial", "canary")
    assert was_applied(there.edit.id, BranchName("trial"))
    with pytest.raises(BranchNotFoundError):
        was_applied(here.edit.id, BranchName("nothing"))


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("DELETE FROM revisions WHERE branch = 'canary'", "main@1"),
        ("UPDATE revisions SET model = 'x' WHERE branch = 'canary'", "main@1"),
        ("DELETE FROM revisions WHERE branch = 'main' AND sequence = 0", "canary@0"),
        ("UPDATE revisions SET kind = 'promote' WHERE branch = 'canary'", "canary@"),
        (
            "UPDATE revisions SET parent = (SELECT id FROM revisions WHERE branch = 'canary' "
            "AND sequence = 1) WHERE branch = 'canary' AND sequence = 0",
            "canary@0",
        ),
    ],
)
def test_a_line_that_leads_nowhere_is_corrupt(chronicler, ledger_url, statement, row):
    chronicler.begin("canary")
    chronicler.apply(chronicler.propose(), branch="canary")
    made = chronicler.promote("canary")
    with tampering(ledger_url) as tamper:
        tamper(statement)

    # What a connection has seen of the line it need not look at again.
    with opened(ledger_url) as anew, pytest.raises(LedgerCorruptError, match=rf"revisions\[{row}"):
        anew.applied(MODEL, made.id)
    assert not clean(chronicler)


def test_what_a_promotion_vouches_for_is_stored_with_it(chronicler, database):
    gone, new = chronicler.propose(), chronicler.propose("Louvre")
    chronicler.apply(gone)
    chronicler.begin("canary")
    chronicler.revert(gone, branch="canary")
    chronicler.apply(new, branch="canary")
    made = chronicler.promote("canary")

    uses = tables.revision_edits
    with database.reading() as connection:
        rows = connection.execute(
            select(uses.c.edit, uses.c.report)
            .where(uses.c.revision == made.id)
            .order_by(uses.c.position)
        ).all()

    assert [tuple(row) for row in rows] == [
        (new.edit.id, new.report.id),
        (gone.edit.id, gone.report.id),
    ]
