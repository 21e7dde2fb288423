"""Appending: one gapless chain a branch, whoever writes at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from errata_server.domain import canonical
from errata_server.domain.errors import (
    BranchNotFoundError,
    EditNotFoundError,
    InvalidInputError,
    LedgerUnavailableError,
    ModelMismatchError,
    ModelNotFoundError,
    ReportNotFoundError,
    RequestIdReusedError,
    RevisionNotFoundError,
    StaleRevisionError,
)
from errata_server.domain.ids import MAIN, BranchName, ModelId, RequestId, RevisionId
from errata_server.domain.revisions import RevisionKind
from tests.support import MODEL
from tests.support.histories import genesis
from tests.support.tampering import raw_connection

APPLY = RevisionKind.APPLY
OTHER = canonical.digest(b"another")
WRITERS = 8


def test_a_revision_comes_back_byte_by_byte(chronicler):
    revision = chronicler.next_revision(APPLY, chronicler.propose())

    assert chronicler.ledger.append(revision) == revision

    found = chronicler.ledger.revision(MODEL, revision.id)
    assert found.body == revision.body
    assert found.id == canonical.digest(revision.body)
    assert chronicler.ledger.head(MODEL, MAIN) == revision


def test_revisions_chain_from_genesis_without_gaps(chronicler):
    for number in range(4):
        chronicler.apply(chronicler.propose(f"Tower {number}"))

    chain = chronicler.ledger.revisions(MODEL, MAIN, limit=100)

    assert [revision.sequence for revision in chain] == [0, 1, 2, 3, 4]
    assert chain[0] == genesis()
    assert [later.parent for later in chain[1:]] == [earlier.id for earlier in chain[:-1]]


def test_a_revision_on_a_stale_parent_is_refused_with_the_head(chronicler):
    stale = chronicler.next_revision(APPLY, chronicler.propose())
    head = chronicler.apply(chronicler.propose("Louvre"))

    with pytest.raises(StaleRevisionError, match="read the head and retry") as refused:
        chronicler.ledger.append(replace(stale, request_id=RequestId("other")))

    assert refused.value.metadata == {
        "branch": "main",
        "expected": genesis().id,
        "head": head.id,
        "sequence": "1",
    }
    assert chronicler.head() == head.id


def test_a_writer_that_went_round_the_lock_makes_the_next_append_stale(chronicler, ledger_url):
    mine = chronicler.next_revision(APPLY, chronicler.propose())
    raw = raw_connection(ledger_url)
    raw.execute(
        "INSERT INTO revisions (id, model, branch, sequence, parent, kind, request_id, body) "
        f"SELECT '{OTHER}', model, branch, 1, id, 'policy', 'other', body FROM revisions"
    )
    raw.close()

    with pytest.raises(StaleRevisionError, match="has just left it"):
        chronicler.ledger.append(mine)


def test_a_repeated_request_gets_the_revision_it_made_even_after_others(chronicler):
    first = chronicler.next_revision(APPLY, chronicler.propose())
    chronicler.ledger.append(first)
    chronicler.apply(chronicler.propose("Louvre"))
    again = replace(first, parent=chronicler.head(), sequence=3, reason="sent again")

    assert chronicler.ledger.append(again) == first
    assert chronicler.ledger.revision_by_request(MODEL, first.request_id) == first
    assert chronicler.ledger.head(MODEL, MAIN).sequence == 2


def test_a_request_id_makes_one_revision(chronicler):
    first = chronicler.apply(chronicler.propose())
    other = chronicler.next_revision(
        APPLY, chronicler.propose("Louvre"), request_id=first.request_id
    )

    with pytest.raises(RequestIdReusedError, match="use a new one"):
        chronicler.ledger.append(other)

    assert chronicler.head() == first.id


def test_an_unused_request_id_made_nothing(chronicler):
    assert chronicler.ledger.revision_by_request(MODEL, RequestId("never")) is None


def test_a_revision_vouches_only_for_what_is_stored(chronicler):
    good = chronicler.next_revision(APPLY, chronicler.propose())
    reference = good.edits[0]
    cases = (
        (EditNotFoundError, replace(reference, edit="e-none")),
        (EditNotFoundError, replace(reference, edit_digest=OTHER)),
        (EditNotFoundError, replace(reference, patch=OTHER)),
        (ReportNotFoundError, replace(reference, report=OTHER)),
        (ReportNotFoundError, replace(reference, report=chronicler.propose("Louvre").report.id)),
    )

    for error, vouched in cases:
        with pytest.raises(error):
            chronicler.ledger.append(replace(good, edits=(vouched,)))

    assert chronicler.head() == genesis().id


def test_a_revision_that_cannot_be_next_is_refused(chronicler):
    good = chronicler.next_revision(APPLY, chronicler.propose())
    cases = (
        (InvalidInputError, replace(good, sequence=5)),
        (InvalidInputError, replace(good, request_id=RequestId(""))),
        (ModelMismatchError, replace(good, model_digest=OTHER)),
        (BranchNotFoundError, replace(good, branch=BranchName("canary"))),
        (ModelNotFoundError, replace(good, model=ModelId("nobody"))),
    )

    for error, revision in cases:
        with pytest.raises(error):
            chronicler.ledger.append(revision)

    assert chronicler.ledger.append(good) == good


def test_history_is_read_page_by_page_in_either_direction(chronicler):
    for number in range(6):
        chronicler.apply(chronicler.propose(f"Tower {number}"))

    def sequences(**options):
        found = chronicler.ledger.revisions(MODEL, MAIN, **options)
        return [revision.sequence for revision in found]

    assert sequences(start=2, limit=3) == [2, 3, 4]
    assert sequences(limit=3, newest_first=True) == [6, 5, 4]
    assert sequences(before=4, limit=3, newest_first=True) == [3, 2, 1]
    assert sequences(start=5, before=6, limit=3) == [5]
    assert sequences(start=7, limit=3) == []
    assert sequences(start=10**30, limit=3) == []
    assert sequences(start=5, before=10**30, limit=3) == [5, 6]


def test_pages_of_an_unknown_branch_are_refused(chronicler):
    with pytest.raises(BranchNotFoundError, match="canary"):
        chronicler.ledger.revisions(MODEL, BranchName("canary"), limit=3)
    with pytest.raises(BranchNotFoundError, match="canary"):
        chronicler.ledger.head(MODEL, BranchName("canary"))


def test_a_revision_is_found_by_all_its_names(chronicler):
    revision = chronicler.apply(chronicler.propose())
    chronicler.apply(chronicler.propose("Louvre"))
    find = chronicler.ledger.find_revision

    for reference in (revision.id, revision.id[:6], revision.id[:10].upper(), "1", "main@1"):
        assert find(MODEL, reference) == revision
    assert find(MODEL, "main").sequence == 2


@pytest.mark.parametrize(
    "reference",
    [
        *("", "9", "main@9", "main@", "@1", "canary", "canary@0", "main@1@1"),
        *("abc", "zzzzzzzz", "-1", "%", "1" * 30, "f" * 64, "f" * 65, "main@" + "9" * 40, "\u0661"),
    ],
)
def test_a_name_of_no_revision_is_refused(chronicler, reference):
    with pytest.raises(RevisionNotFoundError, match="has no revision"):
        chronicler.ledger.find_revision(MODEL, reference)


def test_the_beginning_of_two_ids_is_refused(chronicler, monkeypatch):
    monkeypatch.setattr("errata_server.ledger.references.SHORTEST_PREFIX", 1)
    seen = set()
    while True:
        # A digit alone would be a sequence number; letters are beginnings of ids.
        letter = chronicler.apply(chronicler.propose()).id[0]
        if letter.isalpha() and letter in seen:
            break
        seen.add(letter)

    with pytest.raises(RevisionNotFoundError, match="more than one"):
        chronicler.ledger.find_revision(MODEL, letter)


def test_an_unknown_id_is_not_found(chronicler):
    with pytest.raises(RevisionNotFoundError):
        chronicler.ledger.revision(MODEL, RevisionId(OTHER))


def test_of_writers_on_one_head_exactly_one_wins(chronicler):
    revisions = [
        replace(
            chronicler.next_revision(APPLY, chronicler.propose(f"Tower {number}")),
            request_id=RequestId(f"writer-{number}"),
        )
        for number in range(WRITERS)
    ]

    outcomes = _at_once(partial(_append, chronicler.ledger), revisions)

    winners = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(winners) == 1
    assert {type(lost) for lost in outcomes if lost not in winners} == {StaleRevisionError}
    assert chronicler.head() == winners[0].id
    assert chronicler.ledger.audit(MODEL).clean


def test_writers_that_retry_all_get_through_without_a_gap_or_a_lost_update(chronicler):
    edits = [[chronicler.propose(f"Tower {n}.{i}") for i in range(3)] for n in range(WRITERS)]

    def write(mine):
        return [_append_until_it_holds(chronicler, stored) for stored in mine]

    outcomes = _at_once(write, edits)

    made = [revision for outcome in outcomes for revision in outcome]
    chain = chronicler.ledger.revisions(MODEL, MAIN, limit=100)
    assert [revision.sequence for revision in chain] == list(range(3 * WRITERS + 1))
    assert {revision.id for revision in chain[1:]} == {revision.id for revision in made}
    assert chain[-1].active_count == 3 * WRITERS
    assert chronicler.ledger.audit(MODEL).findings == ()


def test_one_request_sent_by_all_writers_at_once_makes_one_revision(chronicler):
    revision = chronicler.next_revision(APPLY, chronicler.propose())

    outcomes = _at_once(partial(_append, chronicler.ledger), [revision] * WRITERS)

    assert outcomes == [revision] * WRITERS
    assert chronicler.ledger.head(MODEL, MAIN).sequence == 1


def _append_until_it_holds(chronicler, stored):
    for _ in range(500):
        revision = replace(
            chronicler.next_revision(APPLY, stored),
            request_id=RequestId(f"apply-{stored.edit.id}"),
        )
        try:
            return _append(chronicler.ledger, revision)
        except StaleRevisionError:
            continue
    raise AssertionError("never got through")


def _append(ledger, revision):
    """Append, again and again where the lock is not to be had in time, as clients do."""
    for _ in range(50):
        try:
            return ledger.append(revision)
        except LedgerUnavailableError:
            continue
    raise AssertionError("the database never answered")


def _at_once(work, arguments):
    """The result or error of ``work`` on each argument, all started together."""
    barrier = threading.Barrier(len(arguments))

    def run(argument):
        barrier.wait()
        try:
            return work(argument)
        except Exception as error:  # noqa: BLE001 - the tests look at whatever comes
            return error

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))
