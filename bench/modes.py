"""The three modes beside each other: who runs, in how many threads, and for how much memory.

    python bench/modes.py [--visitors 100]

Each mode has a server process of its own, and visitors whose page has one persistent
callback, which sleeps most of the time: an ``async def``, and in ``hybrid`` a plain
``def`` as well. At first with the mode's own limit of threads, then with as many as there
are visitors; the memory is that of the second time. Quote the ratio: it is of one run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import websockets

APP = """
import threading, time
import anyio
from dash import Dash, ctx, html, set_props
from dashws_async import WebSocketRuntime

runtime = WebSocketRuntime(mode={mode!r}, max_workers={max_workers})
app = Dash("bench", backend="quart", websocket_callbacks=True, plugins=[runtime])
app.layout = html.Div(id="live")

def plain():
    while not ctx.websocket.is_shutdown:
        set_props("live", {{"children": time.time()}})
        time.sleep(1)

async def asynchronous():
    while not ctx.websocket.is_shutdown:
        set_props("live", {{"children": time.time()}})
        await anyio.sleep(1)

app.callback(persistent=True)({function})

@app.server.get("/look")
async def look():
    return {{"threads": threading.active_count(), **runtime.statistics()._asdict()}}

app.run(port={port})
"""

CASES = [
    ("async", "asynchronous"),
    ("hybrid", "asynchronous"),
    ("hybrid", "plain"),
    ("threads", "plain"),
    ("threads", "asynchronous"),
]


def free_port():
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextlib.asynccontextmanager
async def serving(mode, function, max_workers):
    """A server process, and the address that it listens on."""
    port = free_port()
    source = APP.format(mode=mode, function=function, max_workers=max_workers, port=port)
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", source],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOST": "127.0.0.1", "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(get, f"127.0.0.1:{port}", "/_dash-dependencies")
                break
            await asyncio.sleep(0.05)
        yield server.pid, f"127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return json.load(answer)


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def measure(mode, function, visitors, max_workers):
    """Callbacks that run, threads in the process, and bytes for each visitor."""
    async with (
        serving(mode, function, max_workers) as (pid, address),
        contextlib.AsyncExitStack() as s,
    ):
        (callback,) = await asyncio.to_thread(get, address, "/_dash-dependencies")
        before = 0
        for number in range(visitors + 1):  # the first one is not counted: it warms up
            ws = await s.enter_async_context(
                websockets.connect(
                    f"ws://{address}/_dash-ws-callback",
                    origin=f"http://{address}",
                    compression=None,
                )
            )
            payload = {
                "output": callback["output"],
                "inputs": [],
                "state": [],
                "changedPropIds": [],
            }
            request = {
                "type": "callback_request",
                "rendererId": f"{number}",
                "requestId": f"{number}-1",
            }
            await ws.send(json.dumps({**request, "payload": payload}))
            if number == 0:
                await ws.recv()
                before = resident_bytes(pid)
        await asyncio.sleep(2)
        now = await asyncio.to_thread(get, address, "/look")
        live = now["persistent_callbacks"] - now["workers_waiting"]
        return live, now["threads"], (resident_bytes(pid) - before) / visitors


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=100)
    visitors = parser.parse_args().visitors
    print(f"{visitors + 1} visitors, {os.cpu_count()} CPUs")
    print(
        "mode     callback        run  threads | as many threads as wanted:  run  threads  KiB each"
    )
    least = None
    for mode, function in CASES:
        live, threads, _ = await measure(mode, function, visitors, None)
        most, all_threads, memory = await measure(mode, function, visitors, visitors + 1)
        least = least or memory
        print(
            f"{mode:8} {function:12} {live:6} {threads:8} | {most:32} {all_threads:8} "
            f"{memory / 1024:9.0f}  ({memory / least:.1f} times async)"
        )


if __name__ == "__main__":
    asyncio.run(main())
