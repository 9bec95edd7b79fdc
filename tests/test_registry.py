"""What an operator can see: the registry, the statistics, and tasks by their names."""

import asyncio
import re

import anyio
import pytest
from dash import Input, Output, ctx

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.registry import ENDS
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(anyio_backend):
    return Stage(anyio_backend)


class Stage:
    """An app with a persistent callback, and one that runs for as long as it is clicked."""

    def __init__(self, loop, **knobs):
        self.runtime = WebSocketRuntime(**knobs)
        self.app = make_app(loop, "go", "out", runtime=self.runtime)
        self.finish = anyio.Event()

        @self.app.callback(persistent=True)
        async def live():
            while not ctx.websocket.is_shutdown:
                await anyio.sleep(0.001)

        @self.app.callback(
            Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True
        )
        async def wait(_):
            await self.finish.wait()
            return "done"


def place_of(where):
    return re.fullmatch(rf"{re.escape(__file__)}:\d+ in (.+)", where)[1].split(".")[-1]


async def test_the_registry_tells_what_lives(stage):
    async with open_browser(stage.app) as browser:
        first, second = await browser.open_page(), await browser.open_page()
        await first.click("go")
        await eventually(lambda: stage.runtime.statistics().callbacks == 3)
        (connection,) = stage.runtime.connections
        assert set(connection.tabs) == {first.renderer_id, second.renderer_id}
        assert connection.closing is None
        assert re.fullmatch(r"[\d.]+:\d+", connection.client)
        assert connection.open_for > 0
        (event,) = [each for each in connection.callbacks if not each.persistent]
        assert event.name == "test_registry.Stage.__init__.<locals>.wait"
        assert event.tab == first.renderer_id
        assert 0 < event.running_for < 60
        assert event.ended_for is None
        assert not event.stuck
        assert place_of(event.where) == "wait"
        assert {place_of(each.where) for each in connection.callbacks} == {"wait", "live"}
        assert stage.runtime.statistics()[:5] == (1, 2, 1, 2, 0)
        stage.finish.set()
        await first.wait_for("out", "children", "done")
        assert stage.runtime.statistics()[:5] == (1, 2, 0, 2, 0)
    await eventually(lambda: stage.runtime.connections == ())
    assert stage.runtime.statistics()[:5] == (0, 0, 0, 0, 0)


async def test_what_still_cleans_up_is_listed_with_what_it_waits_for(anyio_backend):
    stage = Stage(anyio_backend, cleanup_timeout=0.05)
    cleaned = anyio.Event()

    @stage.app.callback(Output("out", "title"), Input("out", "n_clicks"), prevent_initial_call=True)
    async def slow(_):
        while not cleaned.is_set():
            try:
                await cleaned.wait()
            except anyio.get_cancelled_exc_class():
                pass

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        await page.click("out")
        await eventually(lambda: stage.runtime.statistics().event_callbacks == 1)
        await browser.drop()
        await eventually(lambda: stage.runtime.statistics().stuck == 1)
        (connection,) = stage.runtime.connections
        assert connection.tabs == ()
        assert connection.closing == "left"
        (callback,) = connection.callbacks
        assert callback.stuck
        assert callback.ended_for >= 0.04
        assert place_of(callback.where) == "slow"
        cleaned.set()
        await eventually(lambda: not stage.runtime.connections)
        assert stage.runtime.statistics().stuck == 0


async def test_a_callback_in_a_worker_thread_stands_where_the_thread_does(anyio_backend):
    import threading

    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    started, finish = threading.Event(), threading.Event()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    @offload
    def block(_):
        started.set()
        finish.wait(10)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await eventually(started.is_set)
        ((callback,),) = [connection.callbacks for connection in runtime.connections]
        finish.set()
        assert place_of(callback.where) == "block"


async def test_connections_are_counted_by_the_reason_of_their_end(stage):
    async with open_browser(stage.app) as browser:
        await browser.open_page()
        await browser.drop()
        await browser.reconnect()
        await stage.runtime._runtime.drain()
    closed = stage.runtime.statistics().closed
    assert list(closed) == list(ENDS)
    assert {why: number for why, number in closed.items() if number} == {"left": 1, "restart": 1}


def names_of_tasks(loop):
    if loop == "asyncio":
        return [task.get_name() for task in asyncio.all_tasks()]
    import trio

    names, nurseries = [], [trio.lowlevel.current_root_task()]
    while nurseries:
        task = nurseries.pop()
        names.append(task.name)
        nurseries += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return names


async def test_tasks_carry_the_names_of_their_callbacks(stage, anyio_backend):
    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        await eventually(lambda: stage.runtime.statistics().callbacks == 1)
        (connection,) = stage.runtime.connections
        names = names_of_tasks(anyio_backend)
        live = "test_registry.Stage.__init__.<locals>.live"
        assert f"{live} (tab {page.renderer_id!r} of connection {connection.id})" in names
        await browser.close()


async def test_a_page_under_test_with_a_callback_that_swallows_everything_can_be_left(
    anyio_backend,
):
    runtime = WebSocketRuntime(cleanup_timeout=0.05)
    app = make_app(anyio_backend, "live", runtime=runtime)

    @app.callback(persistent=True)
    async def stubborn():
        while True:
            try:
                await anyio.sleep(60)
            except anyio.get_cancelled_exc_class():
                pass

    with anyio.fail_after(10):
        async with open_browser(app, shutdown_timeout=0.1) as browser:
            await browser.open_page()
            await eventually(lambda: runtime.statistics().callbacks == 1)
    assert runtime.statistics()[:5] == (0, 0, 0, 0, 0)
