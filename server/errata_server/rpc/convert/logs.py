"""The log: entries, ledger checkpoints and proofs."""

from errata.v1 import ledger_pb2
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import ModelId
from errata_server.domain.log import LogEntry, LogKind
from errata_server.rpc.convert import names
from errata_server.service.ledger_log import CheckpointView, ConsistencyView, InclusionView


def logged_name(name: str, field: str) -> tuple[ModelId, LogKind, str]:
    """Model, kind and id of what ``models/*/{edits,reports,revisions}/*`` names.

    Raises:
        InvalidInputError: the name has another form.
    """
    match name.split("/"):
        case ["models", _, "edits", _]:
            return _named(names.edit_id(name, field), LogKind.EDIT)
        case ["models", _, "reports", _]:
            return _named(names.report_id(name, field), LogKind.REPORT)
        case ["models", _, "revisions", _]:
            return _named(names.revision_reference(name, field), LogKind.REVISION)
    raise InvalidInputError(
        f"{field} is {name[:80]!r}; it must have the form models/MODEL/edits/ID, with edits, "
        "reports or revisions",
        field=field,
    )


def _named(found: tuple[ModelId, str], kind: LogKind) -> tuple[ModelId, LogKind, str]:
    model, key = found
    return model, kind, key


def entry_message(entry: LogEntry) -> ledger_pb2.LogEntry:
    """One row's place in the log."""
    return ledger_pb2.LogEntry(
        position=entry.position, kind=entry.kind.value, key=entry.key, digest=entry.digest
    )


def checkpoint_message(view: CheckpointView) -> ledger_pb2.LedgerCheckpoint:
    """A checkpoint with the note that carries it."""
    return ledger_pb2.LedgerCheckpoint(
        note=view.note, size=view.checkpoint.size, root=view.checkpoint.root, key=view.key
    )


def inclusion_message(view: InclusionView) -> ledger_pb2.GetInclusionProofResponse:
    """What proves a row to be in the log."""
    return ledger_pb2.GetInclusionProofResponse(
        entry=entry_message(view.entry),
        body=view.body,
        hashes=view.hashes,
        checkpoint=checkpoint_message(view.checkpoint),
    )


def consistency_message(view: ConsistencyView) -> ledger_pb2.GetConsistencyProofResponse:
    """What proves that the log only grew."""
    return ledger_pb2.GetConsistencyProofResponse(
        hashes=view.hashes,
        first=checkpoint_message(view.first),
        second=checkpoint_message(view.second),
    )
