"""Long-running operations: their states, and the progress they report.

Invariant: the only legal moves are RUNNING to SUCCEEDED, FAILED or CANCELLED.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from errata_server.domain.ids import Digest, ModelId, OperationId, RequestId


class OperationKind(StrEnum):
    """What an operation does."""

    PROPOSE = "propose"
    PROPOSE_BATCH = "propose_batch"
    VERIFY = "verify"
    CALIBRATE = "calibrate"
    COLLECT_MOMENTS = "collect_moments"
    TRACE = "trace"
    AVERAGE_TRACE = "average_trace"
    FIT_PROXY = "fit_proxy"
    LOCATE = "locate"
    VERIFY_LIVE = "verify_live"
    CRAWL = "crawl"
    OTHER = "other"
    """In the ledger, but of a server that knows more kinds than this one."""

    @classmethod
    def read(cls, name: str) -> "OperationKind":
        """The kind a stored operation names."""
        return cls(name) if name in set(cls) else cls.OTHER


class OperationState(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a stage has come."""

    stage: str
    done: int
    total: int
    """0 where the length of the stage is not known."""

    note: str = ""


ReportProgress = Callable[[Progress], None]
"""Called between steps; raises `errors.CancelledError` when the operation is to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailure:
    """Why an operation ended without a result: a domain error's reason, text and metadata."""

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A call that outlives its request."""

    id: OperationId
    model: ModelId
    kind: OperationKind
    state: OperationState
    progress: Progress
    request_id: RequestId
    request_digest: Digest
    actor: str
    created_at: datetime
    finished_at: datetime | None = None
    result: dict[str, Any] = field(default_factory=dict)
    """JSON-ready; for PROPOSE and VERIFY ``{"edit": id, "report": id}``, for PROPOSE_BATCH as
    `errata_server.service.batches` says, for CALIBRATE
    ``{"profile": id}``, for COLLECT_MOMENTS ``{"tokens": n, "corpus": digest}``, for the
    others ``{"artifact": digest}``."""

    failure: OperationFailure | None = None

    @property
    def done(self) -> bool:
        """Whether the operation has ended."""
        return self.state is not OperationState.RUNNING
