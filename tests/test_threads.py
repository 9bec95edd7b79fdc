"""Worker threads: none by default, and what the three opt-in ways promise."""

import threading
import time

import anyio
import anyio.from_thread
import pytest
from dash import Input, Output, ctx, set_props

from apps import make_app
from dashws_async import WebSocketRuntime, offload
from dashws_async.loops import backend_name
from dashws_async.runtime import default_threads
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


@pytest.mark.parametrize("way", ["offload", "hybrid", "threads"])
async def test_a_plain_persistent_callback_is_welcome_in_a_thread(anyio_backend, way):
    runtime = WebSocketRuntime(mode="async" if way == "offload" else way)
    app = make_app(anyio_backend, "live", runtime=runtime)
    ended = threading.Event()

    def live():
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": number})
            number += 1
            time.sleep(0.001)
        ended.set()

    if way == "offload":
        app.callback(persistent=True)(offload(live))
    else:
        with pytest.warns(RuntimeWarning):
            app.callback(persistent=True)(live)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda n: n is not None and n > 3)
        await browser.drop()
    assert ended.wait(5)


async def test_in_mode_threads_the_client_leaving_cancels_as_everywhere(anyio_backend):
    runtime = WebSocketRuntime(mode="threads")
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    started, cleaned_up = threading.Event(), threading.Event()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def work(_):
        try:
            started.set()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            assert ctx.websocket.is_shutdown
            await anyio.sleep(0.01)
            cleaned_up.set()
            raise

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await anyio.to_thread.run_sync(started.wait, 5)
        await browser.drop()
        assert await anyio.to_thread.run_sync(cleaned_up.wait, 5)
        await eventually(lambda: not runtime.statistics().callbacks)


async def test_in_mode_threads_a_callback_can_close(anyio_backend):
    app = make_app(anyio_backend, "go", "out", runtime=WebSocketRuntime(mode="threads"))
    after = []

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(_):
        await ctx.websocket.close(4001, "bye")
        after.append(ctx.websocket.is_shutdown)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await browser.wait_closed() == 4001
        assert browser.close_reason == "bye"
    assert after == [True]


async def test_threads_are_bounded_and_the_others_queue(anyio_backend):
    runtime = WebSocketRuntime(mode="threads", max_threads=2)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    release = threading.Event()
    running, most = [], []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    def hold(clicks):
        running.append(clicks)
        most.append(len(running))
        release.wait(5)
        running.remove(clicks)
        return clicks

    async with open_browser(app) as browser:
        pages = [await browser.open_page() for _ in range(4)]
        for page in pages:
            await page.click("go")
        await eventually(lambda: len(running) == 2 and runtime.statistics().callbacks == 4)
        release.set()
        for page in pages:
            await page.wait_for("out", "children", 1)
    assert max(most) == 2


async def test_a_callback_that_waits_for_a_thread_can_be_cancelled(anyio_backend):
    runtime = WebSocketRuntime(mode="hybrid", max_threads=1)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    release, runs = threading.Event(), []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    def hold(clicks):
        runs.append(clicks)
        release.wait(5)

    async with open_browser(app) as browser, open_browser(app) as other:
        page, queued = await browser.open_page(), await other.open_page()
        await page.click("go")
        await eventually(lambda: runs)
        await queued.click("go")
        await eventually(lambda: runtime.statistics().callbacks >= 2)
        await other.drop()
        await eventually(lambda: runtime.statistics().callbacks <= 1)
        release.set()
        await page.wait_idle()
    assert runs == [1]


def test_the_documented_numbers_of_threads(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert default_threads("threads", 4) == 8
    assert default_threads("hybrid", 7) == 7
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert default_threads("threads", 4) == 32
