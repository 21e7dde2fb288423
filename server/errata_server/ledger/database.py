"""The connection to the ledger's database, SQLite or PostgreSQL.

Invariants: a SQLite transaction that may write begins with BEGIN IMMEDIATE, so that no read
in it goes stale; a commit that was acknowledged is on disk; no SQLAlchemy exception leaves
this module's context managers.
"""

import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection

from errata_server.domain.errors import (
    LedgerUnavailableError,
    ReadOnlyReplicaError,
)
from errata_server.ledger.failures import (
    OUTCOME_UNKNOWN,
    RETRIED,
    commit_outcome,
    translated_errors,
)
from errata_server.ledger.filesystems import network_filesystem
from errata_server.ledger.schema import require_current_schema
from errata_server.ledger.urls import SQLITE, LedgerUrl, read_url

Result = TypeVar("Result")

KEEPALIVES: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""After what a PostgreSQL that has vanished without a word is given up; seconds, the last in ms."""

READ_ONLY: Final = {"errata_read_only": True}
SETTLING_PAUSES: Final = (0.0, 0.5, 2.0)
"""Seconds before each attempt to learn what an interrupted commit came to."""

RETRY_PAUSES: Final = (0.01, 0.05, 0.25)
"""Seconds before what PostgreSQL undid to end a deadlock is done again."""

CONNECT_SECONDS: Final = 5
"""How long PostgreSQL may take to let a connection in, unless the URL says otherwise."""

LARGEST_IDLE_WAL: Final = 64 * 1024 * 1024
"""Bytes of SQLite's ``-wal`` file that are kept once it has been written back."""


class Database:
    """A ledger's database and its pool of connections; safe to share between threads."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Prepare to connect to ``url``; nothing is opened yet.

        Args:
            url: Where the database is.
            read_only: Refuse to write, here and in the database's own session.

        Raises:
            InvalidInputError: the URL cannot be used, as `read_url` says.
        """
        self._engine = ledger_engine(url, read_only=read_only)
        self._read_only = read_only
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
            ReadOnlyReplicaError: this database was opened to be read alone.
            LedgerUnavailableError: the database does not answer. Where the commit itself
                failed, ``outcome`` in the metadata is `OUTCOME_UNKNOWN`.
        """
        if self._read_only:
            raise ReadOnlyReplicaError(
                "this server follows a branch and never writes to the ledger; send the request to "
                "a server that was started without --follow"
            )
        self._require_claimed_file()
        with translated_errors(), self._engine.connect() as connection:
            yield connection
            with commit_outcome(connection):
                connection.commit()

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """What ``work`` returns, once it is known that its transaction was committed.

        ``work`` may run more than once: where the outcome of a commit is unknown, and where
        PostgreSQL undid it for another's sake. It has to find by its ids what an earlier run
        stored, and return the same. Its locks wait for a lost connection's transaction,
        should that still run.

        Raises:
            LedgerUnavailableError: the database does not answer. Where it stayed away after
                a commit, ``outcome`` in the metadata is `OUTCOME_UNKNOWN`.
        """
        lost: LedgerUnavailableError | None = None
        settling, retrying = iter(SETTLING_PAUSES), iter(RETRY_PAUSES)
        while True:
            try:
                with self.writing() as connection:
                    return work(connection)
            except LedgerUnavailableError as error:
                if error.metadata.get("outcome") == OUTCOME_UNKNOWN:
                    lost = lost or error
                undone = error.metadata.get("sqlstate") in RETRIED
                pauses = settling if lost is not None else retrying if undone else iter(())
                pause = next(pauses, None)
                if pause is None:
                    raise lost or error from None
            time.sleep(pause)

    def check_schema(self) -> None:
        """Do nothing if the database has the schema this server knows.

        Raises:
            SchemaMismatchError: saying what to run.
            LedgerUnavailableError: the database does not answer.
        """
        with self.reading() as connection:
            require_current_schema(connection)

    def require_file(self) -> None:
        """Do nothing if there is a database to read; SQLite would make a file of that name.

        Raises:
            LedgerUnavailableError: a SQLite ledger's file is not there.
        """
        path = self._engine.url.database
        if self._engine.dialect.name == SQLITE and path is not None and not Path(path).exists():
            raise LedgerUnavailableError(f"there is no SQLite ledger {path}; correct the URL")

    def network_filesystem(self) -> str | None:
        """The kind of network filesystem that a SQLite ledger is on, where it is on one."""
        path = self._engine.url.database
        if self._engine.dialect.name != SQLITE or path is None:
            return None
        return network_filesystem(Path(path))

    def claim(self) -> None:
        """Be the only server on a SQLite file until closed; PostgreSQL takes any number.

        A server ends what an earlier one left running, which another live one must not suffer.

        Raises:
            LedgerUnavailableError: another server holds the file, or its folder is read-only.
        """
        path = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or path is None:
            return
        try:
            claim = Path(f"{path}.lock").open("wb")  # noqa: SIM115 - held until `close`
        except OSError as error:
            raise LedgerUnavailableError(
                f"cannot lock the SQLite ledger with {path}.lock ({error.strerror}); let the "
                "server write in that folder"
            ) from error
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

    @property
    def claimed(self) -> bool:
        """Whether no other server can be writing to this ledger."""
        return self._claim is not None

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


def unhurried(connection: Connection) -> None:
    """Let this transaction take as long as it needs: PostgreSQL's limits are for requests."""
    if connection.dialect.name == SQLITE:
        return
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {limit} = 0"))


def ledger_engine(url: str, *, read_only: bool = False) -> Engine:
    """An engine set up for a ledger at ``url``.

    Raises:
        InvalidInputError: the URL cannot be used, as `read_url` says.
    """
    parsed = read_url(url)
    make = _sqlite_engine if parsed.kind == SQLITE else _postgresql_engine
    return make(parsed, read_only=read_only)


def _pooled(url: LedgerUrl, driver: URL, arguments: dict[str, Any]) -> Engine:
    tuning = url.tuning
    return create_engine(
        driver,
        connect_args=arguments,
        hide_parameters=True,
        pool_pre_ping=url.kind != SQLITE,
        pool_size=tuning.pool_size,
        max_overflow=tuning.pool_overflow,
        pool_timeout=tuning.pool_timeout,
        pool_recycle=tuning.pool_recycle,
    )


def _postgresql_engine(url: LedgerUrl, *, read_only: bool) -> Engine:
    tuning, said = url.tuning, url.driver.query
    limits = {
        "lock_timeout": tuning.lock_timeout,
        "statement_timeout": tuning.statement_timeout,
        "idle_in_transaction_session_timeout": tuning.idle_timeout,
    }
    ours = " ".join(f"-c {name}={int(seconds * 1_000)}" for name, seconds in limits.items())
    if read_only:  # else it is as the database has it, which may be read-only itself
        ours += " -c default_transaction_read_only=on"
    arguments = {
        "application_name": said.get("application_name", "errata-server"),
        "connect_timeout": said.get("connect_timeout", CONNECT_SECONDS),
        "options": f"{ours} {said.get('options', '')}".strip(),
    }
    arguments |= {name: value for name, value in KEEPALIVES.items() if name not in said}
    engine = _pooled(url, url.driver, arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone() == ("off",):  # else it stays as it is: it may be stricter than ours
            cursor.execute("SET synchronous_commit = on")
        cursor.close()
        connection.commit()

    return engine


def _sqlite_engine(url: LedgerUrl, *, read_only: bool) -> Engine:
    patience, driver = url.tuning.lock_timeout, url.driver
    if read_only:
        # Opening must not make a file; reading one in WAL mode does write beside it.
        file = URL.create(driver.drivername, database=f"file:{quote(driver.database or '')}")
        driver = file.update_query_dict({"mode": "rw", "uri": "true"})
    engine = _pooled(url, driver, {"timeout": patience})
    folder = Path(url.driver.database or "").parent

    @event.listens_for(engine, "do_connect")
    def require_folder(*_: object) -> None:
        if not folder.is_dir() and not str(folder).startswith("file:"):
            raise LedgerUnavailableError(
                f"there is no folder {folder} for the SQLite ledger; make it, or correct the URL"
            )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            _enter_wal(connection, patience)
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            "recursive_triggers = ON",
            "trusted_schema = OFF",
            f"journal_size_limit = {LARGEST_IDLE_WAL}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("errata_read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _enter_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL, which the file remembers.

    SQLite does not wait for a lock while switching, so two processes that open a new file
    together must be told to try again.
    """
    deadline = time.monotonic() + patience
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
