"""Where code stands, as the log tells it."""

import asyncio
import re
import threading

import anyio
import pytest

from dashws_async import whereabouts

HERE = re.escape(__file__)


async def waits():
    await helper()


async def helper():
    await asyncio.sleep(60)


def advance(coro):
    """Run a coroutine up to its first wait, on no loop at all."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coro)
    loop.call_soon(loop.stop)
    loop.run_forever()
    return loop, task


@pytest.fixture
def waiting():
    coro = waits()
    loop, task = advance(coro)
    yield coro
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_the_innermost_place_in_the_users_code_is_told(waiting):
    line = helper.__code__.co_firstlineno + 1
    assert whereabouts.of_awaitable(waiting) == f"{__file__}:{line} in helper"


def test_users_code_may_be_installed_as_a_library(waiting, monkeypatch):
    monkeypatch.setattr(whereabouts, "_LIBRARIES", ("/",))
    assert "asyncio" in whereabouts.of_awaitable(waiting)
    assert whereabouts.of_awaitable(waiting, home=__file__).endswith("in helper")


def test_a_generator_that_is_iterated_over_is_looked_into():
    async def values():
        await asyncio.sleep(60)
        yield

    async def iterates():
        async for _ in values():
            pass

    coro = iterates()
    loop, task = advance(coro)
    try:
        assert whereabouts.of_awaitable(coro).endswith("values")
    finally:
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()


def test_what_has_ended_stands_nowhere(waiting):
    async def nothing():
        pass

    ended = nothing()
    with pytest.raises(StopIteration):
        ended.send(None)
    assert whereabouts.of_awaitable(ended) == whereabouts.UNKNOWN
    assert whereabouts.of_awaitable(None) == whereabouts.UNKNOWN


def test_a_thread_is_looked_at_from_outside():
    started, leave = threading.Event(), threading.Event()

    def works():
        started.set()
        leave.wait(10)

    thread = threading.Thread(target=works)
    thread.start()
    started.wait(10)
    try:
        assert re.fullmatch(rf"{HERE}:\d+ in .*works", whereabouts.of_thread(thread.ident))
    finally:
        leave.set()
        thread.join(10)
    assert whereabouts.of_thread(thread.ident) == whereabouts.UNKNOWN


@pytest.mark.anyio
async def test_the_place_is_found_on_both_loops_and_through_a_task_group(anyio_backend):
    async def in_group():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0.01)

    seen = []

    async def watched():
        seen.append(coro)
        await in_group()

    coro = watched()
    async with anyio.create_task_group() as tasks:

        async def run():
            await coro

        tasks.start_soon(run)
        while not seen:
            await anyio.sleep(0)
        await anyio.sleep(0)
        assert re.fullmatch(rf"{HERE}:\d+ in .*in_group", whereabouts.of_awaitable(coro))
