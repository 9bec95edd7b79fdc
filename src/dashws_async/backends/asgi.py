"""A WebSocket as an ASGI server hands it over, as a `connection.Transport`.

Between the server and the connection's reader there is no other task and no queue but the
server's own, which is short: a reader that waits makes the client wait, and nothing gathers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ..connection import Disconnected
from .hypercorn import TcpConnection, abort, bytes_taken

logger = logging.getLogger("dashws_async")

NOTHING_COMES = 1.0
"""Seconds after which nothing waits any more for the application to receive it."""


class AsgiTransport:
    """One WebSocket.

    Args:
        receive: of the ASGI application.
        send: of the ASGI application.
        tcp: what carries the WebSocket, where that can be reached.
    """

    sends_at_once = False

    __slots__ = ("_accepted", "_left", "_over", "_receive", "_send", "_tcp")

    def __init__(self, receive: Any, send: Any, tcp: TcpConnection | None = None) -> None:
        self._receive = receive
        self._send = send
        self._tcp = tcp
        self._accepted = False
        self._over = False
        self._left = False  # the server says so once

    async def receive(self, take: object = None) -> str | bytes:
        while not self._left:
            event = await self._receive()
            if event["type"] == "websocket.receive":
                text: str | None = event.get("text")
                data: bytes | None = event.get("bytes")
                if text is not None:
                    return text
                if data is not None:  # neither: the rest of a message that was refused
                    return data
            self._left = event["type"] == "websocket.disconnect"
        self._over = True
        raise Disconnected

    def send(self, text: str) -> Callable[[], Awaitable[None]]:
        return functools.partial(self._send_text, text)

    async def _send_text(self, text: str) -> None:
        if not self._over:
            try:
                await self._send({"type": "websocket.send", "text": text})
            except OSError:  # how some servers say that the client has left
                self._over = True
        if self._over:
            raise Disconnected

    async def close(self, code: int, reason: str) -> None:
        await self.send_event({"type": "websocket.close", "code": code, "reason": reason})

    def bytes_taken(self) -> int | None:
        return None if self._tcp is None else bytes_taken(self._tcp)

    def abort(self) -> None:
        if self._tcp is not None:
            abort(self._tcp)

    async def send_event(self, event: Any) -> None:
        """ASGI's ``send``, for a framework: nothing is sent once the WebSocket is closed."""
        if self._over:
            return
        self._over = event["type"] == "websocket.close"
        try:
            await self._send(event)
        except OSError:  # how some servers say that the client has left
            self._over = True
        except Exception as error:
            if self._accepted:
                raise
            # Hypercorn may have refused what came after the handshake by itself meanwhile.
            logger.info("A WebSocket handshake could not be answered: %r", error)
            self._over = True
        else:
            self._accepted = self._accepted or event["type"] == "websocket.accept"

    async def hear_out(self) -> None:
        """Throw away what waits to be received, until nothing does."""
        nothing = anyio.CancelScope()
        while not nothing.cancelled_caught:
            with anyio.move_on_after(NOTHING_COMES) as nothing:
                await self._receive()
