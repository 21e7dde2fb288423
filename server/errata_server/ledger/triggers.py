"""The triggers that guard a ledger's rows, set aside for an import.

Invariant: they are set aside and put back in the transaction of the caller, who holds the
tables for itself: nobody ever writes without them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, text

_POSTGRESQL_TRIGGERS: Final = """
    SELECT found.relname AS relation, guard.tgname AS name, guard.tgenabled AS enabled
    FROM pg_trigger AS guard JOIN pg_class AS found ON found.oid = guard.tgrelid
    WHERE NOT guard.tgisinternal AND found.relnamespace = current_schema()::regnamespace
    ORDER BY 1, 2
"""
_ENABLE: Final = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}


@contextmanager
def suspended_triggers(connection: Connection) -> Iterator[None]:
    """Let rows be written in any order within the block: they guard how history grows.

    If the block raises they are not put back, and the transaction must not be committed.
    """
    if connection.dialect.name == "sqlite":
        yield from _sqlite(connection)
    else:
        yield from _postgresql(connection)


def _sqlite(connection: Connection) -> Iterator[None]:
    found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    triggers = found.all()
    for name, _ in triggers:
        connection.exec_driver_sql(f"DROP TRIGGER {_quoted(connection, name)}")
    yield
    for _, definition in triggers:
        connection.exec_driver_sql(definition)


def _postgresql(connection: Connection) -> Iterator[None]:
    triggers = connection.execute(text(_POSTGRESQL_TRIGGERS)).all()
    for relation in dict.fromkeys(trigger.relation for trigger in triggers):
        table = _quoted(connection, relation)
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield
    for trigger in triggers:
        table, name = (_quoted(connection, part) for part in (trigger.relation, trigger.name))
        how = _ENABLE[trigger.enabled]
        connection.exec_driver_sql(f"ALTER TABLE {table} {how} TRIGGER {name}")


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
