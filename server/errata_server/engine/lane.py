"""The model threads: one that is fed one step at a time, and a crew for work in several streams.

A step on the one has all processors. Small matrices do not keep those busy, so who has several
streams of steps has them carried out side by side by the crew, on a share of the processors each.
Invariants: steps of the one run one after another, those of somebody who waits for a token before
those of a proposal, and else in the order they were asked for; a step is one forward pass or one
optimisation step, so that nothing waits longer than that; no one is kept waiting for ever; a call
from a model thread itself runs at once.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from errata_server.domain.errors import OverloadedError, UnavailableError
from errata_server.engine.hooks import keep_hooks_here
from errata_server.engine.shares import sharing_pool

T = TypeVar("T")

MAX_WAITING: Final = 256
"""Steps that may wait for the model; beyond it callers are turned away."""

MAX_IN_A_ROW: Final = 8
"""Urgent steps between two others that wait: so many generations at once leave a ninth of the
model to proposals."""

Waiting = tuple[Future[Any], Callable[[], Any]]


class ModelLane:
    """A queue of steps for one model and the thread that runs them, and a crew beside it.

    Args:
        streams: Threads of the crew; with one there is none.
    """

    def __init__(self, streams: int = 1) -> None:
        self.streams: Final = streams
        # Threads themselves and not their idents, which later ones may get once these are gone.
        self._executor, self._threads = sharing_pool(1, "model", keep_hooks_here)
        self._crew = self._executor
        if streams > 1:
            self._crew, several = sharing_pool(streams, "crew", keep_hooks_here)
            self._threads |= several
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._urgent: deque[Waiting] = deque()
        self._others: deque[Waiting] = deque()
        self._in_a_row = 0

    def run(self, step: Callable[[], T], *, urgent: bool = False, beside: bool = False) -> T:
        """What ``step`` returns when run on a model thread.

        Args:
            step: One forward pass, or about as much.
            urgent: Whether it goes before steps that are not.
            beside: Whether the crew is to run it, where there is one.

        Raises:
            OverloadedError: too many steps are waiting.
            UnavailableError: the lane is closed.
        """
        if threading.current_thread() in self._threads:
            return step()
        if not self._waiting.acquire(blocking=False):
            raise OverloadedError(
                f"{MAX_WAITING} steps wait for the model already; retry after a while",
                waiting=MAX_WAITING,
            )
        try:
            if beside and self.streams > 1:
                return self._submitted(self._crew, step).result()
            return self._submit(step, self._urgent if urgent else self._others).result()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Finish the steps that wait, then stop the threads."""
        self._executor.shutdown(wait=True)
        self._crew.shutdown(wait=True)

    def _submit(self, step: Callable[[], T], queue: deque[Waiting]) -> "Future[T]":
        mine: Waiting = (Future(), step)
        with self._lock:
            self._submitted(self._executor, self._take)
            queue.append(mine)
        return mine[0]

    def _submitted(self, executor: ThreadPoolExecutor, step: Callable[[], T]) -> "Future[T]":
        try:
            return executor.submit(step)
        except RuntimeError:
            raise UnavailableError("the model is shutting down; retry on another server") from None

    def _take(self) -> None:
        """Run the step whose turn it is; called once for every step that waits."""
        with self._lock:
            urgent = bool(self._urgent) and (not self._others or self._in_a_row < MAX_IN_A_ROW)
            self._in_a_row = self._in_a_row + 1 if urgent else 0
            future, step = (self._urgent if urgent else self._others).popleft()
        try:
            future.set_result(step())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            future.set_exception(error)
        finally:
            del future, step  # the error's traceback holds this frame, and the future the error
