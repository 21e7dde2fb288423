"""How a coroutine calls blocking code: on a pool, with its context variables.

Invariant: a blocking iterator is advanced by one thread at a time and is closed exactly
once, after the step in flight has ended, whether it is exhausted, cancelled or abandoned.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, TypeVar

T = TypeVar("T")
_CALL_THREADS: Final = 32
_WAIT_THREADS: Final = 32


class Pools:
    """The threads that blocking calls run on.

    Calls that only wait (for an operation, for a revision) have threads of their own, so
    that any number of waiting clients cannot keep others from being served.
    """

    def __init__(self) -> None:
        self.calls = ThreadPoolExecutor(_CALL_THREADS, thread_name_prefix="rpc")
        self.waits = ThreadPoolExecutor(_WAIT_THREADS, thread_name_prefix="rpc-wait")

    def close(self) -> None:
        """Let running calls end and take no more."""
        self.calls.shutdown(wait=True, cancel_futures=True)
        self.waits.shutdown(wait=True, cancel_futures=True)


async def call(executor: Executor, function: Callable[[], T]) -> T:
    """The result of ``function``, run on ``executor`` with the caller's context variables."""
    return await _start(executor, function)


async def iterate(executor: Executor, items: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a blocking iterator gives; leaving early closes it, if it is a generator."""
    step: asyncio.Future[tuple[T] | None] | None = None
    try:
        while True:
            step = _start(executor, partial(_next, items))
            # Shielded: a thread cannot be interrupted, and closing must wait for it.
            item = await asyncio.shield(step)
            if item is None:
                return
            yield item[0]
    finally:
        await asyncio.shield(asyncio.ensure_future(_close(executor, items, step)))


async def _close(
    executor: Executor,
    items: Iterator[T],
    step: "asyncio.Future[tuple[T] | None] | None",
) -> None:
    if step is not None:
        await asyncio.wait({step})
        if not step.cancelled():
            step.exception()  # retrieved here, so that asyncio does not warn about it
    if isinstance(items, Generator):
        await _start(executor, items.close)


def _start(executor: Executor, function: Callable[[], T]) -> "asyncio.Future[T]":
    context = copy_context()
    return asyncio.get_running_loop().run_in_executor(executor, partial(context.run, function))


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item, boxed so that an item may be anything; None at the end."""
    for item in items:
        return (item,)
    return None
