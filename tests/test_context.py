"""What a WebSocket callback finds around itself: ctx, Quart, context variables, its app."""

import json
from contextvars import ContextVar

import anyio
import dash
import pytest
import quart
from dash import Dash, Input, Output, ctx, dcc, html, set_props

from apps import make_app, make_server
from dashws_async import WebSocketRuntime, offload
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio

from_middleware = ContextVar("from_middleware", default="not set")


WAYS = [
    ("async", "async def"),
    ("async", "def"),
    ("async", "offload"),
    ("hybrid", "def"),
    ("threads", "async def"),
    ("threads", "def"),
]


@pytest.fixture(params=WAYS, ids=": ".join)
def way(request):
    """Where a callback runs: the runtime's mode, and the kind of function."""
    return request.param


def as_kind(kind, function):
    """A plain function as a callback of a kind."""

    async def async_function(*arguments):
        await anyio.sleep(0)
        return function(*arguments)

    return {"def": function, "offload": offload(function), "async def": async_function}[kind]


async def test_ctx_is_as_it_is_over_http(anyio_backend, way):
    mode, kind = way
    runtime = WebSocketRuntime(mode=mode)
    app = make_app(anyio_backend, "go", "out", runtime=runtime, websocket_callbacks=False)
    seen = {}

    def look(transport):
        seen[transport] = {
            "inputs": dict(ctx.inputs),
            "triggered": ctx.triggered_id,
            "cookies": dict(ctx.cookies),
            "agent": ctx.headers.get("User-Agent"),
            "remote": ctx.remote,
            "origin": ctx.origin,
        }
        return ctx.path.partition("?")[0]

    inputs = [Input("go", "n_clicks")]

    def look_by_websocket(_):
        return look("websocket")

    app.callback(Output("go", "title"), *inputs, websocket=True, prevent_initial_call=True)(
        as_kind(kind, look_by_websocket)
    )

    @app.callback(Output("out", "title"), *inputs, prevent_initial_call=True)
    async def http(_):
        return look("http")

    headers = {"User-Agent": "test/1"}
    async with open_browser(app, headers=headers, cookies={"session": "42"}) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("go", "title", "/_dash-ws-callback")
        await page.wait_for("out", "title", "/_dash-update-component")
    assert seen["websocket"]["cookies"] == {"session": "42"}
    assert seen["websocket"]["agent"] == "test/1"
    assert seen["websocket"]["origin"] == "http://dash.test"
    for name in ["inputs", "triggered", "cookies", "agent", "remote"]:
        assert seen["websocket"][name] == seen["http"][name], name


async def test_ctx_args_are_those_of_the_handshake(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"))
    async def look(_):
        return dict(ctx.args)

    answer = await first_call(app, "out.children", "go.n_clicks", 1, query="?tenant=7")
    assert answer["data"]["response"] == {"out": {"children": {"tenant": "7"}}}


@pytest.mark.parametrize("around", ["the server", "everything"])
async def test_the_framework_and_middleware_are_visible(anyio_backend, way, around):
    mode, kind = way
    app = make_app(anyio_backend, "go", "out", runtime=WebSocketRuntime(mode=mode))
    app.server.secret_key = "secret"
    inner = app.server.asgi_app if around == "the server" else app.server

    async def middleware(scope, receive, send):
        from_middleware.set(scope["type"])
        await inner(scope, receive, send)

    if around == "the server":
        app.server.asgi_app = middleware

    @app.server.before_websocket
    def mark():
        quart.g.mark = "before"

    def look(_):
        return [
            from_middleware.get(),
            quart.websocket.path,
            quart.current_app.name,
            quart.g.mark,
            dict(quart.session),
            dash.get_app() is app,
        ]

    app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)(
        as_kind(kind, look)
    )
    outermost = app if around == "the server" else middleware
    async with open_browser(outermost) as browser:
        page = await browser.open_page()
        await page.click("go")
        expected = ["websocket", "/_dash-ws-callback", "tests", "before", {}, True]
        await page.wait_for("out", "children", expected)


async def test_the_session_of_the_handshake_can_be_read_but_not_written(anyio_backend, way, caplog):
    mode, kind = way
    runtime = WebSocketRuntime(mode=mode)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    app.server.secret_key = "secret"

    @app.server.before_request
    def sign_in():
        quart.session.setdefault("user", "ann")

    def rename(clicks):
        before = quart.session["user"]
        if clicks == 2:
            quart.session["user"] = "bob"
        return [clicks, before]

    app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)(
        as_kind(kind, rename)
    )
    async with open_browser(app) as browser:
        page = await browser.open_page()
        for clicks in [1, 2]:
            await page.click("go")
            await page.wait_for("out", "children", [clicks, "ann"])
        # There is no response that could carry the cookie; Quart says so when it ends.
        await browser.drop()
        await eventually(lambda: "cannot be set" in caplog.text)
        await browser.reconnect()
        await page.click("go")
        await page.wait_for("out", "children", [3, "ann"])


async def test_what_a_callback_sets_in_its_context_stays_there(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave_a_mark(clicks):
        before = from_middleware.get()
        from_middleware.set("marked")
        return [clicks, before]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        for clicks in [1, 2]:
            await page.click("go")
            await page.wait_for("out", "children", [clicks, "not set"])


async def test_custom_data_hooks_run(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    hooks = dash.hooks

    @hooks.custom_data("tests")
    def data(context):
        return sorted(context["input_values"])

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def look(_):
        return ctx.custom_data["tests"]

    try:
        async with open_browser(app) as browser:
            page = await browser.open_page()
            await page.click("go")
            await page.wait_for("out", "children", ["go.n_clicks"])
    finally:
        hooks._ns["custom_data"].clear()


@pytest.fixture
def global_callbacks():
    """Callbacks registered with ``dash.callback`` belong to the first app that asks."""
    from dash import _callback

    yield
    _callback.GLOBAL_CALLBACK_LIST.clear()
    _callback.GLOBAL_CALLBACK_MAP.clear()


@pytest.mark.usefixtures("global_callbacks")
async def test_a_websocket_before_any_http_request_finds_global_callbacks(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @dash.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def registered_globally(clicks):
        return clicks + 1

    answer = await first_call(app, "out.children", "go.n_clicks", 1)
    assert answer["data"]["response"] == {"out": {"children": 2}}


@pytest.mark.usefixtures("own_pages")
async def test_a_websocket_before_any_http_request_finds_the_pages(anyio_backend):
    app = Dash(
        __name__,
        server=make_server(anyio_backend),
        websocket_callbacks=True,
        use_pages=True,
        pages_folder="",
        plugins=[WebSocketRuntime()],
    )
    dash.register_page("first", path="/", layout=html.Div("page one"))
    dash.register_page("second", path="/two", layout=lambda: html.Div("page two"))
    app.layout = html.Div([dash.page_container])

    answer = await first_call(
        app,
        ".._pages_content.children..._pages_store.data..",
        "_pages_location.pathname",
        "/two",
        "_pages_location.search",
        "",
    )
    shown = answer["data"]["response"]["_pages_content"]["children"]
    assert shown["props"]["children"] == "page two"

    async with open_browser(app) as browser:
        page = await browser.open_page("/two")
        await page.wait_for("_pages_content", "children", lambda shown: "page two" in str(shown))


async def first_call(app, output, *inputs, query=""):
    """The answer to a callback request on a socket that nothing has preceded."""
    listed = [
        {"id": name.rpartition(".")[0], "property": name.rpartition(".")[2], "value": value}
        for name, value in zip(inputs[::2], inputs[1::2], strict=True)
    ]
    names = output[2:-2].split("...") if output.startswith("..") else [output]
    outputs = [
        {"id": name.rpartition(".")[0], "property": name.rpartition(".")[2]} for name in names
    ]
    request = {
        "type": "callback_request",
        "rendererId": "tab",
        "requestId": "tab-1",
        "payload": {
            "output": output,
            "outputs": outputs if output.startswith("..") else outputs[0],
            "inputs": listed,
            "changedPropIds": [inputs[0]],
        },
    }
    client = app.server.test_client()
    headers = {"Origin": "http://localhost"}
    async with client.websocket("/_dash-ws-callback" + query, headers=headers) as socket:
        await socket.send(json.dumps(request))
        with anyio.fail_after(5):
            answer = json.loads(await socket.receive())
    return answer["payload"]


@pytest.mark.parametrize("one_server", [True, False])
async def test_two_apps_in_one_process_do_not_mix(anyio_backend, one_server):
    server = make_server(anyio_backend)
    runtimes = [WebSocketRuntime(), WebSocketRuntime()]
    apps = []
    for number, runtime in enumerate(runtimes):
        app = Dash(
            __name__,
            server=server if one_server else make_server(anyio_backend),
            url_base_pathname=f"/app{number}/",
            websocket_callbacks=True,
            plugins=[runtime],
        )
        app.layout = html.Div([html.Button(id="go"), html.Div(id="out"), dcc.Store(id="live")])

        @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
        async def answer(_, number=number, app=app):
            return [number, dash.get_app() is app]

        @app.callback(persistent=True)
        async def live(number=number):
            while not ctx.websocket.is_shutdown:
                set_props("live", {"data": number})
                await anyio.sleep(0.001)

        apps.append(app)

    async with open_browser(apps[0]) as first, open_browser(apps[1]) as second:
        pages = [await first.open_page(), await second.open_page()]
        for number, page in enumerate(pages):
            await page.click("go")
            await page.wait_for("out", "children", [number, True])
            await page.wait_for("live", "data", number)
            assert runtimes[number].statistics().connections == 1
        for number, page in enumerate(pages):
            assert set(page.history("live", "data")) == {number}
