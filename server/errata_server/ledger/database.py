"""The connection to the ledger's database, SQLite or PostgreSQL.

Invariants: a SQLite transaction that may write begins with BEGIN IMMEDIATE, so that no read
in it goes stale; no SQLAlchemy exception leaves this module's context managers; no URL and
no statement parameter appears in a message.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    LedgerCorruptError,
    LedgerUnavailableError,
    SchemaMismatchError,
)
from errata_server.ledger.schema import MIGRATE_COMMAND, require_current_schema

BUSY_SECONDS: Final = 5
"""How long SQLite waits for another writer."""

POSTGRESQL_OPTIONS: Final = (
    "-c lock_timeout=2000 -c statement_timeout=10000 -c idle_in_transaction_session_timeout=15000"
)
READ_ONLY: Final = {"errata_read_only": True}
OUTCOME_UNKNOWN: Final = "unknown"
"""Value of ``outcome`` in the metadata of an error raised by a commit that may have worked."""


class Database:
    """A ledger's database and its pool of connections; safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Prepare to connect to ``url``; nothing is opened yet.

        Raises:
            InvalidInputError: the URL is malformed or names another kind of database.
        """
        self._engine = ledger_engine(url)
        self._claim: BinaryIO | None = None
        self._claimed: tuple[Path, int | None] | None = None
        self._read_options: dict[str, Any] = dict(READ_ONLY)
        if self._engine.dialect.name == "postgresql":
            self._read_options |= {
                "isolation_level": "REPEATABLE READ",
                "postgresql_readonly": True,
            }

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose statements all see one state of the database.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        with translated_errors(), self._engine.connect() as connection:
            connection.execution_options(**self._read_options)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end of the block.

        Raises:
            LedgerUnavailableError: the database does not answer. Where the commit itself
                failed, ``outcome`` in the metadata is `OUTCOME_UNKNOWN`.
        """
        self._require_claimed_file()
        with translated_errors(), self._engine.connect() as connection:
            yield connection
            with _commit_outcome(connection):
                connection.commit()

    def check_schema(self) -> None:
        """Do nothing if the database has the schema this server knows.

        Raises:
            SchemaMismatchError: saying what to run.
            LedgerUnavailableError: the database does not answer.
        """
        with self.reading() as connection:
            require_current_schema(connection)

    def claim(self) -> None:
        """Be the only server on a SQLite file until closed; PostgreSQL takes any number.

        A server ends what an earlier one left running, which another live one must not suffer.

        Raises:
            LedgerUnavailableError: another server holds the file.
        """
        path = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or path is None:
            return
        claim = Path(f"{path}.lock").open("wb")  # noqa: SIM115 - held until `close`
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            claim.close()
            raise LedgerUnavailableError(
                "another errata-server serves this SQLite ledger; stop it first, or use "
                "PostgreSQL, which several servers can share"
            ) from error
        self._claim = claim
        self._claimed = (Path(path), _file_identity(Path(path)))

    def _require_claimed_file(self) -> None:
        """Refuse to write into a file that is no longer in the folder: it would be lost."""
        if self._claimed is None:
            return
        path, identity = self._claimed
        if _file_identity(path) != identity:
            raise LedgerUnavailableError(
                "the SQLite ledger was removed or replaced while it is served; put the file "
                "back and start the server again"
            )

    def close(self) -> None:
        """Close the pool and give up the claim."""
        self._engine.dispose()
        if self._claim is not None:
            self._claim.close()  # a killed process gives its lock up as well


def _file_identity(path: Path) -> int | None:
    """The file's inode; None where there is no such file."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def ledger_engine(url: str) -> Engine:
    """An engine set up for a ledger at ``url``.

    Raises:
        InvalidInputError: the URL is malformed or names another kind of database.
    """
    parsed = _parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"options": POSTGRESQL_OPTIONS, "connect_timeout": BUSY_SECONDS},
    )


def _parsed_url(url: str) -> URL:
    """``url`` taken apart; no message repeats it, as it may hold a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidInputError(
            "the ledger's URL is malformed; write sqlite:///PATH or postgresql://HOST/NAME",
            field="ledger",
        ) from None
    backend = parsed.drivername.partition("+")[0]
    if backend == "postgres":
        parsed = parsed.set(drivername="postgresql")
    elif backend not in {"sqlite", "postgresql"}:
        raise InvalidInputError(
            f"the ledger cannot be kept in {backend}; use sqlite:///PATH or postgresql://HOST/NAME",
            field="ledger",
            backend=backend,
        )
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise InvalidInputError(
            "the ledger must be a file to outlive the server; write sqlite:///PATH",
            field="ledger",
        )
    return parsed


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite"),
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        _enter_wal(connection)
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            "recursive_triggers = ON",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("errata_read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which the file remembers.

    SQLite does not wait for a lock while switching, so two processes that open a new file
    together must be told to try again.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the database driver raises into domain errors: the one place that does."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, PendingRollbackError) as error:
        raise _domain_error(error) from error


@contextmanager
def _commit_outcome(connection: Connection) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        # Nothing rolls back a transaction whose commit failed: the pool would hand the
        # connection on with the transaction open, and with its lock.
        connection.invalidate()
        raise LedgerUnavailableError(
            "the connection to the ledger's database was lost while committing, so the outcome "
            "is unknown; send the same request id again to learn it",
            outcome=OUTCOME_UNKNOWN,
            cause=type(error.orig).__name__,
        ) from error


def _domain_error(error: DBAPIError | PoolTimeoutError | PendingRollbackError) -> ErrataError:
    if not isinstance(error, DBAPIError):
        return _unavailable("gave no connection in time", type(error).__name__)
    cause = type(error.orig).__name__
    if _names_missing_table(error):
        return SchemaMismatchError(
            "the ledger's database lacks tables or columns this server expects; run "
            f"`{MIGRATE_COMMAND}`",
            cause=cause,
        )
    if isinstance(error, DataError):
        return InvalidInputError(
            "the database cannot store one of the values; leave out NUL characters", cause=cause
        )
    if isinstance(error, IntegrityError):
        return _unavailable("had another writer change the same rows", cause)
    if type(error) is DatabaseError:  # SQLite's "malformed" and "not a database"
        return LedgerCorruptError(
            "the ledger's file is damaged; restore it from a backup", cause=cause
        )
    return _unavailable("does not answer", cause)


def _names_missing_table(error: DBAPIError) -> bool:
    if isinstance(error, OperationalError):  # SQLite's way of saying it
        return str(error.orig).startswith(("no such table", "no such column"))
    return isinstance(error, ProgrammingError)


def _unavailable(what: str, cause: str) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"the ledger's database {what} ({cause}); retry after a while", cause=cause
    )
