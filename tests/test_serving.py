"""Real servers: Hypercorn's workers and app.run, real sockets, real signals."""

import json
import statistics
import textwrap
import time
from pathlib import Path

import anyio
import pytest

from dashws_async.testing import open_browser
from serving import Server

pytestmark = [pytest.mark.anyio, pytest.mark.process]

APP = """
    import dataclasses, os, time
    import anyio
    from dash import Dash, Input, Output, ctx, dcc, html, set_props
    from dash.exceptions import WebsocketDisconnected
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    runtime = WebSocketRuntime()
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime])
    app.layout = html.Div([html.Button(id="go"), html.Div(id="out"), html.Div(id="live")])
"""

LIVE = """
    @app.callback(persistent=True)
    async def live():
        ws, number = ctx.websocket, 0
        while not ws.is_shutdown:
            set_props("live", {{"children": number}})
            number += 1
            await anyio.sleep({interval})
        print("cleaned up", flush=True)
"""

COUNTDOWN = """
    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def countdown(clicks):
        ws = ctx.websocket
        for number in range(3, 0, -1):
            set_props("out", {"children": number})
            await anyio.sleep(0.01)
        return [clicks, await ws.get_prop("go", "n_clicks")]
"""


def source(loop, *parts):
    package, server = ("quart_trio", "QuartTrio") if loop == "trio" else ("quart", "Quart")
    head = APP.format(package=package, server=server)
    return "\n".join(textwrap.dedent(part) for part in [head, *parts])


@pytest.fixture
def serve(anyio_backend, tmp_path, monkeypatch):
    """Start a server process with an app; it must have gone in peace at the end."""
    # numpy's BLAS starts a thread per core when orjson looks at it.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    servers = []

    def serve(*parts, workers=0):
        text = source(anyio_backend, *parts)
        server = Server(text, anyio_backend, tmp_path, workers=workers)
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.stop()


RUN = """
    if __name__ == "__main__":
        app.run()
"""


@pytest.mark.parametrize("end", ["", RUN], ids=["hypercorn", "app.run"])
async def test_callbacks_over_a_real_socket(serve, end):
    server = serve(COUNTDOWN, LIVE.format(interval=0.01), end)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda number: number is not None)
        await page.click("go")
        await page.wait_for("out", "children", [1, 1])
        assert page.history("out", "children") == [3, 2, 1, [1, 1]]
        await browser.drop()
        await browser.reconnect()
        await page.wait_for("live", "children", lambda number: number is not None)
        await browser.close()
    await anyio.to_thread.run_sync(server.wait_for_log, "cleaned up")


@pytest.mark.parametrize("end", ["", RUN], ids=["hypercorn", "app.run"])
async def test_one_thread_serves_pages_sockets_and_callbacks(serve, end):
    server = serve(COUNTDOWN, LIVE.format(interval=0.01), end)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", [1, 1])
        assert threads_of(server.pid) == 1


@pytest.mark.parametrize(
    ("end", "workers"),
    [(RUN, 0), ("", 0), ("", 1), ("", 2)],
    ids=["app.run", "hypercorn-w0", "hypercorn", "hypercorn-w2"],
)
async def test_sigterm_ends_a_server_with_a_live_connection(serve, end, workers):
    server = serve(LIVE.format(interval=0.01), end, workers=workers)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda number: number is not None)
        begun = time.monotonic()
        await anyio.to_thread.run_sync(server.stop)
        assert await browser.wait_closed() == 1012
        assert "cleaned up" in server.log
        assert time.monotonic() - begun < 10  # the callback's own cleanup_timeout


@pytest.mark.parametrize("end", ["", RUN], ids=["hypercorn", "app.run"])
async def test_a_callback_that_swallows_every_cancellation_cannot_keep_the_server(serve, end):
    server = serve(
        """
        runtime._runtime.settings = dataclasses.replace(
            runtime._runtime.settings, cleanup_timeout=0.5
        )

        @app.callback(persistent=True)
        async def endless():
            while True:
                set_props("live", {"children": time.monotonic()})
                try:
                    await anyio.sleep(0.01)
                except anyio.get_cancelled_exc_class():
                    print("swallowed", flush=True)
        """,
        end,
    )
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda number: number is not None)
        await anyio.to_thread.run_sync(server.stop)
        assert "swallowed" in server.log
        assert "endless does not end; abandoning it" in server.log


async def test_a_callback_has_its_time_to_clean_up_though_another_worker_is_gone(serve):
    slow = LIVE.replace("print(", "await anyio.sleep(1)\n        print(")
    server = serve(slow.format(interval=0.01), workers=2)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda number: number is not None)
        # Hypercorn sends SIGTERM to the worker that is left as soon as one has ended.
        await anyio.to_thread.run_sync(server.stop)
        await anyio.to_thread.run_sync(server.wait_for_log, "cleaned up")


async def test_a_thousand_live_dashboards_in_one_thread(serve, anyio_backend):
    server = serve(LIVE.format(interval=1))
    connections = 1000
    raise_open_files_limit(server.pid, 4 * connections)
    ready = 0
    all_ready = anyio.Event()

    async def visit():
        nonlocal ready
        async with sockets.open(server.url) as socket:
            await socket.send(request)
            with anyio.fail_after(60):
                await socket.receive_values(3)
                ready += 1
                if ready == connections:
                    all_ready.set()
                await all_ready.wait()
                before = threads_of(server.pid)
                await socket.receive_values(1)
                seen.append(before)

    sockets = Sockets(anyio_backend)
    request = await persistent_request(server.url)
    seen = []
    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(visit)
    assert len(seen) == connections
    assert set(seen) == {1}


async def test_an_update_every_millisecond_arrives_at_once(serve, anyio_backend):
    server = serve(
        """
        @app.callback(persistent=True)
        async def live():
            begun = time.monotonic()
            while time.monotonic() < begun + 3:
                set_props("live", {"children": time.monotonic()})
                await anyio.sleep(0.001)
            set_props("live", {"children": "done"})
        """
    )
    delays = []
    async with Sockets(anyio_backend).open(server.url) as socket:
        await socket.send(await persistent_request(server.url))
        with anyio.fail_after(30):
            while (value := await socket.receive_value()) != "done":
                delays.append(time.monotonic() - value)
    median_ms = statistics.median(delays) * 1000
    print(f"{len(delays)} updates, median delay {median_ms:.2f} ms")
    assert len(delays) > 500
    assert median_ms < 5


async def persistent_request(url):
    """The request that a page load sends for the app's persistent callback."""
    import httpx

    async with httpx.AsyncClient() as client:
        (callback,) = (await client.get(f"{url}/_dash-dependencies")).json()
    payload = {"output": callback["output"], "inputs": [], "state": [], "changedPropIds": []}
    return json.dumps(
        {
            "type": "callback_request",
            "rendererId": "tab",
            "requestId": "tab-1",
            "payload": payload,
        }
    )


class Sockets:
    """Bare client sockets: a thousand full pages would be the slower part of a test."""

    def __init__(self, loop):
        if loop == "trio":
            from websockets.trio.client import connect
        else:
            from websockets.asyncio.client import connect
        self._connect = connect

    def open(self, url):
        return Socket(
            self._connect(
                url.replace("http", "ws") + "/_dash-ws-callback", origin=url, open_timeout=60
            )
        )


class Socket:
    def __init__(self, connecting):
        self._connecting = connecting
        self._values = []

    async def __aenter__(self):
        self._socket = await self._connecting.__aenter__()
        self.send = self._socket.send
        return self

    async def __aexit__(self, *error):
        await self._connecting.__aexit__(*error)

    async def receive_value(self):
        while not self._values:
            found = json.loads(await self._socket.recv())
            for message in found if isinstance(found, list) else [found]:
                if message["type"] == "set_props":
                    self._values += message["payload"]["props"].values()
        return self._values.pop(0)

    async def receive_values(self, count):
        return [await self.receive_value() for _ in range(count)]


def threads_of(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def raise_open_files_limit(pid, least):
    """Let this process and the server's have a socket per connection."""
    import resource

    for process in (0, pid):
        soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        if soft < least:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (min(least, hard), hard))
