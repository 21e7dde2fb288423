"""Operations: one row a request, changed once, from running to how it ended."""

from dataclasses import replace
from datetime import timedelta

import pytest

from errata_server.domain.errors import (
    ModelNotFoundError,
    OperationNotFoundError,
    PreconditionError,
    RequestIdReusedError,
)
from errata_server.domain.ids import ModelId, OperationId
from errata_server.domain.operations import OperationFailure, OperationState
from tests.support import MODEL, NOON
from tests.support.histories import operation

LATER = NOON + timedelta(minutes=5)


def succeeded(running, **result):
    return replace(
        running, state=OperationState.SUCCEEDED, finished_at=LATER, result=result or {"tokens": 3}
    )


def test_an_operation_is_stored_running_and_then_as_it_ended(chronicler):
    ledger, running = chronicler.ledger, operation()
    failure = OperationFailure(reason="NO_EFFECT", message="no", metadata={"edit": "e-1"})
    ended = replace(running, state=OperationState.FAILED, finished_at=LATER, failure=failure)

    assert ledger.start_operation(running) == running
    assert ledger.operation(running.id) == running
    ledger.finish_operation(ended)

    assert ledger.operation(running.id) == ended


def test_a_repeated_request_gets_the_operation_it_started(chronicler):
    chronicler.ledger.start_operation(operation())
    chronicler.ledger.finish_operation(succeeded(operation()))

    assert chronicler.ledger.start_operation(operation("op-2")) == succeeded(operation())
    assert len(chronicler.ledger.operations(MODEL, 10)) == 1


def test_a_request_id_starts_one_operation(chronicler):
    chronicler.ledger.start_operation(operation())

    with pytest.raises(RequestIdReusedError, match="r-1"):
        chronicler.ledger.start_operation(operation("op-2", request=b"verify"))


def test_an_operation_ends_once(chronicler):
    ledger, running = chronicler.ledger, operation()
    ledger.start_operation(running)
    ledger.finish_operation(succeeded(running))
    ledger.finish_operation(succeeded(running))

    with pytest.raises(PreconditionError, match="cannot end again"):
        ledger.finish_operation(replace(running, state=OperationState.CANCELLED, finished_at=LATER))
    with pytest.raises(PreconditionError, match="still running"):
        ledger.finish_operation(running)

    assert ledger.operation(running.id) == succeeded(running)


def test_an_operation_that_was_never_started_is_not_found(chronicler):
    ledger = chronicler.ledger

    with pytest.raises(OperationNotFoundError):
        ledger.operation(OperationId("op-none"))
    with pytest.raises(OperationNotFoundError):
        ledger.finish_operation(succeeded(operation()))
    with pytest.raises(OperationNotFoundError):
        ledger.operations(MODEL, 10, OperationId("op-none"))
    with pytest.raises(ModelNotFoundError):
        ledger.start_operation(replace(operation(), model=ModelId("nobody")))


def test_operations_are_listed_newest_first_page_by_page(chronicler):
    started = [
        chronicler.ledger.start_operation(operation(f"op-{n}", request_id=f"r-{n}"))
        for n in range(3)
    ]

    first = chronicler.ledger.operations(MODEL, limit=2)
    second = chronicler.ledger.operations(MODEL, limit=2, after=first[-1].id)

    assert first + second == started[::-1]
