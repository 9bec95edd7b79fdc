"""A WebSocket straight on its TCP connection, on asyncio: the transport of most connections.

Between an ASGI application and the socket a server has a reader task, a parser for HTTP, a
queue and a lock, for each connection; there and back a message passes eight coroutines. A
WebSocket needs none of these once it is accepted. So it takes the place of what the server
has put on asyncio's transport: what the client sends is parsed where asyncio hands it over,
and a frame is written where the connection sends it. (Go's servers call this to hijack.)
The protocol itself is that of the ``websockets`` library. How a connection is had from
Hypercorn stands in `backends/hypercorn`; on trio, with compression, and under
other servers, the transport is `backends/asgi`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

import anyio
from websockets.frames import Opcode
from websockets.protocol import SERVER, Protocol, State

from ..connection import Disconnected
from .tcp import bytes_acknowledged

READ = 2048
"""Bytes read from one client until all others have had their turn: up to 340 messages."""

WAITING = 4
"""Messages that wait to be received, after which the client has to wait."""

MANY, SMALL = 1000, 100
"""Pieces, and bytes: more of them in one message, of less on average, are no honest client's."""

LAST_WORDS = 1.0
"""Seconds that a client has to read why its WebSocket was ended: a connection that is closed
with something unread is reset, and what was sent with it."""


class _Buffer(threading.local):
    """What was just read, from whichever client of a thread; it is parsed in the same step."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ))


_buffer = _Buffer()

_logger = logging.getLogger("dashws_async.websockets")
_logger.setLevel(logging.WARNING)  # each end of a connection is one of its lines


class DirectTransport(asyncio.BufferedProtocol):
    """One WebSocket, as a `connection.Transport` and as an asyncio protocol.

    Made before the handshake is answered, so that nothing is missed that a client says.

    Args:
        transport: asyncio's. The protocol that it has had is told of the end.
        max_message_bytes: a longer message ends the WebSocket with 1009.
    """

    sends_at_once = True

    __slots__ = (
        "_before",
        "_closed",
        "_context",
        "_inbox",
        "_is_lost",
        "_is_text",
        "_left",
        "_owes",
        "_partial",
        "_pieces",
        "_protocol",
        "_reader",
        "_take",
        "_timer",
        "_writable",
        "transport",
    )

    def __init__(self, transport: Any, max_message_bytes: int) -> None:
        self.transport = transport
        self._before: asyncio.BaseProtocol | None = transport.get_protocol()
        self._is_lost = False
        self._protocol = Protocol(
            SERVER, state=State.OPEN, max_size=max_message_bytes, logger=_logger
        )
        self._inbox: list[str | bytes] = []
        self._partial: bytearray | bytes = b""  # of a message that comes in pieces
        self._pieces = 0
        self._is_text = True
        self._left = False
        self._owes = False  # answers to pings, to a client that does not take them
        self._reader: asyncio.Future[None] | None = None  # who waits for a message
        self._take: Callable[[str | bytes], bool] | None = None  # and may do so without waking
        self._context: Context | None = None
        self._writable: asyncio.Event | None = None  # while the client does not keep up
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Event | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    # The `connection.Transport`.

    async def receive(self, take: Callable[[str | bytes], bool] | None = None) -> str | bytes:
        while not self._inbox:
            if self._left:
                raise Disconnected
            self._reader = asyncio.get_running_loop().create_future()
            self._take, self._context = take, copy_context()
            try:
                await self._reader
            finally:
                self._reader = self._take = self._context = None
        message = self._inbox.pop(0)
        self._read_on()
        return message

    def send(self, text: str) -> Callable[[], Awaitable[None]] | None:
        if self._left:
            raise Disconnected
        if self._protocol.state is State.OPEN:  # or the close frame has left, and nothing follows
            self._protocol.send_text(text.encode())
            self._write()
        return None if self._writable is None else self._until_writable

    async def close(self, code: int, reason: str) -> None:
        if self._is_open:
            self._protocol.send_close(code, reason)
            self._write()
            self._part()

    def bytes_taken(self) -> int | None:
        if self.transport.is_closing():
            return None  # its file descriptor may be somebody else's
        return bytes_acknowledged(self.transport.get_extra_info("socket"))

    def abort(self) -> None:
        self.transport.abort()

    @property
    def _is_open(self) -> bool:
        return not self._left and self._protocol.state is State.OPEN

    async def _until_writable(self) -> None:
        while self._writable is not None:
            await self._writable.wait()
        if self._left:
            raise Disconnected

    def let_go(self) -> None:
        """For whoever has had the transport before, the connection has ended."""
        before, self._before = self._before, None
        if before is not None:
            before.connection_lost(None)

    async def finish(self, timeout: float) -> None:
        """Close the TCP connection, whose WebSocket has ended.

        Args:
            timeout: seconds that the client has to take what was sent to it.
        """
        self.transport.close()
        try:
            with anyio.move_on_after(timeout, shield=True):
                await self._until_lost()
        finally:
            self.abort()

    async def _until_lost(self) -> None:
        if not self._is_lost:
            self._closed = self._closed or asyncio.Event()
            await self._closed.wait()

    # What a framework sees of it, in ASGI's words.

    async def send_event(self, event: Any) -> None:
        """ASGI's ``send``; nothing is sent once the WebSocket is closed."""
        if event["type"] == "websocket.close":
            await self.close(event.get("code", 1000), event.get("reason") or "")
        elif self._is_open:
            text, data = event.get("text"), event.get("bytes")
            if text is None:
                self._protocol.send_binary(data)
            else:
                self._protocol.send_text(text.encode())
            self._write()
            if self._writable is not None:
                await self._writable.wait()

    # The asyncio protocol.

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(bytes(_buffer.view[:nbytes]))

    def eof_received(self) -> None:
        self._leave()  # asyncio closes the connection then

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._leave()
        self.resume_writing()
        self._is_lost = True
        # Cycles of references otherwise: the parser has the protocol, and asyncio's TLS has us.
        self._protocol.parser.close()
        self.transport = LOST
        if self._before is not None:
            self._before.connection_lost(exc)
        if self._closed is not None:
            self._closed.set()

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()
            self._owes = False
            self._read_on()

    def feed(self, data: bytes) -> None:
        """Take what the client has sent."""
        if self._is_lost:
            return
        protocol = self._protocol
        protocol.receive_data(data)
        frames: list[Any] = protocol.events_received()
        for frame in frames:
            if frame.opcode <= Opcode.BINARY and not self._hear(frame):  # above are control frames
                break
        if protocol.state is not State.OPEN:
            self._part()
        if self._write() and self._writable is not None:
            self._owes = True
        if protocol.close_rcvd is not None:
            self.transport.close()  # which is the server's to do (RFC 6455, section 7.1.1)
        elif self._owes or len(self._inbox) >= WAITING:
            self.transport.pause_reading()

    def _hear(self, frame: Any) -> bool:
        """Take a piece of a message; whether it was taken."""
        protocol, data = self._protocol, frame.data
        if frame.opcode is Opcode.CONT:
            self._pieces += 1
            self._partial += data
            data = self._partial
            if self._pieces > MANY and len(data) < self._pieces * SMALL:
                protocol.fail(1009, "in too many pieces")
                return False
        else:
            self._pieces, self._is_text = 1, frame.opcode is Opcode.TEXT
            if not frame.fin:
                self._partial = bytearray(data)
        if not frame.fin:
            return True
        self._partial = b""
        try:
            message = data.decode() if self._is_text else bytes(data)
        except UnicodeDecodeError as error:
            protocol.fail(1007, f"{error.reason} at position {error.start}")
            return False
        if not self._is_taken(message):
            self._inbox.append(message)
            self._wake_reader()
        return True

    def _is_taken(self, message: str | bytes) -> bool:
        """Whether who waits for a message has taken it here and now, without being woken."""
        if self._take is None or self._context is None or self._inbox:
            return False
        return self._context.run(self._take, message)

    def _part(self) -> None:
        """The client has left, or has to leave."""
        if self._protocol.close_rcvd is not None:
            self._leave()
        elif self._timer is None and not self._left:
            self._timer = asyncio.get_running_loop().call_later(LAST_WORDS, self._leave)

    def _leave(self) -> None:
        """Nothing comes any more: that is what `receive` says, once it has said all else."""
        self._left = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _read_on(self) -> None:
        if len(self._inbox) < WAITING and not self._owes:
            self.transport.resume_reading()

    def _write(self) -> bool:
        """Write what the protocol has to say; whether there was anything."""
        found = self._protocol.data_to_send()
        for data in found:
            if data:  # nothing: the end, which is the business of whoever closes the connection
                self.transport.write(data)
        return bool(found)


class _Lost:
    """asyncio's transport, once it is not there any more."""

    @staticmethod
    def is_closing() -> bool:
        return True

    @staticmethod
    def write(data: bytes) -> None:
        pass

    @staticmethod
    def close() -> None:
        pass

    abort = write_eof = pause_reading = resume_reading = close


LOST = _Lost()
"""In the place of a transport that is another's now, or nobody's."""
