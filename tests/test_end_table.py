"""How callbacks end, row by row, for each way that a connection or a tab can end.

Time is virtual, so the instants are exact: "at once" is 0 seconds after the end.
"""

import math
from contextlib import asynccontextmanager
from functools import wraps

import anyio
import dash
import pytest
from dash import Input, Output, ctx, set_props
from dash.exceptions import WebsocketDisconnected

import virtual_time
from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

CLEANUP = 10
"""Seconds; the runtime's ``cleanup_timeout``."""
SILENCE = 60
"""Seconds; the runtime's ``silence_timeout``."""


# The ways to end.


async def close_frame(stage):
    await stage.browser.close()


async def reset(stage):
    await stage.browser.drop()


async def silence(stage):
    """The client says nothing more."""


async def ws_close(stage):
    await stage.page.click("leave")


async def message_hook(stage):
    await stage.browser.send_text('{"type": "heartbeat", "forbidden": true}')


async def drain(stage):
    stage.tasks.start_soon(stage.runtime._runtime.drain)


async def tab_gone(stage):
    gone = stage.page.renderer_id
    await stage.browser.send_text(f'{{"type": "tab_gone", "rendererId": "{gone}"}}')


WAYS = [close_frame, reset, silence, ws_close, message_hook, drain, tab_gone]


# The kinds of callbacks: how one learns at once that its connection has ended.


async def event_triggered():
    with pytest.raises(anyio.get_cancelled_exc_class()):
        await ctx.websocket.get_prop("out", "title", timeout=math.inf)


async def persistent():
    with pytest.raises(WebsocketDisconnected):
        await ctx.websocket.get_prop("out", "title", timeout=math.inf)


async def caller():
    """Calls ``ws.close()`` itself."""
    await ctx.websocket.close()


class Stage:
    """An app with one callback of the test's, a page that runs it, and what it saw when."""

    def __init__(self, loop, way, kind):
        self.way = way
        self.kind = kind
        self.runtime = WebSocketRuntime(cleanup_timeout=CLEANUP)
        self.app = make_app(loop, "go", "out", "leave", runtime=self.runtime)
        self.ended_at = math.nan
        self._seen = []

        @self.app.callback(Input("leave", "n_clicks"), prevent_initial_call=True)
        async def leave(_):
            await ctx.websocket.close()

    def callback(self, function):
        """Register the test's callback, of this stage's kind; a click on ``go`` runs it."""

        @self.app.callback(
            Output("out", "children"),
            Input("go", "n_clicks"),
            prevent_initial_call=True,
            persistent=self.kind is persistent,
        )
        @wraps(function)
        async def run(_):
            self.started.set()
            try:
                return await function()
            finally:
                self.finished.set()

        return function

    @asynccontextmanager
    async def up_to_the_end(self):
        """The callback runs, then the end comes: ``ended_at`` is now."""
        self.started, self.finished, self.curtain = anyio.Event(), anyio.Event(), anyio.Event()
        patience = 200 * CLEANUP
        with anyio.fail_after(patience):
            async with (
                open_browser(
                    self.app, answer_get_props=False, shutdown_timeout=patience
                ) as self.browser,
                anyio.create_task_group() as self.tasks,
            ):
                try:
                    await self._play()
                    self.ended_at = anyio.current_time()
                    yield
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._let_it_end()
        left = self.runtime.statistics()
        assert (left.connections, left.tabs, left.callbacks, left.stuck) == (0, 0, 0, 0)

    async def _play(self):
        self.page = await self.browser.open_page()
        self.other_page = await self.browser.open_page()
        await anyio.sleep(1)
        await self.page.click("go")
        self.clicked_at = anyio.current_time()
        await self.started.wait()
        if self.kind is not caller:
            await anyio.sleep(1)  # by then the callback waits
            await self.way(self)
        if self.way is not tab_gone:
            await self.browser.wait_closed(timeout=math.inf)

    async def _let_it_end(self):
        # Also where the test has failed: it is to fail, not to hang.
        self.curtain.set()
        with anyio.move_on_after(CLEANUP * 2):
            await self.finished.wait()
        if not self.finished.is_set():
            await self.runtime._runtime.drain()

    async def stay(self):
        """What a stubborn callback does: swallow every cancellation, until the test is over."""
        while not self.curtain.is_set() and len(self._seen) < 1000:
            try:
                await self.curtain.wait()
            except anyio.get_cancelled_exc_class():
                self.saw("cancelled")

    def saw(self, what):
        self._seen.append((anyio.current_time(), what))

    @property
    def seen(self):
        """``(seconds since the end, what)`` of each `saw`."""
        return [(round(time - self.ended_at, 6), what) for time, what in self._seen]


def ended_by(*ways, kinds=(event_triggered, persistent, caller)):
    """Run a test for each way and kind; only ``ws_close`` has a caller."""
    cases = [(way, kind) for way in ways for kind in kinds if kind is not caller or way is ws_close]
    names = [f"{way.__name__}-{kind.__name__}" for way, kind in cases]
    return pytest.mark.parametrize(("way", "kind"), cases, ids=names)


@pytest.fixture
def stage(anyio_backend_name, way, kind):
    if way is message_hook:
        dash.hooks.websocket_message()(lambda _, message: not message.get("forbidden"))
    yield Stage(anyio_backend_name, way, kind)
    dash.hooks._ns["websocket_message"].clear()


def complaints(caplog):
    """What was logged as worth a look, by anybody."""
    return [record.getMessage() for record in caplog.records]


# At once.


@ended_by(*WAYS)
async def test_from_the_end_on_a_callback_reaches_nobody(stage, caplog):
    @stage.callback
    async def work():
        ws = ctx.websocket
        stage.saw(ws.is_shutdown)
        await stage.kind()
        stage.saw(ws.is_shutdown)
        await anyio.sleep(2)  # the browser is back
        set_props("out", {"title": "too late"})
        with pytest.raises(WebsocketDisconnected):
            await ws.get_prop("out", "title")
        stage.saw("finished")
        return "too late"

    async with stage.up_to_the_end():
        await anyio.sleep(1)
        if stage.way is not tab_gone:
            await stage.browser.reconnect()
            assert stage.browser.connected == (stage.way is not drain)
        frames = stage.browser.frames_received
        await stage.finished.wait()
        await anyio.sleep(1)
        assert stage.browser.frames_received == frames
        assert stage.page.get("out", "title") is None
        assert stage.page.get("out", "children") is None
    assert stage.seen[0][1] is False
    assert stage.seen[1:] == [(0, True), (2, "finished")]
    assert complaints(caplog) == []


@ended_by(*WAYS, kinds=[event_triggered])
async def test_the_reason_is_counted_and_silence_is_noticed_in_time(stage):
    @stage.callback
    async def work():
        await anyio.sleep_forever()

    reasons = {
        close_frame: ["left"],
        reset: ["left"],
        silence: ["silent"],
        ws_close: ["callback"],
        message_hook: ["hook"],
        drain: ["restart"],
        tab_gone: [],  # the connection stays
    }
    async with stage.up_to_the_end():
        await anyio.sleep(0.001)
        closed = stage.runtime.statistics().closed
        assert [why for why, times in closed.items() if times] == reasons[stage.way]
        if stage.way is silence:
            assert SILENCE <= stage.ended_at - stage.clicked_at <= SILENCE * 1.25


@ended_by(*WAYS)
@pytest.mark.parametrize("in_a_group", [False, True])
async def test_disconnection_and_cancellation_may_leave_the_callback_unlogged(
    stage, in_a_group, caplog
):
    @stage.callback
    async def work():
        if stage.kind is caller:
            await ctx.websocket.close()
        if in_a_group:
            async with anyio.create_task_group() as reads:
                for _ in range(2):
                    reads.start_soon(read, ctx.websocket)
        else:
            await read(ctx.websocket)

    async def read(ws):
        try:
            await ws.get_prop("out", "title", timeout=math.inf)
        finally:
            stage.saw("ended")

    async with stage.up_to_the_end():
        pass
    assert set(stage.seen) == {(0, "ended")}
    assert complaints(caplog) == []


# The cancellations.


@ended_by(*WAYS, kinds=[event_triggered])
async def test_an_event_triggered_callback_is_cancelled_once_and_its_cleanup_can_await(
    stage, caplog
):
    @stage.callback
    async def work():
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            stage.saw("cancelled")
            for _ in range(3):
                await anyio.sleep(3)
            stage.saw("cleaned up")
            raise

    async with stage.up_to_the_end():
        pass
    assert stage.seen == [(0, "cancelled"), (9, "cleaned up")]
    assert complaints(caplog) == []


@ended_by(*WAYS, kinds=[persistent, caller])
async def test_others_are_left_to_end_by_themselves_for_cleanup_timeout(stage, caplog):
    @stage.callback
    async def work():
        if stage.kind is caller:
            await ctx.websocket.close()
        while not ctx.websocket.is_shutdown:
            await anyio.sleep(0.5)
        await anyio.sleep(CLEANUP - 1)
        stage.saw("cleaned up")

    async with stage.up_to_the_end():
        pass
    [(seconds, _)] = stage.seen
    assert CLEANUP - 1 <= seconds <= CLEANUP - 0.5
    assert complaints(caplog) == []


@ended_by(*(way for way in WAYS if way is not drain))
async def test_one_that_stays_is_cancelled_exactly_once_per_cleanup_timeout(stage):
    # A cancellation is also the only thing that could wake it.
    @stage.callback
    async def work():
        if stage.kind is caller:
            await ctx.websocket.close()
        await stage.stay()

    async with stage.up_to_the_end():
        await anyio.sleep(100.5 * CLEANUP)
    first = 0 if stage.kind is event_triggered else CLEANUP
    assert stage.seen[:100] == [(first + turn * CLEANUP, "cancelled") for turn in range(100)]


@ended_by(*WAYS)
async def test_one_that_stays_is_stuck_and_the_log_says_where_and_for_how_long(stage, caplog):
    @stage.callback
    async def work():
        if stage.kind is caller:
            await ctx.websocket.close()
        await stage.stay()

    where = Stage.stay.__code__.co_firstlineno + 4
    async with stage.up_to_the_end():
        await anyio.sleep(CLEANUP - 0.5)
        assert stage.runtime.statistics().stuck == 0
        assert complaints(caplog) == []
        await anyio.sleep(1)
        assert stage.runtime.statistics().stuck == 1
        [complaint] = complaints(caplog)
        assert "work still runs 10 s after" in complaint
        assert f"{__file__}:{where} in Stage.stay" in complaint


@ended_by(drain, kinds=[event_triggered, persistent])
async def test_a_drain_abandons_one_that_stays(stage, caplog):
    @stage.callback
    async def work():
        try:
            await stage.stay()
        finally:
            stage.saw("closed")

    async with stage.up_to_the_end():
        await anyio.sleep(CLEANUP + 2)
        assert stage.finished.is_set()
    cancelled = [0, CLEANUP] if stage.kind is event_triggered else [CLEANUP]
    assert [seconds for seconds, what in stage.seen if what == "cancelled"] == cancelled
    [(closed, _)] = [entry for entry in stage.seen if entry[1] == "closed"]
    assert closed <= CLEANUP + 1
    assert "work has not ended" in complaints(caplog)[-1]


TWO_ENDS = [(way, drain) for way in WAYS] + [(tab_gone, way) for way in WAYS if way is not drain]


@pytest.mark.parametrize("kind", [event_triggered, persistent])
@pytest.mark.parametrize(("way", "second"), TWO_ENDS)
async def test_a_second_end_changes_nothing(stage, second):
    @stage.callback
    async def work():
        await stage.stay()

    async with stage.up_to_the_end():
        await anyio.sleep(3)
        await second(stage)
        await anyio.sleep(CLEANUP)
        cancelled = [0, CLEANUP] if stage.kind is event_triggered else [CLEANUP]
        assert stage.seen == [(seconds, "cancelled") for seconds in cancelled]


@ended_by(close_frame, tab_gone, kinds=[event_triggered, persistent])
async def test_a_blocked_loop_does_not_make_cancellations_pile_up(stage):
    @stage.callback
    async def work():
        await stage.stay()

    async with stage.up_to_the_end():
        await anyio.sleep(1)
        virtual_time.block(CLEANUP * 3)
        await anyio.sleep(CLEANUP * 0.75)
        late = [seconds for seconds, _ in stage.seen if seconds >= 1]
        assert late == [1 + CLEANUP * 3]


# One tab of two.


@pytest.mark.parametrize("is_persistent", [False, True])
async def test_the_callbacks_of_the_other_tab_go_on(anyio_backend_name, is_persistent, caplog):
    runtime = WebSocketRuntime(cleanup_timeout=CLEANUP)
    app = make_app(anyio_backend_name, "go", "out", runtime=runtime)

    @app.callback(
        Output("out", "children"),
        Input("go", "n_clicks"),
        prevent_initial_call=True,
        persistent=is_persistent,
    )
    async def work(_):
        ws, seconds = ctx.websocket, 0
        while not ws.is_shutdown and seconds < 3 * CLEANUP:
            await anyio.sleep(1)
            seconds += 1
            set_props("out", {"title": seconds + 0 * await ws.get_prop("go", "n_clicks")})
        return seconds

    async with open_browser(app) as browser:
        page, other = await browser.open_page(), await browser.open_page()
        for tab in (page, other):
            await tab.click("go")
        await page.wait_for("out", "title", 5, timeout=6)
        await browser.send_text(f'{{"type": "tab_gone", "rendererId": "{page.renderer_id}"}}')
        await anyio.sleep(1.5)  # it looks once a second
        statistics = runtime.statistics()
        assert (statistics.connections, statistics.tabs, statistics.callbacks) == (1, 1, 1)
        await other.wait_for("out", "children", 3 * CLEANUP, timeout=3 * CLEANUP)
        assert other.history("out", "title") == list(range(1, 3 * CLEANUP + 1))
        assert page.history("out", "title") == [1, 2, 3, 4, 5]
        assert page.get("out", "children") is None

        await page.click("go")  # it is back: the browser had kept it
        await page.wait_for("out", "children", 3 * CLEANUP, timeout=4 * CLEANUP)
        assert runtime.statistics().tabs == 2
    assert complaints(caplog) == []
