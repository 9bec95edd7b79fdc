"""A WebSocket client of a few lines, for a thousand at once and for rude ends. Knows no Dash."""

import base64
import os
import socket
import struct
import time
from urllib.parse import urlsplit

TIMEOUT = 30
"""Seconds that any step may take."""


class RawSocket:
    """A blocking client socket; it reads only when asked, and answers nothing by itself.

    Args:
        url: of the app.
        receive_buffer: bytes that the system may keep for it, so that a client that does
            not read is one at once.
    """

    def __init__(self, url, path="/_dash-ws-callback", receive_buffer=None):
        host, port = urlsplit(url).hostname, urlsplit(url).port
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Origin: {url}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = self._until(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.split(b"\r\n")[0].decode())

    def send(self, text):
        """Send a text message."""
        self._send_frame(0x1, text.encode())

    def drip(self, text, pause):
        """Send a text message one byte at a time, with seconds in between."""
        for byte in self._frame(0x1, text.encode()):
            self._socket.sendall(bytes([byte]))
            time.sleep(pause)

    def send_bytes(self, data):
        """Send frames, or what is none."""
        self._socket.sendall(data)

    def receive_bytes(self, most):
        """Some of what comes next, frames or parts of them."""
        return self._socket.recv(most)

    def receive(self):
        """The next text message, or the code of the close frame."""
        first, length = self._take(2)
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        payload = self._take(length)
        if first & 0x0F == 0x8:
            return struct.unpack("!H", payload[:2])[0]
        return payload.decode()

    def receive_close(self):
        """The code of the close frame, whatever comes before it."""
        while not isinstance(message := self.receive(), int):
            pass
        return message

    def close(self):
        """Say goodbye, wait for the answer, and go."""
        self._send_frame(0x8, struct.pack("!H", 1000))
        self.receive_close()
        self._socket.close()

    def reset(self):
        """Go as a process does that is killed, or a machine that restarts: TCP RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _send_frame(self, opcode, payload):
        self._socket.sendall(self._frame(opcode, payload))

    def _frame(self, opcode, payload):
        size = len(payload)
        assert size < 65536, "long enough for a test"
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        # The mask must be there (RFC 6455, section 5.3); all zeros leave the payload as it is.
        return bytes([0x80 | opcode]) + length + bytes(4) + payload

    def _take(self, count):
        while len(self._received) < count:
            self._more()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _until(self, mark):
        while mark not in self._received:
            self._more()
        head, _, self._received = self._received.partition(mark)
        return head

    def _more(self):
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the TCP connection")
        self._received += data
