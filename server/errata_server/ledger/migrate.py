"""Bring a ledger's database to the schema this server knows.

Invariant: two processes may migrate one database at once; one of them does the work in a
single transaction and the other finds it done.
"""

from typing import Final

from alembic import command
from sqlalchemy import text

from errata_server.ledger.database import ledger_engine, translated_errors
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
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            state = state_of(connection)
            if state is SchemaState.CURRENT:
                return False
            if state is SchemaState.NEWER:
                require_current_schema(connection)
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return True
    finally:
        engine.dispose()
