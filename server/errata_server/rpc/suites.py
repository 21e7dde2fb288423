"""SuiteService: regression prompts that every proposal is run with."""

from functools import partial

from errata.v1 import suites_pb2 as pb
from errata.v1 import suites_pb2_grpc
from errata_server.domain.suites import suite_name
from errata_server.rpc import calls
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import names, pages, values
from errata_server.rpc.convert import suites as convert
from errata_server.rpc.services import Context, Services


class SuiteServicer(suites_pb2_grpc.SuiteServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def AddSuite(self, request: pb.AddSuiteRequest, _context: Context) -> pb.AddSuiteResponse:
        """Store the next version of a suite."""
        self._require(request.parent)
        add = partial(
            self._services.upkeep.suites.add,
            suite_name(request.suite),
            convert.prompts(request.prompts, "prompts"),
            convert_calls.call(
                actor=request.actor, request_id=request.request_id, reason=request.reason
            ),
        )
        view = await calls.call(self._services.pools.calls, add)
        return pb.AddSuiteResponse(suite=convert.suite_message(view))

    async def GetSuite(self, request: pb.GetSuiteRequest, _context: Context) -> pb.GetSuiteResponse:
        """A version with its prompts."""
        model, name, version = convert.named_suite(request.name, "name")
        self._services.require(model, "name")
        get = partial(self._services.upkeep.suites.get, name, version)
        view = await calls.call(self._services.pools.calls, get)
        return pb.GetSuiteResponse(suite=convert.suite_message(view))

    async def ListSuites(
        self, request: pb.ListSuitesRequest, _context: Context
    ) -> pb.ListSuitesResponse:
        """The latest version of every suite, or all versions of one."""
        self._require(request.parent)
        query = ("suites", request.parent, request.suite)
        find = partial(
            self._services.upkeep.suites.list,
            suite_name(request.suite) if request.suite else None,
            page_size=values.page_size(request.page_size),
            page_token=pages.place(request.page_token, *query),
        )
        page = await calls.call(self._services.pools.calls, find)
        return pb.ListSuitesResponse(
            suites=[convert.version_message(version) for version in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    def _require(self, parent: str) -> None:
        self._services.require(names.model_id(parent, "parent"), "parent")
