"""Blocking code under coroutines."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import ContextVar

import pytest

from errata_server.rpc import calls

NAME: ContextVar[str] = ContextVar("NAME", default="nobody")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as executor:
        yield executor


async def test_a_call_sees_its_caller_s_context_variables(pool):
    NAME.set("ana")

    assert await calls.call(pool, NAME.get) == "ana"


async def test_items_come_in_order_and_may_be_none(pool):
    assert [item async for item in calls.iterate(pool, iter([1, None, 2]))] == [1, None, 2]


async def test_an_error_in_the_iterator_reaches_the_reader(pool):
    def items():
        yield 1
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        [item async for item in calls.iterate(pool, items())]


async def test_leaving_early_closes_the_generator(pool):
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    async with aclosing(calls.iterate(pool, items())) as stream:
        assert await anext(stream) == 1

    assert closed.is_set()


async def test_a_cancelled_reader_waits_for_the_step_in_flight_before_closing(pool):
    stepping, finish, order = threading.Event(), threading.Event(), []

    def items():
        try:
            yield 1
            stepping.set()
            finish.wait(20)
            order.append("step ended")
            yield 2
        finally:
            order.append("closed")

    async def read():
        async with aclosing(calls.iterate(pool, items())) as stream:
            async for _ in stream:
                pass

    task = asyncio.create_task(read())
    await asyncio.to_thread(stepping.wait, 20)
    task.cancel()
    await asyncio.sleep(0.05)
    assert order == []
    finish.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["step ended", "closed"]
