"""Under the WebSocket: what is set in Hypercorn, and what flows through it.

Where one of these fails, Hypercorn has changed inside: see `backends/hypercorn.py`.
"""

import asyncio
import contextlib

import anyio
import hypercorn.config
import pytest
import sniffio
import trio
import websockets
from dash import hooks
from hypercorn.protocol.ws_stream import FrameTooLargeError
from quart import websocket
from wsproto.events import BytesMessage, TextMessage

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.backends import hypercorn as internals
from dashws_async.backends.quart import TRANSPORT
from dashws_async.messages import HEARTBEAT_ACK
from ports import free_port
from raw_socket import RawSocket
from until import eventually

pytestmark = pytest.mark.anyio

HEARTBEAT = '{"type": "heartbeat"}'


@contextlib.asynccontextmanager
async def served(app, loop):
    """The URL at which Hypercorn serves an ASGI application in this process."""
    if loop == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
    config, stop = hypercorn.config.Config(), anyio.Event()
    config.bind = [f"127.0.0.1:{free_port()}"]
    config.loglevel = "ERROR"
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


async def test_other_websockets_of_the_app_are_as_they_were(anyio_backend):
    app = make_app(anyio_backend)

    @app.server.websocket("/echo")
    async def echo():
        assert TRANSPORT not in websocket.scope
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


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
def test_a_message_past_the_limit_is_not_kept_and_what_follows_neither(kind):
    piece = "x" * 600 if kind is TextMessage else b"x" * 600
    refusals = []
    message = internals._Message(1000, lambda: refusals.append(message))
    message.extend(kind(data=piece, message_finished=False))
    with pytest.raises(FrameTooLargeError):
        message.extend(kind(data=piece, message_finished=False))
    for _ in range(3):
        message.extend(kind(data=piece, message_finished=False))
        assert message.value is None
    assert len(refusals) == 1


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
    message, crumb = internals._Message(1_000_000, lambda: None), TextMessage("", True, False)
    for _ in range(1000):
        message.extend(crumb)
    with pytest.raises(FrameTooLargeError):
        message.extend(crumb)
    message = internals._Message(1_000_000, lambda: None)
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


async def test_a_client_that_goes_on_sending_does_not_keep_a_connection_that_was_closed(
    anyio_backend,
):
    """Hypercorn would wait for ever for somebody to take what came."""
    runtime = WebSocketRuntime(max_messages_per_second=20)
    app = make_app(anyio_backend, runtime=runtime)

    def flood():
        client = RawSocket(url)
        with contextlib.suppress(OSError):
            while True:
                client.send(HEARTBEAT)
        client.reset()

    async with served(app.server, anyio_backend) as url, anyio.create_task_group() as tasks:
        before = tasks_living()
        tasks.start_soon(anyio.to_thread.run_sync, flood)
        await eventually(lambda: runtime.statistics().messages_delayed)
        runtime.close(where=lambda peer: True)
        await eventually(lambda: runtime.statistics().connections == 0)
        await eventually(lambda: tasks_living() <= before)


def tasks_living():
    """How many tasks the running loop has."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def test_the_failures_of_both_servers_are_contained():
    import hypercorn.asyncio.tcp_server
    import hypercorn.trio.tcp_server

    internals.contain_failures()
    internals.contain_failures()
    for module in (hypercorn.asyncio.tcp_server, hypercorn.trio.tcp_server):
        assert module.TCPServer.run.__wrapped__.__module__ == module.__name__
