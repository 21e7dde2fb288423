"""What happens to every RPC: a request id, a log context, metrics, and errors made statuses.

Invariants: no exception text reaches a client unless errata raised it on purpose; every RPC
is counted once with the code it ended with; a client that goes away stops its handler.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from errata_server import telemetry
from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
)
from errata_server.rpc import status
from errata_server.rpc.gate import Gate

_LIMITED: Final = ("errata.", "google.longrunning.")
"""Packages whose calls do work; health and reflection answer however busy the server is."""

REQUEST_ID_KEY: Final = "x-request-id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CALLERS_WORDS: Final = frozenset(
    {
        "answer",
        "comment",
        "continuations",
        "expected",
        "foil",
        "override_reason",
        "prompt",
        "reason",
        "replacements",
        "stop",
        "subject",
        "suffix",
        "target",
        "template",
        "text",
        "texts",
    }
)
"""Fields whose texts never enter the log."""

T = TypeVar("T")
_log = structlog.stdlib.get_logger(__name__)

Handler = Any
"""grpc.RpcMethodHandler, whose fields grpc does not type."""

Context = Any
"""grpc.aio.ServicerContext, generic over messages nothing here looks into."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every unary-request handler; the reflection stream passes unchanged."""

    def __init__(self, most_at_a_time: int, gate: Gate) -> None:
        self._running = _Running(most_at_a_time, gate)

    def open(self) -> None:
        """Let calls that do work through, not health and reflection alone."""
        self._running.open = True

    @property
    def is_open(self) -> bool:
        """Whether calls that do work are let through."""
        return self._running.open

    async def drained(self) -> None:
        """Return once no handler runs: a cancelled one still has to let go of its thread."""
        while self._running.tasks:
            await asyncio.wait(self._running.tasks)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler with request id, log context, metrics and statuses around it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        calls = _Calls(handler_call_details.method, handler, self._running)
        # Without a deserializer gRPC hands over the bytes, so that a malformed message gets
        # the same kind of status as any other malformed input.
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                calls.stream, response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            calls.unary, response_serializer=handler.response_serializer
        )


class _Running:
    """The calls that are being answered, and how many may be.

    gRPC's own limit would turn health checks away too, and get a busy server restarted.
    """

    def __init__(self, most: int, gate: Gate) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.open = False
        self._most = most
        self._gate = gate

    @contextmanager
    def admitted(self, service: str, method: str) -> Iterator[None]:
        """Count the present task among those that run.

        Raises:
            UnavailableError: the server is not ready.
            OverloadedError: there are too many of them.
            (and whatever `Gate.require` raises)
        """
        task = asyncio.current_task()
        if service.startswith(_LIMITED):
            if not self.open:
                raise UnavailableError("the server is still starting; retry after a while")
            self._gate.require(method)
            if len(self.tasks) >= self._most:
                raise OverloadedError(
                    f"{self._most} calls are being answered already; retry after a while",
                    limit=self._most,
                )
            if task is not None:
                self.tasks.add(task)
        try:
            yield
        finally:
            self.tasks.discard(task)


@dataclass(slots=True)
class _Outcome:
    """How one RPC ended, for the metrics and the log."""

    request: Message | None = None
    request_id: str = ""


class _Calls:
    """One method's handler, wrapped."""

    def __init__(self, path: str, handler: Handler, running: _Running) -> None:
        self._running = running
        _, service, method = path.split("/", 2)
        kind = "server_stream" if handler.response_streaming else "unary"
        self._method = (kind, service, method)
        self._handler = handler

    async def unary(self, body: bytes, context: Context) -> Message:
        """Answer with one message."""

        async def answer(outcome: _Outcome, record: telemetry.RpcRecord) -> Message:
            request = self._parsed(body, context, outcome)
            response: Message = await self._handler.unary_unary(request, context)
            record.sent()
            return response

        return await self._guarded(answer, context)

    async def stream(self, body: bytes, context: Context) -> None:
        """Answer with a stream; written here so that a client that leaves ends the source."""

        async def answer(outcome: _Outcome, record: telemetry.RpcRecord) -> None:
            request = self._parsed(body, context, outcome)
            source = self._handler.unary_stream(request, context)
            if not isinstance(source, AsyncGenerator):  # health's Watch writes by itself
                await source
                return
            async with aclosing(source) as responses:
                async for response in responses:
                    await context.write(response)
                    record.sent()

        await self._guarded(answer, context)

    def _parsed(self, body: bytes, context: Context, outcome: _Outcome) -> Message:
        try:
            request: Message = self._handler.request_deserializer(body)
        except DecodeError as error:
            raise InvalidInputError(
                f"the request is not a valid message of {self._method[2]}", field="request"
            ) from error
        outcome.request = request
        outcome.request_id = _request_id(request, context)
        structlog.contextvars.bind_contextvars(request_id=outcome.request_id)
        return request

    async def _guarded(
        self,
        answer: Callable[[_Outcome, telemetry.RpcRecord], Awaitable[T]],
        context: Context,
    ) -> T:
        outcome = _Outcome(request_id=_new_request_id())
        with structlog.contextvars.bound_contextvars(
            method=self._method[2], request_id=outcome.request_id
        ):
            record = telemetry.RpcRecord(self._method)
            record.received()
            code = "OK"
            try:
                with self._running.admitted(*self._method[1:]):
                    return await answer(outcome, record)
            except ErrataError as error:
                failure = status.to_status(error)
                code = status.name_of(failure)
            except grpc.aio.AbortError:  # a standard servicer chose its own status
                code = context.code().name
                raise
            except asyncio.CancelledError:
                code = _cancelled_code(context)
                raise
            except Exception as error:  # noqa: BLE001  the interceptor's purpose
                failure = _unforeseen(error, outcome)
                code = status.name_of(failure)
            finally:
                _finish(record, self._method, code)
            await context.abort_with_status(status.to_grpc(failure))
            raise AssertionError("aborting raises")


def _finish(record: telemetry.RpcRecord, method: tuple[str, str, str], code: str) -> None:
    seconds = record.handled(code)
    if method[1].startswith(_LIMITED):
        _log.info("rpc ended", code=code, seconds=round(seconds, 6))


def _cancelled_code(context: Context) -> str:
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"


def _unforeseen(error: Exception, outcome: _Outcome) -> status_pb2.Status:
    error_id = secrets.token_hex(8)
    texts = _callers_words(outcome.request) if outcome.request is not None else ()
    with telemetry.hiding(texts):
        _log.error("rpc failed", error_id=error_id, exc_info=error)
    return status.internal_status(error_id)


def _request_id(request: Message, context: Context) -> str:
    """The request's own id, else the one in the metadata, else a new one."""
    given = [value for field, value in request.ListFields() if field.name == "request_id"]
    given += [value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY]
    for value in given:
        if isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return _new_request_id()


def _new_request_id() -> str:
    return f"r-{secrets.token_hex(8)}"


def _callers_words(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        items = value if field.is_repeated else (value,)
        for item in items:
            if isinstance(item, Message):
                yield from _callers_words(item)
            elif field.name in _CALLERS_WORDS:
                yield str(item)
