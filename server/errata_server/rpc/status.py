"""Errors as `google.rpc.Status`: the only module that names a gRPC code.

Invariants: `STATUS_OF` has every class of the error tree; every status carries exactly one
ErrorInfo whose reason is the class's (AIP-193), and stays below the size of metadata that
every gRPC client accepts.
"""

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from errata_server.domain import errors
from errata_server.domain.errors import ErrataError
from errata_server.domain.operations import OperationFailure

DOMAIN: Final = "errata"
RETRY_AFTER_SECONDS: Final = 1
# Bytes of UTF-8. Together they keep a status below 8 KiB as it is sent, with the message
# percent-encoded: above that clients reject it, and the caller learns nothing.
_LONGEST_MESSAGE: Final = 1_000
_LONGEST_DESCRIPTION: Final = 300
_LONGEST_VALUE: Final = 200
_MOST_VALUES: Final = 8

STATUS_OF: Final[dict[type[ErrataError], code_pb2.Code]] = {
    ErrataError: code_pb2.UNKNOWN,
    errors.InvalidInputError: code_pb2.INVALID_ARGUMENT,
    errors.InvalidFactError: code_pb2.INVALID_ARGUMENT,
    errors.SubjectNotFoundError: code_pb2.INVALID_ARGUMENT,
    errors.PromptTooLongError: code_pb2.INVALID_ARGUMENT,
    errors.AlreadyTrueError: code_pb2.INVALID_ARGUMENT,
    errors.InvalidPatchError: code_pb2.INVALID_ARGUMENT,
    errors.InvalidSignatureError: code_pb2.INVALID_ARGUMENT,
    errors.NotFoundError: code_pb2.NOT_FOUND,
    errors.ModelNotFoundError: code_pb2.NOT_FOUND,
    errors.EditNotFoundError: code_pb2.NOT_FOUND,
    errors.RevisionNotFoundError: code_pb2.NOT_FOUND,
    errors.BranchNotFoundError: code_pb2.NOT_FOUND,
    errors.ReportNotFoundError: code_pb2.NOT_FOUND,
    errors.OperationNotFoundError: code_pb2.NOT_FOUND,
    errors.ProxyNotFoundError: code_pb2.NOT_FOUND,
    errors.SuiteNotFoundError: code_pb2.NOT_FOUND,
    errors.LocatorNotFoundError: code_pb2.NOT_FOUND,
    errors.StaleRevisionError: code_pb2.ABORTED,
    errors.RequestIdReusedError: code_pb2.ALREADY_EXISTS,
    errors.BranchExistsError: code_pb2.ALREADY_EXISTS,
    errors.PreconditionError: code_pb2.FAILED_PRECONDITION,
    errors.VerificationFailedError: code_pb2.FAILED_PRECONDITION,
    errors.AlreadyAppliedError: code_pb2.FAILED_PRECONDITION,
    errors.NotAppliedError: code_pb2.FAILED_PRECONDITION,
    errors.DivergedError: code_pb2.FAILED_PRECONDITION,
    errors.ApprovalRequiredError: code_pb2.FAILED_PRECONDITION,
    errors.NoEffectError: code_pb2.FAILED_PRECONDITION,
    errors.NotCalibratedError: code_pb2.FAILED_PRECONDITION,
    errors.ModelMismatchError: code_pb2.FAILED_PRECONDITION,
    errors.UntrustedKeyError: code_pb2.FAILED_PRECONDITION,
    errors.SignatureRequiredError: code_pb2.FAILED_PRECONDITION,
    errors.SchemaMismatchError: code_pb2.FAILED_PRECONDITION,
    errors.ReadOnlyReplicaError: code_pb2.FAILED_PRECONDITION,
    errors.LeaseLostError: code_pb2.FAILED_PRECONDITION,
    errors.UnsupportedModelError: code_pb2.FAILED_PRECONDITION,
    errors.UnavailableError: code_pb2.UNAVAILABLE,
    errors.LedgerUnavailableError: code_pb2.UNAVAILABLE,
    # Behind a balancer the same call may reach the holder, or a replica that serves.
    errors.LeaseHeldError: code_pb2.UNAVAILABLE,
    errors.QuarantinedError: code_pb2.UNAVAILABLE,
    # gRPC's own answer to too many calls; clients do not retry it by themselves (AIP-194).
    errors.OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    errors.CancelledError: code_pb2.CANCELLED,
    errors.LedgerCorruptError: code_pb2.DATA_LOSS,
    errors.DigestMismatchError: code_pb2.DATA_LOSS,
}

_CODE_OF_REASON: Final = {error.reason: code for error, code in STATUS_OF.items()} | {
    # A server that started again found the operation running; a new request id retries it.
    "INTERRUPTED": code_pb2.ABORTED,
    "INTERNAL": code_pb2.INTERNAL,
}


def to_status(error: ErrataError) -> status_pb2.Status:
    """The error as a canonical code with ErrorInfo and whatever detail fits its class."""
    code = STATUS_OF[type(error)]
    message = _shortened(str(error), _LONGEST_MESSAGE)
    description = _shortened(message, _LONGEST_DESCRIPTION)
    details = [_error_info(error.reason, error.metadata), *_details(error, description)]
    return _status(code, message, details)


def failure_to_status(failure: OperationFailure) -> status_pb2.Status:
    """The error of an operation that ended without a result."""
    code = _CODE_OF_REASON.get(failure.reason, code_pb2.UNKNOWN)
    message = _shortened(failure.message, _LONGEST_MESSAGE)
    return _status(code, message, [_error_info(failure.reason, failure.metadata)])


def internal_status(error_id: str) -> status_pb2.Status:
    """An error nobody foresaw: an opaque id to look up in the log, and nothing else."""
    message = f"internal error {error_id}; the server's log has the details under this id"
    return _status(code_pb2.INTERNAL, message, [_error_info("INTERNAL", {"error_id": error_id})])


def name_of(status: status_pb2.Status) -> str:
    """gRPC's name of a status's code, as the metrics label it: ``OK``, ``NOT_FOUND``."""
    return code_pb2.Code.Name(status.code)


def to_grpc(status: status_pb2.Status) -> grpc.Status:
    """``status`` in the form that a servicer context aborts with."""
    converted: grpc.Status = rpc_status.to_status(status)
    return converted


def _status(code: code_pb2.Code, message: str, details: Iterable[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _error_info(reason: str, metadata: dict[str, str]) -> error_details_pb2.ErrorInfo:
    shown = list(metadata.items())[:_MOST_VALUES]
    shortened = {name: _shortened(value, _LONGEST_VALUE) for name, value in shown}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=shortened)


def _details(error: ErrataError, description: str) -> Iterable[Message]:
    if isinstance(error, errors.InvalidInputError) and "field" in error.metadata:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=_shortened(error.metadata["field"], _LONGEST_VALUE),
                    description=description,
                    reason=error.reason,
                )
            ]
        )
    elif isinstance(error, errors.PreconditionError):
        yield error_details_pb2.PreconditionFailure(
            violations=[
                error_details_pb2.PreconditionFailure.Violation(
                    type=error.reason, subject=_subject_of(error), description=description
                )
            ]
        )
    elif isinstance(error, errors.UnavailableError):
        delay = duration_pb2.Duration(seconds=RETRY_AFTER_SECONDS)
        yield error_details_pb2.RetryInfo(retry_delay=delay)


def _subject_of(error: ErrataError) -> str:
    """The resource a precondition is about: the first the metadata names."""
    return _shortened(next(iter(error.metadata.values()), ""), _LONGEST_VALUE)


def _shortened(text: str, longest: int) -> str:
    """``text`` in at most ``longest`` bytes of UTF-8."""
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= longest:
        return encoded.decode("utf-8")
    return f"{encoded[: longest - 3].decode('utf-8', errors='ignore')}..."
