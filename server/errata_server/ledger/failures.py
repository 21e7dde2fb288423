"""What the databases' drivers raise, as domain errors: the one place that knows both.

Invariants: no SQLAlchemy exception leaves `translated_errors`; no URL, user, statement or
parameter appears in a message; an error says ``outcome`` is unknown only where a commit may
have been carried out.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    LedgerCorruptError,
    LedgerUnavailableError,
    SchemaMismatchError,
)
from errata_server.ledger.schema import MIGRATE_COMMAND

OUTCOME_UNKNOWN: Final = "unknown"
"""Value of ``outcome`` in the metadata of an error raised by a commit that may have worked."""

RETRIED: Final = frozenset({"40001", "40P01"})
"""SQLSTATE of transactions PostgreSQL undid so that another could go on."""

_LOST_STATES: Final = frozenset({"40003", "57P01", "57P02", "57P03"})
_LOST_CLASSES: Final = frozenset({"08", "58", "XX"})
_MISSING_STATES: Final = frozenset({"3F000", "42P01", "42703", "42704", "42883"})
_MISSING_WORDS: Final = ("no such table", "no such column")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What is the matter with the database, and what to do about it."""

    what: str
    advice: str = "retry after a while"


_GRANT: Final = _Refusal(
    "refuses this to its role or user",
    "grant it, as the guide of operations says under PostgreSQL",
)
_FULL: Final = _Refusal("is on a full disk", "free some space")
_READ_ONLY: Final = _Refusal(
    "can only be read: it is a standby, or its file or disk is write-protected",
    "use the primary, or make it writable",
)
_WAITED: Final = _Refusal("was locked by another writer for longer than its lock_timeout")
_POOLED: Final = _Refusal(
    "lost a prepared statement",
    "a pooler in transaction mode stands between, so connect without it",
)
_USER: Final = _Refusal("refuses the user of the ledger's URL", "correct the URL")
_PASSWORD: Final = _Refusal("refuses the user or password of the ledger's URL", "correct the URL")
_NOT_THERE: Final = _Refusal("is not there", "create it, or correct the ledger's URL")
_NO_CONNECTION: Final = _Refusal(
    "has no connection left", "lower pool_size, or raise its max_connections"
)
_POOL_EMPTY: Final = _Refusal("has no free connection", "raise pool_size, or send less")
_AWAY: Final = _Refusal("does not answer")

_BY_STATE: Final = {
    "25006": _READ_ONLY,
    "25P03": _Refusal("ended a transaction that was idle for longer than its idle_timeout"),
    "26000": _POOLED,
    "28000": _USER,
    "28P01": _PASSWORD,
    "3D000": _NOT_THERE,
    "40001": _Refusal("had transactions that excluded each other"),
    "40P01": _Refusal("had transactions that waited for each other"),
    "42501": _GRANT,
    "42P05": _POOLED,
    "53100": _FULL,
    "53300": _NO_CONNECTION,
    "55P03": _WAITED,
    "57014": _Refusal("took longer for a statement than its statement_timeout"),
}
_BY_SQLITE_NAME: Final = {
    "SQLITE_AUTH": _GRANT,
    "SQLITE_BUSY": _WAITED,
    "SQLITE_CANTOPEN": _Refusal(
        "cannot be opened", "does its folder exist, and may the server write there?"
    ),
    "SQLITE_FULL": _FULL,
    "SQLITE_LOCKED": _WAITED,
    "SQLITE_PERM": _GRANT,
    "SQLITE_READONLY": _READ_ONLY,
}
# libpq gives no SQLSTATE where a connection was refused. English is what it says unless
# lc_messages is another language; what is not recognised merely does not answer.
_BY_WORDS: Final = {
    'FATAL:  database "': _NOT_THERE,
    "no password supplied": _PASSWORD,
    "password authentication failed": _PASSWORD,
    "no pg_hba.conf entry": _USER,
    'FATAL:  role "': _USER,
    "permission denied for database": _GRANT,
    "too many c": _NO_CONNECTION,  # clients already, connections for role or database
    "remaining connection slots": _NO_CONNECTION,
}


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the database driver raises into domain errors."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, PendingRollbackError) as error:
        raise _domain_error(error) from error


@contextmanager
def commit_outcome(connection: Connection) -> Iterator[None]:
    """Tell a commit whose outcome is unknown from one that was refused.

    Raises:
        LedgerUnavailableError: it is unknown; ``outcome`` in the metadata says so.
    """
    try:
        yield
    except DBAPIError as error:
        # Nothing rolls back a transaction whose commit failed: the pool would hand the
        # connection on with the transaction open, and with its lock.
        connection.invalidate()
        if not _may_have_committed(error):
            raise
        raise LedgerUnavailableError(
            "the connection to the ledger's database was lost while committing, so the outcome "
            "is unknown; send the same request id again to learn it",
            outcome=OUTCOME_UNKNOWN,
            cause=type(error.orig).__name__,
        ) from error


def _may_have_committed(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_name(error.orig) in {"", "SQLITE_IOERR"}
    state = _state(error)
    return not state or state in _LOST_STATES or state[:2] in _LOST_CLASSES


def _domain_error(error: DBAPIError | PoolTimeoutError | PendingRollbackError) -> ErrataError:
    if not isinstance(error, DBAPIError):
        return _unavailable(_POOL_EMPTY, type(error).__name__)
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
    if type(error) is DatabaseError:  # SQLite's "malformed" and "not a database"
        return LedgerCorruptError(
            "the ledger's file is damaged; restore it from a backup", cause=cause
        )
    return _refused(error, cause)


def _refused(error: DBAPIError, cause: str) -> LedgerUnavailableError:
    if isinstance(error, IntegrityError):
        return _unavailable(_Refusal("had another writer change the same rows"), cause)
    if isinstance(error.orig, sqlite3.Error):
        return _unavailable(_BY_SQLITE_NAME.get(_sqlite_name(error.orig), _AWAY), cause)
    state = _state(error)
    if not state:
        return _unavailable(_said(str(error.orig)), cause)
    return _unavailable(_BY_STATE.get(state, _AWAY), cause, sqlstate=state)


def _said(words: str) -> _Refusal:
    return next((refusal for part, refusal in _BY_WORDS.items() if part in words), _AWAY)


def _names_missing_table(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(error, OperationalError) and str(error.orig).startswith(_MISSING_WORDS)
    return _state(error) in _MISSING_STATES


def _sqlite_name(error: sqlite3.Error) -> str:
    """The name of SQLite's result code, without what extends it."""
    try:
        words = error.sqlite_errorname.split("_")
    except AttributeError:  # raised by the driver itself, not by SQLite
        return ""
    return "_".join(words[:2])


def _state(error: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE, empty where the driver has none."""
    # Imported here: only a PostgreSQL ledger needs the driver.
    from psycopg import Error  # noqa: PLC0415

    return (error.orig.sqlstate or "") if isinstance(error.orig, Error) else ""


def _unavailable(refusal: _Refusal, cause: str, **metadata: str) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"the ledger's database {refusal.what}; {refusal.advice} ({cause})", cause=cause, **metadata
    )
