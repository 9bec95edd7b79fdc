"""Pages that share one WebSocket: one goes, the others stay; and those that do not tell.

Time is virtual, so a minute of silence costs nothing.
"""

import json
import re

import anyio
import dash
import pytest
from dash import Input, Output, ctx, set_props

import virtual_time
from apps import make_app
from dashws_async import WebSocketRuntime, connection
from dashws_async.testing import open_browser
from until import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TAB_TIMEOUT = 60
"""Seconds; the runtime's default."""


class Stage:
    """An app whose one persistent callback tells which page it runs for."""

    def __init__(self, loop):
        self.runtime = WebSocketRuntime()
        self.app = make_app(loop, "live", runtime=self.runtime)
        self.started, self.ended = [], []

        @self.app.callback(persistent=True)
        async def live():
            ws, number = ctx.websocket, len(self.started)
            self.started.append(number)
            while not ws.is_shutdown:
                set_props("live", {"children": f"run {number}"})
                await anyio.sleep(1)
            self.ended.append(number)

    @property
    def running(self):
        return self.runtime.statistics().persistent_callbacks


@pytest.fixture
def stage(anyio_backend_name):
    return Stage(anyio_backend_name)


def says(kind, page):
    return json.dumps({"type": kind, "rendererId": page.renderer_id})


def starts_again(page, app):
    """The request of a page that comes back, for the app's first callback."""
    output = next(iter(app.callback_map))
    request = {"rendererId": page.renderer_id, "requestId": f"{page.renderer_id}-again"}
    payload = {"output": output, "inputs": [], "changedPropIds": []}
    return json.dumps({"type": "callback_request", **request, "payload": payload})


def asks(renderer_id):
    """A request for a callback that is not there; the tab is there from then on."""
    request = {"rendererId": renderer_id, "requestId": "1", "payload": {"output": "no"}}
    return json.dumps({"type": "callback_request", **request})


async def test_a_tab_that_tells_ends_alone_and_at_once(stage):
    async with open_browser(stage.app, heartbeat=30) as browser:
        first, second = await browser.open_page(), await browser.open_page()
        await eventually(lambda: stage.running == 2)
        assert stage.runtime.statistics().tabs == 2
        await browser.send_text(says("tab_gone", first))
        await eventually(lambda: stage.ended == [0])
        assert stage.runtime.statistics().tabs == 1
        second.history("live", "children").clear()
        await anyio.sleep(3)
        assert stage.running == 1
        assert second.get("live", "children") == "run 1"


async def test_ten_reloads_of_one_of_two_tabs_leave_two_callbacks(stage):
    async with open_browser(stage.app, heartbeat=30) as browser:
        page = await browser.open_page()
        await browser.open_page()
        for _ in range(10):
            await page.wait_for("live", "children", bool)  # one that has not begun need not end
            await browser.send_text(says("tab_gone", page))
            page = await browser.open_page()
        await eventually(lambda: len(stage.ended) == 10)
        assert stage.running == 2


async def test_a_tab_that_has_gone_may_come_again(stage):
    # A page in the browser's back/forward cache keeps its rendererId.
    async with open_browser(stage.app, heartbeat=30) as browser:
        page = await browser.open_page()
        await eventually(lambda: stage.running == 1)
        await browser.send_text(says("tab_gone", page))
        await eventually(lambda: stage.ended == [0])
        await browser.send_text(starts_again(page, stage.app))
        await page.wait_for("live", "children", "run 1")


async def test_a_tab_that_neither_tells_nor_answers_ends(stage, caplog):
    caplog.set_level("INFO")
    async with open_browser(stage.app, heartbeat=30) as browser:
        alive, dead = await browser.open_page(), await browser.open_page()
        await eventually(lambda: stage.running == 2)
        dead._answer_get_props = lambda *_: None
        await anyio.sleep(2 * TAB_TIMEOUT)
        assert stage.ended == [1]
        assert stage.running == 1
        assert f"Tab {dead.renderer_id!r} " in caplog.text
        assert alive.get("live", "children") == "run 0"


async def test_a_tab_that_answers_stays(stage):
    async with open_browser(stage.app, heartbeat=30) as browser:
        await browser.open_page()
        await browser.open_page()
        await anyio.sleep(20 * TAB_TIMEOUT)
        assert stage.running == 2
        assert stage.ended == []


async def test_a_tab_that_was_only_asleep_gets_its_persistent_callbacks_back(stage):
    async with open_browser(stage.app, heartbeat=30) as browser:
        await browser.open_page()
        asleep = await browser.open_page()
        answer, asked = asleep._answer_get_props, []
        asleep._answer_get_props = lambda *request: asked.append(request)
        await eventually(lambda: stage.ended == [1], timeout=3 * TAB_TIMEOUT)
        asleep._answer_get_props = answer
        answer(*asked[-1])
        await asleep.wait_for("live", "children", "run 2")
        assert stage.running == 2


async def test_a_tab_that_is_watched_or_alone_is_not_asked(stage):
    async with open_browser(stage.app, heartbeat=30, answer_get_props=False) as browser:
        first = await browser.open_page()
        await anyio.sleep(2 * TAB_TIMEOUT)
        assert stage.ended == []
        second = await browser.open_page()
        for page in (first, second):
            await browser.send_text(says("tab_watched", page))
        await anyio.sleep(2 * TAB_TIMEOUT)
        assert stage.running == 2
        assert stage.ended == []


async def test_pages_that_go_without_a_word_are_forgotten(anyio_backend_name):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend_name, "go", "out", runtime=runtime)

    @app.callback(dash.Output("out", "children"), dash.Input("go", "n_clicks"))
    async def answer(clicks):
        return clicks

    async with open_browser(app, heartbeat=30) as browser:
        for _ in range(5):
            await browser.open_page()
        await eventually(lambda: runtime.statistics().tabs == 5)
        for page in browser.pages[:-1]:
            page._answer_get_props = lambda *_: None
        await anyio.sleep(2 * TAB_TIMEOUT)
        assert runtime.statistics().tabs == 1


async def test_one_browser_cannot_have_tabs_without_bound(stage, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(connection, "MAX_TABS", 3)
    async with open_browser(stage.app, heartbeat=30) as browser:
        page = await browser.open_page()
        await eventually(lambda: stage.running == 1)
        for number in range(10):
            await browser.send_text(f'{{"type": "tab_watched", "rendererId": "no-{number}"}}')
        await eventually(lambda: stage.runtime.statistics().bad_messages == 8)
        assert stage.runtime.statistics().tabs == 3
        assert "more than 3 tabs" in caplog.text
        await page.wait_for("live", "children", "run 0")


async def test_questions_that_fill_the_outbox_end_one_connection_and_no_more(anyio_backend_name):
    runtime = WebSocketRuntime(max_outbox_bytes=1024)
    app = make_app(anyio_backend_name, "live", runtime=runtime)
    async with open_browser(app, heartbeat=30) as browser, open_browser(app) as silent:
        await silent.open_page()
        await browser.open_page()
        for name in "abcd":
            await browser.send_text(asks(name * 256))
        browser.pause_reading()
        await eventually(lambda: runtime.statistics().closed["slow"], timeout=100)
        browser.resume_reading()
        # The sweep goes on.
        await eventually(lambda: runtime.statistics().closed["silent"], timeout=100)


async def test_what_waits_for_a_tab_that_has_gone_is_no_burden_for_the_others(anyio_backend_name):
    runtime = WebSocketRuntime(max_outbox_bytes=1_000_000)
    app = make_app(anyio_backend_name, "go", "out", runtime=runtime)
    drained = []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def fill(_):
        for number in range(100):
            while runtime.connections[0].waiting_bytes > 800_000:
                await anyio.sleep(1)
            set_props(f"out-{number}", {"children": "x" * 100_000})
            await anyio.sleep(0.01)

    @app.callback(Output("out", "title"), Input("out", "lang"), prevent_initial_call=True)
    async def drain(_):
        set_props("out", {"dir": "rtl"})
        await ctx.websocket.drain()
        drained.append(runtime.connections[0].waiting_bytes)
        return "done"

    async with open_browser(app, heartbeat=30) as browser:
        leaves, stays = await browser.open_page(), await browser.open_page()
        browser.pause_reading()
        await leaves.click("go")
        await eventually(lambda: runtime.connections[0].waiting_bytes > 800_000)
        await browser.send_text(says("tab_gone", leaves))
        await eventually(lambda: runtime.connections[0].waiting_bytes == 0)
        await stays.set_props("out", lang="x")
        browser.resume_reading()
        await stays.wait_for("out", "title", "done")
    assert drained == [0]
    assert runtime.statistics().closed["slow"] == 0


async def test_close_from_a_tab_that_has_gone_leaves_the_others_alone(anyio_backend_name):
    app = make_app(anyio_backend_name, "live")
    ended = anyio.Event()

    @app.callback(persistent=True)
    async def live():
        ws = ctx.websocket
        while not ws.is_shutdown:
            await anyio.sleep(1)
        await ws.close()
        ended.set()

    async with open_browser(app, heartbeat=30) as browser:
        gone = await browser.open_page()
        await browser.open_page()
        await anyio.sleep(1)
        await browser.send_text(says("tab_gone", gone))
        await ended.wait()
        await anyio.sleep(1)
        assert browser.connected


async def test_a_client_that_took_nothing_is_told_of_once(anyio_backend_name, caplog):
    runtime = WebSocketRuntime(max_outbox_bytes=1 << 30, cleanup_timeout=100)
    app = make_app(anyio_backend_name, "live", runtime=runtime)

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": "x" * 10_000})
            await anyio.sleep(0.1)
        await anyio.sleep(90)

    async with open_browser(app) as browser:
        await browser.open_page()
        browser.pause_reading()
        await anyio.sleep(90)
        assert caplog.text.count("took nothing") == 1
        browser.resume_reading()


async def test_what_the_worker_says_of_tabs_is_not_shown_to_hooks(stage):
    seen = []

    @dash.hooks.websocket_message()
    def look(websocket, message):
        seen.append(message["type"])
        return message["type"] in {"callback_request", "heartbeat"}

    try:
        async with open_browser(stage.app, heartbeat=30) as browser:
            page = await browser.open_page()
            for kind in ("tab_watched", "tab_visible", "tab_gone"):
                await browser.send_text(says(kind, page))
            await eventually(lambda: stage.ended == [0])
            assert browser.connected
    finally:
        dash.hooks._ns["websocket_message"].clear()
    assert set(seen) == {"callback_request"}


@pytest.mark.parametrize("comes_back", ["over another connection", "over the same"])
async def test_an_answer_to_what_was_before_is_not_taken_for_one_of_now(
    anyio_backend_name, comes_back
):
    app = make_app(anyio_backend_name, "live")
    values = []

    @app.callback(persistent=True)
    async def ask():
        values.append(await ctx.websocket.get_prop("live", "title"))

    async with open_browser(app, answer_get_props=False) as browser:
        page = await browser.open_page()
        requests = []
        page._answer_get_props = lambda *request: requests.append(request)
        await eventually(lambda: len(requests) == 1)
        if comes_back == "over the same":
            await browser.send_text(says("tab_gone", page))
            await browser.send_text(starts_again(page, app))
        else:
            await browser.drop()
            await browser.reconnect()
        await eventually(lambda: len(requests) == 2)
        for (request_id, _), value in zip(requests, ["late", "right"], strict=True):
            answer = {
                "type": "get_props_response",
                "rendererId": page.renderer_id,
                "requestId": request_id,
                "payload": {"title": value},
            }
            await browser.send_text(json.dumps(answer))
        await eventually(lambda: values)
    assert values == ["right"]


# The whole connection.


async def test_a_connection_that_nothing_uses_ends_after_the_inactivity_timeout(
    anyio_backend_name,
):
    runtime = WebSocketRuntime()
    app = make_app(
        anyio_backend_name, "live", runtime=runtime, websocket_inactivity_timeout=100_000
    )

    @app.callback(dash.Output("live", "title"), dash.Input("live", "n_clicks"))
    async def answer(clicks):
        return clicks

    async with open_browser(app, heartbeat=30) as browser:
        await browser.open_page()
        begun = anyio.current_time()
        await anyio.sleep(100)
        page = browser.pages[0]
        await browser.send_text(says("tab_visible", page))  # somebody looks: from now on again
        assert await browser.wait_closed(timeout=1000) == 4001
        assert 260 <= anyio.current_time() - begun <= 290  # the browser has two heartbeats more
    assert runtime.statistics().closed["inactive"] == 1


def add_ticker(app, interval):
    """A persistent callback that sends the time every so many seconds."""

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": anyio.current_time()})
            await anyio.sleep(interval)


async def test_an_update_now_and_then_is_activity(anyio_backend_name):
    runtime = WebSocketRuntime()
    app = make_app(
        anyio_backend_name, "live", runtime=runtime, websocket_inactivity_timeout=100_000
    )

    add_ticker(app, 90)
    async with open_browser(app, heartbeat=30) as browser:
        await browser.open_page()
        await anyio.sleep(1000)
        assert browser.connected


@pytest.mark.parametrize(
    ("silence_timeout", "inactivity_timeout"),
    [(None, None), (3600, 300_000)],  # the default in seconds, 75, and Dash's in milliseconds
)
async def test_generous_timeouts_do_not_make_the_others_coarse(
    anyio_backend_name, silence_timeout, inactivity_timeout
):
    runtime = WebSocketRuntime(send_timeout=3600, tab_timeout=3600, silence_timeout=silence_timeout)
    app = make_app(
        anyio_backend_name,
        "live",
        runtime=runtime,
        websocket_inactivity_timeout=inactivity_timeout,
    )

    add_ticker(app, 1)
    async with open_browser(app, heartbeat=30) as browser:
        await browser.open_page()
        await anyio.sleep(1000)
        assert browser.connected


async def test_a_loop_that_was_blocked_does_not_take_its_clients_for_silent(anyio_backend_name):
    app = make_app(anyio_backend_name, "live")
    async with open_browser(app, heartbeat=30) as browser:
        await browser.open_page()
        await anyio.sleep(10)
        virtual_time.block(1000)
        await anyio.sleep(50)
        assert browser.connected


async def test_a_server_without_lifespan_is_told_of(anyio_backend_name, caplog):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend_name, "live", runtime=runtime)

    async def never():
        await anyio.sleep(0)

    runtime._runtime.sweep = never
    async with open_browser(app) as browser:
        await browser.open_page()
    assert re.search("does not run the app's lifespan", caplog.text)
