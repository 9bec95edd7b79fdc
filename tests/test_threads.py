"""Worker threads: none by default, and what the three opt-in ways promise."""

import itertools
import os
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.from_thread
import pytest
from dash import Input, Output, ctx, set_props

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.loops import backend_name
from dashws_async.runtime import default_workers
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio

here = threading.get_ident


@pytest.mark.parametrize(
    ("mode", "plain_in_thread", "async_in_thread"),
    [("async", False, False), ("hybrid", True, False), ("threads", True, True)],
)
async def test_where_each_mode_runs_callbacks(
    anyio_backend, mode, plain_in_thread, async_in_thread
):
    app = make_app(anyio_backend, "go", "plain", "async", runtime=WebSocketRuntime(mode=mode))
    loop_thread = here()
    threads = {}
    inputs = [Input("go", "n_clicks")]

    @app.callback(Output("plain", "children"), *inputs, prevent_initial_call=True)
    def plain(_):
        threads["plain"] = here()
        set_props("plain", {"title": "streamed"})
        return "done"

    @app.callback(Output("async", "children"), *inputs, prevent_initial_call=True)
    async def asynchronous(_):
        threads["async"] = here()
        set_props("async", {"title": "streamed"})
        await anyio.sleep(0)
        value = await ctx.websocket.get_prop("async", "title")
        return [value, backend_name()]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("plain", "children", "done")
        await page.wait_for("async", "children", ["streamed", anyio_backend])
        assert page.get("plain", "title") == "streamed"
    assert (threads["plain"] != loop_thread) is plain_in_thread
    assert (threads["async"] != loop_thread) is async_in_thread


async def test_offload_runs_one_function_in_a_thread_that_streams(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    loop_thread = here()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    @offload
    def slow(clicks):
        """Slow."""
        for number in range(3):
            set_props("out", {"children": number})
        title = anyio.from_thread.run(ctx.websocket.get_prop, "out", "children")
        return [clicks, here() != loop_thread, title]

    assert slow.__doc__ == "Slow."
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", [1, True, 2])
        assert page.history("out", "children") == [0, 1, 2, [1, True, 2]]


async def test_offload_works_over_http(anyio_backend):
    app = make_app(anyio_backend, "go", "out", websocket_callbacks=False)
    loop_thread = here()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    @offload
    def slow(clicks):
        set_props("go", {"title": "set"})
        return [clicks, here() != loop_thread]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", [1, True])
        assert page.get("go", "title") == "set"


def test_offload_is_for_plain_functions():
    async def asynchronous():
        pass

    def generator():
        yield

    for function in [asynchronous, generator]:
        with pytest.raises(TypeError, match=f"{function.__name__}.*is not one"):
            offload(function)


WAYS = {
    "offload": {"mode": "async"},
    "hybrid": {"mode": "hybrid"},
    "threads": {"mode": "threads"},
    "threads, async def": {"mode": "threads"},
}
"""How a callback comes to occupy a thread, and the knobs for it."""


class Crowd:
    """Browsers whose page has a persistent callback, which stays until its page goes."""

    def __init__(self, loop, way, **knobs):
        self.runtime = WebSocketRuntime(**WAYS.get(way, {}), **knobs)
        self.app = make_app(loop, "go", "out", runtime=self.runtime)
        self.started = []
        """The numbers of the browsers, in the order in which their callbacks started."""
        self.browsers = {}
        self._register(way)

    def _register(self, way):
        def stay():
            self.started.append(int(ctx.cookies["number"]))
            while not ctx.websocket.is_shutdown:
                time.sleep(0.01)

        async def stay_and_await():
            self.started.append(int(ctx.cookies["number"]))
            while not ctx.websocket.is_shutdown:
                await anyio.sleep(0.01)

        register = self.app.callback(persistent=True)
        if way == "offload":
            register(offload(stay))
        elif way in ("hybrid", "threads"):
            with pytest.warns(RuntimeWarning, match="persistent"):
                register(stay)
        else:
            register(stay_and_await)

    def workers(self):
        """``(busy, waiting)``."""
        statistics = self.runtime.statistics()
        return statistics.workers_busy, statistics.workers_waiting

    @asynccontextmanager
    async def of(self, size):
        """So many browsers, one after the other."""
        async with AsyncExitStack() as stack:
            for number in range(size):
                browser = open_browser(self.app, cookies={"number": str(number)})
                self.browsers[number] = await stack.enter_async_context(browser)
                await self.browsers[number].open_page()
                await eventually(lambda: self.runtime.statistics().callbacks == len(self.browsers))
            yield

    async def leave(self, number):
        """One browser leaves, and its callback has ended."""
        before = self.runtime.statistics().connections
        await self.browsers[number].drop()
        await eventually(lambda: self.runtime.statistics().connections < before)


@pytest.mark.parametrize("way", WAYS)
async def test_one_more_than_the_limit_waits_and_starts_in_the_order_of_arrival(anyio_backend, way):
    crowd = Crowd(anyio_backend, way, max_workers=2)
    async with crowd.of(5):
        await eventually(lambda: crowd.workers() == (2, 3))
        assert crowd.runtime.statistics().max_workers == 2
        assert sorted(crowd.started) == [0, 1]
        for left, starts in [(1, 2), (0, 3), (2, 4)]:
            await crowd.leave(left)
            await eventually(lambda starts=starts: crowd.started[-1] == starts)
        assert crowd.workers() == (2, 0)
        assert crowd.started[2:] == [2, 3, 4]
    assert crowd.workers() == (0, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_one_that_waits_and_whose_client_leaves_never_starts(anyio_backend, way, caplog):
    crowd = Crowd(anyio_backend, way, max_workers=1)
    async with crowd.of(4):
        await eventually(lambda: crowd.workers() == (1, 3))
        assert "the line for a worker thread" in {
            callback.where for each in crowd.runtime.connections for callback in each.callbacks
        }
        await crowd.leave(1)  # at once, though it is persistent
        assert crowd.workers() == (1, 2)
        await crowd.leave(3)
        await crowd.leave(0)
        await eventually(lambda: crowd.started == [0, 2])
        assert crowd.workers() == (1, 0)
    assert crowd.started == [0, 2]
    [warning] = caplog.records  # once
    assert "Persistent callbacks hold all worker threads (max_workers=1)" in warning.getMessage()


async def test_threads_that_are_only_busy_are_nothing_to_warn_of(anyio_backend, caplog):
    app = make_app(anyio_backend, "out", runtime=WebSocketRuntime(max_workers=1))

    @offload
    def short():
        time.sleep(0.01)

    @app.callback(persistent=True)
    async def live():
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(short)
        set_props("out", {"children": "done"})

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("out", "children", "done")
    assert caplog.records == []


async def test_of_fifty_as_many_run_as_the_guide_says_and_the_rest_as_others_leave(anyio_backend):
    """Guide: "Connection Limits and Scaling"."""
    crowd = Crowd(anyio_backend, "threads, async def")
    limit = min(32, os.cpu_count() + 4)
    async with crowd.of(50):
        await eventually(lambda: crowd.workers() == (limit, 50 - limit))
        assert sorted(crowd.started) == list(range(limit))
        for number in range(limit, 50):
            await crowd.leave(number - limit)
            await eventually(lambda number=number: crowd.started[-1] == number)
        assert crowd.started[limit:] == list(range(limit, 50))
        assert crowd.workers() == (limit, 0)


@pytest.mark.parametrize(("blocked_after", "threads"), [(0.2, 1), (None, 0)])
async def test_in_mode_async_all_run_and_no_thread_but_the_watchdog(
    anyio_backend, blocked_after, threads
):
    await anyio.sleep(0.01)  # anyio's test runner has trio wait in a thread, from its first wait on
    before = set(threading.enumerate())  # some may end meanwhile
    crowd = Crowd(anyio_backend, "async", blocked_after=blocked_after)
    async with crowd.of(50):
        await eventually(lambda: sorted(crowd.started) == list(range(50)))
        assert len(set(threading.enumerate()) - before) == threads
    assert set(threading.enumerate()) <= before


async def test_a_thread_ends_with_its_call(anyio_backend):
    crowd = Crowd(anyio_backend, "threads", max_workers=3)
    before = set(threading.enumerate())
    async with crowd.of(3):
        await eventually(lambda: crowd.workers() == (3, 0))
    if anyio_backend == "asyncio":  # trio keeps a thread that is idle for ten seconds
        await eventually(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize("way", [*WAYS, "async"])
async def test_a_function_that_blocks_holds_up_the_others_in_mode_async_only(anyio_backend, way):
    crowd = Crowd(anyio_backend, way, max_workers=4)
    app, beats = crowd.app, []

    def block(_):
        time.sleep(0.5)
        return "done"

    inputs = [Output("out", "children"), Input("go", "n_clicks")]
    app.callback(*inputs, prevent_initial_call=True)(offload(block) if way == "offload" else block)

    async def beat(page):
        while page.get("out", "children") != "done":
            beats.append(time.monotonic())
            await anyio.sleep(0.01)

    async with crowd.of(1), open_browser(app, cookies={"number": "1"}) as other:
        page = await other.open_page()
        await page.click("go")
        await beat(page)
    longest = max(later - earlier for earlier, later in itertools.pairwise(beats))
    assert (longest > 0.45) is (way == "async")


NESTED = {
    "async": lambda call, _: anyio.from_thread.run(call),
    "hybrid": lambda call, _: anyio.from_thread.run(call),
    "own loop": lambda call, loop: anyio.run(call, backend=loop),
}
"""How a function in a thread calls one that is offloaded."""


@pytest.mark.parametrize("way", NESTED)
async def test_what_a_thread_offloads_takes_no_further_place(anyio_backend, way):
    mode = "async" if way == "async" else "hybrid"
    runtime = WebSocketRuntime(mode=mode, max_workers=1)
    app = make_app(anyio_backend, "go", "out", "other", runtime=runtime)
    release, inside = threading.Event(), threading.Event()

    @offload
    def innermost():
        inside.set()
        release.wait(10)
        return here()

    @offload
    def inner():
        return [here(), NESTED[way](innermost, anyio_backend)]

    def outer(_):
        return [here(), *NESTED[way](inner, anyio_backend)]

    def other(_):
        return inside.is_set()

    for name, function in [("out", outer), ("other", other)]:
        app.callback(Output(name, "children"), Input("go", "n_clicks"), prevent_initial_call=True)(
            offload(function) if mode == "async" else function
        )
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await eventually(inside.is_set)
        numbers = runtime.statistics()
        assert (numbers.workers_busy, numbers.workers_waiting) == (1, 1)
        callbacks = {each.name: each for each in runtime.connections[0].callbacks}
        assert next(
            each.where for name, each in callbacks.items() if name.endswith("outer")
        ).endswith("innermost")
        release.set()
        await page.wait_for("out", "children", lambda value: value and len(set(value)) == 3)
        await page.wait_for("other", "children", True)


async def test_a_function_that_is_offloaded_in_mode_threads_takes_no_further_place(anyio_backend):
    runtime = WebSocketRuntime(mode="threads", max_workers=1)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)

    @offload
    def value_of(name):
        return anyio.from_thread.run(ctx.websocket.get_prop, name, "title"), here()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def work(_):
        set_props("out", {"title": "set"})
        values = {await value_of("out") for _ in range(2)}
        return [value for value, thread in values if thread != here()]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", lambda value: value and set(value) == {"set"})


async def test_what_is_offloaded_over_http_is_bounded_with_the_rest(anyio_backend):
    runtime = WebSocketRuntime(max_workers=1)
    app = make_app(anyio_backend, "go", "out", runtime=runtime, websocket_callbacks=False)
    release, running = threading.Event(), []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    @offload
    def hold(_):
        running.append(runtime.statistics().workers_busy)
        release.wait(10)
        return "done"

    async with open_browser(app) as browser:
        pages = [await browser.open_page() for _ in range(2)]
        for page in pages:
            await page.click("go")
        await eventually(lambda: running and runtime.statistics().workers_waiting == 1)
        assert running == [1]
        release.set()
        for page in pages:
            await page.wait_for("out", "children", "done")
    assert running == [1, 1]


async def test_where_a_callback_stands_is_known_in_a_thread_too(anyio_backend):
    runtime = WebSocketRuntime(mode="threads", max_workers=4)
    app = make_app(anyio_backend, "go", "1", "2", "3", "4", runtime=runtime)
    leave, go = threading.Event(), [Input("go", "n_clicks")]

    @offload
    def offloaded():
        leave.wait(10)

    @app.callback(Output("1", "children"), *go, prevent_initial_call=True)
    async def waits(_):
        await anyio.sleep_forever()

    @app.callback(Output("2", "children"), *go, prevent_initial_call=True)
    async def blocks(_):
        leave.wait(10)

    @app.callback(Output("3", "children"), *go, prevent_initial_call=True)
    async def offloads(_):
        await offloaded()

    @app.callback(Output("4", "children"), *go, prevent_initial_call=True)
    def plain(_):
        leave.wait(10)

    def functions():
        return {
            callback.where.rpartition(".")[2]
            for connection in runtime.connections
            for callback in connection.callbacks
        }

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await eventually(lambda: functions() == {"waits", "blocks", "offloaded", "plain"})
        leave.set()


def test_the_documented_numbers_of_threads(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert default_workers("threads", 4) == 8
    assert default_workers("hybrid", 7) == 7
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert default_workers("threads", 4) == 32


@pytest.mark.parametrize(
    ("knobs", "limit"),
    [
        ({"mode": "hybrid"}, 7),
        ({"mode": "async"}, 7),
        ({"mode": "threads"}, min(32, os.cpu_count() + 4)),
        ({"mode": "threads", "max_workers": 3}, 3),
        ({"mode": "hybrid", "max_workers": 3}, 3),
    ],
)
def test_the_limit_comes_from_the_knob_the_mode_or_dash(knobs, limit):
    runtime = WebSocketRuntime(**knobs)
    make_app("asyncio", runtime=runtime, websocket_max_workers=7)
    assert runtime.statistics().max_workers == limit


def test_an_offloaded_function_keeps_its_signature_for_editors(tmp_path):
    api = pytest.importorskip("mypy.api")
    source = tmp_path / "example.py"
    source.write_text(
        "from dashws_async import offload\n"
        "@offload\n"
        "def area(width: int, *, height: float) -> str: ...\n"
        "reveal_type(area)\n"
        "area('a')\n"
    )
    told, _, _ = api.run(["--strict", "--cache-dir", str(tmp_path), str(source)])
    assert '"def (width: int, *, height: float) -> ' in told
    assert "Coroutine[Any, Any, str]" in told
    assert 'Argument 1 to "area" has incompatible type "str"; expected "int"' in told
