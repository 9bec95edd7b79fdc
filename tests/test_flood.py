"""A client that says all it can, or all too slowly, against a real server process."""

import contextlib
import json
import random
import resource
import socket
import textwrap
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from raw_client import payload_of, request
from raw_socket import RawSocket
from serving import Server, server_class
from sockets import request_for
from until import until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]

SECONDS = 3
"""How long the flood takes; `bench/flood.py` measures a longer one."""

APP = """
    import anyio
    from dash import Dash, Input, Output, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    runtime = WebSocketRuntime()
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime])
    app.layout = html.Div(id="live")

    @app.callback(persistent=True)
    async def live():
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {{"children": number}})
            number += 1
            await anyio.sleep(0.01)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"))
    async def out(clicks):
        return clicks

    @app.server.route("/look")
    async def look():
        return runtime.statistics()._asdict()
"""


@pytest.fixture(params=["asyncio", "trio"])
def server(request, tmp_path):
    """A server, which must go in peace at the end: without a traceback in its log."""
    package, name = server_class(request.param)
    source = textwrap.dedent(APP).format(package=package, server=name)
    server = Server(source, request.param, tmp_path, workers=0)
    server.start()
    yield server
    server.stop()


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return json.loads(answer.read())


def memory(server):
    """Its resident memory in bytes."""
    statm = Path(f"/proc/{server.pid}/statm").read_text()
    return int(statm.split()[1]) * resource.getpagesize()


class Neighbour:
    """Another client, whose persistent callback counts a hundred times a second."""

    def __init__(self, server):
        self._socket = RawSocket(server.url)
        callbacks = get(server, "/_dash-dependencies")
        self._socket.send(request_for(next(each for each in callbacks if each["no_output"])))

    def goes_on(self, values=20):
        """Receive so many values, one after the other."""
        received = []
        while len(received) < values:
            found = json.loads(self._socket.receive())
            received += [
                message["payload"]["props"]["children"]
                for message in (found if isinstance(found, list) else [found])
            ]
        assert received == list(range(received[0], received[0] + len(received)))

    def close(self):
        self._socket.reset()


@pytest.fixture
def neighbour(server):
    neighbour = Neighbour(server)
    neighbour.goes_on()
    yield neighbour
    neighbour.close()


def ask(number):
    payload = payload_of("out.children", ("go.n_clicks", number))
    return json.dumps(request(payload, str(number)))


def random_messages(chance, count):
    """Heartbeats, requests and answers; and less garbage than closes a connection."""
    garbage = set(chance.sample(range(count), 90))
    for number in range(count):
        if number in garbage:
            yield "".join(chance.choices('{}[]":,0aé\\', k=chance.randrange(200)))
        else:
            unasked = {"type": "get_props_response", "rendererId": "tab", "requestId": "x"}
            yield chance.choice(['{"type":"heartbeat"}', ask(number), json.dumps(unasked)])


def test_a_flood_is_slowed_down_and_harms_nobody(server, neighbour):
    before, flooder = memory(server), RawSocket(server.url)
    sent = 0

    def flood():
        nonlocal sent
        for message in random_messages(random.Random(1), 10_000 * SECONDS):
            if time.monotonic() > deadline:
                return
            flooder.send(message)  # waits once the server takes no more
            sent += 1

    def listen():
        with contextlib.suppress(OSError):  # until it leaves
            while not isinstance(flooder.receive(), int):
                pass

    deadline = time.monotonic() + SECONDS
    threads = [threading.Thread(target=target, daemon=True) for target in (flood, listen)]
    for thread in threads:
        thread.start()
    while threads[0].is_alive():
        neighbour.goes_on()
    stats = get(server, "/look")
    print(
        f"{sent} messages in {SECONDS} s, {stats['messages_delayed']} waited, "
        f"the server grew by {(memory(server) - before) / 2**20:.1f} MiB"
    )
    assert stats["messages_delayed"] > 0
    assert stats["closed"]["abuse"] == 0
    assert memory(server) - before < 32 * 2**20
    flooder.reset()
    until(lambda: get(server, "/look")["connections"] == 1, "the flooder is gone")
    neighbour.goes_on()


TINY = {
    "fragments": b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 100_000,
    "pings": b"\x89\x80\0\0\0\0" * 50_000,
    "messages": b"\x81\x80\0\0\0\0" * 50_000,
}


@pytest.mark.parametrize("frames", TINY.values(), ids=TINY)
def test_a_flood_of_empty_frames_holds_nobody_up(server, neighbour, frames):
    flooder = RawSocket(server.url)

    def flood():
        with contextlib.suppress(OSError):  # until it is closed
            flooder.send_bytes(frames)
            while flooder.receive_bytes(2**16):
                pass

    flooding = threading.Thread(target=flood, daemon=True)
    flooding.start()
    end, waits = time.monotonic() + SECONDS, []
    while time.monotonic() < end:
        begun = time.monotonic()
        neighbour.goes_on(values=1)
        waits.append(time.monotonic() - begun)
    print(f"the neighbour's longest wait: {max(waits) * 1000:.0f} ms")
    assert max(waits) < 2
    flooder.reset()


def test_a_message_that_comes_a_byte_at_a_time_is_served_as_any_other(server, neighbour):
    slow = RawSocket(server.url)
    dripping = threading.Thread(target=slow.drip, args=(ask(1), 0.005), daemon=True)
    dripping.start()
    while dripping.is_alive():
        neighbour.goes_on()
    assert json.loads(slow.receive())["payload"]["status"] == "ok"
    slow.reset()


def test_a_handshake_that_comes_a_byte_at_a_time_is_waited_for_a_few_seconds(server, neighbour):
    """Hypercorn's ``keep_alive_timeout``: 5."""
    begun, address = time.monotonic(), urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as slow:
        with contextlib.suppress(OSError):
            slow.sendall(b"GET /")
            while time.monotonic() < begun + 20:
                slow.sendall(b"x")
                neighbour.goes_on(values=5)
        assert 4 < time.monotonic() - begun < 20
