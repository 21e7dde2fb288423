"""ModelService over the wire."""

import grpc
import pytest

from errata.v1 import models_pb2 as pb
from errata_server.domain.profiles import Profile
from tests.support.wire import PARENT, failure


def model(wire):
    return wire.models.GetModel(pb.GetModelRequest(name=PARENT)).model


def test_a_model_says_what_it_is_and_what_is_live(wire):
    applied = wire.applied(wire.proposed())

    found = model(wire)

    assert found.name == PARENT
    assert found.architecture == "scripted"
    assert (found.layers, found.context, found.dtype) == (2, 64, "float32")
    assert (found.live_edits, found.applied_edits) == (1, 1)
    assert found.served == applied.served
    assert found.HasField("start_time")
    assert found.server_version


def test_a_profile_s_body_is_what_its_id_is_taken_over(wire):
    profile = model(wire).profile

    assert Profile.from_body(profile.body).id == profile.id


def test_a_model_without_a_profile_says_so(server, wire):
    server.engine.uncalibrate()

    assert not model(wire).HasField("profile")
    refused = failure(wire.start)
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "NOT_CALIBRATED"


def test_the_list_of_models_is_how_a_client_learns_the_name(wire):
    response = wire.models.ListModels(pb.ListModelsRequest())

    assert [found.name for found in response.models] == [PARENT]
    assert response.next_page_token == ""


def test_calibrating_ends_with_a_profile_that_is_in_use(wire):
    request = pb.CalibrateRequest(name=PARENT, seed=7, actor="ana")

    operation = wire.ended(wire.models.Calibrate(request))

    response = pb.CalibrateResponse()
    assert operation.response.Unpack(response)
    assert response.profile.seed == 7
    assert model(wire).profile == response.profile


def test_collecting_moments_counts_the_tokens(wire):
    request = pb.CollectMomentsRequest(name=PARENT, texts=["two words", "and three more"])

    operation = wire.ended(wire.models.CollectMoments(request))

    response = pb.CollectMomentsResponse()
    assert operation.response.Unpack(response)
    assert response.tokens == 5


def test_collecting_moments_without_texts_uses_the_server_s_own(wire):
    operation = wire.ended(wire.models.CollectMoments(pb.CollectMomentsRequest(name=PARENT)))

    response = pb.CollectMomentsResponse()
    assert operation.response.Unpack(response)
    assert response.tokens > 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda w: w.models.GetModel(pb.GetModelRequest(name="x")), "name"),
        (lambda w: w.models.ListModels(pb.ListModelsRequest(page_size=-1)), "page_size"),
        (lambda w: w.models.ListModels(pb.ListModelsRequest(page_token="x")), "page_token"),
        (lambda w: w.models.Calibrate(pb.CalibrateRequest(name=PARENT, seed=-1)), "seed"),
        (
            lambda w: w.models.CollectMoments(pb.CollectMomentsRequest(name=PARENT, texts=[" "])),
            "texts",
        ),
    ],
)
def test_a_malformed_request_names_the_field(wire, call, field):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


def test_another_model_is_not_found(wire):
    refused = failure(lambda: wire.models.GetModel(pb.GetModelRequest(name="models/other")))

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.metadata["served"] == "scripted"
