import threading
import time

import pytest

from errata_server.domain.errors import (
    AlreadyTrueError,
    CancelledError,
    InvalidInputError,
    LedgerCorruptError,
    LedgerUnavailableError,
    ModelNotFoundError,
    OperationNotFoundError,
    OverloadedError,
    PreconditionError,
    RequestIdReusedError,
    UnavailableError,
)
from errata_server.domain.ids import Digest, ModelId, OperationId, RequestId
from errata_server.domain.operations import OperationKind, OperationState, Progress
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.operations import INTERRUPTED
from errata_server.service.leases import LeaseKeeper
from errata_server.service.operations import MAX_WAITING, Operations
from tests.support import MODEL, NOON
from tests.support.databases import locked
from tests.support.services import PATIENCE, open_services


def submit(operations, work, request_id="r-1", content="a"):
    return operations.submit(
        OperationKind.VERIFY,
        actor="ana",
        request_id=RequestId(request_id),
        request_digest=Digest(content),
        work=work,
    )


def noon():
    return NOON


class Counted:
    """Work that counts how often it has run."""

    def __init__(self):
        self.runs = 0

    def __call__(self, progress):
        self.runs += 1
        return {}


def done(progress):
    return {"answer": 42}


class Held:
    """Work that goes on until it is released or cancelled."""

    def __init__(self):
        self.begun = threading.Event()
        self.reported = threading.Event()
        self.released = threading.Event()

    def __call__(self, progress):
        self.begun.set()
        while not self.released.wait(0.01):
            progress(Progress(stage="values", done=3, total=25))
            self.reported.set()
        return {"answer": 42}


@pytest.fixture
def held():
    work = Held()
    yield work
    work.released.set()


def test_what_nobody_foresaw_at_a_start_leaves_nothing_unfinished(services, monkeypatch):
    operations = services.operations
    with monkeypatch.context() as during:
        during.setattr(operations.lease, "fence", _overflow)
        with pytest.raises(OverflowError):
            submit(operations, done)

    ended = operations.wait(submit(operations, done).id, PATIENCE)
    assert ended.result == {"answer": 42}
    assert operations._jobs == {}


def test_work_that_comes_as_the_server_closes_is_refused(services):
    services.operations._pool.shutdown()

    with pytest.raises(UnavailableError, match="shutting down"):
        submit(services.operations, done)

    assert services.operations._jobs == {}


def test_an_operation_that_ends_while_the_ledger_is_asked_is_listed_as_ended(
    services, held, monkeypatch
):
    operations = services.operations
    running = submit(operations, held)
    asked = operations._after

    def then_end(*arguments):
        found = asked(*arguments)
        held.released.set()
        operations.wait(running.id, PATIENCE)
        return found

    monkeypatch.setattr(operations, "_after", then_end)

    (listed,) = operations.list().items
    assert listed.state is OperationState.SUCCEEDED


def _overflow():
    raise OverflowError


def test_a_result_is_recorded(services):
    started = submit(services.operations, done)

    ended = services.operations.wait(started.id, PATIENCE)

    assert (ended.state, ended.result) == (OperationState.SUCCEEDED, {"answer": 42})
    assert ended.finished_at == NOON
    assert services.ledger.operation(started.id) == ended
    assert services.operations.get(started.id) == ended


def test_progress_is_seen_while_work_goes_on(services, held):
    started = submit(services.operations, held)

    assert held.reported.wait(PATIENCE)
    progress = services.operations.get(started.id).progress
    assert progress == Progress(stage="values", done=3, total=25)
    assert services.operations.wait(started.id, 0.01).state is OperationState.RUNNING


def test_a_domain_error_fails_the_operation_with_its_reason(services):
    def fail(progress):
        raise AlreadyTrueError("nothing to do", field="facts")

    ended = services.operations.wait(submit(services.operations, fail).id, PATIENCE)

    assert ended.state is OperationState.FAILED
    assert (ended.failure.reason, ended.failure.message) == ("ALREADY_TRUE", "nothing to do")
    assert ended.failure.metadata == {"field": "facts"}


def test_another_exception_is_told_by_number_only(services):
    def fail(progress):
        raise ZeroDivisionError("password=hunter2")

    ended = services.operations.wait(submit(services.operations, fail).id, PATIENCE)

    assert ended.failure.reason == "INTERNAL"
    assert "hunter2" not in repr(ended)
    assert ended.failure.metadata["error_id"] in ended.failure.message


def test_cancelling_stops_work_at_its_next_step(services, held):
    started = submit(services.operations, held)
    assert held.begun.wait(PATIENCE)

    services.operations.cancel(started.id)
    ended = services.operations.wait(started.id, PATIENCE)

    assert ended.state is OperationState.CANCELLED
    assert ended.failure.reason == CancelledError.reason
    assert services.ledger.operation(started.id) == ended


def test_cancelling_what_has_ended_changes_nothing(services):
    ended = services.operations.wait(submit(services.operations, done).id, PATIENCE)

    assert services.operations.cancel(ended.id) == ended


def test_what_has_not_begun_is_cancelled_without_beginning(services, held):
    busy = [submit(services.operations, held, f"r-busy-{index}") for index in range(2)]
    work = Counted()
    queued = submit(services.operations, work, "r-queued")

    services.operations.cancel(queued.id)
    held.released.set()

    ended = services.operations.wait(queued.id, PATIENCE)
    assert ended.state is OperationState.CANCELLED
    assert work.runs == 0
    for operation in busy:
        assert services.operations.wait(operation.id, PATIENCE).state is OperationState.SUCCEEDED


def test_a_repeated_request_gives_the_operation_with_its_progress(services, held):
    started = submit(services.operations, held)
    assert held.begun.wait(PATIENCE)

    again = submit(services.operations, done)

    assert again.id == started.id
    assert again.state is OperationState.RUNNING


def test_a_request_id_cannot_start_two_things(services):
    submit(services.operations, done)

    with pytest.raises(RequestIdReusedError):
        submit(services.operations, done, content="b")


def test_an_unknown_operation_is_not_found(services):
    unknown = OperationId("op-nothing")

    for ask in (services.operations.get, services.operations.cancel, services.operations.forget):
        with pytest.raises(OperationNotFoundError):
            ask(unknown)
    with pytest.raises(OperationNotFoundError):
        services.operations.wait(unknown, 0)


def test_operations_are_listed_newest_first_and_by_page(services, held):
    started = [submit(services.operations, done, f"r-{index}") for index in range(4)]
    running = submit(services.operations, held, "r-held")
    for operation in started:
        services.operations.wait(operation.id, PATIENCE)
    newest_first = [running.id, *(operation.id for operation in reversed(started))]

    first = services.operations.list(page_size=2)
    second = services.operations.list(page_size=2, page_token=first.next_token)
    last = services.operations.list(page_size=2, page_token=second.next_token)

    listed = [operation.id for page in (first, second, last) for operation in page.items]
    assert listed == newest_first
    assert last.next_token == ""
    with pytest.raises(InvalidInputError, match="page_token"):
        services.operations.list(page_token="op-nothing")


def test_a_forgotten_operation_is_gone(services):
    ended = services.operations.wait(submit(services.operations, done).id, PATIENCE)

    services.operations.forget(ended.id)

    with pytest.raises(OperationNotFoundError):
        services.operations.get(ended.id)


def test_an_operation_that_runs_is_not_forgotten(services, held):
    started = submit(services.operations, held)

    with pytest.raises(PreconditionError):
        services.operations.forget(started.id)
    held.released.set()

    assert services.operations.wait(started.id, PATIENCE).state is OperationState.SUCCEEDED


def test_too_many_unfinished_operations_are_turned_away(services, held):
    for index in range(MAX_WAITING):
        submit(services.operations, held, f"r-{index}")

    with pytest.raises(OverloadedError):
        submit(services.operations, held, "r-one-too-many")


def test_what_an_earlier_process_left_running_is_failed_at_the_next_start(url, held):
    with open_services(url) as killed:
        started = submit(killed.operations, held)
        with open_services(url) as restarted:
            operation = restarted.operations.get(started.id)

    assert operation.state is OperationState.FAILED
    assert operation.failure is not None
    assert operation.failure.reason == "INTERRUPTED"


def test_an_operation_of_another_server_is_not_cancelled_here(services, url, held):
    started = submit(services.operations, held)
    elsewhere = Operations(services.ledger, MODEL, now=noon, lease=services.operations.lease)

    with pytest.raises(PreconditionError, match="another server"):
        elsewhere.cancel(started.id)
    elsewhere.close(grace=0)


def test_closing_waits_a_while_and_then_cancels(services, held):
    started = submit(services.operations, held)
    assert held.begun.wait(PATIENCE)

    services.operations.close(grace=0.05)

    assert services.operations.get(started.id).state is OperationState.CANCELLED
    with pytest.raises(UnavailableError, match="shutting down"):
        submit(services.operations, done, "r-late")


def test_closing_lets_short_work_finish(services, held):
    started = submit(services.operations, held)
    assert held.begun.wait(PATIENCE)
    threading.Timer(0.1, held.released.set).start()

    services.operations.close(grace=PATIENCE)

    assert services.operations.get(started.id).state is OperationState.SUCCEEDED


def test_nothing_runs_that_the_ledger_did_not_record(services, url):
    work = Counted()
    model, database = ModelId("unknown"), Database(url)
    lease = LeaseKeeper(Leases(database), model, now=noon)
    unknown = Operations(services.ledger, model, now=noon, lease=lease)

    with pytest.raises(ModelNotFoundError):
        submit(unknown, work)
    unknown.close(grace=PATIENCE)
    database.close()

    assert work.runs == 0


# Ends that cannot be recorded --------------------------------------------------------------


@pytest.fixture
def impatient(url):
    """A server that waits for another writer for a moment only."""
    with open_services(f"{url}?lock_timeout=0.05") as opened:
        yield opened


def ended_while_away(services, held):
    """An operation whose work is done, and whose end is not recorded."""
    started = submit(services.operations, held)
    assert held.begun.wait(PATIENCE)
    held.released.set()
    deadline = time.monotonic() + PATIENCE
    while services.operations.get(started.id).progress.stage != "recording":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return started.id


def test_an_operation_runs_until_the_ledger_has_its_end(impatient, url, held):
    operations, ledger = impatient.operations, impatient.ledger
    started = submit(operations, held)
    assert held.begun.wait(PATIENCE)
    with locked(url):
        held.released.set()
        waited = operations.wait(started.id, 0.5)
        told = [waited, operations.get(started.id), *operations.list().items]
        assert [one.state for one in told] == [OperationState.RUNNING] * 3
        assert waited.progress.stage == "recording"
        assert ledger.operation(started.id).state is OperationState.RUNNING

    ended = operations.wait(started.id, PATIENCE)

    assert (ended.state, ended.result) == (OperationState.SUCCEEDED, {"answer": 42})
    assert ledger.operation(started.id) == operations.get(started.id) == ended
    assert operations._jobs == {}


def test_what_another_server_ended_meanwhile_is_told_as_it_has_ended(
    services, url, held, monkeypatch
):
    finish = Ledger.finish_operation
    with monkeypatch.context() as away:
        away.setattr(Ledger, "finish_operation", _away)
        operation = ended_while_away(services, held)
        with open_services(url) as taking_over:
            assert taking_over.operations.get(operation).failure == INTERRUPTED
        away.setattr(Ledger, "finish_operation", finish)
        ended = services.operations.wait(operation, PATIENCE)

    assert (ended.state, ended.result) == (OperationState.FAILED, {})
    assert ended == services.operations.get(operation) == services.ledger.operation(operation)
    assert [ended] == list(services.operations.list().items)


def test_a_server_that_closes_gives_up_an_end_it_cannot_record(services, url, held, monkeypatch):
    monkeypatch.setattr(Ledger, "finish_operation", _away)
    operation = ended_while_away(services, held)
    begun = time.monotonic()

    services.operations.close(grace=0.1)

    assert time.monotonic() - begun < PATIENCE / 4
    assert services.operations.get(operation).state is OperationState.RUNNING
    with open_services(url) as restarted:
        assert restarted.operations.get(operation).failure == INTERRUPTED


def test_an_operation_ends_for_those_who_wait_though_the_ledger_is_damaged(services, monkeypatch):
    def damaged(self, operation):
        raise LedgerCorruptError("the ledger's file is damaged")

    monkeypatch.setattr(Ledger, "finish_operation", damaged)
    started = submit(services.operations, done)

    ended = services.operations.wait(started.id, PATIENCE)
    begun = time.monotonic()
    services.operations.close(grace=PATIENCE)

    assert (ended.state, ended.result) == (OperationState.FAILED, {})
    assert ended.failure.reason == "LEDGER_CORRUPT"
    assert services.operations.get(started.id) == ended
    assert time.monotonic() - begun < PATIENCE / 2


def _away(self, operation):
    raise LedgerUnavailableError("the ledger's database does not answer")
