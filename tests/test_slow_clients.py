"""Clients that do not keep up: what they get, what they cost, and how they are told apart."""

import contextlib
import json
import os
import resource
import statistics
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import anyio
import pytest
from dash import Input, Output, Patch, set_props

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.backends.asgi import AsgiTransport
from dashws_async.testing import open_browser
from raw_socket import RawSocket
from serving import Server, server_class
from until import eventually, until

FLOOD_SECONDS = float(os.environ.get("FLOOD_SECONDS", "5"))
"""How long a client reads nothing while its callback sends as fast as it can."""


# In memory


def make_stage(loop, **knobs):
    runtime = WebSocketRuntime(**knobs)
    app = make_app(loop, "go", "out", "log", runtime=runtime)
    app.layout["log"].children = []
    return runtime, app


def on_click(app):
    return app.callback(Output("go", "title"), Input("go", "n_clicks"), prevent_initial_call=True)


def append(value):
    items = Patch()
    items.append(value)
    return items


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_a_page_that_falls_behind_ends_as_if_it_had_got_everything(anyio_backend, where):
    runtime, app = make_stage(anyio_backend)
    count, logged, sent = 3000, range(0, 3000, 50), threading.Event()

    def send(number):
        set_props("out", {"children": number})
        if number == count // 2:
            set_props("out", {"title": "half way"})
        if number in logged:
            set_props("log", {"children": append(number)})

    async def flood(_):
        for number in range(count):
            send(number)
            await anyio.sleep(0)
        sent.set()
        return "done"

    def flood_from_thread(_):
        for number in range(count):
            send(number)
        sent.set()
        return "done"

    on_click(app)(flood if where == "loop" else offload(flood_from_thread))
    async with open_browser(app, history_limit=count) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(sent.is_set)
        (connection,) = runtime.connections
        assert connection.behind
        assert connection.waiting_bytes < 50_000
        assert runtime.statistics().behind == 1
        browser.resume_reading()
        await page.wait_for("go", "title", "done")
        assert page.get("out", "children") == count - 1
        assert page.get("out", "title") == "half way"
        assert page.get("log", "children") == list(logged)
        got = page.history("out", "children")
        assert got == sorted(got)
        await eventually(lambda: not runtime.statistics().behind)
        assert runtime.connections[0].dropped == count - len(got) > 1000
        assert runtime.statistics().updates_dropped == count - len(got)


@pytest.mark.anyio
async def test_a_page_that_keeps_up_gets_every_update(anyio_backend):
    runtime, app = make_stage(anyio_backend)
    count = 3000

    @on_click(app)
    async def work(_):
        for number in range(count):
            set_props("out", {"children": number})
            if number % 100 == 0:
                await anyio.sleep(0.001)
        return "done"

    async with open_browser(app, history_limit=count) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("go", "title", "done")
        assert page.history("out", "children") == list(range(count))
    assert runtime.statistics().updates_dropped == 0


SEND_TIMEOUT, SWEEP = 20, 2.5
"""Seconds: the runtime's default, and how often it looks."""


@contextlib.asynccontextmanager
async def amid_a_message(loop, monkeypatch, taken):
    """A runtime whose one client never gets a message whole; `taken` says how far it is."""
    runtime, app = make_stage(loop, silence_timeout=3600)
    monkeypatch.setattr(AsgiTransport, "bytes_taken", lambda transport: taken())

    @on_click(app)
    async def feed(_):
        while True:
            set_props("out", {"children": "x" * 100_000})
            await anyio.sleep(0.1)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: runtime.statistics().behind, timeout=SEND_TIMEOUT)
        yield runtime


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_client_that_takes_a_large_message_slowly_may_take_its_time(
    anyio_backend_name, monkeypatch
):
    stops = 300  # seconds until it takes nothing more

    def taken():
        return min(anyio.current_time(), stops)

    async with amid_a_message(anyio_backend_name, monkeypatch, taken) as runtime:
        await anyio.sleep(stops + SEND_TIMEOUT - SWEEP - anyio.current_time())
        assert not runtime.statistics().closed["slow"]
        await anyio.sleep(3 * SWEEP + 1)
        assert runtime.statistics().closed["slow"]


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_slow_client_does_not_hold_up_the_end(anyio_backend_name, monkeypatch):
    async with amid_a_message(anyio_backend_name, monkeypatch, anyio.current_time) as runtime:
        await anyio.sleep(100)
        runtime.close(where=lambda peer: True)
        await anyio.sleep(SEND_TIMEOUT + 2 * SWEEP)
        assert not runtime.statistics().connections


# Over the network

APP = """
    import anyio
    import time
    from dash import Dash, Input, Output, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    runtime = WebSocketRuntime(send_timeout={send_timeout})
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime])
    app.layout = html.Div([html.Div(id="go"), html.Div(id="figure"), html.Div(id="echo")])
    produced = 0

    @app.callback(Output("go", "title"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def feed(seconds):
        global produced
        end = anyio.current_time() + seconds
        while anyio.current_time() < end and not ctx.websocket.is_shutdown:
            value = [produced, time.monotonic(), "x" * {size}]
            set_props("figure", {{"children": value}})
            produced += 1
            await anyio.sleep({interval})

    @app.callback(Output("echo", "title"), Input("echo", "n_clicks"), prevent_initial_call=True)
    async def echo(clicks):
        return clicks

    @app.server.route("/look")
    async def look():
        return {{
            **runtime.statistics()._asdict(),
            "produced": produced,
            "waiting_bytes": sum(each.waiting_bytes for each in runtime.connections),
        }}
"""


class Stage:
    """A server with a feed, and clients that need not read."""

    def __init__(self, server):
        self.server = server

    def look(self):
        """What the server says of itself."""
        with urllib.request.urlopen(self.server.url + "/look", timeout=30) as answer:
            return json.loads(answer.read())

    def memory(self):
        """The server's resident memory in bytes."""
        statm = Path(f"/proc/{self.server.pid}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    def connect(self):
        """A client for which the system keeps next to nothing."""
        return RawSocket(self.server.url, receive_buffer=4096)


def click(client, button, clicks):
    """Send what a page does when a button is clicked."""
    payload = {
        "output": f"{button}.title",
        "outputs": {"id": button, "property": "title"},
        "inputs": [{"id": button, "property": "n_clicks", "value": clicks}],
        "changedPropIds": [f"{button}.n_clicks"],
        "parsedChangedPropsIds": [f"{button}.n_clicks"],
        "state": [],
    }
    client.send(
        json.dumps(
            {
                "type": "callback_request",
                "rendererId": "tab",
                "requestId": f"tab-{button}-{clicks}",
                "payload": payload,
            }
        )
    )


def latencies(client, seconds):
    """What a neighbour waits for its answers meanwhile, in milliseconds, in order of size."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        click(client, "echo", len(found))
        assert "callback_response" in client.receive()
        found.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.005)
    return sorted(found)


def told(found):
    return f"median {statistics.median(found):.1f} ms, p99 {found[len(found) * 99 // 100]:.1f} ms"


@pytest.fixture(params=["asyncio", "trio"])
def serve(request, tmp_path):
    """Start the server, on each loop; at the end it must go in peace."""
    loop, servers = request.param, []

    def serve(interval, size, send_timeout=20):
        package, name = server_class(loop)
        source = textwrap.dedent(APP).format(
            package=package, server=name, interval=interval, size=size, send_timeout=send_timeout
        )
        server = Server(source, loop, tmp_path, workers=0)
        servers.append(server)
        server.start()
        return Stage(server)

    yield serve
    for server in servers:
        server.stop()


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_a_client_that_stops_reading_costs_little_and_is_closed(serve):
    stage = serve(interval=0, size=20_000, send_timeout=FLOOD_SECONDS + 2)
    neighbour, idle = stage.connect(), stage.connect()
    quiet = latencies(neighbour, 1)
    before = stage.memory()

    click(idle, "go", FLOOD_SECONDS + 30)
    until(lambda: stage.look()["behind"], stage.look)
    loaded = latencies(neighbour, FLOOD_SECONDS)
    look, grown = stage.look(), stage.memory() - before
    print(
        f"{look['produced']} updates in {FLOOD_SECONDS:g} s to a client that does not read: "
        f"memory {grown / 2**20:+.1f} MiB; a neighbour's answers: quiet {told(quiet)}; "
        f"meanwhile {told(loaded)}"
    )
    assert look["behind"] == 1
    assert look["updates_dropped"] > 0.5 * look["produced"]
    assert grown < 8 * 2**20

    until(lambda: stage.look()["closed"]["slow"], stage.look)
    assert idle.receive_close() == 1013
    latencies(neighbour, 0.1)  # it still gets its answers


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what was taken")
def test_a_client_on_a_narrow_line_is_closed_only_once_it_takes_nothing(serve):
    """10 kB in a second of a large message: it has nothing whole for a long time."""
    send_timeout = 1
    stage = serve(interval=60, size=8_000_000, send_timeout=send_timeout)
    client = stage.connect()
    click(client, "go", 60)
    end = time.monotonic() + 5 * send_timeout
    while time.monotonic() < end:
        client.receive_bytes(1000)
        time.sleep(0.1)
    assert stage.look()["closed"]["slow"] == 0
    until(lambda: stage.look()["closed"]["slow"], stage.look)
    client.reset()


@pytest.mark.process
def test_a_slow_client_of_a_feed_gets_what_is_new(serve):
    stage = serve(interval=0.01, size=100_000)
    client = stage.connect()
    received, ages = [], []

    def take():
        """Receive a frame; the number of the newest value in it, or None at the end of the feed."""
        found = json.loads(client.receive())
        for message in found if isinstance(found, list) else [found]:
            if message["type"] == "callback_response":
                return False
            number, produced_at, _ = message["payload"]["props"]["children"]
            received.append((number, produced_at))
            ages.append(time.monotonic() - produced_at)
        return True

    def read_slowly(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            take()
            time.sleep(0.05)

    click(client, "go", 8)
    read_slowly(3)
    until(lambda: stage.look()["behind"], stage.look)
    stalled = time.monotonic()
    time.sleep(2.5)  # nothing is read, and the server can send nothing
    resumed = time.monotonic()
    while take():
        pass
    look = stage.look()
    client.close()

    numbers = [number for number, _ in received]
    print(
        f"{look['produced']} values produced, {len(received)} received, "
        f"{look['updates_dropped']} dropped; oldest on arrival while it read slowly: "
        f"{max(ages[:-1]):.2f} s"
    )
    assert numbers == sorted(set(numbers))
    assert len(received) + look["updates_dropped"] == look["produced"]
    assert numbers[-1] == look["produced"] - 1
    # What was on its way when it stopped, and then at once what was new when it went on.
    assert not [at for _, at in received if stalled + 0.5 < at < resumed - 0.5]
