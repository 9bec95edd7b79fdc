"""Bytes that no browser sends: each may cost its sender the connection, and nobody else anything.

On trio, Hypercorn runs all its connections in one nursery: some of these would end the server.
"""

import base64
import socket
import textwrap
import time
from urllib.parse import urlsplit

import pytest

from raw_socket import RawSocket
from serving import Server, server_class
from until import until

pytestmark = pytest.mark.process

APP = """
    from dash import Dash, html
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True,
               plugins=[WebSocketRuntime()])
    app.layout = html.Div()

    if __name__ == "__main__":
        app.run()
"""

STARTS = [
    ("asyncio", "hypercorn"),
    ("trio", "python"),
    ("trio", "hypercorn"),
]


@pytest.fixture(scope="module", params=STARTS, ids="-".join)
def server(request, tmp_path_factory):
    loop, by = request.param
    package, name = server_class(loop)
    source = textwrap.dedent(APP).format(package=package, server=name)
    server = Server(source, loop, tmp_path_factory.mktemp("server"), by=by)
    server.start()
    yield server
    server.stop()


KEY = base64.b64encode(bytes(16))
HANDSHAKE = {
    b"Host": b"{host}",
    b"Origin": b"http://{host}",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def handshake(*more, version=b"HTTP/1.1", **changed):
    """The bytes of a handshake: with other values for some headers, without some, with more."""
    changed = {name.replace("_", "-").encode(): value for name, value in changed.items()}
    headers = {**HANDSHAKE, **changed}
    lines = [b"GET /_dash-ws-callback " + version]
    lines += [name + b": " + value for name, value in headers.items() if value is not None]
    return b"\r\n".join([*lines, *more, b"", b""])


SOON = 0.005
"""Seconds, in which the server is about to answer; what comes then meets it in any state."""

AT_LENGTH = 0.2
"""Seconds in which it has answered."""

HALF = object()
"""The client says that it will send no more."""

STRAY = [
    b"x",
    b"\x00",
    b"\r\n",
    b"\x81\x80\x00\x00\x00\x00",  # a frame, which may only come after the answer
    b"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n",
    handshake(),
    b"x" * 100_000,
]

HOSTILE = {
    **{f"stray {each[:8]!r}": [handshake() + each] for each in STRAY},
    **{f"stray {each[:8]!r}, soon": [handshake(), SOON, each] for each in STRAY},
    **{f"stray {each[:8]!r}, at length": [handshake(), AT_LENGTH, each] for each in STRAY},
    "stray without a pause": [handshake(), b"x"],
    "refused, and a stray byte": [handshake(Origin=b"http://elsewhere") + b"x"],
    "refused, and a stray byte soon": [handshake(Origin=b"http://elsewhere"), SOON, b"x"],
    "refused, and a stray byte later": [handshake(Origin=b"http://elsewhere"), AT_LENGTH, b"x"],
    "a body": [handshake(Content_Length=b"5") + b"hello"],
    "a body that is late": [handshake(Content_Length=b"5"), AT_LENGTH, b"hello"],
    "a body that never comes": [handshake(Content_Length=b"99999999999")],
    "a chunked body": [handshake(Transfer_Encoding=b"chunked") + b"5\r\nhello\r\n0\r\n\r\n"],
    "a body to be asked for": [handshake(Expect=b"100-continue", Content_Length=b"5"), b"hello"],
    "cut off": [handshake()[:-9]],
    "cut off, and half closed": [handshake()[:-9], HALF],
    "half closed": [handshake(), HALF],
    "wrong version": [handshake(Sec_WebSocket_Version=b"99") + b"x", SOON, b"x"],
    "no version": [handshake(Sec_WebSocket_Version=None), b"x"],
    "no key": [handshake(Sec_WebSocket_Key=None) + b"x", SOON, b"x"],
    "two keys": [handshake(b"Sec-WebSocket-Key: b")],
    "a key that is none": [handshake(Sec_WebSocket_Key=b"\xff\xfe")],
    "no host": [handshake(Host=None)],
    "two hosts": [handshake(b"Host: b")],
    "a host that is none": [handshake(Host=b"\xff:x:99999999")],
    "an origin that is none": [handshake(Origin=b"http://[\xff:x:99999999")],
    "no ASCII among the extensions": [handshake(Sec_WebSocket_Extensions=b"\xff")],
    "no ASCII among the protocols": [handshake(Sec_WebSocket_Protocol=b"\xff")],
    "no ASCII in Connection": [handshake(Connection=b"upgrade, \xff")],
    "no ASCII in Upgrade": [handshake(Upgrade=b"websocket\xff")],
    "no ASCII in a header": [handshake(Cookie=b"session=\xff\xfe; =;;\x01")],
    "NUL in a header": [handshake(X=b"a\x00b")],
    "an extension that is none": [handshake(Sec_WebSocket_Extensions=b", ;;permessage-deflate;=")],
    "a window that is none": [
        handshake(Sec_WebSocket_Extensions=b"permessage-deflate; client_max_window_bits=x")
    ],
    "protocols that are none": [handshake(Sec_WebSocket_Protocol=b",,,")],
    "a huge header": [handshake(X=b"a" * 200_000)],
    "many headers": [handshake(*[b"X: y"] * 20_000)],
    "HTTP/1.0": [handshake(version=b"HTTP/1.0")],
    "HTTP/9.9": [handshake(version=b"HTTP/9.9")],
    "h2c": [handshake(Upgrade=b"h2c", HTTP2_Settings=b"AAMAAABkAARAAAAAAAIAAAAA")],
    "h2c, no settings": [handshake(Upgrade=b"h2c") + b"garbage"],
    "h2c, settings that are none": [handshake(Upgrade=b"h2c", HTTP2_Settings=b"\xff!")],
    "HTTP/2 and garbage": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"garbage" * 100],
    "HTTP/2 cut off": [b"PRI * HTTP/2.0\r\n\r\n", HALF],
    "TLS": [bytes.fromhex("16030100f0010000ec0303") + bytes(200)],
    "garbage": [bytes(range(256)) * 20],
    "nothing": [],
    "nothing, and half closed": [HALF],
    "a frame without a mask": [handshake(), AT_LENGTH, b"\x81\x01x"],
    "an unknown frame": [handshake(), AT_LENGTH, b"\x8f\x80\0\0\0\0", SOON, b"\x81\x80\0\0\0\0"],
    "a close of one byte": [handshake(), AT_LENGTH, b"\x88\x81\0\0\0\0x"],
    "a frame after the close": [handshake(), AT_LENGTH, b"\x88\x80\0\0\0\0\x81\x80\0\0\0\0", b"x"],
    "no UTF-8": [handshake(), AT_LENGTH, b"\x81\x82\0\0\0\0\xff\xfe", SOON, b"\x81\x80\0\0\0\0"],
    "compressed, where that was not agreed": [handshake(), AT_LENGTH, b"\xc1\x81\0\0\0\0x"],
}


@pytest.mark.parametrize("steps", HOSTILE.values(), ids=HOSTILE)
def test_the_next_client_is_served(server, steps):
    host = urlsplit(server.url).netloc
    hostname, port = host.split(":")
    with socket.create_connection((hostname, int(port)), timeout=10) as hostile:
        try:
            for step in steps:
                if step is HALF:
                    hostile.shutdown(socket.SHUT_WR)
                elif isinstance(step, float):
                    time.sleep(step)
                else:
                    hostile.sendall(step.replace(b"{host}", host.encode()))
        except OSError:
            pass  # it has closed the connection
        heartbeat_is_answered(server)  # while the hostile one is still there
    heartbeat_is_answered(server)
    assert "Traceback" not in server.log, server.log


def heartbeat_is_answered(server):
    client = RawSocket(server.url)
    client.send('{"type": "heartbeat"}')
    assert client.receive() == '{"type":"heartbeat_ack"}'
    client.close()


BARE = """
async def server(scope, receive, send):
    while (event := await receive())["type"].startswith("lifespan"):
        await send({"type": event["type"] + ".complete"})

class app:
    server = staticmethod(server)
"""


def test_hypercorn_by_itself_does_not_survive_on_trio(tmp_path):
    """Where this fails, `contain_failures` in `backends/hypercorn.py` has had its time."""
    server = Server(BARE, "trio", tmp_path, by="hypercorn", workers=0)
    server.start()
    host = urlsplit(server.url).netloc
    hostname, port = host.split(":")
    try:
        with socket.create_connection((hostname, int(port)), timeout=10) as hostile:
            (bytes_of_it,) = HOSTILE["no ASCII among the extensions"]
            hostile.sendall(bytes_of_it.replace(b"{host}", host.encode()))
            server.wait_for_log("UnicodeDecodeError")
            assert hostile.recv(1000) == b""
        with pytest.raises(OSError, match="refused"):
            until(lambda: socket.create_connection((hostname, int(port))).close(), "it is gone")
    finally:
        server.kill()
