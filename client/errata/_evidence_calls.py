"""The calls about the log and its checkpoints as data, as in `errata._calls`; pure."""

from errata._arguments import checked
from errata._call_types import Call, EditReference, Pages, Scope
from errata._checkpoints import InclusionProof, LedgerCheckpoint, LogEntry
from errata._errors import InvalidInputError, ProofError
from errata._types import Edit, Page, Report, Revision
from errata.v1 import ledger_pb2

_LEDGER = "errata.v1.LedgerService"

Provable = EditReference | Report | Revision
"""What may be proven to be in the log: itself, or its name."""


@checked
def get_checkpoint(size: int) -> Call[ledger_pb2.GetCheckpointResponse, LedgerCheckpoint]:
    """Read the size and root of the log."""
    return Call(
        method=f"/{_LEDGER}/GetCheckpoint",
        reply=ledger_pb2.GetCheckpointResponse,
        build=lambda scope: ledger_pb2.GetCheckpointRequest(parent=scope.model, size=size),
        parse=lambda message: _checkpoint(message.checkpoint),
    )


@checked
def get_inclusion_proof(
    what: Provable, size: int
) -> Call[ledger_pb2.GetInclusionProofResponse, InclusionProof]:
    """Read what proves an edit, a report or a revision to be in the log."""
    return Call(
        method=f"/{_LEDGER}/GetInclusionProof",
        reply=ledger_pb2.GetInclusionProofResponse,
        build=lambda scope: ledger_pb2.GetInclusionProofRequest(
            name=full_name(what, scope), size=size
        ),
        parse=_inclusion,
    )


def full_name(what: Provable, scope: Scope) -> str:
    """The full name of what is to be proven; a bare id is an edit's or a revision's.

    Raises:
        InvalidInputError: it is empty, or the name of something else.
    """
    name = what.name if isinstance(what, Edit | Report | Revision) else what
    if str(name).startswith("models/"):
        return name
    return scope.name("edits" if str(name).startswith("e-") else "revisions", name)


def _inclusion(message: ledger_pb2.GetInclusionProofResponse) -> InclusionProof:
    return InclusionProof(
        entry=_entry(message.entry),
        body=message.body,
        hashes=tuple(message.hashes),
        checkpoint=_checkpoint(message.checkpoint),
    )


def _entry(message: ledger_pb2.LogEntry) -> LogEntry:
    return LogEntry(
        position=message.position, kind=message.kind, key=message.key, digest=message.digest
    )


def _checkpoint(message: ledger_pb2.LedgerCheckpoint) -> LedgerCheckpoint:
    try:
        return LedgerCheckpoint.parse(message.note)
    except InvalidInputError as error:
        raise ProofError(f"the server's checkpoint cannot be read: {error}") from error


@checked
def get_consistency_proof(
    first: int, second: int
) -> Call[ledger_pb2.GetConsistencyProofResponse, tuple[bytes, ...]]:
    """Read what is to prove that the log only grew between two of its sizes."""
    return Call(
        method=f"/{_LEDGER}/GetConsistencyProof",
        reply=ledger_pb2.GetConsistencyProofResponse,
        build=lambda scope: ledger_pb2.GetConsistencyProofRequest(
            parent=scope.model, first_size=first, second_size=second
        ),
        parse=lambda message: tuple(message.hashes),
    )


@checked
def list_log_entries(page_size: int) -> Pages[LogEntry]:
    """Read the log, oldest entry first."""
    return lambda token: Call(
        method=f"/{_LEDGER}/ListLogEntries",
        reply=ledger_pb2.ListLogEntriesResponse,
        build=lambda scope: ledger_pb2.ListLogEntriesRequest(
            parent=scope.model, page_size=page_size, page_token=token
        ),
        parse=lambda message: Page(
            items=tuple(_entry(entry) for entry in message.entries),
            next_token=message.next_page_token,
        ),
    )
