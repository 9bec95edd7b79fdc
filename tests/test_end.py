"""The end of a connection: what each callback sees, and that nothing stays behind."""

import gc

import anyio
import pytest
from dash import Input, Output, Patch, ctx, set_props
from dash.exceptions import WebsocketDisconnected

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.connection import Connection
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio


class Witness:
    """What a callback saw, and an event for its end."""

    def __init__(self):
        self.seen = []
        self.started = anyio.Event()
        self.ended = anyio.Event()

    async def wait(self):
        with anyio.fail_after(5):
            await self.ended.wait()
        return self.seen


async def none_left(runtime):
    await eventually(
        lambda: not (runtime.statistics().connections or runtime.statistics().callbacks)
    )


@pytest.mark.parametrize("politely", [True, False])
async def test_an_event_triggered_callback_is_cancelled_once_and_can_clean_up(
    anyio_backend, politely, caplog
):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    witness = Witness()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def work(_):
        witness.started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            witness.seen.append(ctx.websocket.is_shutdown)
            await anyio.sleep(0.01)
            witness.seen.append("cleaned up")
            raise
        finally:
            witness.ended.set()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await witness.started.wait()
        await (browser.close() if politely else browser.drop())
        assert await witness.wait() == [True, "cleaned up"]
        await none_left(runtime)
    assert [record for record in caplog.records if record.name == "dashws_async"] == []


async def test_a_persistent_callback_is_not_cancelled_its_loop_ends(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "live", runtime=runtime)
    witness = Witness()

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            witness.started.set()
            await anyio.sleep(0.001)
        set_props("live", {"children": "nobody sees this"})
        try:
            await ctx.websocket.get_prop("live", "children")
        except WebsocketDisconnected:
            witness.seen.append("disconnected")
        await anyio.sleep(0.01)
        witness.seen.append("after the loop")
        witness.ended.set()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await witness.started.wait()
        await browser.drop()
        assert await witness.wait() == ["disconnected", "after the loop"]
        assert page.get("live", "children") is None
        await none_left(runtime)


async def test_a_pending_get_prop_raises_at_the_end_without_a_log(anyio_backend, caplog):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "live", runtime=runtime)
    witness = Witness()

    @app.callback(persistent=True)
    async def ask():
        witness.started.set()
        try:
            await ctx.websocket.get_prop("live", "children")
        finally:
            witness.ended.set()

    async with open_browser(app, answer_get_props=False) as browser:
        await browser.open_page()
        await witness.started.wait()
        await browser.drop()
        await witness.wait()
        await none_left(runtime)
    assert [record for record in caplog.records if record.name == "dashws_async"] == []


async def test_close_ends_the_others_and_lets_its_caller_go_on(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    caller, other = Witness(), Witness()

    @app.callback(Output("out", "title"), Input("out", "n_clicks"), prevent_initial_call=True)
    async def wait(_):
        other.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            other.ended.set()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(_):
        ws = ctx.websocket
        set_props("out", {"children": "the last one"})
        await ws.close(code=4001, reason="Policy violation")
        caller.seen.append(ws.is_shutdown)
        set_props("out", {"children": "too late"})
        await anyio.sleep(0.01)
        caller.seen.append("went on")
        caller.ended.set()
        return "too late as well"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("out")
        await other.started.wait()
        await page.click("go")
        assert await browser.wait_closed() == 4001
        assert browser.close_reason == "Policy violation"
        assert await caller.wait() == [True, "went on"]
        await other.wait()
        assert page.get("out", "children") == "the last one"
        await none_left(runtime)


async def test_close_has_the_documented_defaults(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(_):
        await ctx.websocket.close()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await browser.wait_closed() == 1000
        assert browser.close_reason == "Connection closed"


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [(1005, "", r"code=1005"), (999, "", r"code=999"), (4000, "é" * 62, r"124 bytes")],
)
async def test_close_refuses_what_may_not_be_sent(anyio_backend, code, reason, message):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(_):
        with pytest.raises(ValueError, match=message):
            await ctx.websocket.close(code, reason)
        return "still here"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "still here")


async def test_a_callback_that_stays_is_cancelled_again_and_named(anyio_backend, caplog):
    runtime = WebSocketRuntime(cleanup_timeout=0.05)
    app = make_app(anyio_backend, "live", runtime=runtime)
    witness = Witness()

    @app.callback(persistent=True)
    async def stubborn():
        witness.started.set()
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                witness.seen.append("swallowed")
        witness.ended.set()

    async with open_browser(app) as browser:
        await browser.open_page()
        await witness.started.wait()
        await browser.drop()
        assert await witness.wait() == ["swallowed", "swallowed"]
        await none_left(runtime)
    assert caplog.text.count("stubborn still runs 0.") == 2
    assert "s after its page has gone, at " in caplog.text


async def test_a_page_that_reconnects_gets_its_persistent_callbacks_again(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "live", runtime=runtime)
    starts = []

    @app.callback(persistent=True)
    async def live():
        starts.append(len(starts))
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": f"run {len(starts)}"})
            await anyio.sleep(0.001)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", "run 1")
        await browser.drop()
        await browser.reconnect()
        await page.wait_for("live", "children", "run 2")
        assert runtime.statistics().connections_total == 2
    await none_left(runtime)


async def test_a_client_that_does_not_keep_up_is_closed_so_that_it_comes_back(
    anyio_backend, caplog
):
    runtime = WebSocketRuntime(max_outbox_bytes=10_000)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def flood(_):
        more = Patch()
        more += "x" * 1000  # a full value would drop the one before it
        while not ctx.websocket.is_shutdown:
            set_props("out", {"children": more})
            await anyio.sleep(0)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        await page.click("go")
        await eventually(lambda: "with 1013" in caplog.text)
        browser.resume_reading()
        assert await browser.wait_closed() == 1013
    await none_left(runtime)


async def test_drain_closes_every_connection_and_refuses_new_ones(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "live", runtime=runtime)
    witness = Witness()

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            witness.started.set()
            await anyio.sleep(0.001)
        witness.ended.set()

    async with open_browser(app) as browser:
        await browser.open_page()
        await witness.started.wait()
        await runtime._runtime.drain()
        assert witness.ended.is_set()
        assert await browser.wait_closed() == 1012
        assert runtime.statistics().connections == 0
        await browser.reconnect()
        assert browser.handshake_status == 503
        runtime._runtime.open()
        await browser.reconnect()
        assert browser.connected


@pytest.mark.virtual_time
@pytest.mark.parametrize(("within", "last"), [(float("inf"), 4), (1.5, 1)])
async def test_a_drain_closes_one_after_the_other_in_time(anyio_backend_name, within, last):
    runtime = WebSocketRuntime(drain_rate=0.5)
    app = make_app(anyio_backend_name, runtime=runtime)
    async with open_browser(app) as first, open_browser(app) as second, open_browser(app) as third:
        for browser in (first, second, third):
            await browser.open_page()
        await eventually(lambda: runtime.statistics().connections == 3)
        begun = anyio.current_time()
        await runtime._runtime.drain(within)
        assert anyio.current_time() - begun == pytest.approx(last, abs=0.1)


async def test_a_drain_that_may_take_no_time_closes_all_at_once(anyio_backend):
    runtime = WebSocketRuntime(drain_rate=0.001)
    app = make_app(anyio_backend, runtime=runtime)
    async with open_browser(app) as first, open_browser(app) as second:
        for browser in (first, second):
            await browser.open_page()
        await eventually(lambda: runtime.statistics().connections == 2)
        with anyio.fail_after(5):
            await runtime._runtime.drain(within=0)
        for browser in (first, second):
            assert await browser.wait_closed() == 1012
        await runtime._runtime.drain(within=0)  # with nobody there


async def test_an_app_can_be_served_again(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        return clicks

    for _ in range(2):
        async with open_browser(app) as browser:
            page = await browser.open_page()
            await page.click("go")
            await page.wait_for("out", "children", 1)


async def test_a_connection_that_has_ended_waits_for_no_garbage_collection(anyio_backend):
    app = make_app(anyio_backend, "go", "out", runtime=(runtime := WebSocketRuntime()))

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        set_props("out", {"title": "streamed"})
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 1)
        gc.collect()
        gc.disable()
        try:
            await browser.close()
            await eventually(lambda: not runtime.connections)
            await anyio.wait_all_tasks_blocked()
            assert not [each for each in gc.get_objects() if type(each) is Connection]
        finally:
            gc.enable()
