"""Branches: begun and protected, and written by many at once, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from errata_server.domain import canonical
from errata_server.domain.edits import Approval
from errata_server.domain.errors import (
    ApprovalRequiredError,
    BranchExistsError,
    DivergedError,
    InvalidInputError,
    LedgerUnavailableError,
    ModelMismatchError,
    RequestIdReusedError,
    RevisionNotFoundError,
    StaleRevisionError,
)
from errata_server.domain.ids import MAIN, BranchName, RequestId, RevisionId
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger import commits
from errata_server.ledger.database import Database
from tests.support import MODEL, NOON
from tests.support.histories import applied, clean, genesis, ids
from tests.support.tampering import raw_connection

APPLY = RevisionKind.APPLY
CANARY = BranchName("canary")
OTHER = canonical.digest(b"another")
WRITERS = 8


def test_branches_are_in_the_order_of_their_letters_codes_on_every_database(chronicler):
    for name in ("gamma", "alpha", "Beta", "a-b", "ab"):
        chronicler.begin(name)

    names = [branch.name for branch in chronicler.ledger.branches(MODEL)]
    assert names == ["Beta", "a-b", "ab", "alpha", "gamma", "main"]


# Beginning --------------------------------------------------------------------------------


def test_a_branch_begins_with_what_its_start_has_applied(chronicler):
    first, second = chronicler.propose(), chronicler.propose("Louvre")
    start = chronicler.apply(first)
    chronicler.apply(second)

    made = chronicler.begin("canary", "main@1")

    assert (made.branch, made.sequence, made.parent) == ("canary", 0, start.id)
    assert chronicler.ledger.head(MODEL, CANARY) == made
    assert applied(chronicler, "canary") == ids(first)
    assert [(b.name, b.head.id) for b in chronicler.ledger.branches(MODEL)] == [
        ("canary", made.id),
        (MAIN, chronicler.head()),
    ]
    assert clean(chronicler)


def test_branches_change_without_each_other(chronicler):
    edits = [chronicler.propose(f"Tower {number}") for number in range(4)]
    chronicler.apply(edits[0])
    chronicler.begin("canary")
    chronicler.apply(edits[1], branch="canary")
    chronicler.apply(edits[2])
    chronicler.begin("trial", "canary")
    chronicler.revert(edits[0], branch="trial")
    chronicler.apply(edits[3], branch="trial")

    assert applied(chronicler, "main") == ids(edits[0], edits[2])
    assert applied(chronicler, "canary") == ids(edits[0], edits[1])
    assert applied(chronicler, "trial") == ids(edits[1], edits[3])
    assert [r.sequence for r in chronicler.ledger.revisions(MODEL, CANARY, limit=9)] == [0, 1]
    assert clean(chronicler)


def test_a_branch_of_a_taken_name_is_refused(chronicler):
    chronicler.begin("canary")

    for name in ("canary", "main"):
        with pytest.raises(BranchExistsError, match="use another name"):
            chronicler.begin(name)

    assert chronicler.ledger.head(MODEL, CANARY).sequence == 0


def test_a_first_revision_that_cannot_be_one_is_refused(chronicler):
    stored = chronicler.propose()
    good = chronicler.first_revision("canary")
    cases = (
        (RevisionNotFoundError, replace(good, parent=RevisionId(OTHER))),
        (InvalidInputError, replace(good, sequence=1)),
        (InvalidInputError, replace(good, edits=(stored.reference,))),
        (InvalidInputError, replace(good, request_id=RequestId(""))),
        (InvalidInputError, replace(good, source=genesis().id)),
        (ModelMismatchError, replace(good, model_digest=OTHER)),
    )

    for error, revision in cases:
        with pytest.raises(error):
            chronicler.ledger.append(revision)

    assert [branch.name for branch in chronicler.ledger.branches(MODEL)] == [MAIN]
    assert chronicler.ledger.append(good) == good


def test_a_repeated_beginning_gets_the_first_even_after_the_branch_has_moved(chronicler):
    first = chronicler.begin("canary")
    chronicler.apply(chronicler.propose(), branch="canary")

    assert chronicler.ledger.append(replace(first, reason="sent again")) == first
    with pytest.raises(RequestIdReusedError):
        chronicler.ledger.append(replace(first, request_digest=OTHER))


def test_the_databases_themselves_refuse_a_branch_from_nowhere(chronicler, ledger_url):
    connection = raw_connection(ledger_url)
    insert = (
        "INSERT INTO revisions (id, model, branch, sequence, parent, kind, request_id, body) "
        f"SELECT '{OTHER}', model, '{{branch}}', {{sequence}}, '{{parent}}', '{{kind}}', 'x', body "
        "FROM revisions"
    )
    for branch, sequence, parent, kind in (
        ("canary", 0, OTHER, "branch"),
        ("canary", 0, genesis().id, "apply"),
        ("main", 1, genesis().id, "branch"),
        ("canary", 0, "", "genesis"),
    ):
        with pytest.raises(Exception, match="starts from|without a parent"):
            connection.execute(
                insert.format(branch=branch, sequence=sequence, parent=parent, kind=kind)
            )
    connection.close()


# Protecting -------------------------------------------------------------------------------


def approve(chronicler, stored, actor, report=None):
    approval = Approval(
        edit=stored.edit.id,
        report=(report or stored.report).id,
        actor=actor,
        comment="seen",
        created_at=NOON,
    )
    chronicler.ledger.record_approval(approval, RequestId(f"{actor}-{approval.report}"))


def test_a_protected_branch_takes_what_another_than_its_proposer_approved_of(chronicler):
    stored, second = chronicler.propose(), chronicler.propose("Louvre")
    chronicler.protect()

    with pytest.raises(ApprovalRequiredError, match=f"errata approve {stored.edit.id}") as refused:
        chronicler.apply(stored, second)
    assert refused.value.metadata == {
        "branch": "main",
        "edits": f"{stored.edit.id},{second.edit.id}",
    }
    approve(chronicler, stored, "ana")  # who proposed it
    with pytest.raises(ApprovalRequiredError):
        chronicler.apply(stored)
    approve(chronicler, stored, "ben")

    made = chronicler.apply(stored)

    assert made.protected
    assert applied(chronicler, "main") == ids(stored)
    assert clean(chronicler)


def test_an_approval_of_an_earlier_report_is_none(chronicler):
    stored = chronicler.propose()
    approve(chronicler, stored, "ben")
    chronicler.protect()
    newer = chronicler.new_report(stored.edit)
    chronicler.ledger.record_report(newer)

    with pytest.raises(StaleRevisionError, match="has a newer report"):
        chronicler.apply(stored)
    with pytest.raises(ApprovalRequiredError):
        chronicler.apply(replace(stored, report=newer))

    approve(chronicler, stored, "ben", newer)
    assert chronicler.apply(replace(stored, report=newer)).sequence == 2


def test_a_promotion_to_a_protected_branch_asks_for_every_edit_that_becomes_applied(chronicler):
    there, new, gone = (chronicler.propose(f"Tower {number}") for number in range(3))
    chronicler.apply(there, gone)
    chronicler.protect()
    chronicler.begin("canary")
    chronicler.apply(new, branch="canary")
    chronicler.revert(gone, branch="canary")

    with pytest.raises(ApprovalRequiredError) as refused:
        chronicler.promote("canary")
    assert refused.value.metadata["edits"] == new.edit.id
    approve(chronicler, new, "ben")

    assert chronicler.promote("canary").protected
    assert clean(chronicler)


def test_taking_back_needs_no_approval(chronicler):
    stored = chronicler.propose()
    chronicler.apply(stored)
    chronicler.protect()

    chronicler.revert(stored)

    assert applied(chronicler, "main") == []
    assert clean(chronicler)


def test_protection_is_of_one_branch_and_ends_where_history_says_so(chronicler):
    stored = chronicler.propose()
    chronicler.protect()
    chronicler.begin("canary")
    chronicler.apply(stored, branch="canary")
    assert not chronicler.ledger.head(MODEL, CANARY).protected

    chronicler.protect(protected=False)
    chronicler.apply(stored)

    protections = [r.protected for r in chronicler.ledger.revisions(MODEL, MAIN, limit=9)]
    assert protections == [False, True, False, False]
    assert clean(chronicler)


def test_nothing_but_a_change_of_policy_changes_protection(chronicler):
    stored = chronicler.propose()
    sly = replace(chronicler.next_revision(APPLY, stored), protected=True)
    policy = chronicler.next_policy()
    born = replace(chronicler.first_revision("canary"), protected=True)
    for revision in (sly, replace(policy, protected=False), born):
        with pytest.raises(InvalidInputError, match="protection passes"):
            chronicler.ledger.append(revision)

    chronicler.ledger.append(policy)
    with pytest.raises(InvalidInputError, match="must have it on"):
        chronicler.ledger.append(replace(chronicler.next_revision(APPLY, stored), protected=False))


def test_no_report_comes_between_the_check_of_an_approval_and_the_commit(chronicler, ledger_url):
    stored = chronicler.propose()
    chronicler.protect()
    approve(chronicler, stored, "ben")
    newer, revision = chronicler.new_report(stored.edit), chronicler.next_revision(APPLY, stored)
    database = Database(ledger_url)
    try:
        with ThreadPoolExecutor(1) as pool:
            with database.writing() as connection:
                commits.lock(connection, revision)
                storing = pool.submit(chronicler.ledger.record_report, newer)
                with pytest.raises(TimeoutError):
                    storing.result(0.5)
                commits.commit(connection, revision)
            storing.result()
    finally:
        database.close()

    assert chronicler.ledger.latest_report(stored.edit.id) == newer
    assert applied(chronicler, "main") == ids(stored)


# At once ----------------------------------------------------------------------------------


def at_once(work, arguments):
    """The result or error of ``work`` on each argument, all started together."""
    barrier = threading.Barrier(len(arguments))

    def run(argument):
        barrier.wait()
        for _ in range(50):
            try:
                return work(argument)
            except LedgerUnavailableError:
                continue  # the lock was not to be had in time; clients try again
            except Exception as error:  # noqa: BLE001 - the tests look at whatever comes
                return error
        raise AssertionError("the database never answered")

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


def test_of_writers_that_begin_one_branch_exactly_one_does(chronicler):
    revisions = [chronicler.first_revision("canary") for _ in range(WRITERS)]

    outcomes = at_once(chronicler.ledger.append, revisions)

    winners = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(winners) == 1
    assert {type(lost) for lost in outcomes if lost not in winners} == {BranchExistsError}
    assert chronicler.ledger.head(MODEL, CANARY) == winners[0]
    assert clean(chronicler)


def test_one_promotion_sent_by_all_at_once_is_made_once(chronicler):
    chronicler.begin("canary")
    chronicler.apply(chronicler.propose(), branch="canary")
    made = chronicler.next_promotion("canary")

    outcomes = at_once(chronicler.ledger.append, [made] * WRITERS)

    assert outcomes == [made] * WRITERS
    assert chronicler.ledger.head(MODEL, MAIN).sequence == 1


def until(ledger, make, tries=200):
    """Append what ``make`` makes of the heads, again and again where they have moved."""
    for _ in range(tries):
        try:
            return ledger.append(make())
        except (StaleRevisionError, DivergedError):
            continue
    return None


def apply_one(chronicler, stored, branch):
    def make():
        made = chronicler.next_revision(APPLY, stored, branch=branch)
        return replace(made, request_id=RequestId(f"apply-{stored.edit.id}"))

    made = until(chronicler.ledger, make)
    assert made is not None, "never got through"
    return made


def test_promotions_to_and_fro_among_appliers_never_lose_a_change_or_lock_up(chronicler):
    """Two branches are promoted to each other while others apply to both and begin more."""
    chronicler.begin("canary")
    branches = {
        branch: [chronicler.propose(f"Tower {branch} {number}") for number in range(3)]
        for branch in ("main", "canary")
    }
    work = [
        *(
            partial(apply_one, chronicler, stored, branch)
            for branch, edits in branches.items()
            for stored in edits
        ),
        partial(until, chronicler.ledger, partial(chronicler.first_revision, "trial")),
        partial(until, chronicler.ledger, partial(chronicler.next_promotion, "canary"), 6),
        partial(until, chronicler.ledger, partial(chronicler.next_promotion, "main", "canary"), 6),
    ]

    outcomes = at_once(lambda one: one(), work)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for branch, edits in branches.items():
        assert set(ids(*edits)) <= set(applied(chronicler, branch)), "something was lost"
    assert clean(chronicler)
