"""Word between servers on one PostgreSQL ledger that a revision has been committed.

Invariants: a notification is a hint and carries nothing anybody relies on, since one that is
sent while nobody is connected is lost; whoever hears one asks the ledger. SQLite has no such
thing: there polling does it alone.
"""

import threading
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from errata_server.domain.ids import ModelId
from errata_server.domain.revisions import Revision
from errata_server.ledger.database import CONNECT_SECONDS, KEEPALIVES, ledger_engine

CHANNEL: Final = "errata_revisions"
LOOK_SECONDS: Final = 0.5
"""How long one wait for a notification lasts before the listener looks whether it is to end."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 10.0
"""Seconds between attempts to connect again."""

_LOG = structlog.stdlib.get_logger(__name__)


def announce(connection: Connection, revision: Revision) -> None:
    """Tell listeners of ``revision`` once this transaction is committed."""
    if connection.dialect.name != "postgresql":
        return
    payload = f"{revision.model}:{revision.branch}:{revision.sequence}"
    connection.execute(
        text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload}
    )


class Listener:
    """One connection of its own that waits for notifications about one model."""

    def __init__(self, url: str, model: ModelId) -> None:
        """Prepare to listen at ``url``; nothing is opened yet."""
        engine = ledger_engine(url)
        self._hears = engine.dialect.name == "postgresql"
        # Not of the pool: this connection is never given back, and is in no transaction.
        self._engine = create_engine(
            engine.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT" if self._hears else None,
            connect_args={"connect_timeout": CONNECT_SECONDS, **KEEPALIVES} if self._hears else {},
            hide_parameters=True,
        )
        self._prefix = f"{model}:"
        self._failures: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            engine.dialect.loaded_dbapi.Error,
        )
        engine.dispose()

    def run(self, stop: threading.Event, hear: Callable[[], None]) -> None:
        """Call ``hear`` whenever there may be something new, until ``stop``.

        Connects again after it was cut off, and calls ``hear`` then as well: what was sent
        meanwhile is lost. Returns at once where the database cannot notify.
        """
        delay = FIRST_DELAY
        while self._hears and not stop.is_set():
            try:
                with self._engine.connect() as connection:
                    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                    delay = FIRST_DELAY
                    hear()
                    self._hear_from(connection, stop, hear)
            except self._failures as error:
                _LOG.info("not listening to the ledger", cause=type(error).__name__, retry=delay)
                stop.wait(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    def _hear_from(
        self, connection: Connection, stop: threading.Event, hear: Callable[[], None]
    ) -> None:
        driver = connection.connection.driver_connection
        if driver is None:
            return
        while not stop.is_set():
            for notification in driver.notifies(timeout=LOOK_SECONDS, stop_after=1):
                if notification.payload.startswith(self._prefix):
                    hear()
