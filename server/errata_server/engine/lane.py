"""The model thread: one thread that owns the model's tensors, fed one step at a time.

Invariants: steps run one after another, those of somebody who waits for a token before those of a
proposal, and else in the order they were asked for; a step is one forward pass or one optimisation
step, so that nothing waits longer than that; no one is kept waiting for ever; a call from the model
thread itself runs at once.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from errata_server.domain.errors import OverloadedError, UnavailableError

T = TypeVar("T")

MAX_WAITING: Final = 256
"""Steps that may wait for the model; beyond it callers are turned away."""

MAX_IN_A_ROW: Final = 8
"""Urgent steps between two others that wait: so many generations at once leave a ninth of the
model to proposals."""

Waiting = tuple[Future[Any], Callable[[], Any]]


class ModelLane:
    """A queue of steps for one model and the thread that runs them."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._urgent: deque[Waiting] = deque()
        self._others: deque[Waiting] = deque()
        self._in_a_row = 0
        # The thread itself and not its ident, which a later thread may get once this one is gone.
        self._thread = self._executor.submit(threading.current_thread).result()

    def run(self, step: Callable[[], T], *, urgent: bool = False) -> T:
        """What ``step`` returns when run on the model thread.

        Args:
            step: One forward pass, or about as much.
            urgent: Whether it goes before steps that are not.

        Raises:
            OverloadedError: too many steps are waiting.
            UnavailableError: the lane is closed.
        """
        if threading.current_thread() is self._thread:
            return step()
        if not self._waiting.acquire(blocking=False):
            raise OverloadedError(
                f"{MAX_WAITING} steps wait for the model already; retry after a while",
                waiting=MAX_WAITING,
            )
        try:
            return self._submit(step, self._urgent if urgent else self._others).result()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Finish the steps that wait, then stop the thread."""
        self._executor.shutdown(wait=True)

    def _submit(self, step: Callable[[], T], queue: deque[Waiting]) -> "Future[T]":
        mine: Waiting = (Future(), step)
        with self._lock:
            try:
                self._executor.submit(self._take)
            except RuntimeError:
                raise UnavailableError(
                    "the model is shutting down; retry on another server"
                ) from None
            queue.append(mine)
        return mine[0]

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
