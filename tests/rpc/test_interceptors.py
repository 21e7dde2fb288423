"""What happens around every RPC: errors nobody foresaw, logs, malformed messages."""

import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from errata.v1 import inference_pb2, ledger_pb2
from tests.support.logs import captured_log
from tests.support.wire import PARENT, failure, proposal

SECRET = "the password is hunter2"


@pytest.fixture
def log():
    with captured_log() as lines:
        yield lines


def score(wire, **fields):
    given = {"model": PARENT, "prompt": "Space Needle is", "continuations": ["x"]} | fields
    return wire.inference.Score(inference_pb2.ScoreRequest(**given))


def test_an_unforeseen_error_is_internal_with_an_id_and_nothing_else(log, server, wire):
    server.engine.breaks["score"] = RuntimeError(SECRET)

    refused = failure(lambda: score(wire))

    assert refused.code is grpc.StatusCode.INTERNAL
    assert refused.reason == "INTERNAL"
    assert "hunter2" not in refused.message
    assert refused.metadata["error_id"] in refused.message
    (line,) = [line for line in log() if line["event"] == "rpc failed"]
    assert line["error_id"] == refused.metadata["error_id"]
    assert line["exception"][0]["exc_type"] == "RuntimeError"
    assert line["exception"][0]["exc_value"] == SECRET


def test_a_streaming_call_that_breaks_half_way_is_internal_too(server, wire):
    server.engine.breaks["generate"] = KeyError(SECRET)
    request = inference_pb2.GenerateRequest(model=PARENT, prompt="a")

    refused = failure(lambda: list(wire.inference.Generate(request)))

    assert refused.code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in refused.message


def test_prompts_and_subjects_stay_out_of_the_log(log, server, wire):
    server.engine.breaks["score"] = RuntimeError("bad prompt: Space Needle is")
    server.engine.breaks["validate"] = RuntimeError("bad subject: Space Needle")

    failure(lambda: score(wire))
    failure(lambda: wire.edits.ProposeEdit(proposal("Space Needle")))

    lines = log()
    assert len([line for line in lines if line["event"] == "rpc failed"]) == 2
    assert "Space Needle" not in json.dumps(lines)


def test_every_call_is_logged_with_its_method_code_and_request_id(log, wire):
    wire.ledger.GetHead(
        ledger_pb2.GetHeadRequest(parent=PARENT), metadata=[("x-request-id", "mine-1")]
    )
    failure(lambda: wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent="models/other")))

    first, second = [line for line in log() if line["event"] == "rpc ended"]
    assert (first["method"], first["code"], first["request_id"]) == ("GetHead", "OK", "mine-1")
    assert second["code"] == "NOT_FOUND"
    assert second["request_id"].startswith("r-")
    assert first["seconds"] > 0


def test_a_mutation_s_own_request_id_is_the_one_in_the_log(log, wire):
    wire.start(request_id="edit-1", validate_only=True)

    (line,) = [line for line in log() if line["event"] == "rpc ended"]
    assert line["request_id"] == "edit-1"


def test_a_malformed_message_is_an_invalid_argument(wire):
    call = wire.channel.unary_unary("/errata.v1.LedgerService/GetHead")

    refused = failure(lambda: call(b"\xff\xff\xff"))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "INVALID_INPUT"
    assert refused.fields == ["request"]


def test_a_malformed_message_to_a_stream_is_an_invalid_argument(wire):
    call = wire.channel.unary_stream("/errata.v1.LedgerService/WatchRevisions")

    refused = failure(lambda: list(call(b"\xff\xff\xff")))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT


def test_text_that_is_not_utf8_is_an_invalid_argument(wire):
    call = wire.channel.unary_unary("/errata.v1.LedgerService/GetHead")

    assert failure(lambda: call(b"\x0a\x02\xc3\x28")).code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_is_unimplemented(wire):
    call = wire.channel.unary_unary("/errata.v1.LedgerService/Forge")

    assert failure(lambda: call(b"")).code is grpc.StatusCode.UNIMPLEMENTED


def test_a_standard_servicer_keeps_its_own_status(wire):
    stub = health_pb2_grpc.HealthStub(wire.channel)

    refused = failure(lambda: stub.Check(health_pb2.HealthCheckRequest(service="none")))

    assert refused.code is grpc.StatusCode.NOT_FOUND
