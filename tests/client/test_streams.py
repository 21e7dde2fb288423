"""Streams end when their server does: gRPC's own retries would let them wait for ever."""

import subprocess
import sys
import threading

import grpc
import pytest

from errata._config import CHANNEL_OPTIONS, STREAMING
from tests.support import protocol

SILENT_SERVER = """
import time
from concurrent import futures
import grpc

class Silent(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_stream_rpc_method_handler(lambda request, context: time.sleep(60))

server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Silent()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""
DEADLINE = 5
PATIENCE = 3 * DEADLINE


def test_every_stream_of_the_protocol_is_left_out_of_the_retries():
    streams = [
        {"service": service.full_name, "method": method.name}
        for service in protocol.services()
        for method in service.methods
        if method.server_streaming
    ]

    assert sorted(map(str, streams)) == sorted(map(str, STREAMING))


@pytest.mark.parametrize("named", STREAMING, ids=lambda named: named["method"])
def test_a_stream_ends_when_its_server_is_killed(named):
    server = subprocess.Popen(
        [sys.executable, "-c", SILENT_SERVER], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    address = f"127.0.0.1:{server.stdout.readline().strip()}"
    codes, asked = [], threading.Event()

    def ask():
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            grpc.channel_ready_future(channel).result(DEADLINE)
            method = channel.unary_stream(
                f"/{named['service']}/{named['method']}", request_serializer=bytes
            )
            replies = method(b"", timeout=DEADLINE)
            asked.set()
            try:
                next(replies)
            except grpc.RpcError as error:
                codes.append(error.code())

    reader = threading.Thread(target=ask, daemon=True)
    reader.start()
    asked.wait(DEADLINE)
    reader.join(0.5)  # the call is at the server
    server.kill()
    reader.join(PATIENCE)
    server.communicate()

    assert codes == [grpc.StatusCode.UNAVAILABLE]
