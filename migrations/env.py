"""Runs the ledger's migrations; Alembic executes this file.

The connection comes from `errata_server.ledger.migrate`, which holds the migration lock. By
hand: ``alembic -c migrations/alembic.ini -x ledger=URL upgrade head``.
"""

from alembic import context
from sqlalchemy import Connection, Engine

from errata_server.ledger.database import ledger_engine
from errata_server.ledger.tables import metadata


def run(connection: Connection) -> None:
    """Run what Alembic was asked for on ``connection``."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_with(source: Connection | Engine) -> None:
    """Run on the connection given, or on a new one of the engine given."""
    if isinstance(source, Connection):
        run(source)
        return
    with source.connect() as connection:
        run(connection)
        connection.commit()


if context.is_offline_mode():
    raise SystemExit("the ledger's triggers need a live connection; run without --sql")

given = context.config.attributes.get("connection")
if given is None:
    url = context.get_x_argument(as_dictionary=True).get("ledger")
    if not url:
        raise SystemExit("say which ledger to migrate: alembic -x ledger=URL ...")
    given = ledger_engine(url)
run_with(given)
