"""What a callback costs that swallows every cancellation: CPU time after its page has gone.

    python bench/swallow.py

Each of the two loops does nothing, then has a callback that swallows, cancelled
once per ``cleanup_timeout`` as this package does it, then the same in a cancelled
anyio scope, which cancels at every await. Printed is the CPU time as a share of
one core.
"""

import time

import anyio

from dashws_async.loops import owned_run

SECONDS = 3.0
CLEANUP_TIMEOUT = 1.0
"""Seconds; a tenth of the default, so ten times the cost."""


async def swallow(until):
    while time.monotonic() < until:
        try:
            await anyio.sleep(max(until - time.monotonic(), 0))
        except anyio.get_cancelled_exc_class():
            pass


async def nothing(until):
    await anyio.sleep(until - time.monotonic())


async def one_at_a_time(until):
    run = owned_run()

    async def cancel_now_and_then():
        while time.monotonic() < until - CLEANUP_TIMEOUT / 2:
            await anyio.sleep(CLEANUP_TIMEOUT / 2)
            run.cancel()
            await anyio.sleep(CLEANUP_TIMEOUT / 2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_now_and_then)
        try:
            await run.run(swallow(until))
        finally:
            tasks.cancel_scope.cancel()


async def cancelled_scope(until):
    with anyio.CancelScope() as scope:
        scope.cancel()
        await swallow(until)


def share_of_a_core(loop, scenario):
    async def measure():
        cpu = time.process_time()
        await scenario(time.monotonic() + SECONDS)
        return (time.process_time() - cpu) / SECONDS

    return anyio.run(measure, backend=loop)


if __name__ == "__main__":
    for loop in ("asyncio", "trio"):
        for scenario in (nothing, one_at_a_time, cancelled_scope):
            print(
                f"{loop:8} {scenario.__name__:16} {share_of_a_core(loop, scenario):8.3%} of a core"
            )
