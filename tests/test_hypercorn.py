"""Under the WebSocket: what is set in Hypercorn, and what flows through it.

Where one of these fails, Hypercorn has changed inside: see `backends/hypercorn.py`.
"""

import collections
import contextlib
import functools
import shutil
import ssl
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import anyio
import hypercorn.asyncio.tcp_server
import hypercorn.config
import hypercorn.trio.tcp_server
import pytest
import websockets.sync.client
from anyio.lowlevel import checkpoint
from dash import hooks
from hypercorn.protocol.events import Data
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from quart import websocket
from wsproto.events import BytesMessage, TextMessage

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.backends import asgi, carrier
from dashws_async.backends import hypercorn as internals
from dashws_async.backends.carrier import CARRIER
from dashws_async.backends.direct import DirectTransport
from dashws_async.messages import HEARTBEAT_ACK
from ports import free_port
from raw_socket import RawSocket
from serving import Server, server_class
from until import eventually

pytestmark = pytest.mark.anyio

HEARTBEAT = '{"type": "heartbeat"}'

HANDSHAKE = """\
GET / HTTP/1.1
Host: test
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==
Sec-WebSocket-Version: 13

""".replace("\n", "\r\n")


@contextlib.asynccontextmanager
async def served(app, loop, **settings):
    """The URL at which Hypercorn serves an ASGI application in this process."""
    if loop == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
    config, stop = hypercorn.config.Config(), anyio.Event()
    config.bind = [f"127.0.0.1:{free_port()}"]
    config.loglevel = "ERROR"
    for name, value in settings.items():
        setattr(config, name, value)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: serve(app, config, shutdown_trigger=stop.wait))
        host, port = config.bind[0].split(":")
        with anyio.fail_after(10):
            while True:
                try:
                    await (await anyio.connect_tcp(host, int(port))).aclose()
                    break
                except OSError:
                    await anyio.sleep(0.01)
        yield f"http://{config.bind[0]}"
        stop.set()


def connected(url, loop, path="/_dash-ws-callback"):
    """A client that offers compression, as browsers do."""
    if loop == "trio":
        from websockets.trio.client import connect
    else:
        from websockets.asyncio.client import connect
    return connect(url.replace("http", "ws") + path, origin=url)


def compresses(client):
    return "permessage-deflate" in client.response.headers.get("Sec-WebSocket-Extensions", "")


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_agreed_on_only_where_it_is_switched_on(anyio_backend, compression):
    app = make_app(anyio_backend, runtime=WebSocketRuntime(compression=compression))
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        assert compresses(client) is compression
        await client.send(HEARTBEAT)
        assert await client.recv() == HEARTBEAT_ACK


@pytest.mark.process
@pytest.mark.parametrize(("loop", "workers"), [("uvloop", 0), ("asyncio", 2), ("trio", 2)])
def test_compression_is_off_however_hypercorn_is_started(tmp_path, loop, workers):
    package, name = server_class(loop)
    source = f"""
from dash import Dash, html
from {package} import {name}
from dashws_async import WebSocketRuntime

app = Dash(__name__, server={name}(__name__), websocket_callbacks=True,
           plugins=[WebSocketRuntime()])
app.layout = html.Div()
"""
    server = Server(source, loop, tmp_path, by="hypercorn", workers=workers)
    server.start()
    try:
        for _ in range(5):  # any worker may answer
            with websockets.sync.client.connect(
                server.url.replace("http", "ws") + "/_dash-ws-callback", origin=server.url
            ) as client:
                assert not compresses(client)
                client.send(HEARTBEAT)
                assert client.recv() == HEARTBEAT_ACK
    finally:
        server.stop()


async def test_other_websockets_of_the_app_are_as_they_were(anyio_backend):
    app = make_app(anyio_backend)

    @app.server.websocket("/echo")
    async def echo():
        assert CARRIER in websocket.scope
        while True:
            await websocket.send(await websocket.receive())

    async with (
        served(app.server, anyio_backend) as url,
        connected(url, anyio_backend, "/echo") as client,
    ):
        assert compresses(client)
        await client.send("hello")
        assert await client.recv() == "hello"


@pytest.mark.parametrize("text", ["x", "é", "\N{SNAKE}"])
@pytest.mark.parametrize("compression", [False, True])
async def test_a_message_past_the_limit_ends_the_websocket(anyio_backend, text, compression):
    limit = 100_000
    runtime = WebSocketRuntime(max_message_bytes=limit, compression=compression)
    app = make_app(anyio_backend, runtime=runtime)
    fits = HEARTBEAT.replace("}", f', "more": "{text * 1000}"}}')
    fits += " " * (limit - len(fits.encode()))
    async with served(app.server, anyio_backend) as url, connected(url, anyio_backend) as client:
        await client.send(fits)
        assert await client.recv() == HEARTBEAT_ACK
        await client.send(fits + " ")
        with anyio.fail_after(10), pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd.code == 1009
        await eventually(lambda: runtime.statistics().connections == 0)


class Refusals:
    """The tasks of a WebSocket, as far as a message needs them."""

    def __init__(self):
        self.count = 0

    def spawn(self, *_):
        self.count += 1


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
def test_a_message_past_the_limit_is_not_kept_and_what_follows_neither(kind):
    piece = "x" * 600 if kind is TextMessage else b"x" * 600
    refusals = Refusals()
    message = internals._Message(1000, refusals, None)
    message.extend(kind(data=piece, message_finished=False))
    with pytest.raises(FrameTooLargeError):
        message.extend(kind(data=piece, message_finished=False))
    for _ in range(3):
        message.extend(kind(data=piece, message_finished=False))
        assert message.value is None
    assert refusals.count == 1


async def test_a_client_that_goes_on_after_a_message_past_the_limit_is_dropped(anyio_backend):
    runtime = WebSocketRuntime(max_message_bytes=1024)
    app = make_app(anyio_backend, runtime=runtime)

    def flood():
        client = RawSocket(url)
        with contextlib.suppress(OSError):
            while True:
                client.send("x" * 60_000)
        client.reset()

    async with served(app.server, anyio_backend) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, flood)
        await eventually(lambda: runtime.statistics().connections_total)
        await eventually(lambda: runtime.statistics().connections == 0)


def test_a_message_in_crumbs_is_refused():
    message, crumb = internals._Message(1_000_000, Refusals(), None), TextMessage("", True, False)
    for _ in range(1000):
        message.extend(crumb)
    with pytest.raises(FrameTooLargeError):
        message.extend(crumb)
    message = internals._Message(1_000_000, Refusals(), None)
    for _ in range(5000):  # but a long one in pieces is not
        message.extend(TextMessage(data="x" * 100, message_finished=False))


async def test_a_connect_hook_may_receive(anyio_backend):
    """As it could from Quart's own WebSocket."""
    heard = []

    async def ask(socket):
        await socket.send("who?")
        heard.append(await socket.receive())

    app = make_app(anyio_backend)
    hooks.websocket_connect()(ask)
    try:
        async with (
            served(app.server, anyio_backend) as url,
            connected(url, anyio_backend) as client,
        ):
            assert await client.recv() == "who?"
            await client.send("ann")
            await client.send(HEARTBEAT)
            assert await client.recv() == HEARTBEAT_ACK
    finally:
        hooks._ns["websocket_connect"].clear()
    assert heard == ["ann"]


@pytest.fixture
def tcp_connections(monkeypatch):
    """Those for which Hypercorn has a task."""
    found = set()

    def noted(run):
        @functools.wraps(run)
        async def noted(connection):
            found.add(connection)
            try:
                await run(connection)
            finally:
                found.remove(connection)

        return noted

    for module in (hypercorn.asyncio.tcp_server, hypercorn.trio.tcp_server):
        monkeypatch.setattr(module.TCPServer, "run", noted(module.TCPServer.run))
    return found


@pytest.mark.parametrize("closed_by", ["server", "client"])
async def test_nothing_is_left_of_a_client_that_had_sent_more_than_was_taken(
    anyio_backend, closed_by, tcp_connections
):
    """Hypercorn would wait for ever for somebody to take what came."""
    runtime = WebSocketRuntime(max_messages_per_second=20)
    app = make_app(anyio_backend, runtime=runtime)
    delayed = threading.Event()

    def flood():
        client = RawSocket(url)
        with contextlib.suppress(OSError):
            while closed_by == "server" or not delayed.is_set():
                client.send(HEARTBEAT)
        client.reset()

    async with served(app.server, anyio_backend) as url, anyio.create_task_group() as tasks:
        before = set(tcp_connections)
        tasks.start_soon(anyio.to_thread.run_sync, flood)
        await eventually(lambda: runtime.statistics().messages_delayed)
        delayed.set()
        if closed_by == "server":
            runtime.close(where=lambda peer: True)
        await eventually(lambda: runtime.statistics().connections == 0)
        await eventually(lambda: tcp_connections <= before)


@pytest.fixture
def stays(monkeypatch):
    """A WebSocket stays with Hypercorn, as it does on trio anyway."""
    monkeypatch.setattr(carrier, "may_be_taken_over", lambda stream, connection: False)


async def test_nobody_waits_for_an_application_that_has_ended(anyio_backend, monkeypatch, stays):
    """Not even later: Hypercorn may have waited elsewhere, amid what it had parsed."""
    monkeypatch.setattr(asgi, "NOTHING_COMES", 0.01)
    runtime, streams = WebSocketRuntime(), []
    app = make_app(anyio_backend, runtime=runtime)

    @app.server.before_websocket
    async def note():
        streams.append(websocket.scope[CARRIER].stream)

    async with served(app.server, anyio_backend) as url:
        async with connected(url, anyio_backend) as client:
            await client.send(HEARTBEAT)
            assert await client.recv() == HEARTBEAT_ACK
        await eventually(lambda: runtime.statistics().connections == 0)
        await anyio.sleep(0.1)
        with anyio.fail_after(5):
            for _ in range(100):
                await streams[0].app_put({"type": "websocket.receive", "text": HEARTBEAT})


@pytest.mark.parametrize("carried_by", ["Hypercorn", "nobody"])
async def test_others_have_their_turn_amid_what_a_client_sends(
    anyio_backend, monkeypatch, carried_by, request
):
    """Many tiny frames take long, and Hypercorn gives no turn to others meanwhile."""
    if carried_by == "Hypercorn":
        request.getfixturevalue("stays")
    turn, parsed_in_turn = 0, collections.Counter()
    handle, feed = WSStream.handle, DirectTransport.feed

    async def noted(stream, event):
        if isinstance(event, Data):
            parsed_in_turn[turn] += len(event.data)
        await handle(stream, event)

    def noted_too(transport, data):
        parsed_in_turn[turn] += len(data)
        feed(transport, data)

    async def take_turns():
        nonlocal turn
        while True:
            turn += 1
            await checkpoint()

    monkeypatch.setattr(WSStream, "handle", noted)
    monkeypatch.setattr(DirectTransport, "feed", noted_too)
    app, pong = make_app(anyio_backend), b"\x8a\x80\0\0\0\0"

    def flood():
        client = RawSocket(url)
        client.send_bytes(pong * 50_000)
        client.send(HEARTBEAT)
        while b"heartbeat_ack" not in client.receive_bytes(2**20):
            pass
        client.reset()

    async with served(app.server, anyio_backend) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        await anyio.to_thread.run_sync(flood)
        tasks.cancel_scope.cancel()
    assert max(parsed_in_turn.values()) <= 2 * internals.TURN  # of one read, and of the next
    assert parsed_in_turn.total() > 50_000 * len(pong)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Hypercorn's settings for TLS."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with openssl")
    folder = tmp_path_factory.mktemp("certificate")
    files = {name: str(folder / name) for name in ("keyfile", "certfile")}
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=test"
    options = ["-keyout", files["keyfile"], "-out", files["certfile"]]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    return files


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what was taken")
@pytest.mark.parametrize("tls", [False, True])
async def test_what_a_client_takes_is_known_and_it_can_be_dropped(anyio_backend, tls, request):
    connections, ended = [], anyio.Event()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (event := await receive())["type"].startswith("lifespan"):
                await send({"type": event["type"] + ".complete"})
        connections.append(internals.tcp_connection(scope, send))
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(20_000_000)})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        ended.set()

    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    unverified.set_alpn_protocols(["http/1.1"])
    settings = request.getfixturevalue("certificate") if tls else {}
    async with served(app, anyio_backend, **settings) as url:
        host, port = urlsplit(url).netloc.split(":")
        client = await anyio.connect_tcp(
            host, int(port), ssl_context=unverified if tls else None, tls_standard_compatible=False
        )
        async with client:
            await client.send(HANDSHAKE.encode())
            received = 0
            while received < 5_000_000:
                received += len(await client.receive())
            (connection,) = connections
            assert 4_000_000 < internals.bytes_taken(connection) < 20_000_000
            internals.abort(connection)
            with anyio.fail_after(10):
                await ended.wait()
            await eventually(lambda: internals.bytes_taken(connection) is None)


def test_the_failures_of_both_servers_are_contained():
    internals.contain_failures()
    internals.contain_failures()
    for module in (hypercorn.asyncio.tcp_server, hypercorn.trio.tcp_server):
        assert module.TCPServer.run.__wrapped__.__module__ == module.__name__
