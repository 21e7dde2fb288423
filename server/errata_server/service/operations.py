"""Calls that outlive their request: run on a pool, watched, cancelled, recorded.

Invariants: every operation that was started ends as SUCCEEDED, FAILED or CANCELLED, be it
when the next server takes over; no success is told that is not in the ledger: until it is, the
operation runs; one is started only under this server's lease, and nothing it makes is stored
once another server has taken over; progress lives in memory alone; what an unforeseen
exception says stays in the log.
"""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, repeat
from typing import Any, Final

import structlog

from errata_server import telemetry
from errata_server.domain.errors import (
    CancelledError,
    ErrataError,
    InvalidInputError,
    LeaseHeldError,
    LeaseLostError,
    OperationNotFoundError,
    OverloadedError,
    PreconditionError,
    UnavailableError,
)
from errata_server.domain.ids import (
    Digest,
    ModelId,
    OperationId,
    RequestId,
    new_operation_id,
)
from errata_server.domain.leases import Fence
from errata_server.domain.operations import (
    Operation,
    OperationFailure,
    OperationKind,
    OperationState,
    Progress,
    ReportProgress,
)
from errata_server.ledger.leases import under
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import page_limit
from errata_server.service.leases import LeaseKeeper
from errata_server.service.views import Page

MAX_WAITING: Final = 64
"""Operations that may be unfinished; beyond it callers are turned away."""

RECORD_DELAYS: Final = (0.1, 0.5, 2.0)
"""Seconds between attempts to record an end while the database is away; the last is repeated."""

WAITING: Final = Progress(stage="waiting", done=0, total=0)
RECORDING: Final = Progress(
    stage="recording", done=0, total=0, note="its end is told once the ledger has it"
)
Work = Callable[[ReportProgress], dict[str, Any]]
_LOG = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    """An operation of this process whose end is not in the ledger."""

    operation: Operation
    lease: LeaseKeeper
    fence: Fence | None = None
    """What it was started under; None until it is recorded as running."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once nothing more is done about it here."""

    def report(self, progress: Progress) -> None:
        """Remember ``progress``; the way a cancellation reaches the work."""
        if self.cancelled.is_set():
            raise CancelledError(
                f"operation {self.operation.id} was cancelled", operation=self.operation.id
            )
        if self.fence is not None:
            self.lease.require(self.fence)
        self.operation = replace(self.operation, progress=progress)


def _closing() -> UnavailableError:
    return UnavailableError("the server is shutting down; retry on another")


class Operations:
    """Submits work, and answers what has become of it."""

    def __init__(
        self,
        ledger: Ledger,
        model: ModelId,
        *,
        now: Callable[[], datetime],
        lease: LeaseKeeper,
        workers: int = 2,
    ) -> None:
        """Run at most ``workers`` operations at a time, under ``lease``."""
        self.lease: Final = lease
        self._ledger = ledger
        self._model = model
        self._now = now
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="operation")
        self._jobs: dict[OperationId, _Job] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._given_up = threading.Event()

    def submit(
        self,
        kind: OperationKind,
        *,
        actor: str,
        request_id: RequestId,
        request_digest: Digest,
        work: Work,
    ) -> Operation:
        """Start ``work``, or find what an earlier call with this request id started.

        Raises:
            RequestIdReusedError: the request id was used for something else.
            OverloadedError: too many operations are unfinished.
            LeaseHeldError: another server carries out the operations of this model.
            UnavailableError: the server is shutting down.
        """
        operation = Operation(
            id=new_operation_id(),
            model=self._model,
            kind=kind,
            state=OperationState.RUNNING,
            progress=WAITING,
            request_id=request_id,
            request_digest=request_digest,
            actor=actor,
            created_at=self._now(),
        )
        job = self._admit(operation)
        try:
            stored = self._started(job)
            if stored.id == operation.id:
                self._begin(job, work)
                return job.operation
        except BaseException:
            self._forget(job)
            raise
        self._forget(job)
        return self.get(stored.id)

    def _begin(self, job: _Job, work: Work) -> None:
        try:
            # The context carries what must be hidden in the log.
            self._pool.submit(copy_context().run, self._run, job, work)
        except RuntimeError:
            raise _closing() from None

    def _started(self, job: _Job) -> Operation:
        """The operation as it is recorded: this one, or what its request started earlier."""
        try:
            return self._start_under(self.lease.fence(), job)
        except LeaseHeldError:
            earlier = self._ledger.repeated_operation(job.operation)
            if earlier is None:
                raise
            return earlier
        except LeaseLostError:
            pass  # it ended unnoticed; perhaps it can be had again
        return self._start_under(self.lease.fence(), job)

    def _start_under(self, fence: Fence, job: _Job) -> Operation:
        job.fence = fence
        try:
            with under(fence):
                return self._ledger.start_operation(job.operation)
        except LeaseLostError:
            self.lease.lose(fence)
            raise

    def get(self, operation: OperationId) -> Operation:
        """How an operation stands, with its progress if it runs here.

        Raises:
            OperationNotFoundError: there is none of this id.
        """
        job = self._job(operation)
        return job.operation if job is not None else self._ledger.operation(operation)

    def list(self, *, page_size: int = 0, page_token: str = "") -> Page[Operation]:
        """Operations, newest first.

        Raises:
            InvalidInputError: the page token is none of ours.
        """
        limit = page_limit(page_size)
        with self._lock:  # before the ledger is asked: what ends meanwhile is known from here
            jobs = dict(self._jobs)
        found = self._after(OperationId(page_token) or None, limit + 1)
        shown = [one if one.done or one.id not in jobs else jobs[one.id].operation for one in found]
        more = len(shown) > limit
        return Page(items=tuple(shown[:limit]), next_token=str(shown[limit - 1].id) if more else "")

    def cancel(self, operation: OperationId) -> Operation:
        """Ask an operation to stop; it ends between two of its steps.

        Raises:
            OperationNotFoundError: there is none of this id.
            PreconditionError: it runs in another server.
        """
        job = self._job(operation)
        if job is None:
            found = self._ledger.operation(operation)
            if not found.done:
                raise PreconditionError(
                    f"operation {operation} runs in another server; cancel it there",
                    operation=operation,
                )
            return found
        job.cancelled.set()
        return job.operation

    def forget(self, operation: OperationId) -> None:
        """Remove an operation that has ended; what it made stays.

        Raises:
            OperationNotFoundError: there is none of this id.
            PreconditionError: it has not ended.
        """
        self._ledger.forget_operation(operation)

    def wait(self, operation: OperationId, timeout: float | None) -> Operation:
        """How an operation stands once it has ended, or after ``timeout`` seconds.

        Raises:
            OperationNotFoundError: there is none of this id.
        """
        job = self._job(operation)
        if job is None:
            return self._ledger.operation(operation)
        if job.ended.wait(timeout) and not job.operation.done:  # the ledger knows how it ended
            return self.get(operation)
        return job.operation

    def close(self, grace: float) -> None:
        """Take no more work, let what runs finish for ``grace`` seconds, then cancel it.

        What cannot be recorded by then is ended by the server that takes over.
        """
        with self._lock:
            self._closed = True
            jobs = list(self._jobs.values())
        deadline = time.monotonic() + grace
        for job in jobs:
            job.ended.wait(max(0.0, deadline - time.monotonic()))
        for job in jobs:
            job.cancelled.set()
        self._given_up.set()
        self._pool.shutdown(wait=True)

    def _after(self, cursor: OperationId | None, limit: int) -> "tuple[Operation, ...]":
        try:
            return tuple(self._ledger.operations(self._model, limit=limit, after=cursor))
        except OperationNotFoundError as error:
            raise InvalidInputError(
                f"page_token {cursor!r} is not one this server gave out; begin without one",
                field="page_token",
            ) from error

    def _admit(self, operation: Operation) -> _Job:
        job = _Job(operation, self.lease)
        with self._lock:
            if self._closed:
                raise _closing()
            if sum(not job.operation.done for job in self._jobs.values()) >= MAX_WAITING:
                raise OverloadedError(
                    f"{MAX_WAITING} operations are unfinished already; retry after a while",
                    waiting=MAX_WAITING,
                )
            self._jobs[operation.id] = job
        return job

    def _job(self, operation: OperationId) -> _Job | None:
        with self._lock:
            return self._jobs.get(operation)

    def _forget(self, job: _Job) -> None:
        with self._lock:
            self._jobs.pop(job.operation.id, None)

    def _run(self, job: _Job, work: Work) -> None:
        telemetry.operation_started(job.operation.kind.value)
        with under(job.fence) if job.fence is not None else nullcontext():
            ended = replace(self._outcome(job, work), finished_at=self._now())
            telemetry.operation_finished(ended.kind.value, ended.state.value)
            self._record(job, ended)
        job.ended.set()

    def _outcome(self, job: _Job, work: Work) -> Operation:
        """The operation as it ends, whatever happens in ``work``."""
        try:
            job.report(replace(WAITING, stage="started"))
            result = work(job.report)
        except CancelledError as error:
            return replace(job.operation, state=OperationState.CANCELLED, failure=_failure(error))
        except ErrataError as error:
            return replace(job.operation, state=OperationState.FAILED, failure=_failure(error))
        except Exception:  # noqa: BLE001  # the runner's last resort: logged, not told
            return replace(
                job.operation, state=OperationState.FAILED, failure=self._internal(job.operation)
            )
        return replace(job.operation, state=OperationState.SUCCEEDED, result=result)

    def _internal(self, operation: Operation) -> OperationFailure:
        error_id = secrets.token_hex(8)
        _LOG.exception("operation failed", kind=operation.kind.value, error_id=error_id)
        return OperationFailure(
            reason="INTERNAL",
            message=f"internal error {error_id}; the server's log has the details under this id",
            metadata={"error_id": error_id},
        )

    def _record(self, job: _Job, ended: Operation) -> None:
        """Store how it ended, and tell it then; until closed where the database stays away."""
        for delay in chain(RECORD_DELAYS, repeat(RECORD_DELAYS[-1])):
            try:
                self._ledger.finish_operation(ended)
            except PreconditionError as error:  # who took over has declared it interrupted
                _LOG.warning("an operation had been ended elsewhere", reason=error.reason)
                break
            except UnavailableError as error:
                _LOG.warning("an operation's end was not recorded", reason=error.reason)
                job.operation = replace(job.operation, progress=RECORDING)
                if self._given_up.wait(delay):
                    break
            except ErrataError as error:  # damaged: what takes over can but say that it failed
                _LOG.warning("an operation's end cannot be recorded", reason=error.reason)
                failure = _failure(error)
                job.operation = replace(
                    ended, state=OperationState.FAILED, result={}, failure=failure
                )
                return
            else:
                job.operation = ended
                break
        self._forget(job)


def _failure(error: ErrataError) -> OperationFailure:
    return OperationFailure(reason=error.reason, message=str(error), metadata=error.metadata)
