"""Stored bodies: canonical bytes in, verified values out.

Invariant: an insert-only row's value leaves this module only if its bytes hash to the
digest they are stored under.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from errata_server.domain import canonical
from errata_server.domain.edits import Approval
from errata_server.domain.errors import ErrataError, LedgerCorruptError
from errata_server.domain.ids import ModelId, RequestId
from errata_server.domain.operations import (
    Operation,
    OperationFailure,
    OperationKind,
    OperationState,
    Progress,
)
from errata_server.domain.profiles import ModelDescription

Value = TypeVar("Value")

SHOWN_DIGITS: Final = 12


def short(digest: str) -> str:
    """A digest as rows are named after it."""
    return f"{digest[:SHOWN_DIGITS]}.." if len(digest) > SHOWN_DIGITS else digest


def corrupt(row: str, problem: str) -> LedgerCorruptError:
    """The error that names ``row`` and what is wrong with it."""
    return LedgerCorruptError(
        f"{row} of the ledger is corrupt: {problem}; stop writing to it and run `errata audit`",
        row=row,
        problem=problem,
    )


def read_body(row: str, body: bytes, expected: str, from_body: Callable[[bytes], Value]) -> Value:
    """What ``from_body`` reads in ``body``, once its digest has been checked.

    Raises:
        LedgerCorruptError: the bytes hash to something else, or cannot be read.
    """
    found = canonical.digest(body)
    if found != expected:
        raise corrupt(row, f"the body hashes to {short(found)}, not to {short(expected)}")
    return parse_body(row, body, from_body)


def parse_body(row: str, body: bytes, from_body: Callable[[bytes], Value]) -> Value:
    """What ``from_body`` reads in ``body``.

    Raises:
        LedgerCorruptError: it cannot be read.
    """
    try:
        return from_body(body)
    except (
        ErrataError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise corrupt(row, f"the body cannot be read ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model as the ledger first met it."""

    model: ModelId
    description: ModelDescription

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field."""
        return canonical.encode(asdict(self))

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields = canonical.decode(body)
        fields["description"] = ModelDescription(**fields["description"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredApproval:
    """An approval and the request that gave it."""

    approval: Approval
    request_id: RequestId

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field."""
        fields = asdict(self)
        fields["approval"]["created_at"] = self.approval.created_at.isoformat()
        return canonical.encode(fields)

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields = canonical.decode(body)
        approval = fields["approval"]
        approval["created_at"] = datetime.fromisoformat(approval["created_at"])
        fields["approval"] = Approval(**approval)
        return cls(**fields)


def operation_body(operation: Operation) -> bytes:
    """Canonical JSON of every field of ``operation``."""
    finished = operation.finished_at
    return canonical.encode(
        asdict(operation)
        | {
            "created_at": operation.created_at.isoformat(),
            "finished_at": None if finished is None else finished.isoformat(),
        }
    )


def operation_from_body(body: bytes) -> Operation:
    """Inverse of `operation_body`."""
    fields: dict[str, Any] = canonical.decode(body)
    finished, failure = fields["finished_at"], fields["failure"]
    fields["kind"] = OperationKind.read(fields["kind"])
    fields["state"] = OperationState(fields["state"])
    fields["progress"] = Progress(**fields["progress"])
    fields["created_at"] = datetime.fromisoformat(fields["created_at"])
    fields["finished_at"] = None if finished is None else datetime.fromisoformat(finished)
    fields["failure"] = None if failure is None else OperationFailure(**failure)
    return Operation(**fields)
