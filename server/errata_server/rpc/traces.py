"""TraceService: where the model keeps a fact."""

from functools import partial

from google.longrunning import operations_pb2

from errata.v1 import traces_pb2 as pb
from errata.v1 import traces_pb2_grpc
from errata_server.domain.operations import Operation
from errata_server.domain.traces import Proxy
from errata_server.rpc import calls
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import locators, names, pages, values
from errata_server.rpc.convert import traces as convert
from errata_server.rpc.operations import OperationMessages
from errata_server.rpc.services import Context, Services
from errata_server.service.calls import Call

Asked = pb.TraceFactRequest | pb.TraceFactsRequest | pb.FitProxyRequest | pb.LocateRequest


class TraceServicer(traces_pb2_grpc.TraceServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services, messages: OperationMessages) -> None:
        self._services = services
        self._traces = services.traces
        self._messages = messages

    async def TraceFact(
        self, request: pb.TraceFactRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to trace one prompt."""
        reference, call = self._asked(request)

        def start() -> Operation:
            proxy = self._proxy(request.proxy)
            asked = convert.trace_request(request, proxy=proxy, memory_mib=self._traces.memory_mib)
            return self._traces.trace(asked, reference, call)

        return await self._messages.started(start)

    async def TraceFacts(
        self, request: pb.TraceFactsRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to trace many facts and average them."""
        reference, call = self._asked(request)
        asked = convert.average_request(request, memory_mib=self._traces.memory_mib)
        return await self._messages.started(partial(self._traces.average, asked, reference, call))

    async def FitProxy(
        self, request: pb.FitProxyRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to fit a classifier."""
        reference, call = self._asked(request)
        asked = convert.proxy_request(request)
        return await self._messages.started(partial(self._traces.fit_proxy, asked, reference, call))

    async def Locate(
        self, request: pb.LocateRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to ask another locator."""
        reference, call = self._asked(request)
        asked = locators.locate_request(request)
        return await self._messages.started(partial(self._traces.locate, asked, reference, call))

    async def ListLocators(
        self, request: pb.ListLocatorsRequest, _context: Context
    ) -> pb.ListLocatorsResponse:
        """The locators there are."""
        self._require(request.parent)
        query = ("locators", request.parent)
        find = partial(
            self._traces.locators,
            page_size=values.page_size(request.page_size),
            page_token=pages.place(request.page_token, *query),
        )
        page = await calls.call(self._services.pools.calls, find)
        return pb.ListLocatorsResponse(
            locators=[locators.locator_message(locator) for locator in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    def _asked(self, request: Asked) -> tuple[str, Call]:
        """At which revision, and by whom; refuses what is for another model."""
        self._require(request.parent)
        revision = request.revision
        reference = self._services.reference(revision, "revision") if revision else ""
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        return reference, call

    def _require(self, parent: str) -> None:
        self._services.require(names.model_id(parent, "parent"), "parent")

    def _proxy(self, name: str) -> Proxy | None:
        if not name:
            return None
        model, digest = names.proxy_digest(name, "proxy")
        self._services.require(model, "proxy")
        return self._traces.proxy(digest)
