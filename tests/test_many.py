"""Many connections to a real server process: what their end leaves behind.

``make soak`` runs as many cycles as the project promises; the test suite fewer.
"""

import json
import os
import resource
import textwrap
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from raw_socket import RawSocket
from serving import Server, allow_open_files, server_class
from sockets import request_for
from until import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]

CONNECTIONS = 1000
CYCLES = int(os.environ.get("SOAK_CYCLES", "2000"))

TIMERS_ARE_DUE = 20
"""Seconds after which nothing of a connection is left, its ``cleanup_timeout`` of 10 among them.

asyncio drops a cancelled timer when its time has come, or when most timers are cancelled ones,
and with it the context of the task that set it: all that this connection was made of. On a bad
day one connection holds all: where a write failed, its exception's traceback has the frame of
the loop's turn, and that a list of all timers.
"""

APP = """
    import gc, os, sys
    import anyio
    from dash import Dash, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    runtime = WebSocketRuntime({knobs})
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime])
    app.layout = html.Div(id="live")

    @app.callback(persistent=True)
    async def live():
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {{"children": number}})
            number += 1
            await anyio.sleep({interval})

    def tasks():
        if "{server}" == "Quart":
            import asyncio
            return len(asyncio.all_tasks())
        import trio
        return trio.lowlevel.current_statistics().tasks_living

    @app.server.route("/look")
    async def look():
        gc.collect()
        return {{
            **runtime.statistics()._asdict(),
            "registry": len(runtime.connections),
            "tasks": tasks(),
            "blocks": sys.getallocatedblocks(),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }}
"""


class Many:
    """A server and its clients."""

    def __init__(self, server):
        self.server = server
        (callback,) = json.loads(self._get("/_dash-dependencies"))
        self._request = request_for(callback)

    def look(self):
        """What the server says of itself, its garbage collected."""
        return json.loads(self._get("/look"))

    def memory(self):
        """The server's resident memory in bytes."""
        statm = Path(f"/proc/{self.server.pid}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    def connect(self):
        """A page's connection, its persistent callback requested."""
        connection = RawSocket(self.server.url)
        connection.send(self._request)
        return connection

    def none_left(self):
        """Whether the server has no connection and no callback."""
        now = self.look()
        return not (now["registry"] or now["persistent_callbacks"] or now["connections"])

    def _get(self, path):
        with urllib.request.urlopen(self.server.url + path, timeout=30) as answer:
            return answer.read()


@pytest.fixture(params=["asyncio", "trio"])
def serve(request, tmp_path):
    """Start the server, on each loop; at the end it must go in peace."""
    loop, servers = request.param, []
    allow_open_files(4 * CONNECTIONS)

    def serve(knobs="", interval=1):
        package, name = server_class(loop)
        values = {"package": package, "server": name, "knobs": knobs, "interval": interval}
        source = textwrap.dedent(APP).format(**values)
        server = Server(source, loop, tmp_path, workers=0)
        servers.append(server)
        server.start()
        return Many(server)

    yield serve
    for server in servers:
        server.stop()


def test_a_thousand_connections_that_break_at_once_leave_nothing(serve):
    many = serve(interval=0.5)

    def break_a_thousand():
        connections = [many.connect() for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.receive()
        live = many.look(), many.memory()
        assert live[0]["persistent_callbacks"] == CONNECTIONS
        for connection in connections:
            connection.reset()
        begun = time.monotonic()
        until(many.none_left, many.look)
        return live, time.monotonic() - begun

    break_a_thousand()  # what a server keeps for good, it has from now on
    before = many.look(), many.memory()
    live, seconds = break_a_thousand()
    for kind in "descriptors", "tasks":
        until(lambda kind=kind: many.look()[kind] <= before[0][kind], many.look)
    taken = live[0]["blocks"] - before[0]["blocks"]
    # What grows by itself (caches of the interpreter) is less than this.
    enough = before[0]["blocks"] + 0.05 * taken
    until(lambda: many.look()["blocks"] < enough, many.look, TIMERS_ARE_DUE)
    after = many.look(), many.memory()
    rows = zip(("before", "live", "after"), (before, live, after), strict=True)
    print(
        f"all callbacks ended {seconds:.2f} s after the resets;",
        *(f"{name}: {look['blocks']} blocks, {rss / 2**20:.1f} MiB;" for name, (look, rss) in rows),
    )
    # Python gives freed memory back to the system by the megabyte, if nothing in it is used.
    assert after[1] < 1.25 * before[1]


def test_connections_that_come_and_go_leave_nothing(serve):
    many = serve(interval=0.05)

    def come_and_go(connections):
        for number in range(connections):
            connection = many.connect()
            connection.receive()
            connection.close() if number % 2 else connection.reset()
        until(many.none_left, many.look)

    come_and_go(10)  # what a server keeps for good, it has from now on
    first = many.look()

    def quarter():
        come_and_go(CYCLES // 4)
        until(lambda: many.look()["descriptors"] <= first["descriptors"] + 1, many.look)
        until(lambda: many.look()["tasks"] <= first["tasks"], many.look)
        # Of a connection alone there are hundreds; what is left of the looking is less, too.
        until(lambda: many.look()["blocks"] < first["blocks"] + 5000, many.look, TIMERS_ARE_DUE)
        return many.memory()

    memory = [quarter() for _ in range(4)]
    growth = [later - earlier for earlier, later in pairwise(memory)]
    last = many.look()
    print(
        f"{last['connections_total']} connections; tasks {first['tasks']} before them and "
        f"{last['tasks']} after; blocks {first['blocks']} and {last['blocks']}; MiB after each "
        "quarter:",
        *(f"{rss / 2**20:.1f}" for rss in memory),
    )
    assert last["connections_total"] == CYCLES // 4 * 4 + 10
    # The most that was ever in use at once may rise by chance; what leaks grows every time.
    assert min(growth) < 2**20


def test_a_client_that_falls_silent_is_ended(serve):
    many = serve("silence_timeout=2")
    silent = many.connect()
    silent.receive()
    assert many.look()["persistent_callbacks"] == 1
    assert silent.receive_close() == 4000
    until(many.none_left, many.look)
    assert many.look()["closed"]["silent"] == 1
