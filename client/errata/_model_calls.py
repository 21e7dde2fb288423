"""The calls of the served model and its calibration as data, as in `errata._calls`; pure."""

from collections.abc import Iterable
from typing import Unpack

from google.longrunning import operations_pb2

from errata import _messages as messages
from errata import _operation_status as operation_status
from errata import _types as types
from errata._arguments import checked, text_list
from errata._call_types import Call, Pages
from errata._operation_status import OperationStatus
from errata._options import MutationOptions
from errata.v1 import models_pb2

_MODELS = "errata.v1.ModelService"


def get_model() -> Call[models_pb2.GetModelResponse, types.Model]:
    """Read the served model."""
    return Call(
        method=f"/{_MODELS}/GetModel",
        reply=models_pb2.GetModelResponse,
        build=lambda scope: models_pb2.GetModelRequest(name=scope.model),
        parse=lambda message: messages.model(message.model),
    )


def list_models(page_size: int) -> Pages[types.Model]:
    """Read the models of a server."""
    return lambda token: Call(
        method=f"/{_MODELS}/ListModels",
        reply=models_pb2.ListModelsResponse,
        build=lambda _: models_pb2.ListModelsRequest(page_size=page_size, page_token=token),
        parse=lambda message: types.Page(
            items=tuple(messages.model(model) for model in message.models),
            next_token=message.next_page_token,
        ),
        needs_model=False,
    )


@checked
def calibrate(
    seed: int, **options: Unpack[MutationOptions]
) -> Call[operations_pb2.Operation, OperationStatus[types.Profile]]:
    """Start to find a profile."""
    return Call(
        method=f"/{_MODELS}/Calibrate",
        reply=operations_pb2.Operation,
        build=lambda scope: models_pb2.CalibrateRequest(
            name=scope.model, seed=seed, **scope.signature(options)
        ),
        parse=operation_status.parse,
    )


@checked
def collect_moments(
    texts: Iterable[str], **options: Unpack[MutationOptions]
) -> Call[operations_pb2.Operation, OperationStatus[int]]:
    """Start to accumulate the second moment of keys."""
    listed = text_list(texts, "texts")
    return Call(
        method=f"/{_MODELS}/CollectMoments",
        reply=operations_pb2.Operation,
        build=lambda scope: models_pb2.CollectMomentsRequest(
            name=scope.model, texts=listed, **scope.signature(options)
        ),
        parse=operation_status.parse,
    )
