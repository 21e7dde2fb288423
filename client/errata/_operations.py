"""Handles on long-running operations, one for each client.

Invariants: a handle only looks and waits; dropping it, or running out of patience with it,
does not stop the operation. Only ``cancel`` does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar

from errata import _calls
from errata import _types as types
from errata._call_types import Call
from errata._errors import DeadlineError, ErrataError
from errata._operation_status import OperationStatus, polling_delays

T = TypeVar("T")


class _Handle(Generic[T]):
    """What a handle knows without asking the server."""

    def __init__(self, status: OperationStatus[T]) -> None:
        self._status = status

    @property
    def name(self) -> str:
        """``operations/*``; `Client.operation` picks it up again."""
        return self._status.name

    @property
    def kind(self) -> str:
        """What was asked, such as ``propose`` or ``trace``."""
        return self._status.kind

    @property
    def actor(self) -> str:
        """Who asked for it."""
        return self._status.actor

    @property
    def created_at(self) -> datetime | None:
        """When it was started."""
        return self._status.created_at

    @property
    def finished_at(self) -> datetime | None:
        """When it ended; None where it had not when last looked at."""
        return self._status.finished_at

    @property
    def error(self) -> ErrataError | None:
        """Why it failed or was cancelled, what ``result`` raises; None otherwise."""
        return self._status.error

    @property
    def done(self) -> bool:
        """Whether it had ended when last looked at."""
        return self._status.done

    @property
    def progress(self) -> types.Progress:
        """How far it had come when last looked at."""
        return self._status.progress

    def _require_time(self, deadline: float | None) -> None:
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError(
                f"{self.name} is still at {self.progress.stage!r}; it goes on, wait for it again "
                "with Client.operation, or cancel it",
                {"operation": self.name, "stage": self.progress.stage},
            )


class Operation(_Handle[T]):
    """A call that outlives its request.

    Iterate for progress until it ends; ``result`` waits and gives what it came to::

        operation = client.propose("Eiffel Tower", fact)
        for progress in operation:
            ...
        proposal = operation.result()
    """

    def __init__(self, status: OperationStatus[T], run: Callable[[Call[Any, Any]], Any]) -> None:
        super().__init__(status)
        self._run = run

    def refresh(self) -> bool:
        """Look again; whether it has ended."""
        if not self.done:
            self._status = self._run(_calls.get_operation(self.name))
        return self.done

    def __iter__(self) -> Iterator[types.Progress]:
        """Progress whenever it has changed, until the operation ends, well or not."""
        yield self.progress
        for delay in polling_delays():
            if self.done:
                return
            time.sleep(delay)
            seen = self.progress
            self.refresh()
            if self.progress != seen:
                yield self.progress

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end, at most ``timeout`` seconds, and give what it came to.

        Raises:
            DeadlineError: it has not ended in time; it goes on.
            CancelledError: it was cancelled.
            ErrataError: why it failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for delay in polling_delays():
            if self.refresh():
                break
            self._require_time(deadline)
            time.sleep(delay)
        return self._status.result()

    def cancel(self) -> None:
        """Ask the server to stop it; it ends as cancelled unless it was done already."""
        self._run(_calls.cancel_operation(self.name))


class AsyncOperation(_Handle[T]):
    """As `Operation`, for `AsyncClient`: await its methods, iterate with ``async for``."""

    def __init__(
        self, status: OperationStatus[T], run: Callable[[Call[Any, Any]], Awaitable[Any]]
    ) -> None:
        super().__init__(status)
        self._run = run

    async def refresh(self) -> bool:
        """As `Operation.refresh`."""
        if not self.done:
            self._status = await self._run(_calls.get_operation(self.name))
        return self.done

    async def __aiter__(self) -> AsyncIterator[types.Progress]:
        """As `Operation.__iter__`."""
        yield self.progress
        for delay in polling_delays():
            if self.done:
                return
            await asyncio.sleep(delay)
            seen = self.progress
            await self.refresh()
            if self.progress != seen:
                yield self.progress

    async def result(self, timeout: float | None = None) -> T:  # noqa: ASYNC109 - the deadline leaves the operation running
        """As `Operation.result`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for delay in polling_delays():
            if await self.refresh():
                break
            self._require_time(deadline)
            await asyncio.sleep(delay)
        return self._status.result()

    async def cancel(self) -> None:
        """As `Operation.cancel`."""
        await self._run(_calls.cancel_operation(self.name))
