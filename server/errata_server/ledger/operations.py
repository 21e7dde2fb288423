"""Statements on operations, a working table of the ledger.

Invariant: an operation's row changes once, from running to how it ended, and
only one that has ended can be removed.
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from errata_server.domain.errors import (
    OperationNotFoundError,
    PreconditionError,
    RequestIdReusedError,
)
from errata_server.domain.ids import ModelId, OperationId
from errata_server.domain.operations import Operation, OperationFailure, OperationState
from errata_server.ledger import models, tables
from errata_server.ledger.bodies import operation_body, operation_from_body, parse_body
from errata_server.ledger.tables import StoredRow

INTERRUPTED = OperationFailure(
    reason="INTERRUPTED",
    message="its server stopped, or lost its lease to another, before the operation's end was "
    "recorded; start it again with a new request id",
)


def start(connection: Connection, operation: Operation, token: int) -> Operation:
    """Store a running operation, or return the one its request started earlier.

    Args:
        connection: In a transaction that may write.
        operation: What is started.
        token: Of the lease it is carried out under; 0 for none.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        RequestIdReusedError: the request id started another operation before.
    """
    models.lock(connection, operation.model)
    earlier = repeated(connection, operation)
    if earlier is not None:
        return earlier
    connection.execute(
        insert(tables.operations).values(
            id=operation.id,
            model=operation.model,
            position=models.next_position(connection, tables.operations, operation.model),
            request_id=operation.request_id,
            request_digest=operation.request_digest,
            state=operation.state.value,
            body=operation_body(operation),
            token=token,
        )
    )
    return operation


def repeated(connection: Connection, operation: Operation) -> Operation | None:
    """What the request behind ``operation`` started earlier, if it did.

    Raises:
        RequestIdReusedError: the request id started another operation before.
    """
    columns = tables.operations.c
    row = connection.execute(
        select(tables.operations).where(
            columns.model == operation.model, columns.request_id == operation.request_id
        )
    ).one_or_none()
    if row is None:
        return None
    if row.request_digest != operation.request_digest:
        raise RequestIdReusedError(
            f"the request id {operation.request_id!r} started operation {row.id} from another "
            "request; use a new one",
            request_id=operation.request_id,
            operation=row.id,
        )
    return _read(row)


def finish(connection: Connection, operation: Operation) -> None:
    """Record how a running operation ended; recording the same again changes nothing.

    Raises:
        OperationNotFoundError: it was never started.
        PreconditionError: it ended otherwise before, or has not ended.
    """
    if not operation.done:
        raise PreconditionError(
            f"operation {operation.id} is still running", operation=operation.id
        )
    columns = tables.operations.c
    changed = connection.execute(
        update(tables.operations)
        .where(columns.id == operation.id, columns.state == OperationState.RUNNING.value)
        .values(state=operation.state.value, body=operation_body(operation))
    )
    if changed.rowcount == 1:
        return
    earlier = get(connection, operation.id)
    if earlier != operation:
        raise PreconditionError(
            f"operation {operation.id} ended before as {earlier.state}; it cannot end again",
            operation=operation.id,
            state=earlier.state,
        )


def exists(connection: Connection, identifier: OperationId) -> bool:
    """Whether the ledger holds this operation."""
    columns = tables.operations.c
    return connection.scalar(select(columns.id).where(columns.id == identifier)) is not None


def get(connection: Connection, identifier: OperationId) -> Operation:
    """The operation of this id.

    Raises:
        OperationNotFoundError: the ledger does not hold it.
    """
    row = connection.execute(
        select(tables.operations).where(tables.operations.c.id == identifier)
    ).one_or_none()
    if row is None:
        raise _missing(identifier)
    return _read(row)


def page(
    connection: Connection, model: ModelId, *, limit: int, after: OperationId | None
) -> list[Operation]:
    """At most ``limit`` operations, newest first, those older than ``after`` where given."""
    columns = tables.operations.c
    statement = select(tables.operations).where(columns.model == model)
    if after is not None:
        position = connection.scalar(
            select(columns.position).where(columns.id == after, columns.model == model)
        )
        if position is None:
            raise _missing(after)
        statement = statement.where(columns.position < position)
    rows = connection.execute(statement.order_by(columns.position.desc()).limit(limit))
    return [_read(row) for row in rows]


def forget(connection: Connection, identifier: OperationId) -> None:
    """Remove an operation that has ended; what it made stays.

    Raises:
        OperationNotFoundError: the ledger does not hold it.
        PreconditionError: it has not ended.
    """
    if not get(connection, identifier).done:
        raise PreconditionError(
            f"operation {identifier} is still running; cancel it first", operation=identifier
        )
    connection.execute(delete(tables.operations).where(tables.operations.c.id == identifier))


def interrupt_older(connection: Connection, model: ModelId, token: int, at: datetime) -> int:
    """End what runs under an earlier token than ``token`` as failed; how many there were."""
    columns = tables.operations.c
    running = connection.execute(
        select(tables.operations).where(
            columns.model == model,
            columns.state == OperationState.RUNNING.value,
            columns.token < token,
        )
    ).all()
    for row in running:
        finish(connection, _interrupted(_read(row), at))
    return len(running)


def _interrupted(operation: Operation, at: datetime) -> Operation:
    return replace(operation, state=OperationState.FAILED, finished_at=at, failure=INTERRUPTED)


def _read(row: StoredRow) -> Operation:
    return parse_body(f"operations[{row.id}]", row.body, operation_from_body)


def _missing(identifier: OperationId) -> OperationNotFoundError:
    return OperationNotFoundError(
        f"the ledger has no operation {identifier!r}; it may belong to another ledger",
        operation=identifier,
    )
