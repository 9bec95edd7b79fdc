"""`dashws_async.testing`: browsers, in memory and over sockets, on both loops.

The server is this project's runtime, because Dash's own runs on asyncio only; one
test opens Dash's own, to show that nothing depends on ours.
"""

import json
import logging
from contextlib import asynccontextmanager

import anyio
import pytest
from dash import (
    MATCH,
    Dash,
    Input,
    Output,
    Patch,
    State,
    ctx,
    dcc,
    html,
    no_update,
    page_container,
    set_props,
)
from hypercorn.config import Config
from quart import Quart, request, websocket
from quart_trio import QuartTrio

from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser
from ports import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def new_server(anyio_backend_name):
    return {"asyncio": Quart, "trio": QuartTrio}[anyio_backend_name]


@pytest.fixture
def new_app(new_server):
    def make(layout=None, **options):
        options.setdefault("websocket_callbacks", True)
        app = Dash(__name__, server=new_server(__name__), plugins=[WebSocketRuntime()], **options)
        app.layout = layout if layout is not None else html.Div()
        return app

    return make


@asynccontextmanager
async def serve(app, backend_name):
    """The app on a real port, in this event loop; gives its URL."""
    if backend_name == "trio":
        from hypercorn.trio import serve as hypercorn_serve
    else:
        from hypercorn.asyncio import serve as hypercorn_serve
    port = free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = 1
    stop = anyio.Event()

    async def run():
        await hypercorn_serve(app, config, shutdown_trigger=stop.wait)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(10):
            while not await answers(port):
                await anyio.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
        stop.set()


async def answers(port):
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


@pytest.fixture(params=["memory", "socket"])
def visit(request, anyio_backend_name):
    """`open_browser` on an app: in memory, and over real sockets."""

    @asynccontextmanager
    async def over_socket(app, **options):
        async with (
            serve(getattr(app, "server", app), anyio_backend_name) as url,
            open_browser(url, **options) as browser,
        ):
            yield browser

    return open_browser if request.param == "memory" else over_socket


def countdown(app):
    """The guide's "Streaming Updates" and "Reading Props", and a persistent callback."""
    app.layout = html.Div(
        [
            html.Button(id="start"),
            dcc.Input(id="name"),
            html.Div(id="display", children="Ready"),
            html.Div(id="echo"),
            html.Div(id="live"),
        ]
    )

    @app.callback(
        Output("display", "children"), Input("start", "n_clicks"), prevent_initial_call=True
    )
    async def count(n_clicks):
        for number in (3, 2, 1):
            set_props("display", {"children": number})
            await anyio.sleep(0.01)
        name = await ctx.websocket.get_prop("name", "value", timeout=0.2)
        return f"Hello {name}"

    @app.callback(Output("echo", "children"), Input("display", "children"))
    async def echo(text):
        return f"saw {text}"

    @app.callback(persistent=True)
    async def stream():
        number = 0
        while not ctx.websocket.is_shutdown:
            number += 1
            set_props("live", {"children": number})
            await anyio.sleep(0.02)

    return app


# A tab


async def test_a_page_plays_a_whole_app(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        page = await browser.open_page()
        await page.wait_for("echo", "children", "saw Ready")
        await page.wait_for("live", "children", lambda value: value and value > 2)
        await page.set_props("name", value="Ada")
        await page.click("start")
        await page.wait_for("display", "children", "Hello Ada")
        await page.wait_for("echo", "children", "saw Hello Ada")
        await page.wait_idle()
        assert page.history("display", "children") == [3, 2, 1, "Hello Ada"]
        assert page.get("name", "value") == "Ada"
        assert page.errors == []
        assert browser.updates_received >= 6
        assert len(page.running) == 1  # the persistent callback


async def test_dashs_own_server_is_a_server_too(anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("Dash's own WebSocket backends need asyncio")
    app = countdown(Dash(__name__, backend="quart", websocket_callbacks=True))
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("start")
        await page.wait_for("echo", "children", "saw Hello None")


async def test_an_app_without_websocket_is_played_over_http(new_app, visit):
    app = new_app(
        html.Div([html.Button(id="go"), html.Div(id="out"), html.Div(id="side")]),
        websocket_callbacks=False,
    )

    @app.callback(Output("out", "children"), Input("go", "n_clicks"))
    async def out(n_clicks):
        if n_clicks == 2:
            return no_update
        set_props("side", {"children": n_clicks})
        return 1 // (3 - (n_clicks or 0))

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.wait_for("out", "children", 0)
        await page.click("go")
        await page.wait_for("side", "children", 1)
        await page.wait_idle()
        await page.click("go")
        await page.wait_idle()
        assert page.history("out", "children") == [0, 0]
        await page.click("go")
        assert (await page.wait_for_error()).output == "out.children"
        assert not browser.connected
        assert browser.close_code is None


async def test_one_callback_by_websocket_and_one_by_http(new_app, visit):
    app = new_app(
        html.Div([html.Button(id="go"), html.Div(id="ws"), html.Div(id="http")]),
        websocket_callbacks=False,
    )

    @app.callback(Output("ws", "children"), Input("go", "n_clicks"), websocket=True)
    async def by_websocket(_n):
        return ctx.websocket is not None

    @app.callback(Output("http", "children"), Input("go", "n_clicks"))
    async def by_http(_n):
        return ctx.websocket is not None

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.wait_for("ws", "children", True)
        await page.wait_for("http", "children", False)


async def test_patches_and_dict_ids_travel(new_app, visit):
    app = new_app(
        html.Div(
            [
                dcc.Store(id="log", data=["start"]),
                dcc.Input(id={"kind": "in", "n": 1}),
                html.Div(id={"kind": "out", "n": 1}),
            ]
        )
    )

    @app.callback(
        Output({"kind": "out", "n": MATCH}, "children"),
        Input({"kind": "in", "n": MATCH}, "value"),
        prevent_initial_call=True,
    )
    async def mirror(value):
        patch = Patch()
        patch.append(value)
        set_props("log", {"data": patch})
        set_props({"kind": "out", "n": 1}, {"title": "from the side"})
        return value

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.set_props({"n": 1, "kind": "in"}, value="x")
        await page.wait_for({"kind": "out", "n": 1}, "children", "x")
        assert page.get({"kind": "out", "n": 1}, "title") == "from the side"
        assert page.get("log", "data") == ["start", "x"]


async def test_a_page_that_does_not_answer_get_prop_lets_it_time_out(new_app, visit):
    app = new_app(html.Div([html.Button(id="go"), html.Div(id="out")]))

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def ask(_n):
        try:
            return await ctx.websocket.get_prop("go", "title", timeout=0.1)
        except TimeoutError:
            return "timed out"

    async with visit(app, answer_get_props=False) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "timed out")


async def test_the_router_of_a_pages_app_shows_the_page_of_the_path(new_app, visit):
    app = new_app(
        page_container, use_pages=True, pages_folder="", suppress_callback_exceptions=True
    )
    import dash

    dash.register_page("home", path="/", layout=html.Div("home", id="home"))
    dash.register_page("page_a", path="/page-a", layout=html.Div("A", id="a"))
    async with visit(app) as browser:
        page = await browser.open_page("/page-a?x=1")
        await page.wait_for("_pages_content", "children", lambda value: value)
        assert page.get("a", "children") == "A"
        assert page.get("_pages_location", "search") == "?x=1"
        await page.navigate("/")
        await page.wait_for("home", "children", "home")
        assert "a" not in page


async def test_an_app_behind_a_proxy_is_found_under_its_public_prefix(new_app):
    app = new_app(
        html.Div(id="out"),
        requests_pathname_prefix="/public/app/",
        routes_pathname_prefix="/inside/",
    )

    @app.callback(Output("out", "children"), Input("out", "id"))
    async def where(_id):
        return websocket.path

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("out", "children", "/inside/_dash-ws-callback")


# What a test can say and ask


async def test_wait_for_sees_a_value_that_is_gone_again(new_app):
    app = new_app(html.Div([html.Button(id="go"), html.Div(id="out")]))

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def flash(_n):
        for number in range(5):
            set_props("out", {"children": number})

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await page.wait_for("out", "children", 2) == 2
        await page.wait_for("out", "children", 4)


async def test_what_does_not_come_is_told_with_the_last_values(new_app):
    app = new_app(html.Div([html.Button(id="start"), html.Div(id="display")]))

    @app.callback(
        Output("display", "children"), Input("start", "n_clicks"), prevent_initial_call=True
    )
    async def hang(_n):
        for number in (3, 2, 1):
            set_props("display", {"children": number})
        await anyio.sleep(60)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("start")
        await page.wait_for("display", "children", 1)
        with pytest.raises(TimeoutError, match=r"display.children was not 'Never'.*3, 2, 1"):
            await page.wait_for("display", "children", "Never", timeout=0.05)
        with pytest.raises(TimeoutError, match=r"still pending.*display.children"):
            await page.wait_idle(timeout=0.01)


async def test_unknown_ids_are_named_with_those_that_there_are(new_app):
    async with open_browser(new_app(html.Div(id="only"))) as browser:
        page = await browser.open_page()
        with pytest.raises(LookupError, match=r"'typo'.*only"):
            page.get("typo", "children")
        with pytest.raises(LookupError):
            await page.set_props("typo", children=1)


async def test_a_disabled_button_cannot_be_clicked(new_app):
    async with open_browser(new_app(html.Button(id="go", disabled=True))) as browser:
        page = await browser.open_page()
        with pytest.raises(RuntimeError, match="disabled"):
            await page.click("go")


async def test_the_failure_of_a_test_is_not_wrapped_in_a_group(new_app):
    async def failing_test():
        async with open_browser(countdown(new_app())) as browser:
            await browser.open_page()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing_test()


async def test_a_target_that_is_no_app_is_refused():
    with pytest.raises(TypeError, match="a Dash app, an ASGI app or a URL"):
        async with open_browser(42):
            pass


async def test_a_url_that_is_no_dash_page_is_refused(new_server):
    server = new_server("plain")

    @server.route("/")
    async def index():
        return "hello"

    async with open_browser(server) as browser:
        with pytest.raises(RuntimeError, match="not a Dash page: 'hello'"):
            await browser.open_page()
        with pytest.raises(RuntimeError, match="answered 404"):
            await browser.open_page("/nowhere")


async def test_a_raw_call_gets_the_payload_of_its_answer_and_leaves_the_page_alone(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        page = await browser.open_page()
        await page.wait_for("echo", "children", "saw Ready")
        answer = await page.call(
            "echo.children", [{"id": "display", "property": "children", "value": 7}]
        )
        assert answer["status"] == "ok"
        assert answer["data"]["response"] == {"echo": {"children": "saw 7"}}
        assert page.get("echo", "children") == "saw Ready"
        assert (await page.call(payload={"output": "no.such"}))["status"] == "error"


async def test_raw_text_reaches_the_server(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        page = await browser.open_page()
        await browser.send_text("not json")
        # The connection lives on.
        await page.click("start")
        await page.wait_for("display", "children", 1)


# Tabs and sockets


async def test_tabs_share_the_socket_and_not_their_values(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        one, two = await browser.open_page(), await browser.open_page()
        await one.set_props("name", value="One")
        await two.set_props("name", value="Two")
        await one.click("start")
        await two.click("start")
        await one.wait_for("display", "children", "Hello One")
        await two.wait_for("display", "children", "Hello Two")
        assert browser.pages == [one, two]


async def test_messages_for_a_closed_tab_reach_nobody(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        gone, stays = await browser.open_page(), await browser.open_page()
        await gone.wait_for("live", "children", lambda value: value)
        await gone.close()
        before = gone.history("live", "children")
        unroutable = browser.unroutable
        seen = await stays.wait_for("live", "children", lambda value: value)
        await stays.wait_for("live", "children", lambda value: value > seen + 2)
        assert gone.history("live", "children") == before
        assert browser.unroutable > unroutable
        with pytest.raises(RuntimeError, match="closed"):
            await gone.click("start")


async def test_a_drop_ends_with_1006_and_a_reconnect_restarts_the_persistent_callbacks(
    new_app, visit
):
    app = new_app(html.Div([html.Button(id="go"), html.Div(id="live")]))

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def hang(_n):
        await anyio.sleep(60)

    @app.callback(persistent=True)
    async def stream():
        number = 0
        while not ctx.websocket.is_shutdown:
            number += 1
            set_props("live", {"children": number})
            await anyio.sleep(0.02)

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("live", "children", 3)
        assert len(page.running) == 2
        await browser.drop()
        assert browser.close_code == 1006
        assert page.running == []
        await browser.reconnect()
        assert browser.close_code is None
        await page.wait_for("live", "children", 1)
        assert len(page.running) == 1


async def test_what_waited_for_a_lost_callback_fires_and_brings_a_new_socket(new_app, visit):
    app = new_app(html.Div([html.Button(id="go"), html.Div(id="half"), html.Div(id="echo")]))

    @app.callback(Output("half", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def hang(_n):
        set_props("half", {"children": "half"})
        await anyio.sleep(60)

    @app.callback(Output("echo", "children"), Input("half", "children"), prevent_initial_call=True)
    async def echo(text):
        return text

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("half", "children", "half")
        await browser.drop()
        await page.wait_for("echo", "children", "half")
        assert browser.connected


async def test_a_callback_that_fires_without_a_socket_brings_a_new_one(new_app, visit):
    async with visit(countdown(new_app())) as browser:
        page = await browser.open_page()
        await page.wait_idle()
        await browser.drop()
        await page.click("start")
        await page.wait_for("display", "children", "Hello None")
        assert browser.connected


async def test_a_polite_close_sends_1000(new_app, visit, caplog):
    async with visit(countdown(new_app())) as browser:
        await browser.open_page()
        await browser.close()
        assert (browser.close_code, browser.close_reason) == (1000, "Client disconnect")
        assert not browser.connected


async def test_the_server_can_close(new_app, visit):
    app = new_app(html.Div([html.Button(id="go")]))

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(_n):
        await ctx.websocket.close(code=4001, reason="enough")

    async with visit(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await browser.wait_closed() == 4001
        assert browser.close_reason == "enough"
        await page.wait_idle()


@pytest.mark.parametrize("origin", [None, "https://evil.example"])
async def test_a_refused_handshake_leaves_the_page_without_a_socket(new_app, visit, origin):
    async with visit(countdown(new_app()), origin=origin) as browser:
        await browser.open_page()
        assert await browser.wait_closed() == 1006
        assert browser.handshake_status is not None
        assert not browser.connected


async def test_heartbeats_are_sent_and_acked(new_app, visit):
    async with visit(countdown(new_app()), heartbeat=0.01) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda value: value and value > 3)
        assert browser.heartbeats_acked > 1


async def test_headers_and_cookies_go_with_the_handshake_and_with_http(new_app, visit):
    app = new_app(html.Div([html.Div(id="ws"), html.Div(id="http")]), websocket_callbacks=False)

    @app.callback(Output("ws", "children"), Input("ws", "id"), websocket=True)
    async def by_websocket(_id):
        return [websocket.headers["X-Who"], websocket.cookies["a"], websocket.cookies["b"]]

    @app.callback(Output("http", "children"), Input("http", "id"))
    async def by_http(_id):
        return [request.headers["X-Who"], request.cookies["a"], request.cookies["b"]]

    @app.server.after_request
    async def give_cookie(response):
        response.set_cookie("b", "from the server")
        return response

    async with visit(app, headers={"X-Who": "Ada"}, cookies={"a": "mine"}) as browser:
        page = await browser.open_page()
        expected = ["Ada", "mine", "from the server"]
        await page.wait_for("ws", "children", expected)
        await page.wait_for("http", "children", expected)


# Frames


class FakeServer:
    """An ASGI app that serves a minimal Dash page and plays a script on its socket."""

    def __init__(self, layout, script):
        self.layout = json.loads(json.dumps(layout))
        self.script = script
        self.disconnected = None
        self.ended = anyio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await self.serve_websocket(receive, send)
        elif scope["type"] == "http":
            await self.serve_http(scope, send)
        else:
            raise NotImplementedError("no lifespan here")

    async def serve_http(self, scope, send):
        config = {
            "requests_pathname_prefix": "/",
            "websocket": {"enabled": True, "url": "/ws", "worker_url": "/w"},
        }
        body = {
            "/": f'<script id="_dash-config" type="application/json">{json.dumps(config)}</script>',
            "/_dash-layout": json.dumps(self.layout),
            "/_dash-dependencies": json.dumps(
                [
                    {
                        "output": "0" * 64,
                        "no_output": True,
                        "inputs": [],
                        "state": [],
                        "persistent": True,
                    }
                ]
            ),
        }[scope["path"]]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    async def serve_websocket(self, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})

        async def say(*messages):
            frame = list(messages) if len(messages) != 1 else messages[0]
            await send({"type": "websocket.send", "text": json.dumps(frame)})

        renderer = json.loads((await receive())["text"])["rendererId"]
        await self.script(renderer, say)
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                self.disconnected = event["code"]
                self.ended.set()
                return


TWO_DIVS = {
    "namespace": "dash_html_components",
    "type": "Div",
    "props": {
        "children": [
            {"namespace": "dash_html_components", "type": "Div", "props": {"id": "a"}},
            {"namespace": "dash_html_components", "type": "Div", "props": {"id": "b"}},
        ]
    },
}


def update(renderer, component_id, value):
    return {
        "type": "set_props",
        "rendererId": renderer,
        "payload": {"componentId": component_id, "props": {"children": value}},
    }


async def test_of_an_array_every_set_props_comes_before_the_rest():
    async def script(renderer, say):
        await say(
            {
                "type": "callback_response",
                "rendererId": renderer,
                "requestId": f"{renderer}-1",
                "payload": {
                    "status": "ok",
                    "data": {"multi": True, "response": {"a": {"children": "answer"}}},
                },
            },
            {"type": "heartbeat_ack"},
            update(renderer, "a", "update"),
        )

    async with open_browser(FakeServer(TWO_DIVS, script)) as browser:
        page = await browser.open_page()
        await page.wait_for("a", "children", "answer")
        assert page.history("a", "children") == ["update", "answer"]
        assert browser.frames_received == 1
        assert browser.messages_received == 3
        assert browser.updates_received == 1
        assert json.loads(browser.frames[0])[1] == {"type": "heartbeat_ack"}


async def test_the_server_hears_of_a_drop_on_a_silent_socket(visit):
    async def script(renderer, say):
        await say(update(renderer, "a", "here"))

    server = FakeServer(TWO_DIVS, script)
    async with visit(server) as browser:
        page = await browser.open_page()
        await page.wait_for("a", "children", "here")
        await browser.drop()
        with anyio.fail_after(5):
            await server.ended.wait()
        assert server.disconnected == 1006


async def test_what_the_worker_cannot_use_is_an_error_of_the_page():
    async def script(renderer, say):
        await say({"type": "error", "rendererId": renderer, "payload": {"message": "m", "code": 7}})
        await say({"type": "surprise", "rendererId": renderer})
        await say(update(renderer, "a", "end"))

    async with open_browser(FakeServer(TWO_DIVS, script)) as browser:
        page = await browser.open_page()
        await page.wait_for("a", "children", "end")
        first, second = page.errors
        assert (str(first), first.code) == ("m", "7")
        assert "surprise" in str(second)


async def test_an_unanswered_heartbeat_closes_with_4000():
    async def script(renderer, say):
        pass

    server = FakeServer(TWO_DIVS, script)
    async with open_browser(server, heartbeat=0.01, heartbeat_timeout=0.01) as browser:
        await browser.open_page()
        assert await browser.wait_closed() == 4000
    assert server.disconnected == 4000


async def test_a_client_that_reads_nothing_holds_up_the_sender():
    sent = 0

    async def script(renderer, say):
        nonlocal sent
        await ready.wait()
        for number in range(1000):
            await say(update(renderer, "a", number))
            sent += 1

    ready = anyio.Event()
    async with open_browser(FakeServer(TWO_DIVS, script)) as browser:
        page = await browser.open_page()
        browser.pause_reading()
        ready.set()
        await anyio.wait_all_tasks_blocked()
        assert 0 < sent < 50
        assert page.history("a", "children") == []
        browser.resume_reading()
        await page.wait_for("a", "children", 999)
        assert sent == 1000


async def test_frames_and_histories_are_bounded():
    async def script(renderer, say):
        for number in range(100):
            await say(update(renderer, "a", number))

    async with open_browser(
        FakeServer(TWO_DIVS, script), history_limit=5, frames_limit=7
    ) as browser:
        page = await browser.open_page()
        await page.wait_for("a", "children", 99)
        assert page.history("a", "children") == [95, 96, 97, 98, 99]
        assert len(browser.frames) == 7
        assert browser.frames_received == 100
        assert browser.bytes_received > 100 * len(browser.frames[-1]) * 0.9


async def test_an_app_that_fails_ends_the_socket_with_1011(caplog):
    async def script(renderer, say):
        raise ValueError("broken app")

    with caplog.at_level(logging.ERROR, "dashws_async.testing"):
        async with open_browser(FakeServer(TWO_DIVS, script)) as browser:
            await browser.open_page()
            assert await browser.wait_closed() == 1011
    assert "broken app" in caplog.text


async def test_leaving_the_browser_disconnects_and_lets_the_app_clean_up():
    cleaned = []

    async def script(renderer, say):
        pass

    class Careful(FakeServer):
        async def serve_websocket(self, receive, send):
            await super().serve_websocket(receive, send)
            await anyio.sleep(0.02)
            cleaned.append(self.disconnected)

    async with open_browser(Careful(TWO_DIVS, script)) as browser:
        await browser.open_page()
    assert cleaned == [1000]


async def test_an_app_that_does_not_end_is_cancelled_after_the_shutdown_timeout():
    async def script(renderer, say):
        await anyio.sleep(60)

    with anyio.fail_after(5):
        async with open_browser(FakeServer(TWO_DIVS, script), shutdown_timeout=0.05) as browser:
            await browser.open_page()


async def test_two_browsers_visit_one_app_and_its_lifespan_runs_once(new_app):
    app = countdown(new_app())
    starts = []

    @app.server.before_serving
    async def started():
        starts.append(1)

    async with open_browser(app) as one, open_browser(app) as two:
        first, second = await one.open_page(), await two.open_page()
        seen = await first.wait_for("live", "children", lambda value: value)
        await two.drop()
        await first.wait_for("live", "children", lambda value: value > seen + 2)
        assert second.running == []
    assert starts == [1]


async def test_an_app_that_does_not_start_says_why(new_server):
    server = new_server("broken")

    @server.before_serving
    async def fail():
        raise ValueError("no database")

    with pytest.raises(RuntimeError, match=r"did not start: .*no database"):
        async with open_browser(server):
            pass


async def test_state_and_outputs_of_a_callback_are_read_from_the_page(new_app):
    app = new_app(
        html.Div([html.Button(id="go"), dcc.Input(id="s", value="state"), html.Div(id="out")])
    )

    @app.callback(
        output={"o": Output("out", "children"), "t": Output("out", "title")},
        inputs={"go": Input("go", "n_clicks"), "s": State("s", "value")},
        prevent_initial_call=True,
    )
    async def grouped(go, s):
        return {"o": [go, s, ctx.triggered_id], "t": no_update}

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", [1, "state", "go"])
        assert page.get("out", "title") is None
