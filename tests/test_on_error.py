"""Dash's own ``on_error``, for the app and for one callback, does what it does over HTTP."""

import pytest
from dash import Input, Output, ctx, set_props

from apps import make_app
from dashws_async.testing import open_browser

pytestmark = pytest.mark.anyio


def make_handler(kind):
    def handle(error):
        set_props("log", {"children": f"{ctx.triggered_id}: {error}"})
        return {"value": "instead", "nothing": None, "raises": 1 / 0 if kind == "raises" else 0}[
            kind
        ]

    return handle


@pytest.mark.parametrize("websocket", [True, False], ids=["websocket", "http"])
@pytest.mark.parametrize("place", ["app", "callback"])
@pytest.mark.parametrize("kind", ["value", "nothing", "raises"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_on_error(anyio_backend, websocket, place, kind, is_async):
    handler = {"on_error": make_handler(kind)}
    app = make_app(
        anyio_backend,
        *("go", "out", "log"),
        websocket_callbacks=websocket,
        **handler if place == "app" else {},
    )

    def fail(_):
        raise ValueError("secret")

    async def fail_async(_):
        raise ValueError("secret")

    app.callback(
        Output("out", "children"),
        Input("go", "n_clicks"),
        prevent_initial_call=True,
        **handler if place == "callback" else {},
    )(fail_async if is_async else fail)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        if kind == "raises":
            error = await page.wait_for_error()
            assert "secret" not in error.message
            return
        await page.wait_for("log", "children", "go: secret")
        await page.wait_idle()
        assert page.get("out", "children") == ("instead" if kind == "value" else None)
        assert not page.errors


@pytest.mark.filterwarnings("ignore:.*never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("websocket", [True, False], ids=["websocket", "http"])
async def test_an_async_handler_is_no_more_awaited_than_over_http(anyio_backend, websocket):
    app = make_app(anyio_backend, "go", "out", websocket_callbacks=websocket)

    async def handle(error):
        raise AssertionError("Dash does not await it")

    @app.callback(
        Output("out", "children"),
        Input("go", "n_clicks"),
        prevent_initial_call=True,
        on_error=handle,
    )
    async def fail(_):
        raise ValueError("secret")

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert "secret" not in (await page.wait_for_error()).message
