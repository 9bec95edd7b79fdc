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
from types import FrameType
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import _handle
from hypercorn.protocol.events import Data, Event
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.typing import TaskGroup
from quart import Quart
from wsproto.events import Message

from .direct import LAST_WORDS, LOST, MANY, SMALL, DirectTransport
from .tcp import bytes_acknowledged

logger = logging.getLogger("dashws_async")

_TellApp = Callable[..., Awaitable[None]]

TcpConnection = Any
"""Hypercorn's ``TCPServer``, which has one connection, on asyncio or on trio."""

_PATH = ("send", "__self__", "send", "__self__")
"""From a ``WSStream`` by ``H11Protocol.stream_send`` to ``TCPServer.protocol_send``."""

TURN = 2048
"""Bytes of what a client sent that are parsed until all others have had their turn."""

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
    cast(_Stream, stream).direct = None
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

    direct: DirectTransport | None
    """Who takes over; Hypercorn may still hold what it had read before."""

    async def handle(self, event: Event) -> None:
        if not isinstance(event, Data):
            await super().handle(event)
            return
        if self.direct is not None and self.handshake.accepted:
            self.direct.feed(event.data)
            return
        data = event.data
        for start in range(0, len(data), TURN):
            if start:
                await checkpoint()
            await super().handle(Data(event.stream_id, data[start : start + TURN]))


def may_be_taken_over(stream: WSStream | None, connection: TcpConnection | None) -> bool:
    """Whether a WebSocket can be put straight on its TCP connection.

    On trio it cannot. It stays with Hypercorn, too, where that is to send pings, or to end a
    connection on which nothing comes.

    Args:
        stream: of the WebSocket, if it was found.
        connection: what carries it, if it was found.
    """
    if stream is None or not hasattr(connection, "writer"):
        return False
    config = stream.config
    return config.websocket_ping_interval is None and config.read_timeout is None


def take_over(
    stream: WSStream, connection: TcpConnection, max_message_bytes: int
) -> DirectTransport | None:
    """Put a WebSocket straight on its TCP connection, before it is accepted.

    Hypercorn answers the handshake, and `let_go` comes then. None where compression is to be
    agreed on, which stays Hypercorn's business, and where the client has left already.

    Args:
        stream: of the WebSocket, which `restrict` has been given.
        connection: what carries it.
        max_message_bytes: a longer message ends the WebSocket with 1009.
    """
    transport = connection.writer.transport
    if (
        stream.handshake.extensions is not None
        or transport.is_closing()
        or connection.reader.at_eof()
    ):
        return None
    direct = DirectTransport(transport, max_message_bytes)
    cast(_Stream, stream).direct = direct
    return direct


def let_go(stream: WSStream, connection: TcpConnection) -> bool:
    """Have Hypercorn believe that the client has left, now that the WebSocket is accepted.

    It forgets all that it has for the connection, once the application's task has ended.

    Returns:
        Whether it is accepted: Hypercorn may have refused what came too early.
    """
    if stream.closed or not stream.handshake.accepted:
        return False
    stream.closed = True
    # asyncio's StreamWriter closes its transport when it is forgotten, and what Hypercorn forgets
    # has cycles of references, with the StreamReader in them. There is no way to have either let
    # go but by this private name.
    connection.writer._transport = connection.reader._transport = LOST
    cast(DirectTransport, cast(_Stream, stream).direct).let_go()
    return True


def only_called_by_server(frame: FrameType | None) -> bool:
    """Whether an ASGI application runs for Hypercorn with no middleware in between.

    Args:
        frame: that of its caller.
    """
    while frame is not None and frame.f_code in _CALLERS:
        if frame.f_code is _handle.__code__:
            return True
        frame = frame.f_back
    return False


_CALLERS = {_handle.__code__, ASGIWrapper.__call__.__code__, Quart.__call__.__code__}


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
    """What the client's system has acknowledged so far, as `bytes_acknowledged` has it."""
    if not hasattr(connection, "writer"):
        return bytes_acknowledged(_below_tls(connection.stream).socket)
    if connection.writer.transport.is_closing():
        return None  # its file descriptor may be somebody else's
    return bytes_acknowledged(connection.writer.get_extra_info("socket"))


def abort(connection: TcpConnection) -> None:
    """Drop a connection: what was not sent is lost, and a ``send`` that waits ends.

    One that has ended is left as it is.
    """
    if hasattr(connection, "writer"):
        with suppress(AttributeError):  # asyncio's own, for one that ended when all had left
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
