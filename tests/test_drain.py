"""``await ctx.websocket.drain()``: a producer that goes at its client's pace."""

import gc
import threading

import anyio
import anyio.from_thread
import pytest
from dash import Input, Output, ctx, set_props

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.connection import Connection
from dashws_async.handle import Reply
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio

FRAMES = 50
"""More than a page in memory keeps on the way: what follows waits in the outbox."""


class Stage:
    """An app whose callback ``work`` runs when ``go`` is clicked, and a page that can stall."""

    def __init__(self, loop, **knobs):
        self.runtime = WebSocketRuntime(**knobs)
        self.app = make_app(loop, "go", "out", runtime=self.runtime)

    def on_click(self, work):
        self.app.callback(
            Output("go", "title"), Input("go", "n_clicks"), prevent_initial_call=True
        )(work)
        return work

    @property
    def waiting_bytes(self):
        return sum(connection.waiting_bytes for connection in self.runtime.connections)


async def fill_the_line():
    """Send until something has to wait."""
    for number in range(FRAMES):
        set_props("out", {"children": number})
        await anyio.sleep(0)


async def turn(times):
    """Let the loop turn: whoever could go on does."""
    for _ in range(times):
        await anyio.sleep(0)


@pytest.fixture
def stage(anyio_backend):
    return Stage(anyio_backend)


async def test_it_waits_until_all_that_was_sent_is_on_its_way(stage):
    seen = []

    @stage.on_click
    async def work(_):
        await fill_the_line()
        for prop in ["title", "className", "lang"]:
            set_props("out", {prop: "x" * 200_000})  # a frame each
        seen.append(stage.waiting_bytes)
        await ctx.websocket.drain()
        seen.append(stage.waiting_bytes)

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: seen)
        assert seen[0] > 0
        await turn(100)
        assert len(seen) == 1
        browser.resume_reading()
        await page.wait_idle()
    assert seen[1:] == [0]


async def test_who_drains_has_every_value_arrive(stage):
    count, most = 3000, []

    @stage.on_click
    async def work(_):
        for number in range(count):
            set_props("out", {"children": number})
            most.append(stage.waiting_bytes)
            await ctx.websocket.drain()

    async with open_browser(stage.app, history_limit=count) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: len(most) > 10)
        await turn(100)
        assert len(most) < FRAMES
        browser.resume_reading()
        await page.wait_for("out", "children", count - 1)
        assert page.history("out", "children") == list(range(count))
    assert max(most) < 200  # one message
    assert stage.runtime.statistics().updates_dropped == 0


async def test_what_is_being_sent_has_not_been_handed_over(stage):
    sent, drained = [], []

    @stage.on_click
    async def work(_):
        for number in range(FRAMES):
            set_props("out", {"children": number})
            sent.append(number)
            await ctx.websocket.drain()

    @stage.app.callback(Output("out", "title"), Input("out", "n_clicks"), prevent_initial_call=True)
    async def ask(_):
        await ctx.websocket.drain()
        drained.append(True)

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: len(sent) > 10)
        await turn(100)
        assert stage.waiting_bytes == 0
        await page.click("out")
        await turn(100)
        assert not drained
        browser.resume_reading()
        await page.wait_idle()
    assert drained


async def test_it_returns_at_once_where_nothing_waits_and_lets_others_run(stage):
    other_ran = anyio.Event()

    async def other():
        other_ran.set()

    @stage.on_click
    async def work(_):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            while not other_ran.is_set():
                await ctx.websocket.drain()

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_idle()
    assert not page.errors


async def test_a_hundred_wait_together(stage):
    drained = []

    @stage.on_click
    async def work(_):
        async def drain():
            await ctx.websocket.drain()
            drained.append(stage.waiting_bytes)

        await fill_the_line()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(drain)

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: stage.waiting_bytes)
        assert not drained
        browser.resume_reading()
        await page.wait_idle()
    assert drained == [0] * 100


@pytest.mark.parametrize("gone", ["page", "connection"])
async def test_it_returns_when_the_end_comes_meanwhile_and_after_it(anyio_backend, gone):
    stage = Stage(anyio_backend)
    seen = []

    @stage.app.callback(persistent=True)
    async def live():
        await fill_the_line()
        await ctx.websocket.drain()
        seen.append(ctx.websocket.is_shutdown)
        await ctx.websocket.drain()
        seen.append("again")

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await eventually(lambda: stage.waiting_bytes)
        if gone == "page":
            await browser.send_text(f'{{"type":"tab_gone","rendererId":"{page.renderer_id}"}}')
        else:
            await browser.drop()
        await eventually(lambda: len(seen) == 2)
    assert seen == [True, "again"]


async def test_a_wait_that_was_given_up_leaves_nothing(stage):
    @stage.on_click
    async def work(_):
        await fill_the_line()
        for _ in range(100):
            with anyio.move_on_after(0):
                await ctx.websocket.drain()
        gc.collect()
        set_props("out", {"title": sum(isinstance(each, Reply) for each in gc.get_objects())})

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: stage.waiting_bytes)
        browser.resume_reading()
        left = await page.wait_for("out", "title", lambda count: count is not None)
    assert left < 10


@pytest.mark.parametrize("way", ["threads", "offload"])
async def test_it_works_from_worker_threads(anyio_backend, way, monkeypatch):
    stage = Stage(anyio_backend, mode="threads" if way == "threads" else "async")
    count, most, threads = 200, [], set()

    def drain(connection, drained, original=Connection.drain):
        threads.add(threading.get_ident())
        original(connection, drained)

    monkeypatch.setattr(Connection, "drain", drain)

    if way == "threads":

        @stage.on_click
        async def work(_):
            for number in range(count):
                set_props("out", {"children": number})
                most.append(stage.waiting_bytes)
                await ctx.websocket.drain()

    else:

        @stage.on_click
        @offload
        def work(_):
            for number in range(count):
                set_props("out", {"children": number})
                most.append(stage.waiting_bytes)
                anyio.from_thread.run(ctx.websocket.drain)

    async with open_browser(stage.app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: len(most) > 10)
        browser.resume_reading()
        await page.wait_for("out", "children", count - 1)
        assert page.history("out", "children") == list(range(count))
    assert max(most) < 200  # one message
    assert threads == {threading.get_ident()}  # the loop's, which the connection belongs to


async def test_in_a_thread_too_it_returns_when_the_end_comes_meanwhile(anyio_backend):
    stage = Stage(anyio_backend, mode="threads")
    seen = []

    @stage.app.callback(persistent=True)
    async def live():
        await fill_the_line()
        await ctx.websocket.drain()
        seen.append(ctx.websocket.is_shutdown)

    async with open_browser(stage.app) as browser:
        await browser.open_page()
        browser.pause_reading()
        await eventually(lambda: stage.waiting_bytes)
        await browser.drop()
        await eventually(lambda: seen)
    assert seen == [True]
