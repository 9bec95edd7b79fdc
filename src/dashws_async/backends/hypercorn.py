"""What lies under a WebSocket where Hypercorn is the server: its stream, its TCP connection.

ASGI has no way to refuse compression, to limit a message before it is whole, to see whether
a client reads, to drop one that does not, or to see that the server has begun to stop. In
Hypercorn all of these are a few attributes away from the ``send`` that it gives to the
application; and some of its faults can only be contained from inside. All its private names
are here. Under another server, or where a middleware puts its own ``send`` in the place,
nothing is found.
"""

from __future__ import annotations

import functools
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint
from hypercorn.protocol.events import Data, Event
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.typing import TaskGroup
from wsproto.events import Message

logger = logging.getLogger("dashws_async")

_TellApp = Callable[..., Awaitable[None]]

TcpConnection = Any
"""Hypercorn's ``TCPServer``, which has one connection, on asyncio or on trio."""

_PATH = ("send", "__self__", "send", "__self__")
"""From a ``WSStream`` by ``H11Protocol.stream_send`` to ``TCPServer.protocol_send``."""

MANY, SMALL = 1000, 100
"""Pieces, and bytes: more of them in one message, of less on average, are no honest client's."""

LAST_WORDS = 1.0
"""Seconds that a client has to answer the close frame after a message that is too long."""

TURN = 2048
"""Bytes of what a client sent that are parsed until all others have had their turn."""

_BYTES_ACKED = slice(120, 128)
"""``tcpi_bytes_acked`` in Linux's ``struct tcp_info``; before 4.1 it is not there, and reads 0."""

_SERVERS = ("hypercorn.asyncio.tcp_server", "hypercorn.trio.tcp_server")


def websocket_stream(send: Any) -> WSStream | None:
    """Hypercorn's side of a WebSocket, if it is found.

    Args:
        send: the ASGI ``send`` that came with the scope, ``WSStream.app_send``.
    """
    stream = getattr(send, "__self__", None)
    return stream if isinstance(stream, WSStream) else None


def restrict(stream: WSStream | None, *, max_message_bytes: int, compression: bool) -> None:
    """Set what a client may do on a WebSocket, before it is accepted.

    Args:
        stream: of the WebSocket, if it was found.
        max_message_bytes: a longer message ends the WebSocket with 1009, and is not kept.
        compression: whether permessage-deflate is used where the client offers it.
    """
    if stream is None:
        return
    stream.__class__ = _Stream
    tell_app = cast(_TellApp, stream.app_put)
    stream.buffer = _Message(max_message_bytes, stream.task_group, tell_app)
    if not compression:
        stream.handshake.extensions = None  # what the client offers


def deafen(stream: WSStream) -> None:
    """Have what still comes thrown away: the application has ended, and takes nothing more."""
    stream.app_put = _throw_away


async def _throw_away(event: object) -> None:
    pass


class _Stream(WSStream):
    """Gives others their turn amid what a client has sent.

    Hypercorn's parses up to 256 KiB in one turn of the loop: 40,000 frames, if they are empty.
    """

    async def handle(self, event: Event) -> None:
        if not isinstance(event, Data):
            await super().handle(event)
            return
        data = event.data
        for start in range(0, len(data), TURN):
            if start:
                await checkpoint()
            await super().handle(Data(event.stream_id, data[start : start + TURN]))


def forget_handshake(connection: TcpConnection | None) -> None:
    """Let go of Hypercorn's HTTP parser and of what pauses it, now that there is a WebSocket.

    It saves nearly 2 KB, a twelfth of what Hypercorn itself holds for each.

    Args:
        connection: what carries the WebSocket, if it was found.
    """
    if connection is not None:
        protocol = connection.protocol.protocol
        protocol.connection.h11_connection = None
        protocol.can_read = _Unpaused


class _Unpaused:
    """The event by which Hypercorn has an HTTP/1.1 connection wait, where none ever does."""

    @staticmethod
    async def set() -> None:
        pass


class _Message(WebsocketBuffer):
    """The message that is coming in, as far as it has come.

    Hypercorn's counts characters, not bytes, and goes on gathering when it has been too much.

    Args:
        max_bytes: that a message may have. One that has more, or comes in very many very
            small pieces, ends the WebSocket.
        tasks: of the WebSocket.
        tell_app: hands an event to the application.
    """

    def __init__(self, max_bytes: int, tasks: TaskGroup, tell_app: _TellApp) -> None:
        super().__init__(max_bytes)
        self._pieces = 0
        self._refused = False
        self._tasks = tasks
        self._tell_app = tell_app

    def extend(self, event: Message[Any]) -> None:
        if self._refused:
            return  # the close frame is on its way, and all that follows is thrown away
        data = event.data
        plain = isinstance(data, bytes | bytearray) or data.isascii()
        size = len(data) if plain else len(data.encode())
        length = self.length + size
        self._pieces += 1
        crumbs = self._pieces > MANY and length < self._pieces * SMALL
        if crumbs or length > self.max_length:
            self.clear()
            self._refused = True
            self._tasks.spawn(_give_up, self._tell_app)
            raise FrameTooLargeError
        super().extend(event)
        self.length = length

    def clear(self) -> None:
        super().clear()
        self._pieces = 0


async def _give_up(tell_app: _TellApp) -> None:
    """End a WebSocket whose client does not answer the close frame that Hypercorn has sent."""
    await anyio.sleep(LAST_WORDS)
    await tell_app({"type": "websocket.disconnect", "code": 1009})


def tcp_connection(scope: Any, send: Any) -> TcpConnection | None:
    """The connection that carries a WebSocket and nothing else, if it is found.

    Args:
        scope: the ASGI scope.
        send: the ASGI ``send`` that came with it.
    """
    # HTTP/2 has other requests on the same connection.
    if scope.get("http_version", "1.1") != "1.1":
        return None
    found = websocket_stream(send)
    for name in _PATH:
        found = getattr(found, name, None)
    return found if type(found).__module__ in _SERVERS else None


def server_stops(connection: TcpConnection) -> Awaitable[None]:
    """Wait until the server of a connection has begun to stop, for whatever reason.

    The connection itself is not kept meanwhile.
    """
    return cast("Awaitable[None]", connection.context.terminated.wait())


def unsent_bytes(connection: TcpConnection) -> int:
    """What the server still holds for the client. (On trio, a ``send`` that waits does.)"""
    if not hasattr(connection, "writer"):
        return 0
    transport = connection.writer.transport
    return 0 if transport.is_closing() else int(transport.get_write_buffer_size())


def bytes_taken(connection: TcpConnection) -> int | None:
    """What the client's system has acknowledged so far, amid a large message too.

    None where ours does not say: it is not Linux, or the connection has ended, or is no TCP.
    """
    if sys.platform != "linux":
        return None
    if not hasattr(connection, "writer"):
        tcp = _below_tls(connection.stream).socket
    elif connection.writer.transport.is_closing():
        return None  # its file descriptor may be somebody else's
    else:
        tcp = connection.writer.get_extra_info("socket")
    try:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    except OSError:
        return None
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)


def abort(connection: TcpConnection) -> None:
    """Drop a connection: what was not sent is lost, and a ``send`` that waits ends.

    One that has ended is left as it is.
    """
    if hasattr(connection, "writer"):
        connection.writer.transport.abort()
    else:
        with suppress(OSError):  # it has ended
            _below_tls(connection.stream).socket.shutdown(socket.SHUT_RDWR)


def _below_tls(stream: Any) -> Any:
    """Trio's ``SocketStream`` of a connection."""
    return getattr(stream, "transport_stream", stream)


def contain_failures() -> None:
    """See to it that a failure on one TCP connection ends that connection, and nothing else.

    Some bytes with a handshake, or right after it, make Hypercorn 0.18 raise where it reads
    from the connection. On asyncio that is a traceback in the log. On trio all connections
    are in one nursery, so it ends the server.
    """
    for name in _SERVERS:
        server = getattr(sys.modules.get(name), "TCPServer", None)
        if server is not None and not hasattr(server.run, "__wrapped__"):
            server.run = _contained(server.run)


def _contained(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    @functools.wraps(run)
    async def contained(connection: TcpConnection) -> None:
        try:
            await run(connection)
        except* Exception as failures:
            for failure in _leaves(failures):
                logger.info("Hypercorn has ended a TCP connection: %r", failure)

    return contained


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
