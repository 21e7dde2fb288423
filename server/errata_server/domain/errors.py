"""The error tree. A class for each thing a caller can do about it.

::

    ErrataError
    ├── InvalidInputError            mend the request
    │   ├── InvalidFactError         subject, template or target is malformed
    │   ├── SubjectNotFoundError     the prompt does not name the subject exactly once
    │   ├── PromptTooLongError       shorten the prompt
    │   ├── AlreadyTrueError         nothing to edit
    │   ├── InvalidPatchError        the artifact's tensors are not what they must be
    │   └── InvalidSignatureError    sign exactly what is asked for
    ├── NotFoundError                use a name that exists
    │   ├── ModelNotFoundError
    │   ├── EditNotFoundError
    │   ├── RevisionNotFoundError
    │   ├── BranchNotFoundError
    │   ├── ReportNotFoundError
    │   ├── OperationNotFoundError
    │   ├── ProxyNotFoundError
    │   ├── SuiteNotFoundError
    │   └── LocatorNotFoundError
    ├── StaleRevisionError           read the head and retry
    ├── RequestIdReusedError         use a new request id
    ├── BranchExistsError            use another name
    ├── PreconditionError            change the state first
    │   ├── VerificationFailedError  propose again, or override with a reason
    │   ├── AlreadyAppliedError
    │   ├── NotAppliedError
    │   ├── DivergedError            start a branch from the target and apply there
    │   ├── ApprovalRequiredError    have somebody else approve of the edits
    │   ├── NoEffectError            the edit would change nothing
    │   ├── NotCalibratedError       calibrate the model first
    │   ├── ModelMismatchError       this ledger belongs to another checkpoint
    │   ├── UntrustedKeyError        sign with a key the server trusts
    │   ├── SignatureRequiredError   sign the proposal
    │   ├── SchemaMismatchError      migrate the ledger
    │   ├── ReadOnlyReplicaError     send it to a server that writes
    │   └── LeaseLostError           another server has taken over; ask there again
    ├── UnsupportedModelError        use a checkpoint errata can edit
    ├── UnavailableError             retry after a while
    │   ├── LedgerUnavailableError   the database is away
    │   ├── LeaseHeldError           another server carries out operations; send it there
    │   ├── QuarantinedError         this replica has taken itself out; ask another server
    │   └── OverloadedError          too much is waiting
    ├── CancelledError               the caller asked for it
    └── LedgerCorruptError           stop and run the audit
        └── DigestMismatchError      the ledger may be whole, and this machine wrong

Every value named in a message is also in ``metadata`` (AIP-193). ``reason`` is part of the
API; `errata_server.rpc.status` gives each its gRPC code.
"""

from typing import ClassVar


class ErrataError(Exception):
    """Base of everything errata raises on purpose."""

    reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.metadata = {name: str(value) for name, value in metadata.items()}


class InvalidInputError(ErrataError):
    """The request is malformed; ``field`` in the metadata says where."""

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
    """The artifact is not a finite patch of the right shape for this model."""

    reason = "INVALID_PATCH"


class InvalidSignatureError(InvalidInputError):
    """The proposer's signature is not one over what the proposal asks for."""

    reason = "INVALID_SIGNATURE"


class NotFoundError(ErrataError):
    """No such resource."""

    reason = "NOT_FOUND"


class ModelNotFoundError(NotFoundError):
    """No such model in the ledger."""

    reason = "MODEL_NOT_FOUND"


class EditNotFoundError(NotFoundError):
    """No such edit in the ledger."""

    reason = "EDIT_NOT_FOUND"


class RevisionNotFoundError(NotFoundError):
    """No such revision in the ledger."""

    reason = "REVISION_NOT_FOUND"


class BranchNotFoundError(NotFoundError):
    """No such branch in the ledger."""

    reason = "BRANCH_NOT_FOUND"


class ReportNotFoundError(NotFoundError):
    """No such report in the ledger."""

    reason = "REPORT_NOT_FOUND"


class OperationNotFoundError(NotFoundError):
    """No such operation in the ledger."""

    reason = "OPERATION_NOT_FOUND"


class ProxyNotFoundError(NotFoundError):
    """No such fitted proxy in the ledger."""

    reason = "PROXY_NOT_FOUND"


class SuiteNotFoundError(NotFoundError):
    """No such suite in the ledger."""

    reason = "SUITE_NOT_FOUND"


class LocatorNotFoundError(NotFoundError):
    """No locator of this name."""

    reason = "LOCATOR_NOT_FOUND"


class StaleRevisionError(ErrataError):
    """The branch has moved on from ``expected_revision``; read the head and retry."""

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
    """The edit would change nothing: its residual is zero."""

    reason = "NO_EFFECT"


class NotCalibratedError(PreconditionError):
    """The model has no profile yet."""

    reason = "NOT_CALIBRATED"


class ModelMismatchError(PreconditionError):
    """The ledger's history or a patch belongs to another checkpoint or profile."""

    reason = "MODEL_MISMATCH"


class UntrustedKeyError(PreconditionError):
    """The proposal is signed by a key this server does not trust."""

    reason = "UNTRUSTED_KEY"


class SignatureRequiredError(PreconditionError):
    """The proposal is not signed, and this server takes none but signed ones."""

    reason = "SIGNATURE_REQUIRED"


class SchemaMismatchError(PreconditionError):
    """The ledger's schema is not the one this server knows."""

    reason = "SCHEMA_MISMATCH"


class ReadOnlyReplicaError(PreconditionError):
    """This server follows a branch and changes nothing; send the request to one that writes."""

    reason = "READ_ONLY_REPLICA"


class LeaseLostError(PreconditionError):
    """Another server has taken over since the operation was started."""

    reason = "LEASE_LOST"


class UnsupportedModelError(ErrataError):
    """The checkpoint cannot be loaded safely or has no known projection to edit."""

    reason = "UNSUPPORTED_MODEL"


class UnavailableError(ErrataError):
    """Try again after a while."""

    reason = "UNAVAILABLE"


class LedgerUnavailableError(UnavailableError):
    """The ledger's database does not answer."""

    reason = "LEDGER_UNAVAILABLE"


class LeaseHeldError(UnavailableError):
    """Another server carries out the operations of this model at present."""

    reason = "LEASE_HELD"


class QuarantinedError(UnavailableError):
    """This replica composed other weights than the ledger vouches for and serves nothing."""

    reason = "QUARANTINED"


class OverloadedError(UnavailableError):
    """Too many requests are waiting for the model."""

    reason = "OVERLOADED"


class CancelledError(ErrataError):
    """The operation was cancelled by its caller or by a server shutting down."""

    reason = "CANCELLED"


class LedgerCorruptError(ErrataError):
    """A stored row contradicts its digest or its neighbours."""

    reason = "LEDGER_CORRUPT"


class DigestMismatchError(LedgerCorruptError):
    """What this machine composed is not what the revision vouches for."""

    reason = "DIGEST_MISMATCH"
