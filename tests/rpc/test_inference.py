"""InferenceService over the wire."""

import math
import time

import grpc
import pytest

from errata.v1 import inference_pb2 as pb
from tests.support.wire import PARENT, failure

PROMPT = "Space Needle is in the city of"


def generate(wire, prompt=PROMPT, **fields):
    request = pb.GenerateRequest(model=PARENT, prompt=prompt, **fields)
    return list(wire.inference.Generate(request))


def score(wire, **fields):
    given = {"model": PARENT, "prompt": PROMPT, "continuations": ["Seattle", "Paris"]} | fields
    return wire.inference.Score(pb.ScoreRequest(**given))


def text(chunks):
    return "".join(chunk.text for chunk in chunks).strip()


def test_a_continuation_streams_from_the_head_and_says_so(wire):
    applied = wire.applied(wire.proposed()).revision

    chunks = generate(wire)

    assert text(chunks).startswith("Paris")
    assert {chunk.served.revision for chunk in chunks} == {applied.name}
    assert chunks[-1].finish_reason == "stop"
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    assert chunks[-1].tokens == len(chunks) - 1


def test_any_revision_can_be_asked_beside_any_other(wire):
    applied = wire.applied(wire.proposed()).revision

    for reference in ("base", "0", f"{PARENT}/revisions/0"):
        assert text(generate(wire, revision=reference)).startswith("Seattle")
    for reference in ("", "main", applied.name, applied.name[-64:]):
        assert text(generate(wire, revision=reference)).startswith("Paris")


def test_the_number_of_new_tokens_is_a_limit(wire):
    chunks = generate(wire, max_new_tokens=1)

    assert chunks[-1].tokens == 1
    assert chunks[-1].finish_reason == "length"


def test_scores_name_the_revision_and_fingerprint_the_logits(wire):
    before = score(wire)
    wire.applied(wire.proposed())
    after = score(wire)
    again = score(wire, revision="base")

    assert [s.continuation for s in before.scores] == ["Seattle", "Paris"]
    assert before.scores[0].is_greedy
    assert after.scores[1].is_greedy
    assert before.logits_digest == again.logits_digest != after.logits_digest
    assert (before.served.sequence, after.served.sequence, again.served.sequence) == (0, 1, 0)


def test_reading_ones_own_write_is_refused_until_it_is_there(wire):
    refused = failure(lambda: score(wire, min_sequence=1))
    wire.applied(wire.proposed())

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.details[0].retry_delay.seconds >= 1
    assert score(wire, min_sequence=1).served.sequence == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "models/"}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"min_sequence": -1}, "min_sequence"),
        ({"revision": "a b"}, "revision"),
        ({"revision": "models/scripted/edits/e-1"}, "revision"),
        ({"prompt": "x" * 200_001}, "prompt"),
    ],
)
def test_a_malformed_request_names_the_field(wire, fields, field):
    given = {"model": PARENT, "prompt": PROMPT} | fields
    refused = failure(lambda: list(wire.inference.Generate(pb.GenerateRequest(**given))))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize("continuations", [[], [""], ["x"] * 257, ["x" * 20_001]])
def test_malformed_continuations_are_refused(wire, continuations):
    refused = failure(lambda: score(wire, continuations=continuations))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields[0].startswith("continuations")


def test_a_prompt_beyond_the_context_is_refused(wire):
    refused = failure(lambda: generate(wire, prompt="word " * 100))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "PROMPT_TOO_LONG"


def test_a_client_that_leaves_stops_the_generation(server, wire):
    server.engine.step_seconds = 0.05
    request = pb.GenerateRequest(model=PARENT, prompt=PROMPT, max_new_tokens=30)
    stream = wire.inference.Generate(request)
    next(stream)

    stream.cancel()

    assert _closed(server)


def test_a_deadline_stops_the_generation(server, wire):
    server.engine.step_seconds = 0.2
    request = pb.GenerateRequest(model=PARENT, prompt=PROMPT, max_new_tokens=30)

    refused = failure(lambda: list(wire.inference.Generate(request, timeout=0.5)))

    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert _closed(server)


def _closed(server) -> bool:
    deadline = time.monotonic() + 20
    while "generation closed" not in server.engine.calls and time.monotonic() < deadline:
        time.sleep(0.02)
    return "generation closed" in server.engine.calls
