"""The gRPC server: services, health, reflection, limits, and how it ends.

Invariants: a second server cannot take the same port; health says SERVING only between
`RpcServer.open` and `RpcServer.stop`, and only while the ledger vouches for what is served;
streams end before the server does.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from errata.v1 import (
    crawls_pb2,
    crawls_pb2_grpc,
    edits_pb2,
    edits_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    suites_pb2,
    suites_pb2_grpc,
    traces_pb2,
    traces_pb2_grpc,
)
from errata_server.domain.errors import UnavailableError
from errata_server.rpc.crawls import CrawlServicer
from errata_server.rpc.edits import EditServicer
from errata_server.rpc.gate import Gate
from errata_server.rpc.inference import InferenceServicer
from errata_server.rpc.interceptors import CallInterceptor
from errata_server.rpc.ledger import LedgerServicer
from errata_server.rpc.models import ModelServicer
from errata_server.rpc.operations import OperationMessages, OperationsServicer
from errata_server.rpc.services import Services
from errata_server.rpc.suites import SuiteServicer
from errata_server.rpc.traces import TraceServicer

SERVICE_NAMES: Final = (
    crawls_pb2.DESCRIPTOR.services_by_name["CrawlService"].full_name,
    edits_pb2.DESCRIPTOR.services_by_name["EditService"].full_name,
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    suites_pb2.DESCRIPTOR.services_by_name["SuiteService"].full_name,
    traces_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name,
    operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name,
)
"""The services this server implements; each has a health status of its own."""

LARGEST_REPLY: Final = 64 * 1024 * 1024
"""A report keeps every prompt with its answers; the client takes as much."""

ALL: Final = ""
"""Health's name for the server as a whole."""

READING: Final = "errata.read"
"""Health's name for answering from weights the ledger vouches for."""

WRITING: Final = "errata.write"
"""Health's name for changing the ledger: not on a replica, and not while the database is away."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server lets its clients do to it."""

    max_message_bytes: int
    max_concurrent_rpcs: int

    def options(self) -> list[tuple[str, Any]]:
        """gRPC channel arguments."""
        return [
            # Without this a second server binds the same port and takes half the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", max(LARGEST_REPLY, self.max_message_bytes)),
            ("grpc.max_metadata_size", 16 * 1024),
            # Above the limit a call is refused at once rather than queued by the client.
            ("grpc.max_concurrent_streams", 2 * self.max_concurrent_rpcs + 32),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.max_connection_idle_ms", 5 * 60_000),
            ("grpc.server_handshake_timeout_ms", 5_000),
            ("grpc.enable_channelz", 0),
        ]


class RpcServer:
    """A grpc.aio server over `Services`; lives on one event loop."""

    def __init__(self, services: Services, limits: Limits) -> None:
        """Assemble the server; call it on the event loop it will run on."""
        self._stopping = asyncio.Event()
        self._standing = services.serving.standing
        gate = Gate(self._standing, services.operations.lease)
        self._interceptor = CallInterceptor(limits.max_concurrent_rpcs, gate)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # re-exported
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=limits.options(),
        )
        self._register(services)

    async def listen(self, address: str) -> str:
        """Take ``address``, refuse all work and say NOT_SERVING; the address with its actual port.

        Raises:
            UnavailableError: the address cannot be taken.
        """
        for name in (ALL, READING, WRITING, *SERVICE_NAMES):
            await self._health.set(name, _NOT_SERVING)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UnavailableError(
                f"cannot listen on {address}; is another server running there?", address=address
            ) from error
        await self._server.start()
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    async def open(self) -> None:
        """Answer calls, and say SERVING if what is served is vouched for."""
        self._interceptor.open()
        await self.tell()

    async def tell(self) -> None:
        """Say again how the server stands, once it is open; a stop is not taken back."""
        if not self._interceptor.is_open:
            return
        reading = _SERVING if self._standing.reading else _NOT_SERVING
        writing = _SERVING if self._standing.reading and self._standing.writing else _NOT_SERVING
        for name in (ALL, READING, *SERVICE_NAMES):
            await self._health.set(name, reading)
        await self._health.set(WRITING, writing)

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING, end streams, let calls in flight finish for ``grace`` seconds."""
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        await self._server.stop(grace)
        await self._interceptor.drained()

    def _register(self, services: Services) -> None:
        messages = OperationMessages(services)
        server = self._server
        edits_pb2_grpc.add_EditServiceServicer_to_server(EditServicer(services, messages), server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(services), server
        )
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(
            LedgerServicer(services, self._stopping), server
        )
        models_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(services, messages), server
        )
        suites_pb2_grpc.add_SuiteServiceServicer_to_server(SuiteServicer(services), server)
        crawls_pb2_grpc.add_CrawlServiceServicer_to_server(
            CrawlServicer(services, messages), server
        )
        traces_pb2_grpc.add_TraceServiceServicer_to_server(
            TraceServicer(services, messages), server
        )
        operations_pb2_grpc.add_OperationsServicer_to_server(
            OperationsServicer(services, messages), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
