"""The TCP connection under a WebSocket, where Hypercorn is the server.

ASGI has no way to drop a client that reads nothing, and none to see that the
server has begun to stop. In Hypercorn both are a few attributes away from the
``send`` that it gives to the application. They are named here and nowhere else.
Under another server, or where a middleware puts its own ``send`` in the place,
nothing is found.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, cast

TcpConnection = Any
"""Hypercorn's ``TCPServer``, which has one connection, on asyncio or on trio."""

_PATH = ("__self__", "send", "__self__", "send", "__self__")
"""From ``WSStream.app_send`` by ``H11Protocol.stream_send`` to ``TCPServer.protocol_send``."""


def tcp_connection(scope: Any, send: Any) -> TcpConnection | None:
    """The connection that carries a WebSocket and nothing else, if it is found.

    Args:
        scope: the ASGI scope.
        send: the ASGI ``send`` that came with it.
    """
    # HTTP/2 has other requests on the same connection.
    if scope.get("http_version", "1.1") != "1.1":
        return None
    found = send
    for name in _PATH:
        found = getattr(found, name, None)
    return found if type(found).__module__.startswith("hypercorn.") else None


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


def abort(connection: TcpConnection) -> None:
    """Drop a connection: what was not sent is lost, and a ``send`` that waits ends.

    One that has ended is left as it is.
    """
    if hasattr(connection, "writer"):
        connection.writer.transport.abort()
    else:
        stream = getattr(connection.stream, "transport_stream", connection.stream)  # below TLS
        with suppress(OSError):  # it has ended
            stream.socket.shutdown(socket.SHUT_RDWR)
