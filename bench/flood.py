"""What a client that floods the server costs the others: their latency, quiet and meanwhile.

    python bench/flood.py [--seconds 30] [--rate 10000] [--loop asyncio|trio]

One server process, and two client processes: one asks for a callback every 10 ms and
notes how long the answers take; one floods with random messages (heartbeats, requests,
answers that nobody asked for, and garbage, but less than closes a connection).
Quiet and flooded take turns of 5 s. Quote the ratio: it is measured within one run.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import sys
import time
import urllib.request

import websockets
from suite.server import free_port

APP = """
import sys
from dash import Dash, Input, Output, html
from {package} import {server}
from dashws_async import WebSocketRuntime

runtime = WebSocketRuntime()
app = Dash("bench", server={server}("bench"), websocket_callbacks=True, plugins=[runtime])
app.layout = html.Div([html.Div(id="go"), html.Div(id="out")])

@app.callback(Output("out", "children"), Input("go", "n_clicks"))
async def out(clicks):
    return clicks

@app.server.route("/look")
async def look():
    return runtime.statistics()._asdict()

app.run(port={port})
"""

TURN = 5  # seconds


def ask(number: int) -> str:
    payload = {
        "output": "out.children",
        "outputs": {"id": "out", "property": "children"},
        "inputs": [{"id": "go", "property": "n_clicks", "value": number}],
        "changedPropIds": ["go.n_clicks"],
    }
    request = {"type": "callback_request", "rendererId": "tab", "requestId": str(number)}
    return json.dumps({**request, "payload": payload})


def connect(url: str) -> websockets.connect:
    return websockets.connect(
        f"ws://{url}/_dash-ws-callback",
        origin=f"http://{url}",
        compression=None,
        ping_interval=None,
    )


async def measure(url: str, seconds: float) -> list[float]:
    """Milliseconds that answers take."""
    found = []
    async with connect(url) as ws:
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            number += 1
            begun = time.monotonic()
            await ws.send(ask(number))
            await ws.recv()
            found.append(1000 * (time.monotonic() - begun))
            await asyncio.sleep(0.01)
    return found


def flood(url: str, rate: float, on: multiprocessing.Event) -> None:
    """Send so many messages per second, or as many as are taken, while `on` is set."""
    asyncio.run(_flood(url, rate, on))


async def _flood(url: str, rate: float, on: multiprocessing.Event) -> None:
    chance = random.Random(1)
    async with connect(url) as ws:

        async def listen() -> None:
            async for _ in ws:
                pass

        listening = asyncio.create_task(listen())
        number, next_garbage = 0, 0.0
        while not listening.done():
            if not on.is_set():
                await asyncio.sleep(0.02)
                continue
            batch = time.monotonic()
            for _ in range(round(rate / 50)):
                number += 1
                if batch > next_garbage:
                    next_garbage = batch + 1  # 60 a minute
                    await ws.send("".join(chance.choices('{}[]":,0a\\', k=100)))
                    continue
                kind = chance.randrange(3)
                if kind == 0:
                    await ws.send('{"type":"heartbeat"}')
                elif kind == 1:
                    await ws.send(ask(number))
                else:
                    await ws.send(
                        '{"type":"get_props_response","rendererId":"tab","requestId":"x"}'
                    )
            await asyncio.sleep(max(0, batch + 0.02 - time.monotonic()))


def memory(pid: int) -> float:
    """Resident memory in MiB."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


def look(url: str) -> dict:
    with urllib.request.urlopen(f"http://{url}/look") as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of flood, in all")
    parser.add_argument("--rate", type=float, default=10_000, help="messages per second")
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    url = f"127.0.0.1:{(port := free_port())}"
    package, server = ("quart_trio", "QuartTrio") if options.loop == "trio" else ("quart", "Quart")
    process = subprocess.Popen(
        [sys.executable, "-c", APP.format(package=package, server=server, port=port)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HOST": "127.0.0.1"},
    )
    try:
        for _ in range(200):
            try:
                look(url)
                break
            except OSError:
                time.sleep(0.05)
        on = multiprocessing.Event()
        flooder = multiprocessing.Process(target=flood, args=(url, options.rate, on), daemon=True)
        flooder.start()
        asyncio.run(measure(url, 1))  # warm
        before = memory(process.pid)
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(round(options.seconds / TURN)):
            for flooded in (False, True):
                on.set() if flooded else on.clear()
                time.sleep(0.5)
                found[flooded] += asyncio.run(measure(url, TURN))
        p99 = {}
        for flooded, name in [(False, "quiet"), (True, "flooded")]:
            p99[flooded] = statistics.quantiles(found[flooded], n=100)[-1]
            print(
                f"{name:8} {len(found[flooded]):6} answers  "
                f"median {statistics.median(found[flooded]):7.2f} ms  p99 {p99[flooded]:7.2f} ms"
            )
        print(f"p99 flooded / quiet: {p99[True] / p99[False]:.2f}")
        numbers = look(url)
        print(
            f"the server grew by {memory(process.pid) - before:.1f} MiB; "
            f"{numbers['messages_delayed']} messages waited, {numbers['bad_messages']} were bad, "
            f"{numbers['closed']['abuse']} connections closed for abuse"
        )
        flooder.terminate()
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
