"""google.longrunning.Operations: watch, await, cancel and forget what outlives its request."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from google.longrunning import operations_pb2 as pb
from google.longrunning import operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from errata.v1 import crawls_pb2, edits_pb2, models_pb2, traces_pb2, types_pb2
from errata_server.domain.checks import Report
from errata_server.domain.errors import (
    CancelledError,
    ErrataError,
    InvalidInputError,
    InvalidPatchError,
)
from errata_server.domain.ids import Digest, EditId, OperationId, ProfileId, ReportId
from errata_server.domain.locators import Location
from errata_server.domain.operations import (
    Operation,
    OperationFailure,
    OperationKind,
    OperationState,
)
from errata_server.domain.traces import AverageTrace, CausalTrace, Provenance, Proxy
from errata_server.rpc import calls, status
from errata_server.rpc.convert import (
    batches,
    crawls,
    edits,
    health,
    locators,
    models,
    names,
    pages,
    reports,
    revisions,
    traces,
    values,
)
from errata_server.rpc.convert import operations as convert
from errata_server.rpc.services import Context, Services
from errata_server.service.views import EditView

WAIT_SLICE_SECONDS: Final = 0.5
"""How long a waiting client holds a thread at a time."""

POLL_SECONDS: Final = 0.05
"""Between two looks at an operation that runs in another server, where waiting returns at once."""

LARGEST_PAGE_BYTES: Final = 8 * 1024 * 1024
"""A page of operations ends early beyond it, whatever its size in operations."""

COLLECTION: Final = "operations"
_CANCELLED: Final = OperationFailure(
    reason=CancelledError.reason, message="the operation was cancelled"
)
_UNREADABLE: Final = OperationFailure(
    reason=ErrataError.reason,
    message="the operation succeeded on another version of errata-server, which alone can show "
    "its result",
)


class OperationMessages:
    """Puts an operation's message together, looking up what its result names."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._response_of: dict[OperationKind, Callable[[dict[str, Any]], Message]] = {
            OperationKind.PROPOSE: self._proposed,
            OperationKind.PROPOSE_BATCH: self._proposed_batch,
            OperationKind.VERIFY: self._verified,
            OperationKind.CALIBRATE: self._calibrated,
            OperationKind.COLLECT_MOMENTS: _collected,
            OperationKind.TRACE: self._traced,
            OperationKind.AVERAGE_TRACE: self._averaged,
            OperationKind.FIT_PROXY: self._fitted,
            OperationKind.LOCATE: self._located,
            OperationKind.VERIFY_LIVE: self._verified_live,
            OperationKind.CRAWL: self._crawled,
        }

    async def started(self, start: Callable[[], Operation]) -> pb.Operation:
        """The message of the operation that ``start`` starts or finds."""
        return await calls.call(self._services.pools.calls, lambda: self.message(start()))

    def message(self, operation: Operation) -> pb.Operation:
        """The operation as clients see it; blocks for the ledger."""
        response, error = None, None
        if operation.state is OperationState.SUCCEEDED:
            response = self._response(operation)
            error = None if response is not None else status.failure_to_status(_UNREADABLE)
        elif operation.done:
            error = status.failure_to_status(operation.failure or _CANCELLED)
        return convert.operation_message(operation, response=response, error=error)

    def _response(self, operation: Operation) -> Message | None:
        """What the operation came to; None where another version of errata stored it."""
        read = self._response_of.get(operation.kind)
        if read is None:
            return None
        try:
            return read(operation.result)
        except InvalidPatchError:  # damaged: a case for the audit
            raise
        except InvalidInputError:  # of a schema that this version does not know
            return None

    def _proposed(self, result: dict[str, Any]) -> Message:
        if not result:  # only validated
            return edits_pb2.ProposeEditResponse()
        edit, report = self._checked(result)
        return edits_pb2.ProposeEditResponse(edit=edit, report=report)

    def _proposed_batch(self, result: dict[str, Any]) -> Message:
        rows = result["edits"]
        views = self._services.proposals.several([EditId(row["edit"]) for row in rows])
        found = [
            batches.proposed(view, self._report(view, row["report"]), row["places"])
            for view, row in zip(views, rows, strict=True)
        ]
        return batches.response(result, found)

    def _verified(self, result: dict[str, Any]) -> Message:
        edit, report = self._checked(result)
        return edits_pb2.VerifyEditResponse(edit=edit, report=report)

    def _checked(self, result: dict[str, Any]) -> tuple[Any, Any]:
        view = self._services.proposals.get(EditId(result["edit"]))
        report = self._report(view, result["report"])
        return edits.edit_message(view), reports.report_message(report)

    def _report(self, view: EditView, name: str) -> Report:
        """The report an operation came to: the edit's latest, or an earlier one."""
        if view.report.id == name:
            return view.report
        return self._services.proposals.report(ReportId(name))

    def _calibrated(self, result: dict[str, Any]) -> Message:
        profile = self._services.models.profile(ProfileId(result["profile"]))
        return models_pb2.CalibrateResponse(profile=models.profile_message(profile))

    def _traced(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        trace = self._services.traces.result(CausalTrace, digest)
        served = self._served(trace.provenance)
        return traces_pb2.TraceFactResponse(trace=traces.trace_message(digest, trace, served))

    def _averaged(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        average = self._services.traces.result(AverageTrace, digest)
        served = self._served(average.provenance)
        message = traces.average_message(digest, average, served)
        return traces_pb2.TraceFactsResponse(average=message)

    def _fitted(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        proxy = self._services.traces.result(Proxy, digest)
        message = traces.proxy_message(names.proxy_name(self._services.model, digest), proxy)
        return traces_pb2.FitProxyResponse(proxy=message)

    def _located(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        location = self._services.traces.result(Location, digest)
        served = self._served(location.provenance)
        message = locators.location_message(digest, location, served)
        return traces_pb2.LocateResponse(location=message)

    def _verified_live(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        found = self._services.upkeep.live_edits.result(digest)
        served = self._served_at(found.revision, found.weights_digest)
        message = health.verification_message(self._services.model, digest, found, served)
        return edits_pb2.VerifyLiveEditsResponse(verification=message)

    def _crawled(self, result: dict[str, Any]) -> Message:
        digest = Digest(result["artifact"])
        crawl = self._services.upkeep.crawls.result(digest)
        before, after = (
            self._served_at(view.revision, view.weights_digest)
            for view in (crawl.before, crawl.after)
        )
        message = crawls.crawl_message(self._services.model, digest, crawl, (before, after))
        return crawls_pb2.CrawlSubjectResponse(crawl=message)

    def _served(self, provenance: Provenance) -> types_pb2.Served:
        return self._served_at(provenance.revision, provenance.weights_digest)

    def _served_at(self, revision: str, weights_digest: Digest) -> types_pb2.Served:
        return revisions.served_at(self._services.history.get(revision), weights_digest)


def _listed(operations: list[pb.Operation], last: str) -> pb.ListOperationsResponse:
    return pb.ListOperationsResponse(
        operations=operations, next_page_token=pages.token(last, COLLECTION)
    )


def _collected(result: dict[str, Any]) -> Message:
    return models_pb2.CollectMomentsResponse(tokens=result["tokens"])


class OperationsServicer(operations_pb2_grpc.OperationsServicer):
    """The standard service over this server's operations."""

    def __init__(self, services: Services, messages: OperationMessages) -> None:
        self._services = services
        self._messages = messages

    async def GetOperation(
        self, request: pb.GetOperationRequest, _context: Context
    ) -> pb.Operation:
        """How an operation stands."""
        operation = names.operation_id(request.name, "name")
        return await self._messages.started(partial(self._services.operations.get, operation))

    async def ListOperations(
        self, request: pb.ListOperationsRequest, _context: Context
    ) -> pb.ListOperationsResponse:
        """Operations, newest first."""
        if request.name not in {"", COLLECTION}:
            raise InvalidInputError(f"name must be {COLLECTION!r} or empty", field="name")
        if request.filter:
            raise InvalidInputError(
                "this list cannot be filtered; leave filter empty", field="filter"
            )
        find = partial(
            self._services.operations.list,
            page_size=values.page_size(request.page_size),
            page_token=pages.place(request.page_token, COLLECTION),
        )

        def read() -> pb.ListOperationsResponse:
            page = find()
            shown, size = [], 0
            for operation in page.items:
                shown.append(self._messages.message(operation))
                size += shown[-1].ByteSize()
                if size > LARGEST_PAGE_BYTES and operation is not page.items[-1]:
                    # Traces are large; the client asks for the rest as for any next page.
                    return _listed(shown, operation.id)
            return _listed(shown, page.next_token)

        return await calls.call(self._services.pools.calls, read)

    async def CancelOperation(
        self, request: pb.CancelOperationRequest, _context: Context
    ) -> empty_pb2.Empty:
        """Ask an operation to stop; one that has ended stays as it is."""
        operation = names.operation_id(request.name, "name")
        cancel = partial(self._services.operations.cancel, operation)
        await calls.call(self._services.pools.calls, cancel)
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: pb.DeleteOperationRequest, _context: Context
    ) -> empty_pb2.Empty:
        """Forget an operation that has ended; what it made stays."""
        operation = names.operation_id(request.name, "name")
        forget = partial(self._services.operations.forget, operation)
        await calls.call(self._services.pools.calls, forget)
        return empty_pb2.Empty()

    async def WaitOperation(
        self, request: pb.WaitOperationRequest, _context: Context
    ) -> pb.Operation:
        """How an operation stands once it has ended, or when the time is over."""
        operation = names.operation_id(request.name, "name")
        given = request.timeout if request.HasField("timeout") else None
        ended = await self._wait(operation, convert.wait_seconds(given))
        return await self._messages.started(lambda: ended)

    async def _wait(self, operation: OperationId, seconds: float) -> Operation:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            remaining = max(0.0, deadline - loop.time())
            wait = partial(
                self._services.operations.wait, operation, min(remaining, WAIT_SLICE_SECONDS)
            )
            found = await calls.call(self._services.pools.waits, wait)
            if found.done or loop.time() >= deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)
