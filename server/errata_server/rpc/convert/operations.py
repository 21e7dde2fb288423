"""Operations as `google.longrunning` has them."""

from typing import Final

from google.longrunning import operations_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from errata.v1 import types_pb2
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.operations import Operation
from errata_server.rpc.convert import names, values

LONGEST_WAIT: Final = 60.0
"""Seconds one WaitOperation may take; a client that wants more calls again."""


def operation_message(
    operation: Operation, *, response: Message | None, error: status_pb2.Status | None
) -> operations_pb2.Operation:
    """An operation with its metadata, and its response or error where it has ended."""
    message = operations_pb2.Operation(
        name=names.operation_name(operation.id),
        metadata=packed(_metadata(operation)),
        done=operation.done,
    )
    if response is not None:
        message.response.CopyFrom(packed(response))
    if error is not None:
        message.error.CopyFrom(error)
    return message


def packed(message: Message) -> any_pb2.Any:
    """``message`` with its type's name."""
    result = any_pb2.Any()
    result.Pack(message)
    return result


def wait_seconds(timeout: duration_pb2.Duration | None) -> float:
    """How long to wait for an operation, at most `LONGEST_WAIT`; that where unset.

    Raises:
        InvalidInputError: it is negative.
    """
    if timeout is None:
        return LONGEST_WAIT
    seconds = timeout.seconds + timeout.nanos / 1e9
    if seconds < 0:
        raise InvalidInputError(
            f"timeout is {seconds:g} s; it must be at least 0", field="timeout", value=seconds
        )
    return min(seconds, LONGEST_WAIT)


def _metadata(operation: Operation) -> types_pb2.OperationMetadata:
    progress = operation.progress
    return types_pb2.OperationMetadata(
        kind=operation.kind.value,
        stage=progress.stage,
        done=progress.done,
        total=progress.total,
        note=progress.note,
        actor=operation.actor,
        create_time=values.timestamp(operation.created_at),
        finish_time=values.timestamp(operation.finished_at),
        request_id=operation.request_id,
    )
