"""Ten thousand WebSockets from one thread: a selector, and no more than the protocol asks for.

What measures must not be what is measured. So there is no task and no event loop here,
a message is what one ``recv`` brought, and nothing looks into it that is not asked to.

Knows: TCP, the opening handshake, frames, deflate. Refuses to know: Dash, HTTP, TLS, time.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import os
import selectors
import socket
import struct
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from ..descriptors import allow_descriptors

__all__ = ["Address", "Client", "Ended", "Listener", "Socket", "allow_sockets", "frame"]

RECEIVE_BYTES = 256 * 1024
"""At most so much is read at once from one socket, so that the others get their turn."""

OTHER_FILES = 100
"""File descriptors that a process has besides its sockets, at most."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL, COMPRESSED = 0x80, 0x40

DEFLATE_OFFER = "permessage-deflate; client_max_window_bits"
"""What Chrome and Firefox send."""

_IN_PROGRESS = {errno.EINPROGRESS, errno.EWOULDBLOCK, 0}


class Ended(NamedTuple):
    """How a socket came to its end."""

    code: int | None
    """Of the server's close frame; ``None`` where there was none."""
    reason: str
    """The server's, or what went wrong."""


class Listener(Protocol):
    """Who is told what happens on a socket."""

    def opened(self, socket: Socket) -> None:
        """The handshake is done."""

    def received(self, socket: Socket, message: bytes, now: int) -> None:
        """A message came.

        Args:
            now: `time.monotonic_ns` of its arrival.
        """

    def ended(self, socket: Socket, how: Ended) -> None:
        """The server ended it, or the handshake failed; not for one's own ``leave``."""


class Address(NamedTuple):
    """Where a WebSocket is served."""

    family: socket.AddressFamily
    where: tuple[str, int]
    host: str
    """As the ``Host`` header has it."""
    path: str

    @classmethod
    def of(cls, url: str, path: str) -> Address:
        """Look up the host of a URL.

        Raises:
            ValueError: it is not an ``http:`` URL; there is no TLS here.
            OSError: there is no such host.
        """
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise ValueError(f"{url}: must begin with http:// (load the server behind the proxy)")
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        family, _, _, _, (host, port, *_) = found[0]
        return cls(family, (str(host), int(port)), parts.netloc, path)

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, by an address that no other can reach."""
        return ipaddress.ip_address(self.where[0]).is_loopback


def allow_sockets(count: int) -> None:
    """Let this process have so many sockets, besides the files that it has anyway.

    Raises:
        OSError: the hard limit is lower.
    """
    wanted = count + OTHER_FILES
    allowed = allow_descriptors(wanted)
    if allowed < wanted:
        raise OSError(
            errno.EMFILE,
            f"{count} connections need as many open files, and the hard limit is {allowed}: "
            "raise it (ulimit -H -n)",
        )


def frame(text: str, opcode: int = TEXT) -> bytes:
    """A client's frame with a whole message in it."""
    return _frame(text.encode(), opcode)


def _frame(payload: bytes, opcode: int) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    # The mask must be there (RFC 6455, section 5.3); all zeros leave the payload as it is.
    return bytes([FINAL | opcode]) + length + bytes(4) + payload


class Client:
    """All sockets of one thread.

    Args:
        address: where they connect to.
        deflate: offer compression, as browsers do.
        headers: of the handshake, besides or in place of its own.
    """

    def __init__(
        self, address: Address, *, deflate: bool = False, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.address = address
        self.deflate = deflate
        self._selector = selectors.DefaultSelector()
        fields = {
            "Host": address.host,
            "Origin": f"http://{address.host}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **({"Sec-WebSocket-Extensions": DEFLATE_OFFER} if deflate else {}),
            **dict(headers),
        }
        lines = [f"GET {address.path} HTTP/1.1", *map(": ".join, fields.items())]
        self._handshake = "\r\n".join([*lines, "", ""]).encode()

    def connect(self, listener: Listener, *, receive_buffer: int | None = None) -> Socket:
        """Begin to open a socket; what comes of it, the listener hears.

        Args:
            receive_buffer: bytes that the system may keep for it.

        Raises:
            OSError: there are no more sockets, ports or file descriptors.
        """
        return Socket(self._selector, self.address, self._handshake, listener, receive_buffer)

    def turn(self, timeout: float) -> None:
        """Handle what has happened, or happens within ``timeout`` seconds."""
        for key, _ in self._selector.select(timeout):
            key.data()

    def close(self) -> None:
        """Leave all at once, without a word."""
        for key in list(self._selector.get_map().values()):
            key.data.__self__.leave()
        self._selector.close()


class Socket:
    """The client's end of one WebSocket."""

    __slots__ = (
        "_buffer",
        "_first",
        "_handshake",
        "_inflate",
        "_listener",
        "_message",
        "_selector",
        "_sock",
        "_unsent",
        "is_open",
    )

    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: Address,
        handshake: bytes,
        listener: Listener,
        receive_buffer: int | None,
    ) -> None:
        self.is_open = False
        self._selector = selector
        self._handshake = handshake
        self._listener = listener
        self._buffer = self._unsent = self._message = b""
        self._first = 0
        self._inflate: Callable[[bytes], bytes] | None = None
        self._sock = socket.socket(address.family)
        try:
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            failed = self._sock.connect_ex(address.where)
            if failed not in _IN_PROGRESS:
                raise OSError(failed, os.strerror(failed))
            selector.register(self._sock, selectors.EVENT_WRITE, self._connected)
        except OSError:
            self._sock.close()
            raise

    def send(self, data: bytes) -> None:
        """Send bytes that `frame` made. Does nothing once the socket has ended."""
        if self._sock.fileno() < 0:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._end(Ended(None, str(error)))
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._selector.modify(
                self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self._send_more
            )

    def pause(self) -> None:
        """Read nothing from now on."""
        self._selector.unregister(self._sock)

    def resume(self) -> None:
        """Read on after `pause`."""
        self._selector.register(self._sock, selectors.EVENT_READ, self._read)

    def leave(self) -> None:
        """End it as a process does that is killed: TCP RST, no close frame."""
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close()

    # What the selector calls.

    def _connected(self) -> None:
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(Ended(None, os.strerror(error)))
            return
        self._selector.modify(self._sock, selectors.EVENT_READ, self._read_handshake)
        self.send(self._handshake)

    def _read_handshake(self) -> None:
        self._buffer += self._receive()
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        status_line = head.split(b"\r\n", 1)[0]
        if b" 101 " not in status_line:
            self._end(Ended(None, status_line.decode("latin-1")))
            return
        if b"permessage-deflate" in head:
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        self.is_open = True
        self._buffer = b""
        self._selector.modify(self._sock, selectors.EVENT_READ, self._read)
        self._listener.opened(self)
        if rest:
            self._take(rest)

    def _read(self) -> None:
        data = self._receive()
        if data:
            self._take(self._buffer + data if self._buffer else data)

    def _send_more(self) -> None:
        unsent, self._unsent = self._unsent, b""
        self._selector.modify(self._sock, selectors.EVENT_READ, self._read)
        self.send(unsent)
        if self._sock.fileno() >= 0:
            self._read()

    def _receive(self) -> bytes:
        """What is there; nothing where there is nothing, or nothing any more."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._end(Ended(None, error.strerror or str(error)))
            return b""
        if not data:
            self._end(Ended(None, "the server closed the TCP connection"))
        return data

    def _take(self, data: bytes) -> None:
        """Pass on the messages in ``data``, and keep what is not yet one."""
        now = time.monotonic_ns()
        start, size = 0, len(data)
        while size - start >= 2:
            first, length, payload = data[start], data[start + 1], start + 2
            if length == 126:
                payload += 2
                length = int.from_bytes(data[start + 2 : payload], "big")
            elif length == 127:
                payload += 8
                length = int.from_bytes(data[start + 2 : payload], "big")
            end = payload + length
            if end > size or payload > size:
                break
            self._take_frame(first, data[payload:end], now)
            start = end
        self._buffer = data[start:]

    def _take_frame(self, first: int, payload: bytes, now: int) -> None:
        opcode = first & 0x0F
        if opcode > BINARY:
            self._take_control_frame(opcode, payload)
            return
        if opcode == CONTINUATION or not first & FINAL:
            if opcode != CONTINUATION:
                self._first = first  # only this one says whether the message is compressed
            self._message += payload
            if not first & FINAL:
                return
            first, payload, self._message = self._first, self._message, b""
        if self._inflate is not None and first & COMPRESSED:
            payload = self._inflate(payload + b"\x00\x00\xff\xff")
        self._listener.received(self, payload, now)

    def _take_control_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.send(_frame(payload, PONG))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
            self.send(_frame(payload[:2], CLOSE))
            self._end(Ended(code, payload[2:].decode("utf-8", "replace")))

    def _end(self, how: Ended) -> None:
        if self._sock.fileno() >= 0:
            self._close()
            self._listener.ended(self, how)

    def _close(self) -> None:
        if self._sock in self._selector.get_map():
            self._selector.unregister(self._sock)
        self._sock.close()
        self.is_open = False
