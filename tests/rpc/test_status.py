"""Errors as statuses."""

import re
from urllib.parse import quote

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from errata.v1 import inference_pb2
from errata_server.domain import errors
from errata_server.domain.errors import ErrataError
from errata_server.domain.operations import OperationFailure
from errata_server.rpc import status
from tests.support.wire import PARENT, failure


def classes(root: type[ErrataError] = ErrataError) -> list[type[ErrataError]]:
    return [root, *(found for child in root.__subclasses__() for found in classes(child))]


def test_every_class_of_the_tree_has_a_code():
    assert set(status.STATUS_OF) == set(classes())


def test_every_reason_is_unique_and_upper_snake():
    reasons = [error.reason for error in classes()]

    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z][A-Z_]{0,62}", reason) for reason in reasons)


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_every_error_crosses_the_wire_with_its_code_and_one_error_info(server, wire, error):
    server.engine.breaks["score"] = error("it went wrong", field="prompt", value=3)

    request = inference_pb2.ScoreRequest(model=PARENT, prompt="a", continuations=["b"])
    refused = failure(lambda: wire.inference.Score(request))

    assert refused.code.value[0] == status.STATUS_OF[error]
    assert refused.message == "it went wrong"
    assert refused.reason == error.reason
    assert refused.infos[0].domain == "errata"
    assert refused.metadata == {"field": "prompt", "value": "3"}


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (errors.InvalidFactError("bad", field="target"), error_details_pb2.BadRequest),
        (errors.NotAppliedError("not", edit="e-1"), error_details_pb2.PreconditionFailure),
        (errors.LedgerUnavailableError("away"), error_details_pb2.RetryInfo),
        (errors.OverloadedError("busy"), error_details_pb2.RetryInfo),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_the_detail_that_fits_it(error, detail):
    _, packed = status.to_status(error).details

    assert packed.Is(detail.DESCRIPTOR)


def test_only_what_may_be_retried_is_unavailable():
    retried = {error for error, code in status.STATUS_OF.items() if code == code_pb2.UNAVAILABLE}

    assert retried == {
        errors.UnavailableError,
        errors.LedgerUnavailableError,
        errors.LeaseHeldError,
        errors.QuarantinedError,
    }


def test_a_status_stays_small_however_long_the_error(server, wire):
    server.engine.breaks["score"] = errors.InvalidFactError("é" * 9_000, value="ß" * 9_000)

    request = inference_pb2.ScoreRequest(model=PARENT, prompt="a", continuations=["b"])
    refused = failure(lambda: wire.inference.Score(request))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.message.endswith("...")
    assert refused.reason == "INVALID_FACT"


@pytest.mark.parametrize("letter", ["x", "é", "字", "😀"])
def test_a_status_fits_the_metadata_every_client_accepts(letter):
    metadata = {f"name{number}": letter * 9_000 for number in range(20)}
    found = status.to_status(
        errors.InvalidFactError(letter * 9_000, field=letter * 9_000, **metadata)
    )

    sent = len(quote(found.message)) + len(found.SerializeToString()) * 4 / 3
    assert sent < 8 * 1024


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("NO_EFFECT", code_pb2.FAILED_PRECONDITION),
        ("INTERRUPTED", code_pb2.ABORTED),
        ("INTERNAL", code_pb2.INTERNAL),
        ("OF_ANOTHER_VERSION", code_pb2.UNKNOWN),
    ],
)
def test_a_stored_failure_has_the_code_of_its_reason(reason, code):
    found = status.failure_to_status(OperationFailure(reason=reason, message="why"))

    assert found.code == code
