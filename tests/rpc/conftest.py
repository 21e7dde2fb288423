import grpc
import pytest

from tests.support.loopback import serving
from tests.support.wire import Wire


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as ready:
        yield ready


@pytest.fixture
def wire(server):
    with grpc.insecure_channel(server.address) as channel:
        yield Wire(channel)
