"""Errors of the client, and the one place where a gRPC status becomes one of them.

::

    ErrataError
    |-- InvalidInputError            mend the request
    |   |-- InvalidFactError
    |   |-- SubjectNotFoundError
    |   |-- PromptTooLongError
    |   |-- AlreadyTrueError
    |   |-- InvalidPatchError
    |   `-- InvalidSignatureError
    |-- NotFoundError                use a name that exists
    |   |-- ModelNotFoundError
    |   |-- EditNotFoundError
    |   |-- RevisionNotFoundError
    |   |-- BranchNotFoundError
    |   |-- ReportNotFoundError
    |   |-- OperationNotFoundError
    |   |-- ProxyNotFoundError
    |   |-- SuiteNotFoundError
    |   `-- LocatorNotFoundError
    |-- StaleRevisionError           read the head and retry
    |-- RequestIdReusedError         use a new request id
    |-- BranchExistsError            use another name
    |-- PreconditionError            change the state first
    |   |-- VerificationFailedError
    |   |-- AlreadyAppliedError
    |   |-- NotAppliedError
    |   |-- DivergedError            start a branch from the target and apply there
    |   |-- ApprovalRequiredError    have somebody else approve of the edits
    |   |-- NoEffectError
    |   |-- NotCalibratedError
    |   |-- ModelMismatchError
    |   |-- UntrustedKeyError
    |   |-- SignatureRequiredError
    |   |-- SchemaMismatchError
    |   |-- ReadOnlyReplicaError     send it to a server that writes
    |   `-- LeaseLostError           ask again, under a new request id
    |-- UnsupportedModelError        use a checkpoint errata can edit
    |-- UnavailableError             retry after a while
    |   |-- LedgerUnavailableError
    |   |-- LeaseHeldError           send it to the server the message names
    |   |-- QuarantinedError         ask another server
    |   `-- OverloadedError
    |-- CancelledError               the caller asked for it
    |-- OperationInterruptedError    ask for it again under a new request id
    |-- LedgerCorruptError           stop and run the audit
    |   `-- DigestMismatchError
    |-- ProofError                   trust nothing the server says of its log
    |-- DeadlineError                wait longer, or ask for less
    |-- MissingExtraError            install what pictures and arrays need
    `-- InternalError                report it

Invariants: `BY_REASON` has a class for every reason the server sends; a caller never sees
``grpc.RpcError``.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DETAILS_KEY: Final = "grpc-status-details-bin"


class ErrataError(Exception):
    """Base of everything the client raises on purpose."""

    reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata: dict[str, str] = dict(metadata or {})
        """The values named in the message, by name."""


class InvalidInputError(ErrataError):
    """The request is malformed."""

    reason = "INVALID_INPUT"


class InvalidFactError(InvalidInputError):
    """A subject, template or target is malformed."""

    reason = "INVALID_FACT"


class SubjectNotFoundError(InvalidInputError):
    """The prompt does not name the subject exactly once."""

    reason = "SUBJECT_NOT_FOUND"


class PromptTooLongError(InvalidInputError):
    """The prompt does not fit the model's context."""

    reason = "PROMPT_TOO_LONG"


class AlreadyTrueError(InvalidInputError):
    """The model already gives the target."""

    reason = "ALREADY_TRUE"


class InvalidPatchError(InvalidInputError):
    """The artifact's tensors are not what they must be for this model."""

    reason = "INVALID_PATCH"


class InvalidSignatureError(InvalidInputError):
    """The proposer's signature is not one over what the proposal asks for."""

    reason = "INVALID_SIGNATURE"


class NotFoundError(ErrataError):
    """No such resource."""

    reason = "NOT_FOUND"


class ModelNotFoundError(NotFoundError):
    """No such model."""

    reason = "MODEL_NOT_FOUND"


class EditNotFoundError(NotFoundError):
    """No such edit."""

    reason = "EDIT_NOT_FOUND"


class RevisionNotFoundError(NotFoundError):
    """No such revision."""

    reason = "REVISION_NOT_FOUND"


class BranchNotFoundError(NotFoundError):
    """No such branch."""

    reason = "BRANCH_NOT_FOUND"


class ReportNotFoundError(NotFoundError):
    """No such report."""

    reason = "REPORT_NOT_FOUND"


class OperationNotFoundError(NotFoundError):
    """No such operation."""

    reason = "OPERATION_NOT_FOUND"


class ProxyNotFoundError(NotFoundError):
    """No such fitted proxy."""

    reason = "PROXY_NOT_FOUND"


class SuiteNotFoundError(NotFoundError):
    """No such suite."""

    reason = "SUITE_NOT_FOUND"


class LocatorNotFoundError(NotFoundError):
    """No locator of this name."""

    reason = "LOCATOR_NOT_FOUND"


class StaleRevisionError(ErrataError):
    """The branch has moved on from the expected revision; read the head and retry."""

    reason = "STALE_REVISION"


class RequestIdReusedError(ErrataError):
    """The request id was used before for a request with other content."""

    reason = "REQUEST_ID_REUSED"


class BranchExistsError(ErrataError):
    """The model has a branch of this name."""

    reason = "BRANCH_EXISTS"


class PreconditionError(ErrataError):
    """The state must change before this can be done."""

    reason = "FAILED_PRECONDITION"


class VerificationFailedError(PreconditionError):
    """The edit's report has failed checks, and there is no override or it does not count."""

    reason = "VERIFICATION_FAILED"


class AlreadyAppliedError(PreconditionError):
    """The edit is applied on this branch."""

    reason = "ALREADY_APPLIED"


class NotAppliedError(PreconditionError):
    """The edit is not applied on this branch."""

    reason = "NOT_APPLIED"


class DivergedError(PreconditionError):
    """The target has changes of its own since the source left it: no fast-forward."""

    reason = "DIVERGED"


class ApprovalRequiredError(PreconditionError):
    """The branch is protected, and nobody but its proposer approved of an edit."""

    reason = "APPROVAL_REQUIRED"


class NoEffectError(PreconditionError):
    """The edit would change nothing: the model prefers the target everywhere already."""

    reason = "NO_EFFECT"


class NotCalibratedError(PreconditionError):
    """The model has no profile yet; calibrate it first."""

    reason = "NOT_CALIBRATED"


class ModelMismatchError(PreconditionError):
    """The ledger's history or a patch belongs to another checkpoint or profile."""

    reason = "MODEL_MISMATCH"


class UntrustedKeyError(PreconditionError):
    """The proposal is signed by a key the server does not trust."""

    reason = "UNTRUSTED_KEY"


class SignatureRequiredError(PreconditionError):
    """The proposal is not signed, and the server takes none but signed ones."""

    reason = "SIGNATURE_REQUIRED"


class SchemaMismatchError(PreconditionError):
    """The ledger's schema is not the one the server knows."""

    reason = "SCHEMA_MISMATCH"


class ReadOnlyReplicaError(PreconditionError):
    """The server only follows a branch; the message says where one is that writes."""

    reason = "READ_ONLY_REPLICA"


class LeaseLostError(PreconditionError):
    """Another server has taken over since the operation was started; ask for it again."""

    reason = "LEASE_LOST"


class UnsupportedModelError(ErrataError):
    """The checkpoint cannot be loaded safely or has no known projection to edit."""

    reason = "UNSUPPORTED_MODEL"


class UnavailableError(ErrataError):
    """The server does not answer; try again after a while."""

    reason = "UNAVAILABLE"


class LedgerUnavailableError(UnavailableError):
    """The ledger's database does not answer."""

    reason = "LEDGER_UNAVAILABLE"


class LeaseHeldError(UnavailableError):
    """Another server carries out the operations of this model; the message names it."""

    reason = "LEASE_HELD"


class QuarantinedError(UnavailableError):
    """The replica composed other weights than the ledger vouches for; ask another server."""

    reason = "QUARANTINED"


class OverloadedError(UnavailableError):
    """Too many requests are waiting for the model."""

    reason = "OVERLOADED"


class CancelledError(ErrataError):
    """The call was cancelled by its caller or by a server shutting down."""

    reason = "CANCELLED"


class OperationInterruptedError(ErrataError):
    """The server started again while the operation ran; ask for it again."""

    reason = "INTERRUPTED"


class LedgerCorruptError(ErrataError):
    """A stored row contradicts its digest or its neighbours; run the audit."""

    reason = "LEDGER_CORRUPT"


class ProofError(ErrataError):
    """What the server sent does not prove what it is said to prove."""

    reason = "PROOF_INVALID"


class DigestMismatchError(LedgerCorruptError):
    """What the server composed is not what the revision vouches for."""

    reason = "DIGEST_MISMATCH"


class DeadlineError(ErrataError):
    """The answer did not come in time."""

    reason = "DEADLINE_EXCEEDED"


class MissingExtraError(ErrataError):
    """What pictures or arrays need is not installed beside the client."""

    reason = "MISSING_EXTRA"


class InternalError(ErrataError):
    """The server failed in a way it did not expect."""

    reason = "INTERNAL"


def _tree(root: type[ErrataError]) -> Iterable[type[ErrataError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_REASON: Final[dict[str, type[ErrataError]]] = {
    error.reason: error
    for error in _tree(ErrataError)
    if error not in {DeadlineError, MissingExtraError, ProofError}
}
"""All but what the client finds out itself: by its clock, in its installation, from a proof."""

_BY_CODE: Final[dict[int, type[ErrataError]]] = {
    code_pb2.CANCELLED: CancelledError,
    code_pb2.INVALID_ARGUMENT: InvalidInputError,
    code_pb2.OUT_OF_RANGE: InvalidInputError,
    code_pb2.NOT_FOUND: NotFoundError,
    code_pb2.FAILED_PRECONDITION: PreconditionError,
    code_pb2.ALREADY_EXISTS: RequestIdReusedError,
    code_pb2.ABORTED: StaleRevisionError,
    code_pb2.RESOURCE_EXHAUSTED: OverloadedError,
    code_pb2.UNAVAILABLE: UnavailableError,
    code_pb2.DATA_LOSS: LedgerCorruptError,
    code_pb2.DEADLINE_EXCEEDED: DeadlineError,
}
"""For a status that carries no reason."""


def from_status(status: status_pb2.Status) -> ErrataError:
    """The error a ``google.rpc.Status`` stands for."""
    info = error_details_pb2.ErrorInfo()
    if any(detail.Unpack(info) for detail in status.details) and info.reason in BY_REASON:
        return BY_REASON[info.reason](status.message, info.metadata)
    return _BY_CODE.get(status.code, InternalError)(status.message, info.metadata)


def from_rpc_error(error: grpc.RpcError, address: str) -> ErrataError:
    """The error a failed call stands for.

    ``address`` is named where no server answered at all.
    """
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return InternalError(f"the call to {address} failed: {error}")
    status = _details(error.trailing_metadata())
    if status is not None and status.details:
        return from_status(status)
    code: tuple[int, str] = error.code().value
    return _from_bare_code(code[0], error.details() or "", address)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Let what gRPC raises over a call leave as an error of ours.

    Raises:
        PreconditionError: the client was closed, before the call or meanwhile.
        ErrataError: the call failed.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, address) from None
    except (ValueError, grpc.aio.UsageError):  # how grpc's two kinds of channels refuse a call
        raise _closed() from None
    except asyncio.CancelledError:
        require_cancelled()
        raise


def require_cancelled() -> None:
    """Do nothing if this task was cancelled: to grpc's asyncio, closing the channel is the same.

    Raises:
        PreconditionError: it was not, so the client was closed.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise _closed() from None


def _closed() -> PreconditionError:
    return PreconditionError("this client is closed; make another one")


def _details(metadata: Iterable[tuple[str, str | bytes]] | None) -> status_pb2.Status | None:
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_bare_code(code: int, details: str, address: str) -> ErrataError:
    if code == code_pb2.UNAVAILABLE:
        return UnavailableError(
            f"no errata server answers at {address}; start one with `errata-server serve`, "
            "or say where it is with --address, address=... or ERRATA_ADDRESS",
            {"address": address, "details": details},
        )
    if code == code_pb2.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"the server at {address} did not answer in time; allow more with --timeout or "
            "timeout=...",
            {"address": address},
        )
    if code == code_pb2.RESOURCE_EXHAUSTED and "larger than max" in details:
        return InvalidInputError(
            f"the message is larger than the server at {address} takes ({details}); send less, "
            "or give it a higher --max-message-bytes",
            {"address": address},
        )
    if code == code_pb2.UNIMPLEMENTED:
        return InternalError(
            f"the server at {address} does not know this call; it is older or newer than this "
            f"client ({details})",
            {"address": address},
        )
    return _BY_CODE.get(code, InternalError)(details or f"status {code}", {"address": address})
