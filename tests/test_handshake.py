"""Who may open a WebSocket: the origin, the limit, and Dash's two hooks."""

import asyncio
import textwrap

import anyio
import anyio.to_thread
import dash
import pytest
import quart
from dash import Input, Output

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.dash_bridge import DashApp
from dashws_async.registry import REFUSALS
from dashws_async.testing import open_browser
from serving import Server, server_class
from until import eventually

pytestmark = pytest.mark.anyio


def refused(runtime):
    counts = runtime.statistics().refused
    assert list(counts) == list(REFUSALS)
    return {why: number for why, number in counts.items() if number}


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
async def test_origins(anyio_backend, origin, allowed, caplog):
    runtime = WebSocketRuntime()
    app = make_app(
        anyio_backend,
        "out",
        runtime=runtime,
        websocket_allowed_origins=["https://friend.example/"],
    )
    options = {} if origin == "same" else {"origin": origin}
    async with open_browser(app, **options) as browser:
        await browser.open_page()
        assert browser.connected is allowed
        if not allowed:
            assert browser.handshake_status == 403
    assert runtime.statistics().connections_total == int(allowed)
    assert refused(runtime) == ({} if allowed else {"origin": 1})


SAME_ORIGIN = [("host", "dash.test"), ("origin", "http://dash.test")]


async def answer_to_handshake(app, *headers, extensions=("websocket.http.response",)):
    """What an ASGI server is told to answer."""
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/_dash-ws-callback",
        "raw_path": b"/_dash-ws-callback",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "subprotocols": [],
        "extensions": {name: {} for name in extensions},
    }
    sent, received = [], []

    async def receive():
        if not received:
            received.append(True)
            return {"type": "websocket.connect"}
        await eventually(lambda: sent)
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(event):
        sent.append(event)

    with anyio.fail_after(5):
        await app.server(scope, receive, send)
    return sent


async def test_a_refused_handshake_is_answered_and_logged_with_the_reason(anyio_backend, caplog):
    caplog.set_level("INFO", "dashws_async")
    app = make_app(anyio_backend, "out")
    headers = [("host", "dash.test"), ("origin", "http://<b>stranger")]
    start, *body = await answer_to_handshake(app, *headers)
    assert start["status"] == 403
    assert dict(start["headers"])[b"content-type"].startswith(b"text/plain")  # it quotes the client
    text = b"".join(part["body"] for part in body).decode()
    assert "<b>stranger" in text
    assert f"Refused a WebSocket: {text}" in caplog.messages


async def test_a_server_that_cannot_send_an_answer_refuses_in_its_own_way(anyio_backend):
    app = make_app(anyio_backend, "out")
    (close,) = await answer_to_handshake(app, ("host", "dash.test"), extensions=())
    assert close["type"] == "websocket.close"


@pytest.mark.parametrize("again", ["origin", "host"])
async def test_a_header_that_comes_twice_is_refused(anyio_backend, again):
    app = make_app(anyio_backend, "out", websocket_allowed_origins=[])
    twice = [*SAME_ORIGIN, *(header for header in SAME_ORIGIN if header[0] == again)]
    assert (await answer_to_handshake(app, *SAME_ORIGIN))[0]["type"] == "websocket.accept"
    assert (await answer_to_handshake(app, *twice))[0]["status"] == 403


def test_a_wrong_allowed_origin_is_named_when_the_app_is_made():
    with pytest.raises(ValueError, match=r"websocket_allowed_origins=\['\*'\].*wildcard"):
        make_app("asyncio", websocket_allowed_origins=["*"])


BEHIND_PROXY = """
    from dash import Dash, html
    from hypercorn.middleware import ProxyFixMiddleware
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    server = {server}(__name__)
    {before}
    app = Dash(__name__, server=server, websocket_callbacks=True, plugins=[WebSocketRuntime()])
    app.layout = html.Div()
    {after}
"""
FIX_SERVER = "server.asgi_app = ProxyFixMiddleware(server.asgi_app)"
FIX_EVERYTHING = "app.server = ProxyFixMiddleware(app.server)"


@pytest.mark.process
@pytest.mark.parametrize(
    ("before", "after", "trusted"),
    [
        ("", "", False),
        ("", FIX_EVERYTHING, True),
        ("", FIX_SERVER, True),
        (FIX_SERVER, "", True),
    ],
    ids=["not trusted", "around everything", "around the server", "inside"],
)
async def test_what_a_proxy_forwards_counts_if_the_proxy_is_trusted(
    anyio_backend, tmp_path, before, after, trusted
):
    package, name = server_class(anyio_backend)
    source = BEHIND_PROXY.format(package=package, server=name, before=before, after=after)
    server = Server(textwrap.dedent(source), anyio_backend, tmp_path, "hypercorn")
    server.start()
    try:
        headers = {
            "X-Forwarded-Host": "app.example",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "192.0.2.1",
        }
        for origin, connected in [
            ("https://app.example", trusted),
            ("http://app.example", False),
            (server.url, not trusted),
            ("https://evil.example", False),
        ]:
            async with open_browser(server.url, headers=headers, origin=origin) as browser:
                await browser.open_page()
                assert browser.connected is connected, origin
                assert browser.handshake_status == (None if connected else 403)
    finally:
        await anyio.to_thread.run_sync(server.stop)


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Host", "Forwarded"])
async def test_what_anybody_can_say_of_a_host_does_not_count(anyio_backend, header):
    app = make_app(anyio_backend, "out")
    headers = {header: "host=evil.example" if header == "Forwarded" else "evil.example"}
    async with open_browser(app, headers=headers, origin="http://evil.example") as browser:
        await browser.open_page()
        assert browser.handshake_status == 403


async def test_no_more_connections_than_max_connections(anyio_backend):
    runtime = WebSocketRuntime(max_connections=2)
    app = make_app(anyio_backend, "out", runtime=runtime)
    async with (
        open_browser(app) as first,
        open_browser(app) as second,
        open_browser(app) as third,
    ):
        for browser in [first, second, third]:
            await browser.open_page()
        assert third.handshake_status == 503
        assert refused(runtime) == {"full": 1}
        await first.close()
        await eventually(lambda: runtime.statistics().connections == 1)
        await third.reconnect()
        assert third.connected
        assert runtime.statistics().connections_total == 3


async def test_a_handshake_that_is_not_decided_yet_takes_a_place(anyio_backend, hooks):
    asked, decided = anyio.Event(), anyio.Event()

    @hooks.websocket_connect()
    async def decide(websocket):
        asked.set()
        await decided.wait()
        return False

    runtime = WebSocketRuntime(max_connections=1)
    app = make_app(anyio_backend, "out", runtime=runtime)
    async with open_browser(app) as first, open_browser(app) as second:
        await first.open_page()
        await asked.wait()
        await second.open_page()
        assert second.handshake_status == 503
        decided.set()
        assert await first.wait_closed() == 4001
        await second.reconnect()
        assert await second.wait_closed() == 4001
    assert refused(runtime) == {"full": 1, "hook": 2}


class NotEvenABool:
    """As numpy's arrays are."""

    def __init__(self, error):
        self.error = error

    def __bool__(self):
        raise self.error


UNDERSTOOD = [
    (True, None),
    (None, None),
    ("a user", None),
    (False, 4001),
    ((4401, "log in"), 4401),
    ([4401, "log in"], 4401),
    ((1000, ""), 1000),
]
NOT_UNDERSTOOD = [
    ZeroDivisionError,  # is raised
    TimeoutError,
    0,
    "",
    (),
    (4401, "log in", "more"),
    (1006, "may not be sent"),
    (4401.0, "log in"),
    ("4401", "log in"),
    (4401, None),
    ([], []),
    (4401, "too long" * 20),
    (4401, "\ud800"),
    NotEvenABool(ValueError("ambiguous")),
    NotEvenABool(RuntimeError("ambiguous")),
]


@pytest.mark.parametrize(
    ("verdict", "code", "logged"),
    [(verdict, code, []) for verdict, code in UNDERSTOOD]
    + [(verdict, 4001, ["ERROR"]) for verdict in NOT_UNDERSTOOD],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_connect_hook(anyio_backend, hooks, verdict, code, logged, is_async, caplog):
    seen = []

    def look(websocket):
        seen.append(websocket.headers["Origin"])
        if isinstance(verdict, type):
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
    assert refused(runtime) == ({} if code is None else {"hook": 1})
    assert [record.levelname for record in caplog.records] == logged


@pytest.mark.parametrize(
    ("verdict", "code"), [(False, 4001), ((4403, "not you"), 4403), ((4403, 7), 4001)]
)
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


async def never():
    await anyio.sleep_forever()


async def test_a_connect_hook_that_hangs_rejects_and_the_browser_comes_back(
    anyio_backend, hooks, caplog
):
    hooks.websocket_connect()(lambda websocket: never())
    runtime = WebSocketRuntime(hook_timeout=0.01)
    async with open_browser(make_app(anyio_backend, "out", runtime=runtime)) as browser:
        await browser.open_page()
        assert await browser.wait_closed() == 1013
    assert refused(runtime) == {"hook": 1}
    assert "The websocket_connect hook has not answered within 0.01 s, which rejects" in caplog.text


async def test_a_message_hook_that_hangs_closes_and_the_browser_comes_back(
    anyio_backend, hooks, caplog
):
    hooks.websocket_message()(lambda websocket, message: never())
    runtime = WebSocketRuntime(hook_timeout=0.01)
    async with open_browser(make_app(anyio_backend, "out", runtime=runtime)) as browser:
        await browser.open_page()
        await browser.send_text('{"type": "heartbeat"}')
        assert await browser.wait_closed() == 1013
    assert runtime.statistics().closed["hook"] == 1


async def await_what_was_cancelled():
    """Where somebody else, long ago, was cancelled."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class() as cancelled:
            leftover = cancelled
            raise
    raise leftover


async def await_a_cancelled_task():
    task = asyncio.ensure_future(asyncio.sleep(1))
    task.cancel()
    await task


CANCELLED_ELSEWHERE = [
    ("asyncio", await_what_was_cancelled),
    ("asyncio", await_a_cancelled_task),
    ("trio", await_what_was_cancelled),
]


@pytest.mark.parametrize(("anyio_backend", "fail"), CANCELLED_ELSEWHERE, indirect=["anyio_backend"])
@pytest.mark.parametrize("kind", ["websocket_connect", "websocket_message"])
async def test_a_hook_that_raises_the_cancellation_of_something_else_rejects(
    anyio_backend, hooks, kind, fail, caplog
):
    getattr(hooks, kind)()(lambda *_: fail())
    runtime = WebSocketRuntime()
    async with open_browser(make_app(anyio_backend, "out", runtime=runtime)) as browser:
        await browser.open_page()
        if kind == "websocket_message":
            await browser.send_text('{"type": "heartbeat"}')
        with anyio.fail_after(5):
            assert await browser.wait_closed() == 4001
    counted = runtime.statistics()
    assert (counted.refused if kind == "websocket_connect" else counted.closed)["hook"] == 1
    assert f"The {kind} hook failed, which rejects" in caplog.text


class TakesNothing:
    """A client's socket that takes nothing, not even the close frame."""

    aborted = False

    async def close(self, code, reason):
        await anyio.sleep_forever()

    def abort(self):
        self.aborted = True


async def serve(runtime, app, transport):
    await runtime._runtime.serve(transport, DashApp(app), websocket=None)


async def test_a_handshake_whose_hook_is_cancelled_with_the_server_is_not_refused(
    anyio_backend, hooks, caplog
):
    asked = anyio.Event()

    @hooks.websocket_connect()
    async def hang(_):
        asked.set()
        await anyio.sleep_forever()

    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, runtime=runtime)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, runtime, app, TakesNothing())
        await asked.wait()
        tasks.cancel_scope.cancel()
    assert refused(runtime) == {}
    assert caplog.messages == []


@pytest.mark.virtual_time
async def test_a_rejected_client_that_takes_nothing_is_dropped(anyio_backend_name, hooks):
    hooks.websocket_connect()(lambda _: False)
    runtime, transport = WebSocketRuntime(), TakesNothing()
    with anyio.fail_after(5):
        await serve(runtime, make_app(anyio_backend_name, runtime=runtime), transport)
    assert transport.aborted
    assert refused(runtime) == {"hook": 1}


async def test_a_handshake_that_is_decided_during_a_drain_is_sent_elsewhere(anyio_backend, hooks):
    asked, decided = anyio.Event(), anyio.Event()

    @hooks.websocket_connect()
    async def decide(_):
        asked.set()
        await decided.wait()

    runtime = WebSocketRuntime()
    async with open_browser(make_app(anyio_backend, runtime=runtime)) as browser:
        async with anyio.create_task_group() as pages:
            pages.start_soon(browser.open_page)
            await asked.wait()
            await runtime._runtime.drain()
            decided.set()
        assert await browser.wait_closed() == 1012
    assert runtime.statistics().closed["restart"] == 1


async def test_hooks_are_asked_in_the_websocket_context_and_with_the_app(anyio_backend, hooks):
    app = make_app(anyio_backend, "out")
    seen = []

    @hooks.websocket_connect()
    def look(websocket):
        seen.append((quart.websocket.path, quart.current_app.name, dash.get_app() is app))

    async with open_browser(app) as browser:
        await browser.open_page()
        assert browser.connected
    assert seen == [("/_dash-ws-callback", "tests", True)]


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
    assert refused(runtime) == {"set_up": 1}


async def handshakes(app, count):
    """Let so many come at once; how many turns of the loop it takes until all are accepted."""
    accepted, turns = [], 0

    async def come():
        start, *_ = await answer_to_handshake(app, *SAME_ORIGIN)
        accepted.append(start["type"])

    async with anyio.create_task_group() as clients:
        for _ in range(count):
            clients.start_soon(come)
        while len(accepted) < count:
            await anyio.lowlevel.checkpoint()
            turns += 1
    assert accepted == ["websocket.accept"] * count
    return turns


@pytest.mark.parametrize("before", [0, 1])
async def test_handshakes_do_not_wait_for_each_other(anyio_backend, before):
    app = make_app(anyio_backend, "out")
    await handshakes(app, before)
    assert await handshakes(app, 200) < 50


async def test_handshakes_wait_until_the_first_has_set_the_app_up(anyio_backend):
    app = make_app(anyio_backend, "out")
    begun, ready = anyio.Event(), anyio.Event()
    at_it = []

    async def set_up():
        at_it.append("again" if begun.is_set() else "begins")
        begun.set()
        await ready.wait()
        at_it.append("ends")

    app.backend.before_request(set_up)
    async with anyio.create_task_group() as clients:
        for _ in range(3):
            clients.start_soon(answer_to_handshake, app, *SAME_ORIGIN)
        await begun.wait()
        await anyio.wait_all_tasks_blocked()
        ready.set()
    assert at_it == ["begins", "ends", "again", "ends", "again", "ends"]
