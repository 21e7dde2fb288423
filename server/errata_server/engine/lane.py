"""The model thread: one thread that owns the model's tensors, fed one step at a time.

Invariants: steps run one after another in the order they were asked for; a step is one
forward pass or one optimisation step, so that nothing waits longer than that; a call from
the model thread itself runs at once.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from errata_server.domain.errors import OverloadedError, UnavailableError

T = TypeVar("T")

MAX_WAITING: Final = 256
"""Steps that may wait for the model; beyond it callers are turned away."""


class ModelLane:
    """A queue of steps for one model and the thread that runs them."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._waiting = threading.Semaphore(MAX_WAITING)
        # The thread itself and not its ident, which a later thread may get once this one is gone.
        self._thread = self._executor.submit(threading.current_thread).result()

    def run(self, step: Callable[[], T]) -> T:
        """What ``step`` returns when run on the model thread.

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
            return self._submit(step).result()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Finish the steps that wait, then stop the thread."""
        self._executor.shutdown(wait=True)

    def _submit(self, step: Callable[[], T]) -> "Future[T]":
        try:
            return self._executor.submit(step)
        except RuntimeError:
            raise UnavailableError("the model is shutting down; retry on another server") from None
