"""Who carries a WebSocket: when it leaves Hypercorn, when it stays, and who sees a difference."""

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import struct

import anyio
import pytest
import quart
from dash import Input, Output, ctx, set_props
from hypercorn.asyncio.tcp_server import TCPServer
from quart import websocket
from websockets.asyncio.client import connect
from websockets.protocol import SERVER, Protocol

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.backends.asgi import AsgiTransport
from dashws_async.backends.carrier import CARRIER, Carrier
from dashws_async.backends.direct import DirectTransport
from dashws_async.backends.lifespan import Lifespan, _Apart
from dashws_async.messages import HEARTBEAT_ACK
from raw_socket import RawSocket
from test_hypercorn import (  # noqa: F401, fixtures too
    HEARTBEAT,
    certificate,
    connected,
    served,
    tcp_connections,
)
from until import eventually

pytestmark = pytest.mark.anyio


async def carried_by(client):
    """Whose business a WebSocket of `an_app` is, when it is served."""
    await client.send(ask("who"))
    answer = json.loads(await client.recv())
    return answer["payload"]["data"]["response"]["who"]["title"]


def ask(output, number=1):
    payload = {
        "output": f"{output}.title",
        "outputs": {"id": output, "property": "title"},
        "inputs": [{"id": "go", "property": "n_clicks", "value": 1}],
        "changedPropIds": ["go.n_clicks"],
    }
    message = {"type": "callback_request", "rendererId": "tab", "requestId": f"tab-{number}"}
    return json.dumps({**message, "payload": payload})


def an_app(loop, **knobs):
    runtime = WebSocketRuntime(**knobs)
    app = make_app(loop, "go", "who", runtime=runtime)

    @app.callback(Output("who", "title"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def who(_):
        return type(websocket.scope[CARRIER].transport).__name__

    return runtime, app


DIRECT, ASGI = DirectTransport.__name__, AsgiTransport.__name__


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_hypercorn_keeps_nothing_of_an_accepted_websocket(
    anyio_backend,
    tcp_connections,  # noqa: F811
):
    runtime, app = an_app(anyio_backend)
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        assert await carried_by(client) == DIRECT
        await eventually(lambda: not tcp_connections)
        gc.collect()
        kept = [each for each in gc.get_objects() if type(each) is TCPServer]
        assert not kept
        assert await carried_by(client) == DIRECT
    await eventually(lambda: not runtime.statistics().connections)


async def test_on_trio_it_stays(anyio_backend):
    _, app = an_app(anyio_backend)
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        assert await carried_by(client) == (ASGI if anyio_backend == "trio" else DIRECT)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("knobs", "settings"),
    [
        ({"compression": True}, {}),
        ({}, {"websocket_ping_interval": 60}),
        ({}, {"read_timeout": 60}),
    ],
    ids=["compression", "pings", "read timeout"],
)
async def test_what_hypercorn_has_to_do_for_it_keeps_it_there(anyio_backend, knobs, settings):
    runtime, app = an_app(anyio_backend, **knobs)
    async with (
        served(app.server, anyio_backend, **settings) as url,
        connected(url, anyio_backend) as client,
    ):
        assert await carried_by(client) == ASGI
    await eventually(lambda: not runtime.statistics().connections)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_compression_that_the_client_does_not_offer_keeps_nothing(anyio_backend):
    runtime, app = an_app(anyio_backend, compression=True)
    async with served(app.server, anyio_backend) as url:
        client = await anyio.to_thread.run_sync(RawSocket, url)
        client.send(ask("who"))
        assert DIRECT in await anyio.to_thread.run_sync(client.receive)
        client.reset()
        await eventually(lambda: not runtime.statistics().connections)


class Around:
    """An ASGI middleware that has something to clean up when the WebSocket has ended."""

    def __init__(self, app):
        self._app = app
        self.ended = anyio.Event()
        self.sent = []

    async def __call__(self, scope, receive, send):
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                self.ended.set()


class LooksOn(Around):
    """One that sees what passes."""

    async def __call__(self, scope, receive, send):
        async def noted(event):
            self.sent.append(event)
            await send(event)

        await super().__call__(scope, receive, noted if scope["type"] == "websocket" else send)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_a_middleware_lives_as_long_as_its_websocket(anyio_backend, where):
    runtime = WebSocketRuntime()
    if where == "inside":  # it was there before the runtime
        server = quart.Quart(__name__)
        server.asgi_app = middleware = Around(server.asgi_app)
        app = make_app(anyio_backend, runtime=runtime, server=server)
    else:
        app = make_app(anyio_backend, runtime=runtime)
        app.server.asgi_app = middleware = Around(app.server.asgi_app)
    async with served(app.server, anyio_backend) as url:
        async with connected(url, anyio_backend) as client:
            await client.send(HEARTBEAT)
            assert await client.recv() == HEARTBEAT_ACK
            assert not middleware.ended.is_set()
        with anyio.fail_after(10):
            await middleware.ended.wait()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_a_middleware_that_looks_on_sees_all_that_passes(anyio_backend, where):
    if where == "inside":
        server = quart.Quart(__name__)
        server.asgi_app = middleware = LooksOn(server.asgi_app)
        app = make_app(anyio_backend, server=server)
    else:
        app = make_app(anyio_backend)
        app.server.asgi_app = middleware = LooksOn(app.server.asgi_app)
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        await client.send(HEARTBEAT)
        assert await client.recv() == HEARTBEAT_ACK
    texts = [event.get("text") for event in middleware.sent]
    assert HEARTBEAT_ACK in texts


async def test_the_framework_s_teardown_comes_when_the_websocket_has_ended(anyio_backend):
    _, app = an_app(anyio_backend)
    torn_down = anyio.Event()

    @app.server.teardown_websocket
    async def note(_):
        torn_down.set()

    async with served(app.server, anyio_backend) as url:
        async with connected(url, anyio_backend) as client:
            await carried_by(client)
            assert not torn_down.is_set()
        with anyio.fail_after(10):
            await torn_down.wait()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_fails_after_hypercorn_has_let_go_is_in_the_log(anyio_backend, caplog):
    _, app = an_app(anyio_backend)

    @app.server.teardown_websocket
    async def fail(_):
        raise LookupError("on purpose")

    async with served(app.server, anyio_backend) as url:
        async with connected(url, anyio_backend) as client:
            await carried_by(client)
        await eventually(lambda: "on purpose" in caplog.text)
    (record,) = (each for each in caplog.records if each.exc_info and each.levelname == "ERROR")
    assert record.name == "dashws_async"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_hook_speaks_and_listens_as_before(anyio_backend, hooks):
    heard = []

    async def look(socket, message):
        await socket.send("I see")

    async def ask_first(socket):
        await socket.send("who?")
        heard.append(await socket.receive())
        await socket.send(b"bytes")

    hooks.websocket_connect()(ask_first)
    hooks.websocket_message()(look)
    _, app = an_app(anyio_backend)
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        assert await client.recv() == "who?"
        await client.send("ann")
        assert await client.recv() == b"bytes"
        await client.send(HEARTBEAT)
        assert await client.recv() == "I see"
        assert await client.recv() == HEARTBEAT_ACK
    assert heard == ["ann"]


async def test_what_a_step_of_a_callback_sends_is_one_frame(anyio_backend):
    _, app = an_app(anyio_backend)

    @app.callback(Output("go", "title"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def steps(_):
        set_props("who", {"a": 1, "b": 2})
        await anyio.sleep(0.01)
        set_props("who", {"a": 3})
        return "done"

    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        await client.send(ask("go"))
        frames = [json.loads(await client.recv()) for _ in range(2)]
    kinds = [[each["type"] for each in frame] for frame in frames]
    assert kinds == [["set_props", "set_props"], ["set_props", "callback_response"]]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_stops_waits_for_those_that_have_left_it(anyio_backend):
    """It does not know of them: their callbacks have the time to clean up even so."""
    runtime, app = an_app(anyio_backend, cleanup_timeout=5)
    cleaned_up = []

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            await anyio.sleep(0.01)
        await anyio.sleep(0.5)
        cleaned_up.append(True)

    async with served(app.server, anyio_backend) as url:
        client = await anyio.to_thread.run_sync(RawSocket, url)
        message = {"type": "callback_request", "rendererId": "tab", "requestId": "tab-1"}
        output = next(each["output"] for each in app._callback_list if each.get("persistent"))
        client.send(json.dumps({**message, "payload": {"output": output, "inputs": []}}))
        await eventually(lambda: runtime.statistics().persistent_callbacks)
    assert cleaned_up
    assert client.receive_close() == 1012


HANDSHAKE = """\
GET /_dash-ws-callback HTTP/1.1
Host: {host}
Origin: {url}
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==
Sec-WebSocket-Version: 13

"""


def say(url, more=b""):
    """A client that has sent a handshake, and what follows it."""
    host = url.removeprefix("http://")
    client = socket.create_connection(host.split(":"))
    client.settimeout(10)
    client.sendall(HANDSHAKE.format(host=host, url=url).replace("\n", "\r\n").encode() + more)
    return client


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_a_client_that_leaves_before_it_is_accepted_is_gone(anyio_backend, how):
    runtime, app = an_app(anyio_backend)
    came, left = anyio.Event(), anyio.Event()

    @app.server.before_websocket
    async def take_time():
        came.set()
        await left.wait()
        await anyio.sleep(0.05)

    async with served(app.server, anyio_backend) as url:
        client = await anyio.to_thread.run_sync(say, url)
        await came.wait()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        left.set()
        await eventually(lambda: runtime.statistics().connections_total)
        await eventually(lambda: not runtime.statistics().connections)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_that_speaks_too_soon_is_refused_and_not_served(anyio_backend):
    runtime, app = an_app(anyio_backend)

    def say_too_soon():
        with contextlib.closing(say(url, b"\x81\x82\0\0\0\0{}")) as client:
            found = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(4096):
                    found += data
            return found

    async with served(app.server, anyio_backend) as url:
        answer = await anyio.to_thread.run_sync(say_too_soon)
        assert answer.startswith(b"HTTP/1.1 400 ")
        await eventually(lambda: not runtime.statistics().connections)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_client_still_has_to_take_is_waited_for_whoever_gives_up(
    anyio_backend, monkeypatch
):
    """The server's task, or the server's lifespan; neither may wait for ever then."""
    _, app = an_app(anyio_backend)
    lifespan, finished = Lifespan.of(app.server), []

    class Slow(DirectTransport):
        def __init__(self):
            pass

        async def finish(self, timeout):
            await anyio.sleep(0.1)
            finished.append(timeout)

    async def serve(scope, receive, send):
        pass

    async with served(app.server, anyio_backend):
        lifespan._app, carrier = serve, Carrier({}, None, None)
        carrier.transport = Slow()
        server = asyncio.create_task(lifespan._serve_apart(_Apart(), {CARRIER: carrier}, carrier))
        await asyncio.sleep(0.02)
        for apart in lifespan._aparts:
            apart.cancel()
        server.cancel()
        with anyio.fail_after(5):
            await asyncio.wait([server])
        assert finished
        assert not lifespan._aparts


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_server_that_gives_up_a_websocket_waits_for_nothing_that_never_began(
    anyio_backend, begun
):
    _, app = an_app(anyio_backend)
    lifespan, ended = Lifespan.of(app.server), []

    async def serve(scope, receive, send):
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with served(app.server, anyio_backend):
        lifespan._app, carrier = serve, Carrier({}, None, None)
        server = asyncio.create_task(lifespan._serve_apart(_Apart(), {CARRIER: carrier}, carrier))
        for _ in range(1 + begun):
            await asyncio.sleep(0)
        for apart in lifespan._aparts:
            apart.cancel()
        server.cancel()
        with anyio.fail_after(5):
            await asyncio.wait([server])
        assert server.cancelled()
        assert len(ended) == int(begun)
        assert not lifespan._aparts


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("tls", [False, True])
async def test_what_has_ended_is_gone_without_the_garbage_collector(
    anyio_backend,
    tls,
    certificate,  # noqa: F811
):
    runtime, app = an_app(anyio_backend)
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    kept = (DirectTransport, Protocol, asyncio.sslproto.SSLProtocol)

    def count():
        """Those of the server; the client's own are on its side."""
        return sum(
            issubclass(type(each), kept)
            and getattr(each, "side", SERVER) is SERVER
            and getattr(each, "_server_side", True)
            for each in gc.get_objects()
        )

    async with served(app.server, anyio_backend, **certificate if tls else {}) as url:
        url = url.replace("http", "https") if tls else url
        target = url.replace("http", "ws") + "/_dash-ws-callback"
        options = {"origin": url, "ssl": unverified} if tls else {"origin": url}
        gc.collect()
        before = count()
        gc.disable()
        try:
            for _ in range(5):
                async with connect(target, **options) as client:
                    assert await carried_by(client) == DIRECT
            await eventually(lambda: not runtime.statistics().connections)
            await eventually(lambda: count() <= before)
        finally:
            gc.enable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_that_come_and_go_leave_no_descriptor_and_no_task(anyio_backend):
    runtime, app = an_app(anyio_backend)

    def come_and_go(number):
        client = RawSocket(url)
        client.send(HEARTBEAT)
        assert client.receive() == HEARTBEAT_ACK
        if number % 3 == 0:
            client.close()
        elif number % 3 == 1:
            client.reset()

    async with served(app.server, anyio_backend) as url:
        with contextlib.suppress(OSError):
            for number in range(30):
                await anyio.to_thread.run_sync(come_and_go, number)
        await eventually(lambda: not runtime.statistics().connections)
        gc.collect()
        await eventually(
            lambda: not [each for each in gc.get_objects() if type(each) is DirectTransport]
        )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_leaves_hypercorn_with_its_tls(anyio_backend, certificate, tcp_connections):  # noqa: F811
    runtime, app = an_app(anyio_backend)
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    async with served(app.server, anyio_backend, **certificate) as url:
        url = url.replace("http", "https")
        async with connect(
            url.replace("http", "ws") + "/_dash-ws-callback", origin=url, ssl=unverified
        ) as client:
            assert await carried_by(client) == DIRECT
            await eventually(lambda: not tcp_connections)
            await client.send(json.dumps({"type": "heartbeat", "filler": "x" * 100_000}))
            assert await client.recv() == HEARTBEAT_ACK
            runtime.close(where=lambda peer: True, code=4003, reason="enough")
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4003, "enough")
        await eventually(lambda: not runtime.statistics().connections)
