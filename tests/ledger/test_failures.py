"""What databases refuse comes out as typed errors that say what to do, and no secret with it."""

import sqlite3
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text

from errata_server.domain.errors import (
    LedgerCorruptError,
    LedgerUnavailableError,
)
from errata_server.domain.ids import MAIN
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.database import LARGEST_IDLE_WAL, Database
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.databases import POSTGRESQL_ONLY, SQLITE_ONLY
from tests.support.tampering import raw_connection

SECRET = "hunter2"


@contextmanager
def opened(url, **parameters):
    """A database of which ``parameters`` are said in the URL."""
    database = Database(with_parameters(url, **parameters))
    try:
        yield database
    finally:
        database.close()


def with_parameters(url, **parameters):
    said = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"{url}{'&' if '?' in url else '?'}{said}"


def as_role(url, role, password=SECRET):
    """The URL of the same database, for another role."""
    return url.replace("postgres:@", f"{role}:{password}@").replace(
        "postgresql://postgres@", f"postgresql://{role}:{password}@"
    )


@pytest.fixture
def raw(ledger_url):
    connection = raw_connection(ledger_url)
    yield connection
    connection.close()


@pytest.fixture
def role(raw):
    """A role that may log in and nothing else."""
    raw.execute("DROP ROLE IF EXISTS somebody")
    raw.execute(f"CREATE ROLE somebody LOGIN PASSWORD '{SECRET}'")
    yield "somebody"
    raw.execute("DROP OWNED BY somebody")
    raw.execute("DROP ROLE somebody")


def ask(database):
    return Ledger(database).head(MODEL, MAIN).sequence


def write(database, payload=b"x"):
    return Ledger(database).put_artifact(payload)


# PostgreSQL: what is set ------------------------------------------------------------------


@POSTGRESQL_ONLY
def test_a_connection_says_who_it_is_and_how_long_it_waits(ledger_url):
    tuning = {"lock_timeout": 1.5, "statement_timeout": 7, "idle_timeout": 30}
    settings = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

    def shown(database):
        with database.reading() as connection:
            return [
                connection.scalar(text(f"SHOW {name}")) for name in (*settings, "application_name")
            ]

    with opened(ledger_url) as database:
        assert shown(database) == ["2s", "10s", "15s", "errata-server"]
    with opened(ledger_url, **tuning, application_name="canary") as database:
        assert shown(database) == ["1500ms", "7s", "30s", "canary"]


@POSTGRESQL_ONLY
def test_options_of_the_url_are_kept_and_win(ledger_url):
    with (
        opened(ledger_url, options="-c%20work_mem=9MB%20-c%20lock_timeout=77ms") as database,
        database.reading() as connection,
    ):
        shown = [connection.scalar(text(f"SHOW {n}")) for n in ("work_mem", "lock_timeout")]

    assert shown == ["9MB", "77ms"]


@POSTGRESQL_ONLY
@pytest.mark.parametrize(("said", "found"), [("off", "on"), ("on", "on"), ("local", "local")])
def test_what_is_acknowledged_is_on_disk(raw, ledger_url, said, found):
    name = raw.execute("SELECT current_database()").fetchone()[0]
    raw.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {said}')

    with opened(ledger_url) as database, database.writing() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == found


@POSTGRESQL_ONLY
def test_tls_that_the_server_lacks_is_not_done_without(raw, role):
    info = raw.info
    url = f"postgresql://{role}:{SECRET}@127.0.0.1:{info.port}/{info.dbname}?sslmode=verify-full"

    with opened(url) as database, pytest.raises(LedgerUnavailableError) as refused:
        ask(database)

    assert SECRET not in f"{refused.value} {refused.value.metadata}"


# PostgreSQL: what is refused --------------------------------------------------------------


@POSTGRESQL_ONLY
def test_a_lock_that_is_not_to_be_had_in_time_says_so(chronicler, raw, ledger_url):
    stored = chronicler.propose()
    revision = chronicler.next_revision(RevisionKind.APPLY, stored)
    raw.execute("BEGIN")
    raw.execute("SELECT * FROM branches FOR UPDATE")

    with opened(ledger_url, lock_timeout=0.1) as database:
        with pytest.raises(LedgerUnavailableError, match="lock_timeout.*retry") as refused:
            Ledger(database).append(revision)
        assert refused.value.metadata["sqlstate"] == "55P03"
        raw.execute("ROLLBACK")
        assert Ledger(database).append(revision) == revision


@POSTGRESQL_ONLY
def test_a_statement_that_takes_too_long_says_so(ledger_url):
    with (
        opened(ledger_url, statement_timeout=0.05) as database,
        pytest.raises(LedgerUnavailableError, match="statement_timeout"),
        database.reading() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(5)"))


@POSTGRESQL_ONLY
def test_a_transaction_that_idles_is_ended_and_says_so(chronicler, ledger_url):
    with opened(ledger_url, idle_timeout=0.1) as database:
        with (
            pytest.raises(LedgerUnavailableError, match="idle_timeout"),
            database.writing() as connection,
        ):
            connection.execute(text("SELECT 1"))
            time.sleep(0.5)
            connection.execute(text("SELECT 1"))

        assert ask(database) == 0


@POSTGRESQL_ONLY
def test_a_connection_lost_within_a_transaction_leaves_nothing_behind(chronicler, ledger_url, raw):
    lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid}"

    with opened(ledger_url) as database:

        def write_and_lose(connection):
            connection.execute(text("INSERT INTO artifacts SELECT body_digest, body FROM models"))
            raw.execute(lost.format(pid=connection.scalar(text("SELECT pg_backend_pid()"))))
            connection.execute(text("SELECT 1"))

        with pytest.raises(LedgerUnavailableError) as away:
            database.write(write_and_lose)

        assert "outcome" not in away.value.metadata
        assert Ledger(database).audit(MODEL).artifacts == 0


@POSTGRESQL_ONLY
def test_transactions_that_wait_for_each_other_both_get_through(chronicler, ledger_url):
    chronicler.ledger.put_artifact(b"row")
    barrier, errors = threading.Barrier(2), []
    locks = ("LOCK TABLE suites IN EXCLUSIVE MODE", "LOCK TABLE approvals IN EXCLUSIVE MODE")

    def lock_both(database, first, second):
        runs = []

        def work(connection):
            connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            connection.execute(text(first))
            if not runs:
                runs.append(1)
                barrier.wait()
            connection.execute(text(second))

        try:
            database.write(work)
        except Exception as error:  # noqa: BLE001 - the test looks at whatever comes
            errors.append(error)

    with opened(ledger_url) as database:
        threads = [
            threading.Thread(target=lock_both, args=(database, *order))
            for order in (locks, locks[::-1])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert errors == []


@POSTGRESQL_ONLY
def test_transactions_that_exclude_each_other_are_done_again_a_few_times(chronicler, ledger_url):
    runs = []

    def work(connection):
        runs.append(1)
        if len(runs) <= needed:
            connection.execute(
                text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$")
            )
        return "done"

    with opened(ledger_url) as database:
        needed = 3
        assert database.write(work) == "done"
        needed = 1_000
        runs.clear()
        with pytest.raises(LedgerUnavailableError, match="excluded each other.*retry"):
            database.write(work)
    assert len(runs) == 4


REFUSALS = {
    "53100": "on a full disk; free some space",
    "53300": "no connection left; lower pool_size",
    "42501": "refuses this to its role or user; grant it",
    "25006": "can only be read.*; use the primary",
    "26000": "lost a prepared statement; a pooler in transaction mode",
    "55P03": "lock_timeout; retry after a while",
    "57014": "statement_timeout; retry after a while",
    "58030": "does not answer; retry after a while",
}
"""What is the matter and the one thing to do about it; `retry` only where that helps."""


@POSTGRESQL_ONLY
@pytest.mark.parametrize("state", REFUSALS)
def test_what_postgresql_says_by_its_state_is_told_in_words(database, state):
    with (
        pytest.raises(LedgerUnavailableError, match=rf"{REFUSALS[state]}.* \(\w+\)$") as refused,
        database.reading() as connection,
    ):
        connection.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}' USING ERRCODE = '{state}'; END $$")
        )

    assert refused.value.metadata["sqlstate"] == state
    assert SECRET not in f"{refused.value} {refused.value.metadata}"


@POSTGRESQL_ONLY
def test_a_database_that_became_read_only_still_answers_and_refuses_to_write(
    chronicler, raw, ledger_url
):
    name = raw.execute("SELECT current_database()").fetchone()[0]
    raw.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')

    with opened(ledger_url) as database:
        with pytest.raises(LedgerUnavailableError, match="can only be read.*use the primary"):
            write(database)
        assert ask(database) == 0


@POSTGRESQL_ONLY
def test_a_role_without_grants_is_told_to_get_them(chronicler, ledger_url, role):
    with (
        opened(as_role(ledger_url, role)) as database,
        pytest.raises(LedgerUnavailableError, match="refuses this to its role.*grant"),
    ):
        ask(database)


@POSTGRESQL_ONLY
def test_a_role_that_does_not_exist_is_told_apart(ledger_url):
    with (
        opened(as_role(ledger_url, "nobody_there")) as database,
        pytest.raises(LedgerUnavailableError, match="refuses the user") as refused,
    ):
        ask(database)

    assert "nobody_there" not in str(refused.value)
    assert SECRET not in f"{refused.value} {refused.value.metadata} {refused.value.__cause__}"


@POSTGRESQL_ONLY
def test_a_role_without_a_connection_left_is_told_so(chronicler, raw, ledger_url, role):
    raw.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    held = psycopg.connect(as_role(ledger_url, role))

    with (
        opened(as_role(ledger_url, role)) as database,
        pytest.raises(LedgerUnavailableError, match="no connection left; lower pool_size"),
    ):
        ask(database)
    held.close()


@POSTGRESQL_ONLY
def test_a_database_that_is_dropped_is_told_apart_from_one_that_is_away(
    chronicler, raw, ledger_url, postgresql_server
):
    url = postgresql_server.create("dropped", template="errata_template")
    with opened(url) as database:
        with pytest.raises(Exception, match="no model"):
            ask(database)
        postgresql_server.drop("dropped")

        for _ in range(2):
            with pytest.raises(LedgerUnavailableError, match=r"is not there; create it"):
                ask(database)


# Pools and parameters ---------------------------------------------------------------------


def test_a_pool_that_is_used_up_says_so_in_time(chronicler, ledger_url):
    with (
        opened(ledger_url, pool_size=1, pool_overflow=0, pool_timeout=0.1) as database,
        database.reading(),
    ):
        started = time.monotonic()
        with pytest.raises(LedgerUnavailableError, match="no free connection; raise pool_size"):
            ask(database)
        assert time.monotonic() - started < 3


def test_a_pool_is_as_large_as_the_url_says(chronicler, ledger_url):
    with opened(ledger_url, pool_size=2, pool_overflow=1, pool_recycle=60) as database:
        pool = database._engine.pool
        assert (pool.size(), pool._max_overflow, pool._recycle) == (2, 1, 60)
        assert ask(database) == 0


# SQLite -----------------------------------------------------------------------------------


@SQLITE_ONLY
def test_a_full_disk_stores_nothing_and_says_so(chronicler, database):
    def fill(connection):
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        connection.execute(
            text("INSERT INTO artifacts VALUES (:digest, zeroblob(9000000))"), {"digest": "f" * 64}
        )

    with pytest.raises(LedgerUnavailableError, match=r"full disk; free some space \(\w+\)$"):
        database.write(fill)

    assert chronicler.ledger.audit(MODEL).artifacts == 0


@SQLITE_ONLY
def test_a_file_that_can_only_be_read_says_so(chronicler, database):
    def write_protected(connection):
        connection.execute(text("PRAGMA query_only = ON"))
        connection.execute(text("INSERT INTO artifacts VALUES ('x', 'y')"))

    with pytest.raises(LedgerUnavailableError, match="can only be read"):
        database.write(write_protected)


def test_a_folder_taken_for_a_file_says_so(tmp_path):
    with (
        opened(f"sqlite:///{tmp_path}") as database,
        pytest.raises(LedgerUnavailableError, match="cannot be opened"),
    ):
        ask(database)


@SQLITE_ONLY
def test_a_commit_that_sqlite_refuses_is_no_unknown_outcome(chronicler, database):
    """Foreign keys that are checked at the end are what a commit can still fail on."""

    def orphan(connection):
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(
            text("INSERT INTO profiles VALUES ('nobody', 0, :id, 'x')"), {"id": "0" * 64}
        )

    with pytest.raises(LedgerUnavailableError) as refused:
        database.write(orphan)

    assert "outcome" not in refused.value.metadata
    assert ask(database) == 0


@SQLITE_ONLY
def test_a_log_of_writes_does_not_stay_large(chronicler, ledger_url, monkeypatch):
    monkeypatch.setattr("errata_server.ledger.database.LARGEST_IDLE_WAL", 100_000)
    log = f"{ledger_url.removeprefix('sqlite:///')}-wal"
    assert LARGEST_IDLE_WAL > 100_000

    with opened(ledger_url) as database:
        write(database, b"\0" * 5_000_000)  # so much that it is written back at once
        largest = size_of(log)
        write(database, b"small")
        write(database, b"smaller")

        assert largest > 5_000_000
        assert size_of(log) < 150_000


def size_of(path):
    with open(path, "rb") as file:
        return file.seek(0, 2)


@SQLITE_ONLY
def test_damaged_pages_are_a_damaged_file(chronicler, database, ledger_url):
    path = ledger_url.removeprefix("sqlite:///")
    for number in range(50):
        write(database, bytes([number]) * 4_000)
    database.close()
    checkpoint = sqlite3.connect(path)
    checkpoint.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    checkpoint.close()
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        for page in range(4_096, size, 4_096):
            file.seek(page)
            file.write(b"\xff" * 64)

    with opened(ledger_url) as damaged, pytest.raises(LedgerCorruptError, match="backup"):
        ask(damaged)
