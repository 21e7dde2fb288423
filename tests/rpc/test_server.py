"""The server as a whole: health, reflection, limits, and how it ends."""

import queue
import threading
import time
from contextlib import ExitStack

import grpc
import pytest
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from errata.v1 import inference_pb2, ledger_pb2
from errata_server.domain.errors import UnavailableError
from errata_server.rpc.server import SERVICE_NAMES
from tests.support.loopback import serving
from tests.support.wire import PARENT, Wire, failure

Seen = queue.SimpleQueue[object]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("service", ["", *SERVICE_NAMES])
def test_a_ready_server_says_so_for_every_service(wire, service):
    stub = health_pb2_grpc.HealthStub(wire.channel)

    assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_reflection_names_every_service(wire):
    stub = reflection_pb2_grpc.ServerReflectionStub(wire.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    (response,) = stub.ServerReflectionInfo(iter([request]))

    names = {service.name for service in response.list_services_response.service}
    assert names >= {*SERVICE_NAMES, "grpc.health.v1.Health"}


def test_an_oversized_message_is_refused_and_the_next_one_is_served(tmp_path):
    with serving(tmp_path, max_message_bytes=100_000) as ready, Connected(ready) as wire:
        request = inference_pb2.ScoreRequest(model=PARENT, prompt="x" * 150_000)
        refused = failure(lambda: wire.inference.Score(request))
        head = wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT))

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert head.revision.sequence == 0


def test_calls_beyond_the_limit_are_turned_away_at_once(tmp_path):
    with serving(tmp_path, max_concurrent_rpcs=2) as ready, Connected(ready) as wire:
        request = ledger_pb2.WatchRevisionsRequest(parent=PARENT)
        streams = [wire.ledger.WatchRevisions(request) for _ in range(2)]
        for stream in streams:
            next(stream)
        head = ledger_pb2.GetHeadRequest(parent=PARENT)
        refused = failure(lambda: wire.ledger.GetHead(head, timeout=20))
        healthy = health_pb2_grpc.HealthStub(wire.channel).Check(health_pb2.HealthCheckRequest())
        for stream in streams:
            stream.cancel()
        served = _patiently(lambda: wire.ledger.GetHead(head, timeout=20))

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.reason == "OVERLOADED"
    assert refused.details[0].retry_delay.seconds >= 1
    assert healthy.status == SERVING
    assert served.revision.sequence == 0


def test_a_second_server_cannot_take_the_same_address(server, tmp_path_factory):
    with (
        pytest.raises(UnavailableError, match="is another server running there"),
        serving(tmp_path_factory.mktemp("second"), listen=server.address),
    ):
        pass


def test_a_server_listens_on_a_unix_socket(tmp_path):
    with serving(tmp_path, listen=f"unix:{tmp_path / 's'}") as ready, Connected(ready) as wire:
        head = wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT))

    assert head.revision.sequence == 0


def test_stopping_ends_watchers_cleanly_and_lets_calls_finish(tmp_path):
    watched: Seen = queue.SimpleQueue()
    said: Seen = queue.SimpleQueue()
    with ExitStack() as channels, serving(tmp_path, grace=20.0) as ready:
        wire = channels.enter_context(Connected(ready))
        ready.engine.step_seconds = 0.05
        watcher = threading.Thread(target=_watch, args=(wire, watched))
        talker = threading.Thread(target=_generate, args=(wire, said))
        watcher.start()
        talker.start()
        assert watched.get(timeout=20) == 0
        assert said.get(timeout=20)
        stopping = time.monotonic()

    assert time.monotonic() - stopping < 15
    for thread in (watcher, talker):
        thread.join(20)
    assert watched.get(timeout=1) == "ended"
    assert _all(said)[-1] == "stop"


def test_calls_that_outlast_the_grace_are_cut_off(tmp_path):
    with ExitStack() as channels:
        with serving(tmp_path, grace=0.1) as ready:
            wire = channels.enter_context(Connected(ready))
            ready.engine.step_seconds = 0.5
            stream = wire.inference.Generate(_prompt())
            next(stream)
        refused = failure(lambda: list(stream))

    assert refused.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert "generation closed" in ready.engine.calls


def test_a_stopping_server_says_not_serving(tmp_path):
    seen: Seen = queue.SimpleQueue()
    with ExitStack() as channels, serving(tmp_path) as ready:
        wire = channels.enter_context(Connected(ready))
        prober = threading.Thread(target=_probe, args=(wire, seen))
        prober.start()
        assert seen.get(timeout=20) == SERVING
    prober.join(20)

    assert seen.get(timeout=1) == NOT_SERVING


def test_stopping_cancels_operations_that_do_not_end(tmp_path):
    with serving(tmp_path, grace=0.5) as ready, Connected(ready) as wire:
        ready.engine.step_seconds = 0.05
        ready.engine.steps = 10_000
        name = wire.start().name
        assert ready.engine.reached.wait(20)
        started = time.monotonic()
    taken = time.monotonic() - started
    with serving(tmp_path) as ready, Connected(ready) as wire:
        found = wire.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))

    assert taken < 20
    assert found.done
    assert found.error.code == grpc.StatusCode.CANCELLED.value[0]


def test_a_server_that_starts_again_serves_what_the_ledger_says(tmp_path):
    with serving(tmp_path) as ready, Connected(ready) as wire:
        before = wire.applied(wire.proposed()).served
    with serving(tmp_path) as ready, Connected(ready) as wire:
        after = wire.ledger.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT)).served

    assert after == before


class Connected:
    """A channel to a server, as a context."""

    def __init__(self, ready) -> None:
        self._channel = grpc.insecure_channel(ready.address)

    def __enter__(self) -> Wire:
        return Wire(self._channel)

    def __exit__(self, *_error) -> None:
        self._channel.close()


def _patiently(call):
    """The answer of ``call`` once the server is no longer busy."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _watch(wire, seen) -> None:
    for response in wire.ledger.WatchRevisions(ledger_pb2.WatchRevisionsRequest(parent=PARENT)):
        seen.put(response.revision.sequence)
    seen.put("ended")


def _prompt() -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(model=PARENT, prompt="Space Needle is in the city of")


def _generate(wire, seen) -> None:
    for chunk in wire.inference.Generate(_prompt()):
        seen.put(chunk.finish_reason or chunk.text)


def _probe(wire, seen) -> None:
    stub = health_pb2_grpc.HealthStub(wire.channel)
    try:
        for response in stub.Watch(health_pb2.HealthCheckRequest(service="")):
            seen.put(response.status)
    except grpc.RpcError:  # the standard servicer watches until it is cut off
        pass


def _all(seen) -> list:
    found = []
    while not seen.empty():
        found.append(seen.get())
    return found
