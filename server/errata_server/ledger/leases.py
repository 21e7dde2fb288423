"""Leases: which server may carry out operations on a model, and what that stores.

Beside `operations` this is the ledger's one working table; no history depends on it.

Invariants: time is the database's own, so that no server's clock decides; a token only grows,
by one with every holder; a transaction of an operation holds the lease's row from its check of
the token to its end, so that nobody takes over in between. Whoever locks more than one row
locks the lease first, then the model, then operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, Integer, insert, literal_column, select, update

from errata_server.domain.errors import LeaseLostError
from errata_server.domain.ids import ModelId
from errata_server.domain.leases import Fence, Lease
from errata_server.ledger import models, operations, tables
from errata_server.ledger.database import Database
from errata_server.ledger.tables import StoredRow

MILLISECONDS: Final = 1_000
_NOW: Final = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_FENCE: Final[ContextVar[Fence | None]] = ContextVar("fence", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a server says when it asks for a lease."""

    model: ModelId
    holder: str
    address: str
    seconds: float
    sole: bool = False
    """Whether nobody else can be writing here, so that a lease may be taken before it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking for a lease."""

    lease: Lease
    """The claimant's own, or that of the server which holds it."""

    interrupted: int = 0
    """Operations of earlier holders that were ended, as nobody carries them out any more."""


@contextmanager
def under(fence: Fence) -> Iterator[None]:
    """Have every transaction of this thread refused once ``fence`` is no longer the model's."""
    token = _FENCE.set(fence)
    try:
        yield
    finally:
        _FENCE.reset(token)


def require(connection: Connection) -> int:
    """The token this transaction is under; holds it valid until the transaction ends.

    Returns:
        0 where the transaction belongs to no operation.

    Raises:
        LeaseLostError: another server has taken over.
    """
    fence = _FENCE.get()
    if fence is None:
        return 0
    columns = tables.leases.c
    held = connection.scalar(
        select(columns.token).where(columns.model == fence.model).with_for_update(read=True)
    )
    if held != fence.token:
        raise LeaseLostError(
            f"another server has taken over the operations of model {fence.model!r} since this "
            "one was started, so nothing of it is stored; ask that server, under a new request id",
            model=fence.model,
            token=fence.token,
            held=held,
        )
    return fence.token


class Leases:
    """The leases of a database; each method is one transaction.

    Every method may raise `LedgerUnavailableError`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, claim: Claim, *, at: datetime) -> Answer:
        """Renew, or take over what has ended; else say who holds it.

        What earlier holders left running is ended as interrupted at ``at``, by whoever takes
        over, in the same transaction.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
        """
        return self._database.write(lambda connection: _take(connection, claim, at))

    def release(self, fence: Fence) -> None:
        """Let the next server take over at once; does nothing where one has already."""
        columns = tables.leases.c
        with self._database.writing() as connection:
            connection.execute(
                update(tables.leases)
                .where(columns.model == fence.model, columns.token == fence.token)
                .values(expires_ms=tables.ENDED)
            )

    def get(self, model: ModelId) -> Lease | None:
        """The lease as it stands, ended or not; None where nobody has ever held one."""
        with self._database.reading() as connection:
            row = connection.execute(_row_of(connection, model)).one_or_none()
        return None if row is None else _read(row)


def _take(connection: Connection, claim: Claim, at: datetime) -> Answer:
    row = _locked(connection, claim.model)
    if row is None:
        models.lock(connection, claim.model)  # two servers that start together meet here
        row = _locked(connection, claim.model)
    if row is None:
        return _put(connection, claim, 1, at)
    lease = _read(row)
    if lease.holder == claim.holder:
        _renew(connection, claim)
        return Answer(lease=_standing(connection, claim.model))
    if not (lease.ended or claim.sole):
        return Answer(lease=lease)
    return _put(connection, claim, lease.token + 1, at)


def _put(connection: Connection, claim: Claim, token: int, at: datetime) -> Answer:
    values = {"holder": claim.holder, "address": claim.address, "token": token}
    if token == 1:
        connection.execute(
            insert(tables.leases).values(model=claim.model, expires_ms=tables.ENDED, **values)
        )
    else:
        connection.execute(
            update(tables.leases).where(tables.leases.c.model == claim.model).values(**values)
        )
    _renew(connection, claim)
    interrupted = operations.interrupt_older(connection, claim.model, token, at)
    return Answer(lease=_standing(connection, claim.model), interrupted=interrupted)


def _renew(connection: Connection, claim: Claim) -> None:
    connection.execute(
        update(tables.leases)
        .where(tables.leases.c.model == claim.model)
        .values(
            address=claim.address,
            expires_ms=_now(connection) + round(claim.seconds * MILLISECONDS),
        )
    )


def _standing(connection: Connection, model: ModelId) -> Lease:
    return _read(connection.execute(_row_of(connection, model)).one())


def _locked(connection: Connection, model: ModelId) -> StoredRow | None:
    return connection.execute(_row_of(connection, model).with_for_update()).one_or_none()


def _row_of(connection: Connection, model: ModelId) -> tables.RowsQuery:
    columns = tables.leases.c
    remaining = (columns.expires_ms - _now(connection)).label("remaining_ms")
    return select(tables.leases, remaining).where(columns.model == model)


def _now(connection: Connection) -> ColumnElement[int]:
    return literal_column(_NOW[connection.dialect.name], Integer)


def _read(row: StoredRow) -> Lease:
    return Lease(
        model=ModelId(row.model),
        holder=row.holder,
        address=row.address,
        token=row.token,
        remaining_seconds=row.remaining_ms / MILLISECONDS,
    )
