"""How servers stop with live connections: real processes, real signals, every kind of start."""

import contextlib
import os
import signal
import socket
import textwrap
import time

import anyio
import hypercorn.config
import pytest

from dashws_async.backends import hypercorn as hypercorn_internals
from dashws_async.testing import open_browser
from ports import free_port
from raw_socket import RawSocket
from serving import Server, allow_open_files, server_class
from sockets import Sockets, persistent_request
from until import eventually, until

pytestmark = [pytest.mark.anyio, pytest.mark.process]

CLEANUP_TIMEOUT = 10
"""Seconds; the knob's default."""

APP = """
    import os, anyio
    from dash import Dash, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    app = Dash(
        __name__,
        server={server}(__name__),
        websocket_callbacks=True,
        plugins=[WebSocketRuntime({knobs})],
    )
    app.layout = html.Div([html.Div(id="live"), html.Div(id="stuck")])
"""

LIVE = """
    @app.callback(persistent=True)
    async def live():
        set_props("live", {{"children": "runs"}})
        while not ctx.websocket.is_shutdown:
            await anyio.sleep(0.01)
        await anyio.sleep({cleanup})
        print("cleaned up", flush=True)
"""

STUCK = """
    @app.callback(persistent=True)
    async def stuck():
        set_props("stuck", {"children": "runs"})
        while True:
            try:
                await anyio.sleep(0.01)
            except anyio.get_cancelled_exc_class():
                print("swallowed", flush=True)
"""

OVERFLOW = """
    @app.callback(persistent=True)
    async def overflow():
        set_props("live", {"children": "x" * 10_000_000})
        await anyio.sleep(0.1)
        print("waiting", flush=True)
        while not ctx.websocket.is_shutdown:
            await anyio.sleep(0.01)
        print("cleaned up", flush=True)
"""

MAIN = '\nif __name__ == "__main__":\n'
RUN = MAIN + "    app.run()\n"
UVICORN = MAIN + "    import uvicorn; uvicorn.run(app.server, port=int(os.environ['PORT']))\n"
SERVE = """
async def main():
    from hypercorn.config import Config
    from hypercorn.{loop} import serve
    config = Config()
    config.bind = ["127.0.0.1:" + os.environ["PORT"]]
    async def told_to_stop():
        while not os.path.exists("stop"):
            await anyio.sleep(0.01)
    await serve(app.server, config{trigger})
"""
RUN_MAIN = MAIN + "    anyio.run(main, backend='{loop}')\n"


class StoppableServer(Server):
    """A server that a test stops by itself.

    Args:
        worker_class: Hypercorn's, where that is not the loop's name.
        options: of the ``hypercorn`` command.
    """

    def __init__(self, *args, worker_class=None, options=(), **kwargs):
        super().__init__(*args, **kwargs)
        if worker_class is not None:
            self._command[self._command.index("-k") + 1] = worker_class
        self._command += options

    def signal(self, number=signal.SIGTERM):
        os.kill(self.pid, number)

    def ctrl_c(self):
        """What a terminal does: every process of the server gets the signal."""
        os.killpg(self.pid, signal.SIGINT)

    async def gone(self, within):
        """Wait until the process has ended, and return its exit status."""
        process = self._process
        try:
            await anyio.to_thread.run_sync(
                lambda: until(
                    lambda: process.poll() is not None,
                    lambda: f"the server has gone; its log:\n{self.log[-5000:]}",
                    within,
                )
            )
        except AssertionError:
            self.kill()
            raise
        self._process = None
        return process.returncode


@pytest.fixture
def serve(anyio_backend, tmp_path, monkeypatch):
    """Start a server process with an app."""
    # numpy's BLAS starts a thread per core when orjson looks at it.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    servers = []

    def serve(*parts, knobs="", **options):
        package, server = server_class(anyio_backend)
        head = APP.format(package=package, server=server, knobs=knobs)
        text = "\n".join(textwrap.dedent(part) for part in [head, *parts])
        by = "python" if "__main__" in text else "hypercorn"
        server = StoppableServer(text, anyio_backend, tmp_path, by=by, **options)
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.kill()


STARTS = {
    "app.run": RUN,
    "hypercorn -w 0": {"workers": 0},
    "hypercorn -w 1": {"workers": 1},
    "hypercorn -w 2": {"workers": 2},
    "hypercorn -k uvloop": {"worker_class": "uvloop"},
    "hypercorn -k uvloop -w 0": {"worker_class": "uvloop", "workers": 0},
    "hypercorn's serve()": SERVE + RUN_MAIN,
    "uvicorn": UVICORN,
}

LEAVES_SIGTERM_TO_THE_SYSTEM = {
    ("hypercorn -w 0", "trio"),
    ("hypercorn's serve()", "trio"),
    ("uvicorn", "asyncio"),  # it stops, and raises the signal again
}


def start_as(serve, start, loop, *parts, **options):
    """Start a server in one of the ways of `STARTS`, or skip the test."""
    how = STARTS[start]
    if start == "uvicorn" or "uvloop" in start:
        if loop == "trio":
            pytest.skip("asyncio only")
        pytest.importorskip("uvloop" if "uvloop" in start else "uvicorn")
    if isinstance(how, dict):
        return serve(*parts, **how, **options)
    return serve(*parts, how.format(loop=loop, trigger=""), **options)


@contextlib.asynccontextmanager
async def open_page(server, *components):
    """A browser with a page whose callbacks have filled these components."""
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        for component in components:
            await page.wait_for(component, "children", "runs")
        yield browser


@pytest.mark.parametrize("start", STARTS)
async def test_sigterm_closes_cleans_up_and_ends_the_process(serve, start, anyio_backend):
    server = start_as(
        serve, start, anyio_backend, LIVE.format(cleanup=0.2), STUCK, knobs="cleanup_timeout=0.5"
    )
    async with open_page(server, "live", "stuck") as browser:
        server.signal()
        assert await browser.wait_closed() == 1012
        status = await server.gone(within=0.5 + 5)
    left = (start, anyio_backend) in LEAVES_SIGTERM_TO_THE_SYSTEM
    assert status == (-signal.SIGTERM if left else 0)
    assert "cleaned up" in server.log
    assert "swallowed" in server.log
    assert "in stuck; abandoning it" in server.log
    assert "Traceback" not in server.log


async def test_a_stop_without_a_signal_is_noticed_too(serve, anyio_backend, tmp_path):
    text = SERVE.format(loop=anyio_backend, trigger=", shutdown_trigger=told_to_stop")
    server = serve(LIVE.format(cleanup=0.2), text, RUN_MAIN.format(loop=anyio_backend))
    async with open_page(server, "live") as browser:
        (tmp_path / "stop").touch()
        assert await browser.wait_closed() == 1012
        assert await server.gone(within=5) == 0
    assert "cleaned up" in server.log
    assert "Traceback" not in server.log


async def test_callbacks_have_their_time_though_the_server_grants_less(serve):
    server = serve(
        """
        pauses = [2.2, 1.5]

        @app.callback(persistent=True)
        async def live():
            pause = pauses.pop()
            set_props("live", {"children": "runs"})
            while not ctx.websocket.is_shutdown:
                await anyio.sleep(0.01)
            await anyio.sleep(pause)
            print("cleaned up after", pause, flush=True)
        """,
        options=["--graceful-timeout", "1"],
    )
    async with open_page(server, "live"), open_page(server, "live"):
        server.signal()
        assert await server.gone(within=10) == 0
    # On asyncio, Hypercorn waits no longer than for the first that ends after its timeout.
    assert "cleaned up after 1.5" in server.log
    assert "cleaned up after 2.2" in server.log


async def test_callbacks_have_their_time_though_another_worker_is_gone(serve):
    server = serve(LIVE.format(cleanup=1), workers=2)
    async with open_page(server, "live"):
        # Hypercorn sends SIGTERM to the worker that is left as soon as one has ended.
        server.signal()
        await server.gone(within=10)
        await anyio.to_thread.run_sync(server.wait_for_log, "cleaned up")


@pytest.mark.parametrize("start", ["app.run", "hypercorn -w 0", "uvicorn"])
async def test_a_second_signal_ends_a_server_at_once(serve, start, anyio_backend):
    server = start_as(
        serve, start, anyio_backend, LIVE.format(cleanup=30), knobs="cleanup_timeout=30"
    )
    async with open_page(server, "live") as browser:
        server.signal()
        assert await browser.wait_closed() == 1012
        server.signal()
        await server.gone(within=5)
    assert "in live; abandoning it" in server.log
    assert "cleaned up" not in server.log
    assert "Traceback" not in server.log


BLOCKED = """
    import time

    @app.callback(persistent=True)
    async def live():
        set_props("live", {"children": "runs"})
        await anyio.sleep(0.1)
        time.sleep(60)
"""


async def test_a_server_whose_loop_is_blocked_ends_at_the_fourth_signal(serve):
    server = serve(BLOCKED, RUN)
    async with open_page(server, "live"):
        for _ in range(4):
            await anyio.sleep(0.3)  # signals that are one would count as one
            server.signal()
        assert await server.gone(within=5) == -signal.SIGTERM


async def test_a_worker_whose_loop_is_blocked_does_not_keep_the_command(serve):
    server = serve(BLOCKED, workers=2)
    async with open_page(server, "live"):
        await anyio.sleep(0.3)  # now it is blocked
        server.signal()
        await server.gone(within=10)


IN_THREADS = """
    import time
    from dashws_async import offload

    @app.callback(persistent=True)
    def live():
        set_props("live", {"children": "runs"})
        time.sleep(60)

    @app.callback(persistent=True)
    @offload
    def offloaded():
        set_props("stuck", {"children": "runs"})
        time.sleep(60)
"""
ON_A_LOOP_IN_A_THREAD = """
    @app.callback(persistent=True)
    async def asynchronous():
        time.sleep(60)
"""


@pytest.mark.parametrize(("start", "mode"), [("app.run", "threads"), ("hypercorn -w 1", "hybrid")])
async def test_threads_that_block_do_not_keep_the_process(serve, start, mode, anyio_backend):
    parts = [IN_THREADS, ON_A_LOOP_IN_A_THREAD] if mode == "threads" else [IN_THREADS]
    knobs = f"mode={mode!r}, max_workers=3, cleanup_timeout=0.5"
    server = start_as(serve, start, anyio_backend, *parts, knobs=knobs)
    async with open_page(server, "live", "stuck") as browser:
        server.signal()
        assert await browser.wait_closed() == 1012
        # The drain takes cleanup_timeout and two seconds, then the server stops.
        assert await server.gone(within=0.5 + 2 + 5) == 0
    for name in ["live", "offloaded"] + ["asynchronous"] * (mode == "threads"):
        assert f"in {name}; abandoning it" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_ctrl_c_ends_the_workers_of_the_command_at_once(serve, workers):
    server = serve(LIVE.format(cleanup=30), knobs="cleanup_timeout=30", workers=workers)
    async with open_page(server, "live") as browser:
        server.ctrl_c()
        assert await browser.wait_closed() == 1012
        server.ctrl_c()
        assert await server.gone(within=5) == 0
    assert "cleaned up" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("start", ["app.run", "hypercorn -w 1"])
async def test_a_client_that_reads_nothing_does_not_hold_up_the_exit(serve, start, anyio_backend):
    server = start_as(serve, start, anyio_backend, OVERFLOW, knobs="cleanup_timeout=1")
    request = await persistent_request(server.url)
    async with deaf_client(server.url, request):
        await anyio.to_thread.run_sync(server.wait_for_log, "waiting")
        server.signal()
        assert await server.gone(within=1 + 5) == 0
    assert "cleaned up" in server.log
    assert "Traceback" not in server.log


@pytest.mark.alone
@pytest.mark.parametrize("start", ["app.run", "hypercorn -w 1"])
async def test_sigterm_with_a_thousand_live_connections(serve, start, anyio_backend):
    connections = 1000
    allow_open_files(4 * connections)
    options = {} if start == "app.run" else {"options": ["--graceful-timeout", "15"]}
    server = start_as(
        serve,
        start,
        anyio_backend,
        """
        visits = 0

        @app.callback(persistent=True)
        async def live():
            global visits
            visits += 1
            stuck, ws = visits == 500, ctx.websocket
            set_props("live", {"children": visits})
            while stuck or not ws.is_shutdown:
                try:
                    await anyio.sleep(1)
                except anyio.get_cancelled_exc_class():
                    print("swallowed", flush=True)
            print("cleaned up", flush=True)
        """,
        **options,
    )
    sockets, codes = Sockets(anyio_backend), []
    request = await persistent_request(server.url)
    ready, all_ready = 0, anyio.Event()

    async def visit():
        nonlocal ready
        async with sockets.open(server.url) as visitor:
            await visitor.send(request)
            await visitor.receive_values(1)
            ready += 1
            if ready == connections:
                all_ready.set()
            codes.append(await visitor.wait_closed())

    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(visit)
        with anyio.fail_after(60):
            await all_ready.wait()
        begun = time.monotonic()
        server.signal()
        # 13.5 s on trio, where nothing else runs; a slow machine takes its time for a thousand.
        assert await server.gone(within=CLEANUP_TIMEOUT + 8) == 0
        print(f"gone after {time.monotonic() - begun:.1f} s")
    assert codes == [1012] * connections
    assert server.log.count("cleaned up") == connections - 1
    assert "swallowed" in server.log
    assert "in live; abandoning it" in server.log
    assert "Traceback" not in server.log


async def test_the_tcp_connection_under_a_websocket_of_hypercorn_can_be_reached(anyio_backend):
    """Where this fails, Hypercorn has changed inside: see `backends/hypercorn.py`."""
    if anyio_backend == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
    found, stop, heard = [], anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise ValueError(scope["type"])
        await send({"type": "websocket.accept"})
        found.append(hypercorn_internals.tcp_connection(scope, send))
        # Nobody reads it: this ends when the connection is dropped, by whatever way.
        with contextlib.suppress(OSError):
            await send({"type": "websocket.send", "text": "x" * 10_000_000})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        found.append("disconnected")

    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{free_port()}"]
    config.loglevel = "CRITICAL"

    async def hear_the_stop(connection):
        await hypercorn_internals.server_stops(connection)
        heard.set()

    async with anyio.create_task_group() as tasks:
        await start(tasks, serve, app, config, stop.wait)
        async with deaf_client(f"http://{config.bind[0]}", "hello"):
            await eventually(lambda: found)
            assert found[0] is not None
            tasks.start_soon(hear_the_stop, found[0])
            await anyio.wait_all_tasks_blocked()
            hypercorn_internals.abort(found[0])
            await eventually(lambda: found[-1] == "disconnected")
            hypercorn_internals.abort(found[0])  # once more does nothing
            assert not heard.is_set()
            stop.set()
            with anyio.fail_after(10):
                await heard.wait()


async def start(tasks, serve, app, config, shutdown_trigger):
    """Serve in a task, from when it accepts."""
    tasks.start_soon(lambda: serve(app, config, shutdown_trigger=shutdown_trigger))
    host, port = config.bind[0].split(":")

    def accepts():
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    await eventually(accepts)


@contextlib.asynccontextmanager
async def deaf_client(url, message):
    """A WebSocket client that sends one message, and reads nothing after the handshake."""

    def connect():
        client = RawSocket(url, receive_buffer=4096)
        client.send(message)
        return client

    client = await anyio.to_thread.run_sync(connect)
    try:
        yield
    finally:
        client.reset()
