"""What a ledger says when its database is away, and who may use it at once."""

import socket
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.postgresql import PostgresqlServer
from errata_server.domain.errors import (
    LedgerCorruptError,
    LedgerUnavailableError,
)
from errata_server.domain.ids import MAIN
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from tests.support import MODEL
from tests.support.databases import POSTGRESQL_ONLY, SQLITE_ONLY
from tests.support.histories import Chronicler

SECRET = "hunter2"


@contextmanager
def opened(url):
    database = Database(url)
    try:
        yield Ledger(database)
    finally:
        database.close()


def test_a_read_sees_one_state_while_others_write(chronicler, database):
    chronicler.apply(chronicler.propose())
    count = text("SELECT count(*) FROM revisions")

    with database.reading() as connection:
        before = connection.scalar(count)
        chronicler.apply(chronicler.propose("Louvre"))
        after = connection.scalar(count)

    assert before == after == 2
    assert chronicler.ledger.head(MODEL, MAIN).sequence == 2


def test_a_block_that_raises_writes_nothing(chronicler, database):
    def write_and_raise():
        with database.writing() as connection:
            connection.execute(
                text("INSERT INTO artifacts (digest, payload) SELECT body_digest, body FROM models")
            )
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_raise()

    assert chronicler.ledger.audit(MODEL).artifacts == 0


@SQLITE_ONLY
def test_sqlite_is_durable_and_strict_about_references(ledger_url, database):

    with database.reading() as connection:
        settings = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        }

    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }


@SQLITE_ONLY
def test_a_locked_sqlite_file_is_unavailable(chronicler, ledger_url):
    holder = sqlite3.connect(ledger_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with opened(f"{ledger_url}?lock_timeout=0.1") as impatient:
        with pytest.raises(LedgerUnavailableError, match="lock_timeout; retry after a while"):
            impatient.put_artifact(b"waiting")
        assert impatient.head(MODEL, MAIN).sequence == 0
    holder.execute("ROLLBACK")
    holder.close()


def test_a_file_that_is_no_database_is_corrupt(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is not a database, but it is long enough to look at" * 100)

    with opened(f"sqlite:///{path}") as ledger, pytest.raises(LedgerCorruptError, match="backup"):
        ledger.head(MODEL, MAIN)


def test_a_missing_folder_is_unavailable(tmp_path):
    with (
        opened(f"sqlite:///{tmp_path / 'no' / 'ledger.db'}") as ledger,
        pytest.raises(LedgerUnavailableError, match="there is no folder .*no for the SQLite"),
    ):
        ledger.head(MODEL, MAIN)


def test_an_unreachable_server_is_unavailable_and_its_password_stays_secret():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql://me:{SECRET}@127.0.0.1:{free.getsockname()[1]}/ledger"

    with opened(url) as ledger, pytest.raises(LedgerUnavailableError) as refused:
        ledger.head(MODEL, MAIN)

    assert SECRET not in f"{refused.value} {refused.value.metadata} {refused.value.__cause__}"
    assert "127.0.0.1" not in str(refused.value)


def test_a_server_that_stops_is_unavailable():
    server = PostgresqlServer()
    url = server.create("ledger")
    migrate(url)
    with opened(url) as ledger:
        chronicler = Chronicler(ledger)
        stored = chronicler.propose()
        revision = chronicler.next_revision(RevisionKind.APPLY, stored)
        server.stop()

        for ask in (
            lambda: ledger.head(MODEL, MAIN),
            lambda: ledger.append(revision),
            lambda: ledger.put_artifact(b"late"),
            lambda: ledger.audit(MODEL),
        ):
            with pytest.raises(LedgerUnavailableError):
                ask()


@POSTGRESQL_ONLY
def test_a_dropped_connection_does_not_outlive_the_next_call(chronicler, ledger_url):
    chronicler.head()
    with opened(ledger_url) as other, other._database.writing() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )

    assert chronicler.ledger.head(MODEL, MAIN).sequence == 0


def test_concurrent_writers_of_one_artifact_all_get_its_digest(ledger):
    barrier, digests = threading.Barrier(6), []

    def put():
        barrier.wait()
        digests.append(ledger.put_artifact(b"the same bytes"))

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(digests) == 6
    assert len(set(digests)) == 1


@SQLITE_ONLY
def test_one_server_at_a_time_claims_a_sqlite_ledger(ledger_url):
    first, second = Database(ledger_url), Database(ledger_url)
    first.claim()

    with pytest.raises(LedgerUnavailableError, match="another errata-server"):
        second.claim()

    first.close()
    second.claim()
    second.close()


@POSTGRESQL_ONLY
def test_any_number_of_servers_claim_a_postgresql_ledger(ledger_url):
    first, second = Database(ledger_url), Database(ledger_url)

    first.claim()
    second.claim()

    with second.reading() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    first.close()
    second.close()


@SQLITE_ONLY
def test_nothing_is_written_into_a_file_that_was_removed(ledger_url, tmp_path):
    served = Database(ledger_url)
    served.claim()
    path = Path(ledger_url.removeprefix("sqlite:///"))

    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(LedgerUnavailableError, match="removed or replaced"), served.writing():
        pass

    (tmp_path / "elsewhere.db").rename(path)
    with served.writing() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    served.close()


@SQLITE_ONLY
def test_a_commit_that_failed_leaves_no_transaction_open_in_the_pool(database):
    with pytest.raises(LedgerUnavailableError), database.writing() as connection:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(text("INSERT INTO branches VALUES ('nobody', 'main', 'no revision', 0)"))

    with database.writing() as connection:
        assert connection.scalar(text("SELECT count(*) FROM branches")) == 0
