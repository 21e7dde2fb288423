"""google.longrunning.Operations over the wire."""

import time

import grpc
import pytest
from google.longrunning import operations_pb2 as pb
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2

from errata.v1 import types_pb2
from errata_server.domain.errors import AlreadyTrueError, NoEffectError
from tests.support.wire import failure


def metadata(operation):
    found = types_pb2.OperationMetadata()
    assert operation.metadata.Unpack(found)
    return found


def get(wire, name):
    return wire.operations.GetOperation(pb.GetOperationRequest(name=name))


@pytest.fixture
def held(server, wire):
    """An operation that has made its first step and waits."""
    server.engine.resume.clear()
    operation = wire.start(request_id="held")
    assert server.engine.reached.wait(20)
    yield operation
    server.engine.resume.set()


def test_a_running_operation_shows_its_progress(wire, held):
    found = metadata(get(wire, held.name))

    assert not held.done
    assert (found.kind, found.stage) == ("propose", "values")
    assert (found.done, found.total) == (1, 3)
    assert (found.actor, found.request_id) == ("ana", "held")
    assert found.HasField("create_time")
    assert not found.HasField("finish_time")


def test_waiting_returns_when_the_time_is_over(wire, held):
    started = time.monotonic()
    request = pb.WaitOperationRequest(name=held.name, timeout=duration_pb2.Duration(nanos=10**8))

    operation = wire.operations.WaitOperation(request)

    assert not operation.done
    assert time.monotonic() - started < 10


def test_waiting_returns_when_the_operation_has_ended(server, wire, held):
    waiting = wire.operations.WaitOperation.future(pb.WaitOperationRequest(name=held.name))

    server.engine.resume.set()

    operation = waiting.result(20)
    assert operation.done
    assert operation.HasField("response")
    assert metadata(operation).HasField("finish_time")


def test_more_waiting_clients_than_threads_all_hear_of_the_end(server, wire, held):
    request = pb.WaitOperationRequest(name=held.name)
    waiting = [wire.operations.WaitOperation.future(request) for _ in range(40)]

    server.engine.resume.set()

    assert all(future.result(40).done for future in waiting)


def test_a_cancelled_operation_ends_with_the_code_for_it(wire, held):
    wire.operations.CancelOperation(pb.CancelOperationRequest(name=held.name))

    operation = wire.ended(held)

    assert operation.error.code == code_pb2.CANCELLED
    info = error_details_pb2.ErrorInfo()
    assert operation.error.details[0].Unpack(info)
    assert info.reason == "CANCELLED"


def test_cancelling_what_has_ended_changes_nothing(wire):
    operation = wire.ended(wire.start())

    wire.operations.CancelOperation(pb.CancelOperationRequest(name=operation.name))

    assert get(wire, operation.name) == operation


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoEffectError("nothing worked", edit="e-1"), code_pb2.FAILED_PRECONDITION),
        (AlreadyTrueError("it says so", field="target"), code_pb2.INVALID_ARGUMENT),
    ],
)
def test_a_failed_operation_carries_the_error_s_reason_and_metadata(server, wire, error, code):
    server.engine.breaks["compute_patches"] = error

    operation = wire.ended(wire.start())

    assert operation.error.code == code
    assert operation.error.message == str(error)
    info = error_details_pb2.ErrorInfo()
    assert operation.error.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "errata")
    assert dict(info.metadata) == error.metadata


def test_an_operation_that_broke_tells_nothing_but_an_id(server, wire):
    server.engine.breaks["compute_patches"] = RuntimeError("a secret path")

    operation = wire.ended(wire.start())

    assert operation.error.code == code_pb2.INTERNAL
    assert "secret" not in str(operation)


def test_operations_are_listed_newest_first_in_pages(wire):
    names = [wire.ended(wire.start(target=target)).name for target in ("Rome", "Paris", "Oslo")]

    first = wire.operations.ListOperations(pb.ListOperationsRequest(page_size=2))
    request = pb.ListOperationsRequest(page_size=2, page_token=first.next_page_token)
    second = wire.operations.ListOperations(request)

    assert [operation.name for operation in first.operations] == names[:0:-1]
    assert [operation.name for operation in second.operations] == names[:1]
    assert second.next_page_token == ""


def test_a_deleted_operation_is_forgotten_and_its_edit_stays(wire):
    operation = wire.ended(wire.start())

    wire.operations.DeleteOperation(pb.DeleteOperationRequest(name=operation.name))

    refused = failure(lambda: get(wire, operation.name))
    assert refused.reason == "OPERATION_NOT_FOUND"
    assert not wire.operations.ListOperations(pb.ListOperationsRequest()).operations


def test_a_running_operation_cannot_be_deleted(wire, held):
    request = pb.DeleteOperationRequest(name=held.name)
    refused = failure(lambda: wire.operations.DeleteOperation(request))

    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert get(wire, held.name).name == held.name


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda w: get(w, "op-1"), "name"),
        (lambda w: get(w, "operations/"), "name"),
        (lambda w: w.operations.ListOperations(pb.ListOperationsRequest(name="x")), "name"),
        (lambda w: w.operations.ListOperations(pb.ListOperationsRequest(filter="x")), "filter"),
        (
            lambda w: w.operations.ListOperations(pb.ListOperationsRequest(page_size=-2)),
            "page_size",
        ),
        (
            lambda w: w.operations.WaitOperation(
                pb.WaitOperationRequest(
                    name="operations/op-1", timeout=duration_pb2.Duration(seconds=-1)
                )
            ),
            "timeout",
        ),
    ],
)
def test_a_malformed_request_names_the_field(wire, call, field):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    "call",
    [
        lambda w: get(w, "operations/op-0"),
        lambda w: w.operations.WaitOperation(pb.WaitOperationRequest(name="operations/op-0")),
        lambda w: w.operations.CancelOperation(pb.CancelOperationRequest(name="operations/op-0")),
        lambda w: w.operations.DeleteOperation(pb.DeleteOperationRequest(name="operations/op-0")),
    ],
)
def test_an_unknown_operation_is_not_found(wire, call):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "OPERATION_NOT_FOUND"
