"""What carries one WebSocket: the server, by ASGI, and then its TCP connection alone, if it can.

The framework's handler runs on meanwhile, and sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .asgi import AsgiTransport
from .direct import DirectTransport
from .hypercorn import (
    deafen,
    forget_handshake,
    let_go,
    may_be_taken_over,
    restrict,
    take_over,
    tcp_connection,
    websocket_stream,
)

CARRIER = "dashws_async.carrier"
"""Where a WebSocket's ASGI scope has its `Carrier`."""


class Carrier:
    """What carries a WebSocket.

    Args:
        scope: of the WebSocket.
        receive: the server's.
        send: the server's.
    """

    __slots__ = ("_may_leave", "_receive", "_send", "on_leaving", "stream", "tcp", "transport")

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        self.stream = websocket_stream(send)
        """Hypercorn's side of it, where that is the server, and it still serves this one."""
        self.tcp = tcp_connection(scope, send)
        """Hypercorn's connection, likewise, if it has nothing else to carry."""
        self._may_leave = False
        self.on_leaving: Callable[[], object] = _nothing
        """Called when the server has let go of the WebSocket."""
        # With the server's own: ours would be a cycle of references.
        self.transport: AsgiTransport | DirectTransport = AsgiTransport(receive, send, self.tcp)
        """For whoever serves it."""

    def __deepcopy__(self, memo: object) -> Carrier:
        return self  # Hypercorn's ProxyFixMiddleware copies the scope and all that is in it

    @property
    def may_leave(self) -> bool:
        """Whether the server can let go of it."""
        return may_be_taken_over(self.stream, self.tcp)

    async def receive(self) -> Any:
        """ASGI's ``receive``, for an application whose WebSocket may leave the server."""
        return await self._receive()

    async def send(self, event: Any) -> None:
        """ASGI's ``send``, likewise."""
        await self._send(event)

    def opened(self, receive: Any, send: Any) -> None:
        """The framework has been called.

        Args:
            receive: with this, and
            send: with that. Who has put others in the place of ours wants to see what passes.
        """
        self._may_leave = receive == self.receive and send == self.send
        if not self._may_leave:
            self.transport = AsgiTransport(receive, send, self.tcp)

    async def accept(
        self, accept: Callable[[], Awaitable[None]], max_message_bytes: int, compression: bool
    ) -> None:
        """Accept the WebSocket.

        Args:
            accept: the framework's way to do so.
            max_message_bytes: a longer message ends the WebSocket with 1009.
            compression: whether permessage-deflate is used where the client offers it.
        """
        stream, tcp = self.stream, self.tcp
        restrict(stream, max_message_bytes=max_message_bytes, compression=compression)
        direct = None
        if self._may_leave and stream is not None and tcp is not None:
            direct = take_over(stream, tcp, max_message_bytes)
        await accept()
        forget_handshake(tcp)
        if direct is None or stream is None or tcp is None:
            return
        self.transport = direct
        if let_go(stream, tcp):
            del self._receive, self._send
            self.stream = self.tcp = None
            self.on_leaving()
        else:
            direct.eof_received()  # nothing comes from a client that Hypercorn has refused

    # What the framework receives from and sends to, whoever carries it.

    async def receive_message(self) -> str | bytes:
        """The next message."""
        return await self.transport.receive()

    async def send_event(self, event: Any) -> None:
        """ASGI's ``send``."""
        await self.transport.send_event(event)

    def closed(self) -> Callable[[], Any] | None:
        """The framework has returned; what is to be done besides, which takes a moment.

        Hypercorn waits without a limit for somebody to take what still comes, and that the client
        has left need not be the last of it.
        """
        if self.stream is None or not isinstance(self.transport, AsgiTransport):
            return None
        deafen(self.stream)
        return self.transport.hear_out


def _nothing() -> None:
    pass
