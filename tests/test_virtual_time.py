"""The clock that jumps: it keeps the order and the instants of timers, and costs no time."""

import time

import anyio
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_hours_pass_in_a_moment():
    began = time.monotonic()
    for _ in range(10 * 60):
        await anyio.sleep(60)
    assert anyio.current_time() == 10 * 60 * 60
    assert time.monotonic() - began < 10


async def test_timers_keep_their_order_and_their_instants():
    woken = []

    async def sleeper(delay):
        await anyio.sleep(delay)
        woken.append((anyio.current_time(), delay))

    delays = [3600, 0.5, 10, 0.25, 86_400 * 3, 7]
    async with anyio.create_task_group() as tasks:
        for delay in delays:
            tasks.start_soon(sleeper, delay)
    assert woken == [(delay, delay) for delay in sorted(delays)]


async def test_the_clock_stands_still_while_a_task_can_go_on():
    async def busy():
        for _ in range(1000):
            await anyio.sleep(0)
        seen.append(anyio.current_time())

    seen = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(busy)
        await anyio.sleep(0.001)
        seen.append(anyio.current_time())
    assert seen == [0, 0.001]


async def test_a_deadline_ends_what_would_wait_for_ever():
    with pytest.raises(TimeoutError):
        with anyio.fail_after(3600):
            await anyio.Event().wait()
    assert anyio.current_time() == 3600


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_loop_that_never_rests_can_still_end():
    while anyio.current_time() < 1:
        await anyio.sleep(0)
