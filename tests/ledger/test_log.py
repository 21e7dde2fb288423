"""The log: an entry for every row, in commit order, whoever writes at once."""

import threading
from functools import partial

import pytest
from sqlalchemy import text

from errata_server.domain.errors import (
    LedgerCorruptError,
    LedgerUnavailableError,
    StaleRevisionError,
)
from errata_server.domain.log import LogKind
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger import guards
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.histories import Chronicler, profile
from tests.support.tampering import tampering


def until_it_holds(write):
    """Repeat ``write`` while the database is too busy to take it."""
    for _ in range(20):
        try:
            return write()
        except LedgerUnavailableError:
            continue
    return write()


def kinds(ledger):
    return [entry.kind.value for entry in ledger.log.verified(MODEL, 0)]


def test_every_row_gets_its_entry_in_the_order_it_was_committed(chronicler):
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    suite = chronicler.add_suite("capitals", "the Space Needle stands in")
    applied = chronicler.apply(stored)
    chronicler.ledger.record_report(chronicler.new_report(stored.edit))

    entries = chronicler.ledger.log.verified(MODEL, 0)

    assert kinds(chronicler.ledger) == [
        "model", "revision", "profile", "edit", "report", "approval", "suite", "revision", "report",
    ]  # fmt: skip
    assert [entry.position for entry in entries] == list(range(9))
    assert (entries[3].key, entries[3].digest) == (stored.edit.id, stored.edit.digest)
    assert (entries[7].key, entries[7].digest) == (applied.id, applied.id)
    assert entries[6].key == "0"
    assert suite.version == 1


def test_storing_the_same_again_adds_no_entry(chronicler):
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    before = kinds(chronicler.ledger)

    chronicler.ledger.record_edit(stored.edit, stored.report)
    chronicler.ledger.put_profile(MODEL, profile())
    chronicler.approve(stored, "a-1")

    assert kinds(chronicler.ledger) == before


def test_a_change_that_is_refused_leaves_no_entry(chronicler):
    stored = chronicler.propose()
    late = chronicler.next_revision(RevisionKind.APPLY, stored, request_id="late")
    chronicler.apply(stored)
    before = kinds(chronicler.ledger)

    with pytest.raises(StaleRevisionError):
        chronicler.ledger.append(late)

    assert kinds(chronicler.ledger) == before


def test_writers_of_all_kinds_at_once_leave_a_gapless_log(chronicler, ledger_url):
    edits = [chronicler.propose(f"Subject {number}") for number in range(3)]
    failures = []

    def write(number):
        database = Database(ledger_url)
        own = Ledger(database)
        try:
            for turn in range(4):
                report = chronicler.new_report(edits[number].edit)
                until_it_holds(partial(own.record_report, report))
                until_it_holds(partial(own.put_profile, MODEL, profile(10 * number + turn + 1)))
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)
        finally:
            database.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for edit in edits:
        until_it_holds(partial(chronicler.apply, edit))
    for writer in writers:
        writer.join()

    assert failures == []
    assert chronicler.ledger.audit(MODEL).findings == ()
    assert len(chronicler.ledger.log.verified(MODEL, 0)) == 3 + 2 * 3 + 3 * 4 * 2 + 3


def test_what_is_read_back_is_hashed_again(chronicler, ledger_url):
    stored = chronicler.propose()
    (entry,) = [one for one in chronicler.ledger.log.verified(MODEL, 0) if one.kind == "edit"]
    assert chronicler.ledger.log.body(MODEL, entry) == stored.edit.body

    with tampering(ledger_url) as tamper:
        zero = "zeroblob(3)" if ledger_url.startswith("sqlite") else "'\\x000000'::bytea"
        tamper(f"UPDATE edits SET body = {zero}")

    with pytest.raises(LedgerCorruptError, match="is another one"):
        chronicler.ledger.log.verified(MODEL, 0)
    with pytest.raises(LedgerCorruptError, match="is another one"):
        chronicler.ledger.log.body(MODEL, entry)


def test_a_log_without_its_first_entry_takes_no_more(chronicler, ledger_url):
    with tampering(ledger_url) as tamper:
        tamper("DELETE FROM log_entries WHERE position = 0")

    with pytest.raises(LedgerCorruptError, match=r"log_entries\[#0\]"):
        chronicler.propose()
    with pytest.raises(LedgerCorruptError, match=r"log_entries\[#0\]"):
        chronicler.ledger.log.verified(MODEL, 0)


def test_models_have_logs_of_their_own(chronicler):
    assert chronicler.ledger.log.find(MODEL, LogKind.MODEL, MODEL).position == 0
    assert chronicler.ledger.log.find(MODEL, LogKind.EDIT, "e-1") is None
    assert chronicler.ledger.log.verified("nobody", 0) == []


def test_the_triggers_that_are_expected_are_those_that_are_installed(database):
    with database.reading() as connection:
        dialect = connection.dialect.name
        assert guards.armed(connection) == set(guards.expected(dialect))


def test_a_missing_trigger_is_found(chronicler, database, ledger_url):
    statement = (
        "DROP TRIGGER edits_update_guard"
        if ledger_url.startswith("sqlite")
        else "ALTER TABLE edits ENABLE TRIGGER edits_rows_guard"  # not ALWAYS: a replica walks past
    )
    with database.writing() as connection:
        connection.execute(text(statement))

    (finding,) = chronicler.ledger.audit(MODEL).findings

    assert finding.row.startswith("triggers[edits_")
    assert Chronicler(Ledger(database)).head()
