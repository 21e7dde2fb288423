"""CrawlService: what the model says around a subject, at two revisions."""

from functools import partial

from google.longrunning import operations_pb2

from errata.v1 import crawls_pb2 as pb
from errata.v1 import crawls_pb2_grpc
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import crawls as convert
from errata_server.rpc.convert import names
from errata_server.rpc.operations import OperationMessages
from errata_server.rpc.services import Context, Services


class CrawlServicer(crawls_pb2_grpc.CrawlServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services, messages: OperationMessages) -> None:
        self._services = services
        self._messages = messages

    async def CrawlSubject(
        self, request: pb.CrawlSubjectRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to ask around a subject."""
        self._services.require(names.model_id(request.parent, "parent"), "parent")
        at, against = (
            self._services.reference(name, field) if name else ""
            for name, field in ((request.revision, "revision"), (request.against, "against"))
        )
        asked = convert.crawl_request(request)
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        crawl = partial(self._services.upkeep.crawls.crawl, asked, at, against, call)
        return await self._messages.started(crawl)
