"""One callback, client or hook that misbehaves harms nobody else."""

import asyncio
import threading

import anyio
import dash
import pytest
from dash import Input, Output, Patch, ctx, set_props

from apps import add_neighbour, make_app, neighbour_goes_on
from dashws_async import WebSocketRuntime, offload
from dashws_async.connection import Connection
from dashws_async.outbox import Outbox
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio


def go(app, output="out"):
    """The decorator of a callback that runs when ``go`` is clicked."""
    return app.callback(
        Output(output, "children"), Input("go", "n_clicks"), prevent_initial_call=True
    )


class BadText(Exception):
    def __str__(self):
        raise ValueError("no text")


class Unusual(BaseException):
    pass


@pytest.mark.parametrize(
    "make_error",  # made anew each time: an exception keeps the frames it went through
    [
        lambda: SystemExit(1),
        lambda: GeneratorExit(),
        lambda: Unusual(),
        lambda: BadText(),
        lambda: ValueError("\ud800"),
        lambda: asyncio.CancelledError(),
        lambda: BaseExceptionGroup("x", [SystemExit(1)]),
    ],
    ids=lambda make_error: type(make_error()).__name__,
)
async def test_whatever_a_callback_raises_is_its_own_answer(anyio_backend, make_error):
    app = make_app(anyio_backend, "go", "out", "live")
    app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
    add_neighbour(app)

    @go(app)
    async def fail(_):
        raise make_error()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for_error()
        await neighbour_goes_on(page)


@pytest.mark.parametrize("mode", ["async", "hybrid", "threads"])
async def test_exit_in_a_worker_thread_ends_the_callback_only(anyio_backend, mode):
    app = make_app(anyio_backend, "go", "out", "live", runtime=WebSocketRuntime(mode=mode))
    add_neighbour(app)

    def leave(_):
        raise SystemExit(1)

    go(app)(offload(leave) if mode == "async" else leave)
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for_error()
        await neighbour_goes_on(page)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_one_callback_may_cancel_the_task_of_another(anyio_backend):
    app = make_app(anyio_backend, "go", "out", "live")
    app.layout.children[1].n_clicks = 0
    add_neighbour(app)
    tasks = []

    @go(app)
    async def start(_):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(60)

    @app.callback(Output("go", "title"), Input("out", "n_clicks"), prevent_initial_call=True)
    async def stop(_):
        tasks[0].cancel()
        return "stopped"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await eventually(lambda: tasks)
        await page.click("out")
        await page.wait_for("go", "title", "stopped")
        await page.wait_idle()
        await neighbour_goes_on(page)
        assert not page.errors


async def test_an_overflow_in_a_thread_ends_the_others_at_once(anyio_backend):
    runtime = WebSocketRuntime(max_outbox_bytes=10_000)
    app = make_app(anyio_backend, "go", "out", "live", runtime=runtime)
    seen, ended = [], anyio.Event()

    @go(app)
    @offload
    def flood(_):
        more = Patch()
        more += "x" * 1000  # a full value would drop the one before it
        while not ctx.websocket.is_shutdown:
            set_props("out", {"children": more})
        set_props("out", {"children": "to nobody"})

    @go(app, "live")
    async def ask(_):
        try:
            await ctx.websocket.get_prop("out", "children")
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise
        finally:
            ended.set()

    async with open_browser(app, answer_get_props=False) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        with anyio.fail_after(5):
            await ended.wait()
        browser.resume_reading()
    assert seen == ["cancelled"]


async def test_a_cancellation_is_not_lost_while_a_threads_loop_starts(anyio_backend, monkeypatch):
    runtime = WebSocketRuntime(mode="threads")
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    starting, start, seen = threading.Event(), threading.Event(), []
    run = anyio.run

    def run_later(*args, **kwargs):
        starting.set()
        start.wait(5)
        return run(*args, **kwargs)

    monkeypatch.setattr(anyio, "run", run_later)

    @go(app)
    async def work(_):
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await anyio.to_thread.run_sync(starting.wait, 5)
        await browser.drop()
        start.set()
        await eventually(lambda: not runtime.statistics().callbacks)
    assert seen == ["cancelled"]


async def test_a_client_that_takes_nothing_is_ended_after_send_timeout(anyio_backend, caplog):
    runtime = WebSocketRuntime(send_timeout=0.05)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    ended = anyio.Event()

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            set_props("out", {"children": "x"})
            await anyio.sleep(0.001)
        ended.set()

    async with open_browser(app) as browser:
        browser_page = await browser.open_page()
        await browser_page.wait_for("out", "children", "x")
        browser.pause_reading()
        with anyio.fail_after(5):
            await ended.wait()
        browser.resume_reading()
        assert await browser.wait_closed() in (1013, 1006)
    assert "the client took nothing for 0.05 s" in caplog.text


async def test_two_callbacks_may_close_and_both_go_on(anyio_backend):
    app = make_app(anyio_backend, "go", "out", "live")
    started, both, went_on = [], anyio.Event(), []

    options = {"persistent": True, "prevent_initial_call": True}  # not cancelled by the other
    for output in ["out", "live"]:

        @app.callback(Output(output, "children"), Input("go", "n_clicks"), **options)
        async def leave(_, output=output):
            started.append(output)
            if len(started) == 2:
                both.set()
            await both.wait()
            await ctx.websocket.close(4001, output)
            await ctx.websocket.close(4002, "again")
            went_on.append(output)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await browser.wait_closed() == 4001
        await eventually(lambda: len(went_on) >= 2)


@pytest.fixture
def message_hook():
    """Register a function as Dash's ``websocket_message`` hook for the test."""
    yield dash.hooks.websocket_message()
    dash.hooks._ns["websocket_message"].clear()


async def test_a_field_that_only_the_hook_would_see_must_be_json_too(anyio_backend, message_hook):
    message_hook(lambda websocket, message: True)
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", "live", runtime=runtime)
    add_neighbour(app)
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await browser.send_text('{"type": "heartbeat", "n": 1e999}')
        await neighbour_goes_on(page)
    assert runtime.statistics().bad_messages == 1


async def test_a_handshake_under_way_when_a_drain_begins_is_closed(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "out", runtime=runtime)

    @dash.hooks.websocket_connect()
    async def slow(websocket):
        await runtime._runtime.drain()
        return True

    try:
        async with open_browser(app) as browser:
            await browser.open_page()
            assert await browser.wait_closed() == 1012
    finally:
        dash.hooks._ns["websocket_connect"].clear()
    assert runtime.statistics().closed["restart"] == 1


async def test_a_message_that_meets_a_defect_of_ours_harms_no_other(
    anyio_backend, monkeypatch, caplog
):
    def fail(self, request):
        raise LookupError("a defect")

    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", "live", runtime=runtime)
    go(app)(lambda clicks: clicks)
    add_neighbour(app)
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await neighbour_goes_on(page)
        monkeypatch.setattr(Connection, "_start_callback", fail)
        await page.click("go")
        assert "Internal error" in str(await page.wait_for_error())
        await neighbour_goes_on(page)
    assert "a defect" in caplog.text
    assert runtime.statistics().bad_messages == 1


async def test_a_defect_of_ours_lets_the_browser_come_back(anyio_backend, monkeypatch, caplog):
    def fail(self):
        raise LookupError("a defect")

    app = make_app(anyio_backend, "go", "out")
    go(app)(lambda clicks: clicks)
    async with open_browser(app) as browser:
        page = await browser.open_page()
        monkeypatch.setattr(Outbox, "take", fail)
        await page.click("go")
        assert await browser.wait_closed() == 1011
    assert "a defect" in caplog.text


async def test_heartbeats_are_answered(anyio_backend):
    app = make_app(anyio_backend, "out")
    async with open_browser(app, heartbeat=0.01) as browser:
        await browser.open_page()
        await eventually(lambda: browser.heartbeats_acked >= 3)


async def test_updates_gather_for_a_batch_delay_that_was_asked_for(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime, websocket_batch_delay=0.1)

    @go(app)
    async def several(_):
        for number in range(5):
            set_props("out", {"children": number})
            await anyio.sleep(0.001)
        return "done"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "done")
    assert runtime.statistics().updates_sent == 6
    assert runtime.statistics().frames_sent <= 2


async def test_offloads_threads_are_bounded(anyio_backend):
    app = make_app(anyio_backend, "go", "out", runtime=WebSocketRuntime(max_workers=1))
    running, most = [], []

    @go(app)
    @offload
    def hold(clicks):
        running.append(clicks)
        most.append(len(running))
        threading.Event().wait(0.05)
        running.remove(clicks)
        return clicks

    async with open_browser(app) as browser:
        pages = [await browser.open_page() for _ in range(3)]
        for page in pages:
            await page.click("go")
        for page in pages:
            await page.wait_for("out", "children", 1)
    assert most == [1, 1, 1]


async def test_timings_can_be_recorded(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @go(app)
    async def work(_):
        ctx.record_timing("query", 0.25)
        return ctx.timing_information["query"]["dur"]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 250)
