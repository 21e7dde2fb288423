"""Faults at the n-th call to a database, on SQLAlchemy's own events and a real driver.

Invariants: only calls made while armed are counted; at most one fault is made for each time
it is armed; what is raised is what the driver would raise.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, Pool, event
from sqlalchemy.exc import OperationalError

DELAY_SECONDS: Final = 0.01
GONE_MS: Final = 5_000


class Fault(StrEnum):
    """What goes wrong with a call."""

    BEFORE = "before"
    """It fails before the database has heard of it."""

    AFTER = "after"
    """The database does it, and the reply is an error: a commit has happened."""

    DELAYED = "delayed"
    """It takes longer."""

    LOST = "lost"
    """The connection is lost: PostgreSQL ends the session, SQLite's disk fails."""


@dataclass(slots=True)
class Injector:
    """Counts calls while armed, and spoils one of them."""

    _fault: Fault | None = None
    _number: int = 0
    calls: int = 0
    """Calls since it was armed."""

    fired: bool = False

    @contextmanager
    def armed(self, fault: Fault, number: int) -> Iterator[None]:
        """Spoil the call of this number, counted from 1, inside the block."""
        self._fault, self._number, self.calls, self.fired = fault, number, 0, False
        try:
            yield
        finally:
            self._fault = None

    @contextmanager
    def listening(self) -> Iterator["Injector"]:
        """Hear of the calls of every engine of this process inside the block."""
        hooks = (
            (Pool, "checkout", self._checkout),
            (Engine, "before_cursor_execute", self._before_execute),
            (Engine, "after_cursor_execute", self._after_execute),
            (Engine, "commit", self._commit),
        )
        for target, name, hook in hooks:
            event.listen(target, name, hook)
        try:
            yield self
        finally:
            for target, name, hook in hooks:
                event.remove(target, name, hook)

    def _due(self) -> Fault | None:
        """The fault of this call, which counts."""
        if self._fault is None:
            return None
        self.calls += 1
        if self.calls != self._number:
            return None
        self.fired = True
        return self._fault

    def _checkout(self, driver: Any, _record: object, _proxy: object) -> None:  # noqa: ANN401
        fault = self._due()
        if fault is Fault.DELAYED:
            time.sleep(DELAY_SECONDS)
        elif fault is Fault.LOST:
            _lose(driver)
        elif fault is not None:
            raise _error(driver, "no connection can be had")

    def _before_execute(self, connection: Connection, *_: object) -> None:
        fault = self._due()
        if fault is not Fault.AFTER:
            _strike(fault, connection)

    def _after_execute(self, connection: Connection, *_: object) -> None:
        # The call has been counted before it was made.
        if self._fault is Fault.AFTER and self.fired and self.calls == self._number:
            self._fault = None
            raise _error(_driver(connection), "the reply was lost")

    def _commit(self, connection: Connection) -> None:
        fault = self._due()
        if fault is Fault.AFTER:
            self._fault = None
            _driver(connection).commit()
            raise _error(_driver(connection), "the reply to a commit was lost")
        _strike(fault, connection)


def _strike(fault: Fault | None, connection: Connection) -> None:
    if fault is Fault.DELAYED:
        time.sleep(DELAY_SECONDS)
    elif fault is Fault.LOST:
        _lose(_driver(connection))
    elif fault is Fault.BEFORE:
        raise _error(_driver(connection), "the call was not made")


def _driver(connection: Connection) -> Any:  # noqa: ANN401  # either driver's connection
    return connection.connection.dbapi_connection


def _lose(driver: Any) -> None:  # noqa: ANN401
    """End the session, so that the driver itself finds the connection gone."""
    if isinstance(driver, sqlite3.Connection):
        driver.rollback()  # as SQLite does when its disk fails
        raise _error(driver, "disk I/O error")
    with psycopg.connect(driver.info.dsn, autocommit=True) as other:
        pid = driver.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, %s)", (pid, GONE_MS))


def _error(driver: object, words: str) -> OperationalError:
    origin: type[Exception] = psycopg.OperationalError
    if isinstance(driver, sqlite3.Connection):
        origin = sqlite3.OperationalError
    return OperationalError(None, None, origin(f"injected: {words}"))
