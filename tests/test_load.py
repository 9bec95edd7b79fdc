"""Many light pages: what they see of a real server, and what ``dashws load`` makes of it."""

import base64
import contextlib
import socket
import struct
import textwrap
import threading
import time
import urllib.request
import zlib

import pytest
from click.testing import CliRunner

from dashws_async.__main__ import main
from dashws_async.load import Address, App, Client, Load, NotAnApp, frame, stamp
from ports import free_port
from serving import Server, server_class
from until import until

PAGES = 20

APP = """
    import anyio
    from dash import Dash, Input, Output, State, ctx, dcc, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime
    from dashws_async.load import stamp

    runtime = WebSocketRuntime(compression=True)
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime],
               url_base_pathname="/app/")
    app.layout = html.Div([html.Div(id="live"), dcc.Input(id="text", value="typed"),
                           html.Div(id="closed"), html.Div(id="click")])

    @app.callback(State("text", "value"), persistent=True)
    async def live(text):
        read = await ctx.websocket.get_prop("text", "value")
        assert (text, read) == ("typed", "typed"), (text, read)
        while not ctx.websocket.is_shutdown:
            set_props("live", {{"children": stamp()}})
            await anyio.sleep(0.05)

    @app.callback(Output("closed", "children"), Input("click", "n_clicks"))
    async def close(_):
        await ctx.websocket.close(code=1011, reason="as asked")

    @app.server.route("/connections")
    async def connections():
        return str(runtime.statistics().connections)
"""


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def url(request, tmp_path_factory):
    """An app's index page, not at the root."""
    loop = request.param
    package, name = server_class(loop)
    source = textwrap.dedent(APP).format(package=package, server=name)
    server = Server(source, loop, tmp_path_factory.mktemp(loop), workers=0)
    server.start()
    yield f"{server.url}/app/"
    server.stop()


def connections(url):
    with urllib.request.urlopen(url.replace("/app/", "/connections"), timeout=30) as answer:
        return int(answer.read())


@contextlib.contextmanager
def pages(url, count=PAGES, **options):
    app = App.at(url)
    load = Load(app, count, **options)
    yield load
    load.leave()
    load.client.close()


def live(load):
    return lambda: load.tally.live == load.wanted


# A load


@pytest.mark.process
def test_every_page_gets_the_updates_of_its_persistent_callback(url):
    with pages(url) as load:
        assert load.run(20, until=live(load))
        assert connections(url) == PAGES
        load.tally.reset()
        tally = load.tally
        assert load.run(20, until=lambda: tally.updates >= 5 * PAGES)
        assert tally.updates == len(tally.delays)
        assert min(tally.delays) > 0
        assert max(tally.delays) < 10e9
        assert len(tally.handshakes) == len(tally.first_updates) == PAGES
        assert tally.lost.total() == tally.refused.total() == tally.errors.total() == 0
    until(lambda: connections(url) == 0, lambda: f"{connections(url)} connections")


@pytest.mark.process
def test_pages_come_at_a_pace(url):
    with pages(url, rate=20) as load:
        begun = time.monotonic()
        assert load.run(20, until=lambda: load.everyone_came)
        assert time.monotonic() - begun >= (PAGES - 1) / 20


@pytest.mark.process
def test_handshakes_under_way_are_bounded(url):
    with pages(url, at_once=3) as load:
        most = 0

        def look():
            nonlocal most
            most = max(most, load.tally.opening)
            return load.everyone_came

        assert load.run(20, until=look)
        assert most == 3


@pytest.mark.process
def test_heartbeats_are_timed(url):
    with pages(url, heartbeat=0.1, requests=[]) as load:
        assert load.run(20, until=lambda: len(load.tally.heartbeats) >= 2 * PAGES)
        assert min(load.tally.heartbeats) > 0


@pytest.mark.process
def test_compressed_updates_are_understood(url):
    app = App.at(url)
    client = Client(Address.of(app.url, app.path), deflate=True)
    with pages(url, client=client) as load:
        assert load.run(20, until=lambda: len(load.tally.delays) >= 4 * PAGES)
        assert not load.tally.lost


@pytest.mark.process
def test_an_answer_that_is_an_error_is_counted(url):
    unknown = {"output": "nowhere.children", "inputs": [], "changedPropIds": []}
    with pages(url, requests=[unknown]) as load:
        assert load.run(20, until=lambda: load.tally.errors.total() == PAGES)
        assert load.tally.open == PAGES


@pytest.mark.process
def test_a_connection_that_the_server_ends_is_counted_with_its_reason(url):
    app = App.at(url)
    (callback,) = (each for each in app.callbacks if not each.get("persistent"))
    with pages(url, requests=[app.payload(callback, 1)]) as load:
        assert load.run(20, until=lambda: load.tally.lost.total() == PAGES)
        assert load.tally.lost == {"1011 as asked": PAGES}
        assert load.tally.open == load.tally.live == 0


def test_a_handshake_that_nobody_answers_is_counted():
    url = f"http://127.0.0.1:{free_port()}/"
    app = App(url, App.websocket_path(url), (), {})
    load = Load(app, 3)
    assert load.run(10, until=lambda: load.everyone_came)
    assert load.tally.refused.total() == 3
    load.client.close()


def test_what_is_no_dash_app_is_said():
    with pytest.raises(NotAnApp, match="_dash-dependencies"):
        App.at(f"http://127.0.0.1:{free_port()}/")


# The command


def dashws_load(url, *options):
    short = ["--pages", "5", "--ramp", "0.1", "--duration", "0.5", "--heartbeat", "0.1"]
    return CliRunner().invoke(main, ["load", url, *short, *options])


@pytest.mark.process
def test_the_command_says_what_came_and_passes(url):
    result = dashws_load(url, "--max-p99", "20000")
    assert result.exit_code == 0, result.output
    assert "5 open, 5 live" in result.output
    for measured in ("handshake", "first update", "heartbeat's answer", "delay of stamped"):
        assert measured in result.output
    assert "Passed" in result.output


@pytest.mark.process
def test_the_command_fails_where_updates_are_late(url):
    result = dashws_load(url, "--max-p99", "0.000001")
    assert result.exit_code == 1
    assert "Failed: p99 is" in result.output


@pytest.mark.process
def test_the_command_fails_where_pages_are_refused(url):
    foreign = dashws_load(url, "--header", "Origin: http://elsewhere.example")
    assert foreign.exit_code == 1
    assert "HTTP/1.1 4" in foreign.output
    assert "5 of 5 pages failed (100 %)" in foreign.output
    lenient = dashws_load(url, "--header", "Origin: http://elsewhere.example", "--max-lost", "100")
    assert lenient.exit_code == 0


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0"])
def test_the_command_loads_this_machine_only_unless_told(host):
    result = dashws_load(f"http://{host}:8050/")
    assert result.exit_code == 2
    assert "--allow-remote" in result.output


@pytest.mark.parametrize(
    ("url", "options", "complaint"),
    [
        ("https://127.0.0.1:8050/", [], "must begin with http://"),
        ("127.0.0.1:8050", [], "must begin with http://"),
        ("http://127.0.0.1:8050/", ["--pages", "100000000"], "the hard limit is"),
        ("http://127.0.0.1:8050/", ["--header", "none"], "'none' is no header"),
    ],
)
def test_what_cannot_be_loaded_is_said(url, options, complaint):
    result = dashws_load(url, *options)
    assert result.exit_code == 2
    assert complaint in result.output


# The sockets, against a server that sends what it is told to


class Script:
    """Serves one WebSocket: the handshake's answer, then the bytes, each in a packet of its own."""

    def __init__(self, *packets, answer=b"HTTP/1.1 101 Switching Protocols\r\n\r\n"):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.received = bytearray()
        self._packets = (answer, *packets)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        host, port = self._listening.getsockname()
        self.address = Address.of(f"http://{host}:{port}/", "/ws")

    def _serve(self):
        accepted, _ = self._listening.accept()
        with self._listening, accepted:
            accepted.settimeout(10)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while b"\r\n\r\n" not in self.received:
                self.received += accepted.recv(65536)
            for packet in self._packets:
                accepted.sendall(packet)
                time.sleep(0.01)  # so that it is a packet of its own; nothing depends on it
            with contextlib.suppress(OSError):
                while data := accepted.recv(65536):
                    self.received += data


class Heard:
    """A listener that notes everything."""

    def __init__(self):
        self.messages = []
        self.is_open = False
        self.end = None

    def opened(self, socket):
        self.is_open = True

    def received(self, socket, message, now):
        self.messages.append(message)

    def ended(self, socket, how):
        self.end = how


def hear(script, done, *, deflate=False):
    heard = Heard()
    client = Client(script.address, deflate=deflate)
    ours = client.connect(heard)
    deadline = time.monotonic() + 10
    while not done(heard) and time.monotonic() < deadline:
        client.turn(0.1)
    assert done(heard)
    return heard, ours, client


def text(payload, first=0x81):
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 65536:
        return bytes([first, 126]) + struct.pack("!H", size) + payload
    return bytes([first, 127]) + struct.pack("!Q", size) + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1_000_000])
def test_messages_of_all_sizes_arrive(size):
    heard, _, client = hear(Script(text(b"x" * size), text(b"end")), lambda h: len(h.messages) == 2)
    assert heard.messages == [b"x" * size, b"end"]
    client.close()


def test_messages_arrive_however_the_bytes_are_cut():
    together = text(b"one") + text(b"t" * 200) + text(b"three")
    packets = [together[at : at + 1] for at in range(12)] + [together[12:]]
    heard, _, client = hear(Script(*packets), lambda h: len(h.messages) == 3)
    assert heard.messages == [b"one", b"t" * 200, b"three"]
    client.close()


def test_a_message_may_come_with_the_handshake():
    script = Script(answer=b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + text(b"at once"))
    heard, _, client = hear(script, lambda h: h.messages)
    assert heard.messages == [b"at once"]
    client.close()


def test_fragments_are_one_message_and_control_frames_may_come_amid():
    script = Script(
        text(b"one ", 0x01), text(b"ping", 0x89), text(b"two ", 0x00), text(b"three", 0x80)
    )
    heard, _, client = hear(script, lambda h: h.messages)
    assert heard.messages == [b"one two three"]
    until(lambda: b"\x8a\x84" + bytes(4) + b"ping" in script.received, lambda: script.received)
    client.close()


def test_compressed_messages_share_a_dictionary_and_may_be_fragmented():
    deflate = zlib.compressobj(wbits=-15)

    def compressed(payload):
        data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(b"\x00\x00\xff\xff")

    first, second = compressed(b"the same words"), compressed(b"the same words, again")
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    script = Script(
        text(first, 0xC1),
        text(second[:3], 0x41),
        text(second[3:], 0x80),
        text(b"plain"),
        answer=answer,
    )
    heard, _, client = hear(script, lambda h: len(h.messages) == 3, deflate=True)
    assert heard.messages == [b"the same words", b"the same words, again", b"plain"]
    assert b"permessage-deflate" in script.received
    client.close()


def test_the_servers_close_frame_is_answered_and_told():
    script = Script(text(struct.pack("!H", 1012) + b"restart", 0x88))
    heard, ours, client = hear(script, lambda h: h.end)
    assert heard.end == (1012, "restart")
    assert not ours.is_open
    until(lambda: b"\x88\x82" + bytes(4) + b"\x03\xf4" in script.received, lambda: script.received)
    ours.send(frame("late"))  # does nothing
    client.close()


def test_a_refused_handshake_is_told_with_its_status():
    script = Script(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n")
    heard, _, client = hear(script, lambda h: h.end)
    assert heard.end == (None, "HTTP/1.1 403 Forbidden")
    assert not heard.is_open
    client.close()


def test_the_handshake_is_a_browsers():
    script = Script()
    _, _, client = hear(script, lambda h: h.is_open)
    request, *lines = script.received.decode().split("\r\n\r\n")[0].split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    host = script.address.host
    assert request == "GET /ws HTTP/1.1"
    assert (headers["Host"], headers["Origin"]) == (host, f"http://{host}")
    assert len(base64.b64decode(headers["Sec-WebSocket-Key"])) == 16
    client.close()


@pytest.mark.parametrize("size", [10, 200, 30_000_000])
def test_what_is_sent_arrives_even_if_the_buffers_are_full(size):
    script = Script()
    _, ours, client = hear(script, lambda h: h.is_open)
    sent = frame("x" * size) + frame("end")
    ours.send(frame("x" * size))
    ours.send(frame("end"))
    deadline = time.monotonic() + 10
    while not script.received.endswith(sent[-9:]) and time.monotonic() < deadline:
        client.turn(0.01)
    assert script.received.endswith(sent)
    client.close()


def test_a_stamp_says_when():
    before = time.monotonic_ns()
    assert before <= int(stamp().strip("@")) <= time.monotonic_ns()
    assert stamp(12345678901) == "@12345678901@"
