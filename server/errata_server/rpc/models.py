"""ModelService: the served checkpoint and its calibration."""

from functools import partial

from google.longrunning import operations_pb2

from errata.v1 import models_pb2 as pb
from errata.v1 import models_pb2_grpc
from errata_server.rpc import calls
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import health, names, pages, revisions, values
from errata_server.rpc.convert import models as convert
from errata_server.rpc.operations import OperationMessages
from errata_server.rpc.services import Context, Services


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services, messages: OperationMessages) -> None:
        self._services = services
        self._messages = messages

    async def GetModel(self, request: pb.GetModelRequest, _context: Context) -> pb.GetModelResponse:
        """The model this server serves."""
        self._require(request.name)
        view = await calls.call(self._services.pools.calls, self._services.models.describe)
        return pb.GetModelResponse(model=convert.model_message(view))

    async def ListModels(
        self, request: pb.ListModelsRequest, _context: Context
    ) -> pb.ListModelsResponse:
        """That one model; how a client learns its name."""
        values.page_size(request.page_size)
        pages.place(request.page_token, "models")
        view = await calls.call(self._services.pools.calls, self._services.models.describe)
        return pb.ListModelsResponse(models=[convert.model_message(view)])

    async def GetModelHealth(
        self, request: pb.GetModelHealthRequest, _context: Context
    ) -> pb.GetModelHealthResponse:
        """How far the live edits have moved the model."""
        self._require(request.name)

        def read() -> pb.GetModelHealthResponse:
            served = self._services.serving.head()
            found = self._services.upkeep.health.at(served)
            return pb.GetModelHealthResponse(
                health=health.health_message(found, revisions.served(served))
            )

        return await calls.call(self._services.pools.calls, read)

    async def Calibrate(
        self, request: pb.CalibrateRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to find a profile."""
        self._require(request.name)
        seed = values.count(request.seed, "seed")
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        return await self._messages.started(partial(self._services.models.calibrate, seed, call))

    async def CollectMoments(
        self, request: pb.CollectMomentsRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to accumulate the second moment over text."""
        self._require(request.name)
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        collect = partial(self._services.models.collect_moments, tuple(request.texts), call)
        return await self._messages.started(collect)

    def _require(self, name: str) -> None:
        self._services.require(names.model_id(name, "name"), "name")
