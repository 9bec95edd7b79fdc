"""How callbacks end that run in threads: the table of `test_end_table`, as far as threads allow.

What they do not allow: a plain function is not cancelled, only told.
"""

import functools
import itertools
import math
import threading
import time

import anyio
import anyio.from_thread
import pytest
from dash import Input, Output, ctx, set_props
from dash.exceptions import WebsocketDisconnected

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio

CLEANUP = 0.5
"""Seconds; the runtime's ``cleanup_timeout``."""


async def reset(browser, page):
    await browser.drop()


async def close_frame(browser, page):
    await browser.close()


async def ws_close(browser, page):
    await page.click("leave")


async def tab_gone(browser, page):
    await browser.send_text(f'{{"type": "tab_gone", "rendererId": "{page.renderer_id}"}}')


ends = pytest.mark.parametrize("end", [reset, close_frame, ws_close, tab_gone])


class Stage:
    """An app with one callback of the test's, which a click on ``go`` runs."""

    def __init__(self, loop, mode):
        self.runtime = WebSocketRuntime(mode=mode, cleanup_timeout=CLEANUP)
        self.app = make_app(loop, "go", "out", "leave", runtime=self.runtime)
        self.seen = []
        self.started = threading.Event()

        @self.app.callback(Input("leave", "n_clicks"), prevent_initial_call=True)
        async def leave(_):
            await ctx.websocket.close()

    def callback(self, persistent=False):
        outputs = Output("out", "children"), Input("go", "n_clicks")
        return self.app.callback(*outputs, prevent_initial_call=True, persistent=persistent)

    async def play(self, end=None):
        """Run the callback, let its page end, and wait until the callback has ended too."""
        async with open_browser(self.app, answer_get_props=False) as browser:
            page, _other = await browser.open_page(), await browser.open_page()
            await page.click("go")
            await eventually(self.started.is_set)
            if end is not None:
                await end(browser, page)
            await eventually(lambda: not self.runtime.statistics().callbacks)
            assert page.get("out", "children") is None
            assert page.get("out", "title") is None
        left = self.runtime.statistics()
        assert (left.workers_busy, left.workers_waiting, left.stuck) == (0, 0, 0)


# Async callbacks, in mode="threads", each on a loop of its own: the whole table.


@ends
async def test_an_event_triggered_one_is_cancelled_once_and_its_cleanup_can_await(
    anyio_backend, end, caplog
):
    stage = Stage(anyio_backend, "threads")

    @stage.callback()
    async def work(_):
        ws = ctx.websocket
        stage.started.set()
        try:
            await ws.get_prop("out", "title", timeout=math.inf)
        except anyio.get_cancelled_exc_class():
            stage.seen += ["cancelled", ws.is_shutdown]
            await anyio.sleep(0.01)
            set_props("out", {"title": "too late"})
            await ws.drain()
            with pytest.raises(WebsocketDisconnected):
                await ws.get_prop("out", "title")
            stage.seen.append("cleaned up")
            raise

    await stage.play(end)
    assert stage.seen == ["cancelled", True, "cleaned up"]
    assert caplog.records == []


@ends
async def test_a_persistent_one_is_told_and_ends_by_itself(anyio_backend, end, caplog):
    stage = Stage(anyio_backend, "threads")

    @stage.callback(persistent=True)
    async def work(_):
        ws = ctx.websocket
        stage.started.set()
        with pytest.raises(WebsocketDisconnected):
            await ws.get_prop("out", "title", timeout=math.inf)
        while not ws.is_shutdown:
            await anyio.sleep(0.01)
        await anyio.sleep(CLEANUP / 2)
        stage.seen.append("cleaned up")

    await stage.play(end)
    assert stage.seen == ["cleaned up"]
    assert caplog.records == []


async def test_the_one_that_closes_may_go_on(anyio_backend, caplog):
    stage = Stage(anyio_backend, "threads")

    @stage.callback()
    async def work(_):
        await ctx.websocket.close(4001, "bye")
        stage.started.set()
        await anyio.sleep(CLEANUP / 2)
        stage.seen.append(ctx.websocket.is_shutdown)

    await stage.play()
    assert stage.seen == [True]
    assert caplog.records == []


@pytest.mark.parametrize("persistent", [False, True])
async def test_one_that_stays_is_cancelled_once_per_cleanup_timeout(
    anyio_backend, persistent, caplog
):
    stage = Stage(anyio_backend, "threads")

    @stage.callback(persistent)
    async def work(_):
        stage.started.set()
        while len(stage.seen) < 3:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                stage.seen.append(time.monotonic())

    await stage.play(reset)
    assert len(stage.seen) == 3
    assert all(b - a > CLEANUP * 0.9 for a, b in itertools.pairwise(stage.seen))
    complaints = [record.getMessage() for record in caplog.records]
    assert len(complaints) == (3 if persistent else 2)
    assert all("work still runs" in each and __file__ in each for each in complaints)


# Plain functions: they are told, and cannot be interrupted.


@ends
@pytest.mark.parametrize("way", ["threads", "hybrid", "offload"])
async def test_a_plain_function_is_told_and_not_interrupted(anyio_backend, end, way, caplog):
    stage = Stage(anyio_backend, "async" if way == "offload" else way)

    def work(_):
        ws = ctx.websocket
        stage.started.set()
        with pytest.raises(WebsocketDisconnected):
            anyio.from_thread.run(ws.get_prop, "out", "title", math.inf)
        stage.seen.append(ws.is_shutdown)
        set_props("out", {"title": "too late"})
        with pytest.raises(WebsocketDisconnected):
            anyio.from_thread.run(ws.get_prop, "out", "title")
        time.sleep(CLEANUP * 1.5)
        stage.seen.append(stage.runtime.statistics().stuck)
        return "too late"

    stage.callback()(offload(work) if way == "offload" else work)
    await stage.play(end)
    assert stage.seen == [True, 1]
    [complaint] = [record.getMessage() for record in caplog.records]
    assert "work still runs 0.5" in complaint
    assert f"{__file__}:" in complaint


@pytest.mark.parametrize("decorated", ["def", "offload"])
async def test_a_persistent_callback_that_a_decorator_made_async_is_not_cancelled(
    anyio_backend, decorated
):
    stage, begun = Stage(anyio_backend, "async"), []

    def every_now_and_then(function):
        @functools.wraps(function)
        async def loop():
            begun.append(None)
            if len(begun) == 2:  # of two pages
                stage.started.set()
            while not ctx.websocket.is_shutdown:
                await anyio.sleep(0.01)
            await anyio.sleep(0)
            stage.seen.append("cleaned up")

        return loop

    def work():
        pass

    function = offload(work) if decorated == "offload" else work
    stage.app.callback(persistent=True)(every_now_and_then(function))
    await stage.play(reset)
    assert stage.seen == ["cleaned up"] * 2


@pytest.mark.parametrize("mode", ["threads", "hybrid"])
async def test_drain_waits_for_no_thread_longer_than_it_says(anyio_backend, mode, caplog):
    stage, leave = Stage(anyio_backend, mode), threading.Event()

    @stage.callback()
    def work(_):
        stage.started.set()
        leave.wait(30)

    async def drain(browser, page):
        begun = time.monotonic()
        await stage.runtime._runtime.drain()
        stage.seen.append(time.monotonic() - begun)

    await stage.play(drain)
    leave.set()
    [seconds] = stage.seen
    assert CLEANUP < seconds < CLEANUP + 2 + 1
    assert any("abandoning it" in record.getMessage() for record in caplog.records)


async def test_await_drain_waits_for_what_a_thread_sent(anyio_backend):
    runtime = WebSocketRuntime(mode="threads")
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    arrived = []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def work(_):
        for number in range(3):
            set_props("out", {"title": number})
            await ctx.websocket.drain()
            arrived.append(runtime.statistics().updates_sent)
        return "done"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "done")
    assert arrived == [1, 2, 3]
