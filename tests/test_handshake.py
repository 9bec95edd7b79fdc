"""Who may open a WebSocket, and Dash's two hooks."""

import dash
import pytest
from dash import Input, Output

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("same", True),
        ("https://friend.example", True),
        ("https://stranger.example", False),
        (None, False),
        ("null", False),
    ],
)
async def test_origins(anyio_backend, origin, allowed):
    runtime = WebSocketRuntime()
    app = make_app(
        anyio_backend,
        "out",
        runtime=runtime,
        websocket_allowed_origins=["https://friend.example"],
    )
    options = {} if origin == "same" else {"origin": origin}
    async with open_browser(app, **options) as browser:
        await browser.open_page()
        assert browser.connected is allowed
        if not allowed:
            assert browser.handshake_status == 403
    assert runtime.statistics().connections_total == int(allowed)


@pytest.fixture
def hooks():
    """Dash's hooks, emptied of the WebSocket ones afterwards."""
    yield dash.hooks
    dash.hooks._ns["websocket_connect"].clear()
    dash.hooks._ns["websocket_message"].clear()


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (True, None),
        (None, None),
        (False, 4001),
        ((4401, "log in"), 4401),
        (ZeroDivisionError, 4001),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_connect_hook(anyio_backend, hooks, verdict, code, is_async, caplog):
    seen = []

    def look(websocket):
        seen.append(websocket.headers["Origin"])
        if verdict is ZeroDivisionError:
            raise verdict("no")
        return verdict

    async def look_async(websocket):
        return look(websocket)

    hooks.websocket_connect()(look_async if is_async else look)
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "out", runtime=runtime)
    async with open_browser(app) as browser:
        await browser.open_page()
        if code is None:
            assert browser.connected
        else:
            assert await browser.wait_closed() == code
    assert len(seen) == 1
    assert runtime.statistics().connections_total == int(code is None)
    assert ("ZeroDivisionError" in caplog.text) is (verdict is ZeroDivisionError)


@pytest.mark.parametrize(("verdict", "code"), [(False, 4001), ((4403, "not you"), 4403)])
async def test_the_message_hook_sees_every_message_and_can_close(
    anyio_backend, hooks, verdict, code
):
    seen = []

    @hooks.websocket_message()
    async def look(websocket, message):
        seen.append(message["type"])
        return verdict if message["payload"]["inputs"][0]["value"] > 1 else True

    app = make_app(anyio_backend, "go", "out")
    runs = []

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        runs.append(clicks)
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 1)
        await page.click("go")
        assert await browser.wait_closed() == code
    assert runs == [1]
    assert seen == ["callback_request", "callback_request"]


async def test_a_before_request_function_guards_the_websocket_too(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "out", runtime=runtime)
    answers = [None, None, None, ("no", 401)]  # three requests load the page
    app.backend.before_request(lambda: answers.pop(0))
    async with open_browser(app) as browser:
        await browser.open_page()
        assert not browser.connected
        assert browser.handshake_status == 403
    assert runtime.statistics().connections_total == 0
