"""What the watchdog costs where nothing blocks: CPU time of a loop with it and without.

    python bench/watchdog.py [--seconds 5] [--rounds 5]

Each of the two loops idles, and is busy (a thousand tasks that sleep and compute a
little). Idle, the whole CPU time is printed as a share of one core; busy, how much
longer the same work takes with the watchdog. Turns are taken within one run.
"""

import argparse
import statistics
import time
from contextlib import nullcontext

import anyio

from dashws_async.watchdog import Watchdog

TURNS = 200
"""Turns that each of a thousand busy tasks takes in one measurement."""


async def idle(seconds):
    await anyio.sleep(seconds)


async def busy(_):
    async def work():
        for _ in range(TURNS):
            sum(range(200))
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(work)


def cpu_seconds(loop, scenario, seconds, watched):
    async def measure():
        with Watchdog(0.2, lambda _: None) if watched else nullcontext():
            await anyio.sleep(0.3)
            before = time.process_time()
            await scenario(seconds)
            return time.process_time() - before

    return anyio.run(measure, backend=loop)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for loop in ("asyncio", "trio"):
        without, with_it, ratios = [], [], []
        for _ in range(options.rounds):
            without.append(cpu_seconds(loop, idle, options.seconds, False))
            with_it.append(cpu_seconds(loop, idle, options.seconds, True))
            ratios.append(
                cpu_seconds(loop, busy, options.seconds, True)
                / cpu_seconds(loop, busy, options.seconds, False)
            )
        shares = [statistics.median(each) / options.seconds for each in (without, with_it)]
        print(
            f"{loop:8} idle {shares[0]:7.3%} of a core, watched {shares[1]:7.3%}; "
            f"busy, CPU watched / not: {statistics.median(ratios):.3f} "
            f"(min {min(ratios):.3f}, max {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
