"""How long an update takes from set_props to the client: Dash's own backend and this one.

    python bench/latency.py [--seconds 3] [--rounds 3]

Starts a server process per backend, sends an update every millisecond, and prints
delays as a real client sees them (one clock: both processes are on this machine).
Quote the ratio: it is measured within one run.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import websockets

APP = """
import asyncio, sys, time
from dash import Dash, ctx, html, set_props
plugins = []
if {ours}:
    from dashws_async import WebSocketRuntime
    plugins = [WebSocketRuntime()]
app = Dash("bench", backend="quart", websocket_callbacks=True, plugins=plugins)
app.layout = html.Div(id="live")

@app.callback(persistent=True)
async def live():
    begun = time.monotonic()
    while time.monotonic() < begun + {seconds}:
        set_props("live", {{"children": time.monotonic()}})
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    set_props("live", {{"children": "done"}})

app.run(port={port})
"""


def free_port() -> int:
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


async def delays(ours: bool, seconds: float) -> list[float]:
    """Seconds from set_props to the client, of every update that arrived."""
    port = free_port()
    source = APP.format(ours=ours, seconds=seconds, port=port)
    server = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOST": "127.0.0.1"},
    )
    url = f"127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://{url}/_dash-dependencies") as response:
                    output = json.load(response)[0]["output"]
                break
            except OSError:
                await asyncio.sleep(0.05)
        return await asyncio.wait_for(listen(url, output), seconds + 30)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


async def listen(url: str, output: str) -> list[float]:
    found = []
    request = {
        "type": "callback_request",
        "rendererId": "bench",
        "requestId": "bench-1",
        "payload": {"output": output, "inputs": [], "state": [], "changedPropIds": []},
    }
    async with websockets.connect(f"ws://{url}/_dash-ws-callback", origin=f"http://{url}") as ws:
        await ws.send(json.dumps(request))
        while True:
            frame = json.loads(await ws.recv())
            now = time.monotonic()
            for message in frame if isinstance(frame, list) else [frame]:
                if message["type"] == "set_props":
                    value = message["payload"]["props"]["children"]
                    if value == "done":
                        return found
                    found.append(now - value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for number in range(1, options.rounds + 1):
        medians = {}
        for name, ours in [("Dash", False), ("dashws-async", True)]:
            found = asyncio.run(delays(ours, options.seconds))
            milliseconds = sorted(1000 * delay for delay in found)
            medians[name] = statistics.median(milliseconds)
            print(
                f"round {number}  {name:12}  {len(found):5} updates  "
                f"median {medians[name]:9.2f} ms  max {milliseconds[-1]:9.2f} ms"
            )
        ratios.append(medians["Dash"] / medians["dashws-async"])
    print(
        f"median delay, Dash / dashws-async: {statistics.median(ratios):.0f} times "
        f"(min {min(ratios):.0f}, max {max(ratios):.0f})"
    )


if __name__ == "__main__":
    main()
