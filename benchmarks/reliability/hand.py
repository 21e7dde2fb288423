"""Whoever owns a ledger's database, at work on it behind errata's back.

Invariants: the connection is one that errata knows nothing of; everything happens in one
transaction with the triggers out of the way, and nothing of it where an exception ends it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg

from errata_server.ledger.tables import metadata

Raw = sqlite3.Connection | psycopg.Connection[Any]
Values = dict[str, Any]
Backup = Mapping[str, Sequence[Values]]
"""Every row of every table, in the order of its key."""

REFUSED: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    psycopg.IntegrityError,
    psycopg.DataError,
)
"""What the database itself does not allow, whoever asks."""


def raw_connection(url: str) -> Raw:
    """A connection that errata knows nothing of and has set nothing on."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


def disarm(connection: Raw) -> Callable[[], None]:
    """Drop the triggers, and no longer enforce foreign keys; what puts them back."""
    if isinstance(connection, sqlite3.Connection):
        return partial(_run_all, connection, _drop_triggers(connection))
    own = connection.execute(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    ).fetchall()
    for table in metadata.tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    enable = [f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in metadata.tables]
    enable += [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for table, name in own]
    return partial(_run_all, connection, enable)


def _drop_triggers(connection: sqlite3.Connection) -> list[str]:
    """Drop every trigger; the statements that make them again."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    found = connection.execute(query).fetchall()
    for name, _ in found:
        connection.execute(f"DROP TRIGGER {name}")
    return [statement for _, statement in found]


def _run_all(connection: Raw, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)


@contextmanager
def tampering(url: str, *, rearm: bool = False) -> Iterator[Callable[[str], Any]]:
    """Runs statements that the ledger's triggers would refuse, all in one transaction.

    Args:
        url: The ledger's database.
        rearm: Put the triggers back afterwards, so that nobody sees that they were gone.
    """
    with hand(url, rearm=rearm) as found:
        yield found.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """Whoever owns the database, at work."""

    connection: Raw

    def run(self, statement: str, values: Sequence[object] = ()) -> Any:  # noqa: ANN401 - a cursor
        """Run one statement; write ``?`` for each of ``values``."""
        if isinstance(self.connection, psycopg.Connection):
            return self.connection.execute(statement.replace("?", "%s"), values or None)
        return self.connection.execute(statement, tuple(values))

    def rows(self, table: str) -> list[Values]:
        """Every row of a table in the order of its key."""
        columns = [column.name for column in metadata.tables[table].columns]
        keys = ", ".join(column.name for column in metadata.tables[table].primary_key.columns)
        found = self.run(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {keys}")  # noqa: S608
        return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]

    def everything(self) -> Backup:
        """Every row of every table."""
        return {table.name: self.rows(table.name) for table in metadata.sorted_tables}

    def update(self, table: str, row: Values, values: Values) -> None:
        """Give a row other values."""
        keys = [column.name for column in metadata.tables[table].primary_key.columns]
        setting = ", ".join(f"{name} = ?" for name in values)
        where = " AND ".join(f"{name} = ?" for name in keys)
        self.run(
            f"UPDATE {table} SET {setting} WHERE {where}",  # noqa: S608 - our own names
            [*values.values(), *(row[name] for name in keys)],
        )

    def delete(self, table: str, row: Values) -> None:
        """Remove a row."""
        keys = [column.name for column in metadata.tables[table].primary_key.columns]
        where = " AND ".join(f"{name} = ?" for name in keys)
        self.run(f"DELETE FROM {table} WHERE {where}", [row[name] for name in keys])  # noqa: S608

    def insert(self, table: str, *rows: Values) -> None:
        """Add rows that have the same columns."""
        if not rows:
            return
        mark = "%s" if isinstance(self.connection, psycopg.Connection) else "?"
        places = ", ".join(mark for _ in rows[0])
        self.connection.cursor().executemany(
            f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({places})",  # noqa: S608
            [tuple(row.values()) for row in rows],
        )


@contextmanager
def hand(url: str, *, rearm: bool = False) -> Iterator[Hand]:
    """Somebody at work on the database at ``url``, in one transaction, the triggers gone.

    An exception undoes all of it; the triggers are then as they were.
    """
    connection = raw_connection(url)
    try:
        immediately = isinstance(connection, sqlite3.Connection)  # or what is read goes stale
        connection.execute("BEGIN IMMEDIATE" if immediately else "BEGIN")
        arm = disarm(connection)
        yield Hand(connection=connection)
        if rearm:
            arm()
        connection.execute("COMMIT")
    finally:
        connection.close()


def back_up(url: str) -> Backup:
    """Every row of the ledger at ``url`` as it is now."""
    connection = raw_connection(url)
    try:
        return Hand(connection=connection).everything()
    finally:
        connection.close()


def restore(found: Hand, backup: Backup) -> None:
    """Put a backup in the place of what is there."""
    for table in reversed(metadata.sorted_tables):
        found.run(f"DELETE FROM {table.name}")  # noqa: S608 - our own names
    for table in metadata.sorted_tables:
        found.insert(table.name, *backup[table.name])
