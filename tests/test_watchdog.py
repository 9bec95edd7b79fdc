"""Code that blocks the event loop is named, and nothing else is."""

import asyncio
import gc
import os
import re
import signal
import textwrap
import threading
import time
import types

import anyio
import pytest
from dash import Dash, Input, Output

from apps import make_app, make_server
from dashws_async import WebSocketRuntime, watchdog
from dashws_async.testing import open_browser
from dashws_async.watchdog import RunQueue, Watchdog
from serving import Server, server_class
from until import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

HERE = re.escape(__file__)


@pytest.fixture
def blockages():
    """Seconds of each blockage that was counted."""
    return []


@pytest.fixture
async def watched(anyio_backend, blockages):
    """The loop of the test is watched, and has turned."""
    with Watchdog(0.1, blockages.append):
        await anyio.sleep(0.2)
        yield


def block(seconds=0.5):
    time.sleep(seconds)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_callback_that_blocks_is_named_with_its_place_and_for_how_long(
    anyio_backend, is_async, caplog
):
    runtime = WebSocketRuntime(blocked_after=0.1)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)

    def plain(_):
        block()
        return "done"

    async def asynchronous(_):
        await anyio.sleep(0.01)
        block()
        return "done"

    function = asynchronous if is_async else plain
    app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)(
        function
    )
    async with open_browser(app) as browser:
        page = await browser.open_page()
        caplog.clear()  # the set-up of an app may take long on a busy machine
        counted = runtime.statistics().blocked
        await page.click("go")
        await page.wait_for("out", "children", "done")
        await eventually(lambda: runtime.statistics().blocked > counted)
    [warning] = warnings(caplog)
    line = block.__code__.co_firstlineno + 1
    found = re.fullmatch(
        rf"Callback (\S+) blocked the event loop for (\d\.\d\d) s, at {HERE}:{line} in block",
        warning,
    )
    assert found, warning
    assert found[1].endswith(function.__qualname__)
    assert float(found[2]) > 0.3
    assert runtime.statistics().longest_blocked > 0.3


@pytest.mark.parametrize("way", ["over HTTP", "in a task of its own"])
async def test_a_callback_is_named_wherever_it_runs(anyio_backend, way, caplog):
    runtime = WebSocketRuntime(blocked_after=0.1)
    app = make_app(
        anyio_backend, "go", "out", runtime=runtime, websocket_callbacks=way != "over HTTP"
    )

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def work(_):
        async def child():
            block()

        async with anyio.create_task_group() as tasks:
            if way == "over HTTP":
                block()
            else:
                tasks.start_soon(child)
        return "done"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        caplog.clear()
        counted = runtime.statistics().blocked
        await page.click("go")
        await page.wait_for("out", "children", "done")
        await eventually(lambda: runtime.statistics().blocked > counted)
    [warning] = warnings(caplog)
    assert re.match(rf"Callback \S+\.{work.__name__} blocked the event loop", warning), warning


async def test_a_function_named_as_a_loop_is_no_loop(anyio_backend, watched, blockages, caplog):
    namespace = {}
    code = "async def run(function):\n    function()\n"
    exec(compile(code, "/srv/redis/asyncio/client.py", "exec"), namespace)
    await namespace["run"](block)
    await eventually(lambda: blockages)
    assert "in block" in warnings(caplog)[0]


async def test_a_slow_log_does_not_outlive_the_loop_by_more_than_itself(anyio_backend, monkeypatch):
    told, release, failures = threading.Event(), threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", failures.append)

    def slow_log(*_):
        told.set()
        release.wait(10)

    def serve():
        async def main():
            with Watchdog(0.1, lambda _: None):
                await anyio.sleep(0.2)
                block()
                await anyio.sleep(0.3)

        anyio.run(main, backend=anyio_backend)

    monkeypatch.setattr(watchdog, "_report", slow_log)
    watchers = set(threading.enumerate())
    thread = threading.Thread(target=serve)
    thread.start()
    await eventually(told.is_set)
    await eventually(lambda: not thread.is_alive())
    release.set()
    await eventually(lambda: set(threading.enumerate()) <= watchers)
    assert failures == []


async def test_code_that_is_no_callback_is_named_by_its_line(watched, blockages, caplog):
    block()
    await eventually(lambda: blockages)
    [warning] = warnings(caplog)
    assert re.fullmatch(rf"Code blocked the event loop for .* s, at {HERE}:\d+ in block", warning)


async def test_a_blockage_is_told_while_it_lasts(watched, blockages, caplog, monkeypatch):
    monkeypatch.setattr(watchdog, "REPORT_AFTER", 0.2)
    deadline = time.monotonic() + 10
    while not warnings(caplog):
        assert time.monotonic() < deadline
        block(0.01)
    assert re.search(r"has been blocking the event loop for \d\.\d\d s", warnings(caplog)[0])
    assert blockages == []
    await eventually(lambda: blockages)
    assert "blocked the event loop" in warnings(caplog)[-1]


async def test_code_that_holds_the_interpreters_lock_is_named(watched, blockages, caplog):
    sum(range(60_000_000))  # in C: no other thread runs meanwhile, the watchdog neither
    await eventually(lambda: blockages)
    assert "in test_code_that_holds" in warnings(caplog)[0]


async def test_a_garbage_collection_is_mentioned(watched, blockages, caplog):
    block(0.2)
    gc.collect()
    block(0.2)
    await eventually(lambda: blockages)
    assert warnings(caplog)[-1].endswith(", with garbage collection")


async def test_each_blockage_counts_once(watched, blockages, caplog):
    for number in range(3):
        block(0.4)
        await eventually(lambda number=number: len(blockages) == number + 1)
        await anyio.sleep(0.2)  # the watchdog asks again
    assert len(warnings(caplog)) == 3


async def test_what_many_tasks_do_together_is_no_ones_fault(watched, blockages, caplog):
    async def short():
        block(0.03)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(short)
    await eventually(lambda: blockages)
    assert warnings(caplog)[0].startswith("Code ")


async def test_time_without_a_cpu_does_not_count(anyio_backend, blockages, caplog, monkeypatch):
    monkeypatch.setattr(RunQueue, "seconds", lambda _: time.monotonic())
    with Watchdog(0.1, blockages.append):
        await anyio.sleep(0.2)
        block()
        await anyio.sleep(0.3)
    assert blockages == []
    assert warnings(caplog) == []


async def test_a_debugger_may_hold_the_loop(watched, blockages, caplog):
    debugger = types.FunctionType(block.__code__, {"__name__": "bdb", "time": time}, argdefs=(0.5,))
    debugger()
    await anyio.sleep(0.3)
    assert blockages == []
    assert warnings(caplog) == []


def test_an_idle_loop_is_left_alone(anyio_backend, blockages, caplog, monkeypatch):
    woken = []
    monkeypatch.setattr(watchdog, "call_soon", lambda _, call: woken.append(call()))

    async def idle():
        with Watchdog(0.1, blockages.append):
            await anyio.sleep(1)

    anyio.run(idle, backend=anyio_backend)  # the loop of other tests is a guest of pytest's
    assert woken == []
    assert blockages == []
    assert warnings(caplog) == []


def test_it_ends_with_a_loop_that_does_not_say_so():
    before = set(threading.enumerate())
    loop = asyncio.new_event_loop()

    async def watch():
        Watchdog(0.1, lambda _: None).__enter__()

    loop.run_until_complete(watch())
    loop.close()
    (thread,) = set(threading.enumerate()) - before
    thread.join(5)
    assert not thread.is_alive()


async def test_it_can_be_switched_off(anyio_backend, caplog):
    runtime = WebSocketRuntime(blocked_after=None)
    app = make_app(anyio_backend, "go", runtime=runtime)
    before = set(threading.enumerate())
    async with open_browser(app) as browser:
        await browser.open_page()
        assert set(threading.enumerate()) <= before
        block(0.5)
        await anyio.sleep(0.3)
    assert runtime.statistics().blocked == 0
    assert warnings(caplog) == []


async def test_two_apps_on_one_server_have_one_watchdog(anyio_backend):
    server, runtimes = make_server(anyio_backend), []
    before = set(threading.enumerate())
    for path, seconds in [("/a/", 0.1), ("/b/", 30)]:
        runtimes.append(WebSocketRuntime(blocked_after=seconds))
        app = Dash(path.strip("/"), server=server, url_base_pathname=path, plugins=[runtimes[-1]])
    async with open_browser(app):
        assert len(set(threading.enumerate()) - before) == 1
        await anyio.sleep(0.2)
        block()
        await eventually(lambda: all(runtime.statistics().blocked for runtime in runtimes))


# Real processes.

APP = """
    import time
    import anyio
    from dash import Dash, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True,
               plugins=[WebSocketRuntime()])
    app.layout = html.Div(id="live")

    @app.callback(persistent=True)
    async def live():
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {{"children": number}})
            number += 1
            await anyio.sleep(0.05)
            if number == 20 and {blocks}:
                time.sleep(1.5)
                print("over", flush=True)

    if __name__ == "__main__":
        app.run()
"""


@pytest.fixture
def serve(tmp_path):
    servers = []

    def serve(loop, blocks=False, worker_class=None):
        package, name = server_class(loop)
        source = textwrap.dedent(APP).format(package=package, server=name, blocks=blocks)
        by = "hypercorn" if worker_class else "python"
        server = Server(source, loop, tmp_path, by=by)
        if worker_class:
            server._command[server._command.index("-k") + 1] = worker_class
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.stop()


@pytest.mark.process
@pytest.mark.parametrize("worker_class", [None, "asyncio", "uvloop", "trio"])
async def test_it_watches_every_kind_of_loop(serve, worker_class, anyio_backend):
    if worker_class is not None and (worker_class == "trio") != (anyio_backend == "trio"):
        pytest.skip("this worker is for the other loop")
    server = serve(anyio_backend, blocks=True, worker_class=worker_class)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", 25)
    assert re.search(r"live has been blocking the event loop for 1\.\d\d s", server.log)
    assert re.search(
        r"live blocked the event loop for 1\.\d\d s, at .*example.py:\d+ in live", server.log
    )


@pytest.mark.process
async def test_a_process_that_was_stopped_blames_nobody(serve, anyio_backend):
    server = serve(anyio_backend)
    async with open_browser(server.url) as browser:
        page = await browser.open_page()
        for reached in (5, 10):
            await page.wait_for("live", "children", reached)
            os.kill(server.pid, signal.SIGSTOP)
            await anyio.sleep(1)
            os.kill(server.pid, signal.SIGCONT)
        await page.wait_for("live", "children", 25)
    assert "block" not in server.log
