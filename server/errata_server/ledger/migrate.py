"""Bring a ledger's database to the schema this server knows.

Invariant: two processes may migrate one database at once; one of them does the work in a
single transaction and the other finds it done.
"""

from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from errata_server.ledger.database import ledger_engine, unhurried
from errata_server.ledger.failures import translated_errors
from errata_server.ledger.schema import SchemaState, alembic_config, require_current_schema
from errata_server.ledger.schema import schema_state as state_of

MIGRATION_LOCK: Final = 0x65727261746100
"""PostgreSQL advisory lock held while migrating; spells "errata"."""


def migrate(url: str) -> bool:
    """Upgrade the database at ``url``, creating the schema if it has none.

    Returns:
        Whether anything had to be done.

    Raises:
        LedgerUnavailableError: the database does not answer.
        SchemaMismatchError: a newer server migrated it already.
    """
    engine = ledger_engine(url)
    try:
        with translated_errors(), engine.begin() as connection:
            lock_schema(connection)
            state = state_of(connection)
            if state is SchemaState.CURRENT:
                return False
            if state is SchemaState.NEWER:
                require_current_schema(connection)
            upgrade(connection)
            return True
    finally:
        engine.dispose()


def lock_schema(connection: Connection) -> None:
    """Be the only one who changes the schema until the transaction ends, however long it takes."""
    unhurried(connection)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to ``revision`` in the transaction of ``connection``."""
    command.upgrade(_config(connection), revision)


def remove_schema(connection: Connection) -> None:
    """Take the tables of a ledger without history away, in the transaction of ``connection``."""
    command.downgrade(_config(connection), "base")


def _config(connection: Connection) -> Config:
    config = alembic_config()
    config.attributes["connection"] = connection
    return config
