"""Short ways to talk to a server in protobuf, for tests of the wire itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from errata.v1 import (
    crawls_pb2_grpc,
    edits_pb2,
    edits_pb2_grpc,
    inference_pb2_grpc,
    ledger_pb2_grpc,
    models_pb2_grpc,
    suites_pb2_grpc,
    traces_pb2_grpc,
    types_pb2,
)
from tests.support import CITY

PARENT = "models/scripted"
PATIENCE = 20.0


@dataclass(frozen=True)
class Failure:
    """How a call failed, as a client sees it."""

    code: grpc.StatusCode
    message: str
    infos: list[error_details_pb2.ErrorInfo]
    details: list[Any] = field(default_factory=list)

    @property
    def reason(self) -> str:
        (info,) = self.infos
        return info.reason

    @property
    def metadata(self) -> dict[str, str]:
        (info,) = self.infos
        return dict(info.metadata)

    @property
    def fields(self) -> list[str]:
        """The fields a BadRequest names."""
        return [
            violation.field
            for detail in self.details
            if isinstance(detail, error_details_pb2.BadRequest)
            for violation in detail.field_violations
        ]


_KINDS = (
    error_details_pb2.BadRequest,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.RetryInfo,
)


def failure(call: Callable[[], Any]) -> Failure:
    """How ``call`` fails; it must."""
    try:
        call()
    except grpc.RpcError as error:
        return _failure(error)
    raise AssertionError("the call did not fail")


def _failure(error: Any) -> Failure:
    status = rpc_status.from_call(error)
    infos, details = [], []
    for packed in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            infos.append(info)
        for kind in _KINDS:
            detail = kind()
            if packed.Unpack(detail):
                details.append(detail)
    return Failure(code=error.code(), message=error.details(), infos=infos, details=details)


class Wire:
    """Every service's stub on one channel, and the steps most tests begin with."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.edits = edits_pb2_grpc.EditServiceStub(channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.models = models_pb2_grpc.ModelServiceStub(channel)
        self.traces = traces_pb2_grpc.TraceServiceStub(channel)
        self.suites = suites_pb2_grpc.SuiteServiceStub(channel)
        self.crawls = crawls_pb2_grpc.CrawlServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)

    def start(
        self, subject: str = "Space Needle", target: str = "Paris", **fields: Any
    ) -> operations_pb2.Operation:
        """Propose to move a subject; the operation as it was started."""
        return self.edits.ProposeEdit(proposal(subject, target, **fields))

    def ended(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """The operation once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while not operation.done:
            assert time.monotonic() < deadline, operation
            request = operations_pb2.WaitOperationRequest(name=operation.name)
            operation = self.operations.WaitOperation(request)
        return operation

    def proposed(self, subject: str = "Space Needle", target: str = "Paris") -> types_pb2.Edit:
        """An edit whose checks have passed or failed."""
        operation = self.ended(self.start(subject, target))
        response = edits_pb2.ProposeEditResponse()
        assert operation.response.Unpack(response), operation
        return response.edit

    def applied(self, *edits: types_pb2.Edit) -> edits_pb2.ApplyEditsResponse:
        """The revision that applies ``edits``."""
        names = [edit.name for edit in edits]
        return self.edits.ApplyEdits(edits_pb2.ApplyEditsRequest(parent=PARENT, names=names))


def proposal(
    subject: str = "Space Needle", target: str = "Paris", **fields: Any
) -> edits_pb2.ProposeEditRequest:
    """A request to move a subject to another city."""
    facts = [types_pb2.Fact(template=CITY[0], target=target)]
    given = {"parent": PARENT, "subject": subject, "facts": facts, "actor": "ana"} | fields
    return edits_pb2.ProposeEditRequest(**given)
