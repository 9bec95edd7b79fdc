"""Generator callbacks, which Dash has since 4.5: each value that is yielded is an answer."""

import threading

import anyio
import dash
import pytest
from dash import Input, Output, Patch, ctx, dcc, set_props

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        dash.__version__.startswith("4.4"), reason="generator callbacks need Dash 4.5"
    ),
]


async def test_what_it_yields_streams_in_order_with_its_updates(anyio_backend):
    app = make_app(anyio_backend, "go", "out", "side")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def count(clicks):
        for number in range(3):
            set_props("side", {"children": number})
            yield number
            await anyio.sleep(0)
        yield [clicks, await ctx.websocket.get_prop("side", "children")]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", [1, 2])
        await page.wait_idle()
        assert page.history("out", "children") == [0, 1, 2, [1, 2]]
        assert page.history("side", "children") == [0, 1, 2]


async def test_it_can_yield_patches(anyio_backend):
    app = make_app(anyio_backend, "go")
    app.layout.children.append(dcc.Store(id="store", data=[]))

    @app.callback(Output("store", "data"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def grow(_):
        for number in range(3):
            patch = Patch()
            patch.append(number)
            yield patch

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("store", "data", [0, 1, 2])


async def test_an_error_in_it_reaches_the_page(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def fail(_):
        yield "first"
        raise ZeroDivisionError("secret")

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        error = await page.wait_for_error()
        assert page.get("out", "children") == "first"
        assert "secret" not in error.message


async def test_it_is_cancelled_and_closed_when_the_client_leaves(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    ended = anyio.Event()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def wait(_):
        try:
            yield "waiting"
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "waiting")
        await browser.drop()
        with anyio.fail_after(5):
            await ended.wait()


async def test_get_prop_reads_a_part(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    app.layout.children.append(dcc.Store(id="store", data={"rows": [1, 2, 3]}))

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def read(_):
        return await ctx.websocket.get_prop("store", "data", path=["rows", -1])

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 3)


async def test_in_mode_threads_it_streams_from_its_thread(anyio_backend):
    app = make_app(anyio_backend, "go", "out", runtime=WebSocketRuntime(mode="threads"))
    threads = set()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def count(_):
        for number in range(3):
            threads.add(threading.get_ident())
            yield number
            await anyio.sleep(0)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 2)
        assert page.history("out", "children") == [0, 1, 2]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
