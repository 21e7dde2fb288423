"""How a long-running operation stands, read from its message; pure.

Invariant: the type of an operation's result follows from the type of its response message
alone, so that a handle can be picked up again by name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from errata import _batch_messages as batch_messages
from errata import _messages as messages
from errata import _trace_messages as trace_messages
from errata import _types as types
from errata import _upkeep_messages as upkeep_messages
from errata._errors import ErrataError, InternalError, from_status
from errata.v1 import crawls_pb2, edits_pb2, models_pb2, traces_pb2, types_pb2

T = TypeVar("T")

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 0.5
_GROWTH: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationStatus(Generic[T]):
    """One look at an operation."""

    name: str
    kind: str
    """What was asked, such as ``propose`` or ``trace``."""

    actor: str
    created_at: datetime | None
    finished_at: datetime | None
    done: bool
    progress: types.Progress
    error: ErrataError | None
    response: T | None

    def raise_for_error(self) -> None:
        """Do nothing unless the operation failed.

        Raises:
            ErrataError: why it failed.
        """
        if self.error is not None:
            raise self.error

    def result(self) -> T:
        """What a finished operation came to.

        Raises:
            ErrataError: why it failed.
        """
        self.raise_for_error()
        return cast(T, self.response)


def parse(message: operations_pb2.Operation) -> OperationStatus[Any]:
    """The status an operation's message tells of."""
    metadata = types_pb2.OperationMetadata()
    message.metadata.Unpack(metadata)
    error = from_status(message.error) if message.HasField("error") else None
    response = None
    try:
        response = _response(message.response) if message.HasField("response") else None
    except InternalError as unknown:  # raised where the result is asked for
        error = unknown
    return OperationStatus(
        name=message.name,
        kind=metadata.kind,
        actor=metadata.actor,
        created_at=messages.time(metadata.create_time),
        finished_at=messages.time(metadata.finish_time),
        done=message.done,
        progress=messages.progress(metadata),
        error=error,
        response=response,
    )


def _response(packed: AnyMessage) -> object:
    for wire_type, read in _RESPONSES.items():
        message = wire_type()
        if packed.Unpack(message):
            return read(message)
    raise InternalError(
        f"the server's result is a {packed.TypeName()}, which this client does not know; "
        "update the client",
        {"type": packed.TypeName()},
    )


_RESPONSES: Final[dict[type[Message], Callable[[Any], object]]] = {
    edits_pb2.ProposeEditResponse: messages.proposal,
    edits_pb2.ProposeEditsResponse: batch_messages.batch,
    edits_pb2.VerifyEditResponse: messages.proposal,
    models_pb2.CalibrateResponse: lambda message: messages.profile(message.profile),
    models_pb2.CollectMomentsResponse: lambda message: message.tokens,
    edits_pb2.VerifyLiveEditsResponse: lambda message: upkeep_messages.live_verification(
        message.verification
    ),
    crawls_pb2.CrawlSubjectResponse: lambda message: upkeep_messages.crawl(message.crawl),
    traces_pb2.TraceFactResponse: lambda message: trace_messages.causal_trace(message.trace),
    traces_pb2.TraceFactsResponse: lambda message: trace_messages.average_trace(message.average),
    traces_pb2.FitProxyResponse: lambda message: trace_messages.proxy(message.proxy),
    traces_pb2.LocateResponse: lambda message: trace_messages.location(message.location),
}


def polling_delays() -> Iterator[float]:
    """Seconds to wait between two looks: short at first, so that quick work ends quickly."""
    delay = _FIRST_DELAY
    while True:
        yield delay
        delay = min(delay * _GROWTH, _LONGEST_DELAY)
