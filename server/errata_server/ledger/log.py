"""Statements on the log: an entry for every row of a model's history, in commit order.

Invariants: an entry is appended in the transaction that inserts its row; positions are given out
under the lock of the log's first entry, which a transaction takes after every other lock, so
that commit order is position order and nobody waits in a circle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, String, Table, cast, func, insert, select

from errata_server.domain import canonical
from errata_server.domain.ids import Digest, ModelId
from errata_server.domain.log import LogEntry, LogKind
from errata_server.ledger import tables
from errata_server.ledger.bodies import corrupt, short
from errata_server.ledger.database import Database
from errata_server.ledger.tables import RowsQuery, StoredRow

ROWS_AT_ONCE: Final = 200
"""Rows whose bodies are held at a time while they are hashed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Where the rows of one kind are, and what an entry says of one."""

    table: Table
    key: str
    digest: str
    """The column that holds the digest of the row's body."""

    model: str = "model"
    order: tuple[str, ...] = ("position",)
    """Rows are given entries in this order; within each value of all columns but the last."""

    def column(self, name: str) -> Column[Any]:
        """A column of the table."""
        return self.table.c[name]

    @property
    def key_text(self) -> Any:  # noqa: ANN401 - SQLAlchemy's own expression
        """The key as an entry has it."""
        return cast(self.column(self.key), String)


LOGGED: Final = {
    LogKind.MODEL: Logged(
        table=tables.models, key="id", digest="body_digest", model="id", order=("id",)
    ),
    LogKind.PROFILE: Logged(table=tables.profiles, key="position", digest="id"),
    LogKind.EDIT: Logged(table=tables.edits, key="id", digest="digest"),
    LogKind.REPORT: Logged(table=tables.reports, key="id", digest="id"),
    LogKind.APPROVAL: Logged(table=tables.approvals, key="position", digest="digest"),
    LogKind.SUITE: Logged(table=tables.suites, key="position", digest="digest"),
    LogKind.REVISION: Logged(
        table=tables.revisions, key="id", digest="id", order=("branch", "sequence")
    ),
}
"""Every kind of row that is part of a history."""


def log_row(position: int) -> str:
    """How findings and errors name a row of `log_entries`."""
    return f"log_entries[#{position}]"


def logged_row(kind: str, key: str) -> str:
    """How findings name the row an entry stands for."""
    return f"{kind} {short(key)}"


def begin(connection: Connection, model: ModelId, digest: Digest) -> None:
    """Append the first entry, for the model's own row, which has just been inserted."""
    _insert(connection, model, 0, LogKind.MODEL, model, digest)


def append(
    connection: Connection, model: ModelId, kind: LogKind, key: object, digest: Digest
) -> None:
    """Append the entry of a row that has just been inserted; the last lock to be taken.

    Raises:
        LedgerCorruptError: the log's first entry is missing.
    """
    columns = tables.log_entries.c
    first = select(columns.position).where(columns.model == model, columns.position == 0)
    if connection.scalar(first.with_for_update(key_share=True)) is None:
        raise corrupt(log_row(0), "missing")
    highest = connection.scalar(select(func.max(columns.position)).where(columns.model == model))
    _insert(connection, model, int(highest or 0) + 1, kind, str(key), digest)


def _insert(
    connection: Connection, model: str, position: int, kind: LogKind, key: str, digest: str
) -> None:
    connection.execute(
        insert(tables.log_entries).values(
            model=model, position=position, kind=kind.value, key=key, digest=digest
        )
    )


class LogReader:
    """What the log of a model says; each method is one transaction that sees one state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def entries(self, model: ModelId, *, start: int, limit: int) -> list[LogEntry]:
        """At most ``limit`` entries from position ``start`` on.

        Raises:
            LedgerCorruptError: one is missing, or of no kind.
        """
        with self._database.reading() as connection:
            return read(connection, model, start=start, limit=limit)

    def all_entries(self, model: ModelId) -> list[LogEntry]:
        """Every entry.

        Raises:
            LedgerCorruptError: one is missing, or of no kind.
        """
        with self._database.reading() as connection:
            return read(connection, model, start=0)

    def find(self, model: ModelId, kind: LogKind, key: str) -> LogEntry | None:
        """The entry of one row, if it has one."""
        columns = tables.log_entries.c
        statement = select(tables.log_entries).where(
            columns.model == model, columns.kind == kind.value, columns.key == key
        )
        with self._database.reading() as connection:
            row = connection.execute(statement).one_or_none()
            return None if row is None else entry(row)

    def body(self, model: ModelId, found: LogEntry) -> bytes:
        """The bytes of the row an entry stands for, hashed again.

        Raises:
            LedgerCorruptError: the row is missing, or hashes to something else.
        """
        with self._database.reading() as connection:
            bodies = _bodies(connection, model, found.kind, [found.key])
            return _vouched(found, bodies.get(found.key))

    def verified(self, model: ModelId, start: int) -> list[LogEntry]:
        """The entries from position ``start`` on, each with its row read back and hashed again.

        Raises:
            LedgerCorruptError: an entry or its row is missing, or a row hashes to something else.
        """
        with self._database.reading() as connection:
            found = read(connection, model, start=start)
            for place in range(0, len(found), ROWS_AT_ONCE):
                _rehash(connection, model, found[place : place + ROWS_AT_ONCE])
            return found


def read(
    connection: Connection, model: ModelId, *, start: int, limit: int | None = None
) -> list[LogEntry]:
    """At most ``limit`` entries from position ``start`` on; all of them where there is none.

    Raises:
        LedgerCorruptError: one is missing, or of no kind.
    """
    columns = tables.log_entries.c
    statement: RowsQuery = (
        select(tables.log_entries)
        .where(columns.model == model, columns.position >= start)
        .order_by(columns.position)
        .limit(limit)
    )
    found = [entry(row) for row in connection.execute(statement)]
    for place, one in enumerate(found, start):
        if one.position != place:
            raise corrupt(log_row(place), "missing")
    return found


def entry(row: StoredRow) -> LogEntry:
    """The entry a row holds.

    Raises:
        LedgerCorruptError: it is of no kind that this server knows.
    """
    try:
        kind = LogKind(row.kind)
    except ValueError:
        raise corrupt(log_row(row.position), f"there is no kind {row.kind!r}") from None
    return LogEntry(position=row.position, kind=kind, key=row.key, digest=Digest(row.digest))


def _rehash(connection: Connection, model: ModelId, entries: Sequence[LogEntry]) -> None:
    for kind in LogKind:
        own = [one for one in entries if one.kind is kind]
        bodies = _bodies(connection, model, kind, [one.key for one in own]) if own else {}
        for one in own:
            _vouched(one, bodies.get(one.key))


def _bodies(
    connection: Connection, model: ModelId, kind: LogKind, keys: Sequence[str]
) -> dict[str, bytes]:
    logged = LOGGED[kind]
    key = logged.column(logged.key)
    wanted = [int(one) for one in keys if one.isdecimal()] if key.type.python_type is int else keys
    statement = select(logged.key_text.label("key"), logged.column("body")).where(
        logged.column(logged.model) == model, key.in_(wanted)
    )
    return {row.key: row.body for row in connection.execute(statement)}


def _vouched(found: LogEntry, body: bytes | None) -> bytes:
    """``body``, if it is what the entry stands for.

    Raises:
        LedgerCorruptError: it is not.
    """
    row = logged_row(found.kind, found.key)
    if body is None:
        raise corrupt(log_row(found.position), f"the {row} it stands for is missing")
    if canonical.digest(body) != found.digest:
        raise corrupt(log_row(found.position), f"the {row} it stands for is another one")
    return body


def rows_of(
    connection: Connection, model: ModelId, kind: LogKind
) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Key, digest and place in the order of entries of every row of one kind."""
    logged = LOGGED[kind]
    order = [logged.column(name) for name in logged.order]
    statement = select(logged.key_text, logged.column(logged.digest), *order).where(
        logged.column(logged.model) == model
    )
    for key, digest, *place in connection.execute(statement.order_by(*order)):
        yield key, digest, tuple(place)
