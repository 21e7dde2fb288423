"""What somebody with the database's own tools can do to a ledger behind errata's back."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from errata_server.ledger.tables import metadata


def raw_connection(url: str) -> sqlite3.Connection | psycopg.Connection:
    """A connection that errata knows nothing of and has set nothing on."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


def disarm(connection: sqlite3.Connection | psycopg.Connection) -> None:
    """Drop the triggers, and no longer enforce foreign keys."""
    if isinstance(connection, sqlite3.Connection):
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in found.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        return
    for table in metadata.tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")


@contextmanager
def tampering(url: str) -> Iterator[Callable[[str], object]]:
    """Runs statements that the ledger's triggers would refuse, all in one transaction."""
    connection = raw_connection(url)
    try:
        disarm(connection)
        connection.execute("BEGIN")
        yield connection.execute
        connection.execute("COMMIT")
    finally:
        connection.close()
