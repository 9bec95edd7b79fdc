"""Real servers: Hypercorn's workers and app.run, real sockets, real signals."""

import os
import resource
import signal
import socket
import statistics
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser
from serving import Server, allow_open_files, server_class
from sockets import Sockets, persistent_request

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

#: One thread does all the work; the other one looks whether it turns.
ONE_AND_WATCHDOG = 2


def source(loop, *parts):
    package, server = server_class(loop)
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
        assert threads_of(server.pid) == ONE_AND_WATCHDOG


async def test_app_run_has_room_for_browsers_that_come_together(serve):
    crowd = min(1000, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    allow_open_files(2 * crowd)
    server = serve(RUN)
    os.kill(server.pid, signal.SIGSTOP)  # it accepts nobody
    try:
        with ExitStack() as sockets:
            for _ in range(crowd):
                sockets.enter_context(socket.create_connection(server.address, timeout=5))
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_app_run_allows_itself_a_descriptor_for_each_connection(serve):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # the server's, too
    try:
        server = serve(RUN)
        allowed, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        assert allowed >= min(WebSocketRuntime()._runtime.settings.max_connections, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.alone
async def test_a_thousand_live_dashboards_in_one_thread(serve, anyio_backend):
    connections = 1000
    allow_open_files(4 * connections)
    server = serve(LIVE.format(interval=1))
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
    assert set(seen) == {ONE_AND_WATCHDOG}


@pytest.mark.alone
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


def threads_of(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
