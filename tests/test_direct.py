"""The transport that has no server in between: what it hears, what it sends, how it ends.

In memory, with asyncio's transport played by a `Line`. What it is like on a real connection
stands in `test_carrier.py`, and in all tests that start a server.
"""

import asyncio
import gc
import struct
import weakref
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from dashws_async.backends import direct
from dashws_async.backends.direct import MANY, READ, WAITING, DirectTransport
from dashws_async.connection import Disconnected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"  # trio's servers have no such transport


class Before:
    """The protocol that has had asyncio's transport before."""

    def __init__(self):
        self.lost = []

    def connection_lost(self, exc):
        self.lost.append(exc)


class Line:
    """asyncio's transport, and the client at its other end."""

    def __init__(self, max_message_bytes=1_000_000):
        self.before = self.protocol = Before()
        self.reading = True
        self.closing = False
        self._client = Protocol(CLIENT, state=OPEN, max_size=None)
        self.served = DirectTransport(self, max_message_bytes)

    # asyncio's.

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def write(self, data):
        assert not self.closing
        self._client.receive_data(data)

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    # The client's.

    def said(self, *frames):
        """What the client's frames are on the wire."""
        for opcode, data, *rest in frames:
            fin = rest[0] if rest else True
            self._client.send_frame(Frame(opcode, data, fin))
        return b"".join(self._client.data_to_send())

    def comes(self, data, at_once=READ):
        """Hand bytes over as asyncio does, in pieces of what there is room for."""
        for start in range(0, len(data), at_once):
            piece = data[start : start + at_once]
            buffer = self.protocol.get_buffer(-1)
            assert len(buffer) >= len(piece)
            buffer[: len(piece)] = piece
            self.protocol.buffer_updated(len(piece))

    def says(self, *frames):
        self.comes(self.said(*frames))

    def heard(self):
        """The frames that the server has sent."""
        return [(frame.opcode, bytes(frame.data)) for frame in self._client.events_received()]

    def close_code(self):
        """Of the close frame that the server has sent."""
        ((opcode, data),) = [frame for frame in self.heard() if frame[0] is Opcode.CLOSE]
        assert opcode is Opcode.CLOSE
        return struct.unpack("!H", data[:2])[0]


async def all_messages(line):
    """Those that wait, up to the end."""
    found = []
    while True:
        try:
            found.append(await line.served.receive())
        except Disconnected:
            return found


TEXT, BINARY, CONT, PING = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING


async def test_messages_come_in_order_text_as_text_and_bytes_as_bytes():
    line = Line()
    line.says((TEXT, "ä".encode()), (BINARY, b"\xff"), (TEXT, b""))
    assert [await line.served.receive() for _ in range(3)] == ["ä", b"\xff", ""]


@given(
    st.lists(st.tuples(st.booleans(), st.text(), st.lists(st.integers(0, 20), max_size=3))),
    st.integers(1, 50),
)
def test_however_a_message_is_cut_into_frames_and_the_stream_into_pieces(messages, at_once):
    line, wire, pings = Line(), b"", 0
    for is_text, text, cuts in messages:
        data = text.encode()
        bounds = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
        parts = [data[a:b] for a, b in pairwise(bounds)] or [b""]
        first = TEXT if is_text else BINARY
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            wire += line.said((CONT if number else first, part, last), (PING, b"?"))
            pings += 1
    line.comes(wire, at_once)
    expected = [text if is_text else text.encode() for is_text, text, _ in messages]
    assert line.served._inbox == expected
    assert line.heard() == [(Opcode.PONG, b"?")] * pings


@pytest.mark.parametrize("size", [0, 100, 70_000])
async def test_a_frame_leaves_where_it_is_sent(size):
    line = Line()
    assert line.served.send("x" * size) is None
    assert line.heard() == [(TEXT, b"x" * size)]


async def test_who_sends_waits_for_a_client_that_does_not_keep_up_and_no_longer():
    line = Line()
    line.protocol.pause_writing()
    wait = line.served.send("x")
    assert wait is not None
    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    line.protocol.resume_writing()
    await waiting
    assert line.served.send("y") is None


async def test_who_waits_for_a_client_hears_that_it_has_left():
    line = Line()
    line.protocol.pause_writing()
    waiting = asyncio.ensure_future(line.served.send("x")())
    await asyncio.sleep(0)
    line.protocol.connection_lost(None)
    with pytest.raises(Disconnected):
        await waiting
    with pytest.raises(Disconnected):
        line.served.send("y")


async def test_a_client_that_says_more_than_is_received_has_to_wait():
    line = Line()
    for number in range(WAITING):
        assert line.reading
        line.says((TEXT, str(number).encode()))
    assert not line.reading
    assert await line.served.receive() == "0"
    assert line.reading


async def test_a_client_that_pings_and_takes_no_pong_has_to_wait():
    line = Line()
    line.says((PING, b""))
    assert line.reading
    line.protocol.pause_writing()
    line.says((TEXT, b"a heartbeat"))
    assert line.reading  # it is not to fall silent
    line.says((PING, b""))
    assert not line.reading
    await line.served.receive()
    assert not line.reading
    line.protocol.resume_writing()
    assert line.reading


async def test_who_takes_messages_slowly_still_hears_of_them_while_the_client_does():
    line = Line()
    line.protocol.pause_writing()
    for number in range(WAITING):
        line.says((TEXT, str(number).encode()))
    assert not line.reading
    await line.served.receive()
    assert line.reading


async def test_what_is_read_by_another_thread_s_loop_is_apart():
    line = Line()
    other = await asyncio.to_thread(line.protocol.get_buffer, -1)
    assert other.obj is not line.protocol.get_buffer(-1).obj


async def test_no_client_is_read_for_long_at_once():
    assert len(Line().protocol.get_buffer(1_000_000)) == READ


@pytest.mark.parametrize("how", ["close frame", "eof", "lost"])
async def test_what_was_said_before_the_end_is_still_received(how):
    line = Line()
    line.says((TEXT, b"last words"))
    if how == "close frame":
        line.says((Opcode.CLOSE, struct.pack("!H", 1001)))
    elif how == "eof":
        assert not line.protocol.eof_received()  # asyncio is to close the connection
    else:
        line.protocol.connection_lost(None)
    assert await all_messages(line) == ["last words"]


async def test_a_close_frame_is_answered_with_its_code_and_ends_the_connection():
    """RFC 6455, section 7.1.1: at once, whatever callbacks still do."""
    line = Line()
    line.says((Opcode.CLOSE, struct.pack("!H", 1001)))
    assert line.close_code() == 1001
    assert line.closing


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(TEXT, b"x" * 1001)], 1009),
        ([(TEXT, b"x" * 600, False), (CONT, b"x" * 600)], 1009),
        ([(TEXT, b"\xff")], 1007),
        ([(TEXT, b"\xc3", False), (CONT, b"x")], 1007),
        ([(TEXT, b"x", False), (TEXT, b"x")], 1002),
        ([(CONT, b"x")], 1002),
        ([(TEXT, b"", False), *[(CONT, b"", False)] * MANY], 1009),
    ],
    ids=["long", "long in pieces", "no UTF-8", "no UTF-8 in pieces", "two", "none", "crumbs"],
)
async def test_what_is_not_allowed_ends_the_websocket_with_its_code(frames, code, monkeypatch):
    monkeypatch.setattr(direct, "LAST_WORDS", 0.01)
    line = Line(max_message_bytes=1000)
    line.says((TEXT, b"before"))
    line.says(*frames)
    line.says((TEXT, b"after"))
    assert line.close_code() == code
    assert await all_messages(line) == ["before"]


async def test_a_client_that_was_refused_has_a_moment_to_read_why(monkeypatch):
    """Who closes a connection with something unread resets it, and the reason is lost."""
    monkeypatch.setattr(direct, "LAST_WORDS", 60)
    line = Line(max_message_bytes=1000)
    line.says((TEXT, b"x" * 1001))
    ended = asyncio.ensure_future(all_messages(line))
    await asyncio.sleep(0.01)
    assert line.close_code() == 1009
    line.served.send("an update of a callback, which does not know yet")
    assert not ended.done()
    assert line.heard() == []
    line.protocol.eof_received()
    assert await ended == []
    with pytest.raises(Disconnected):
        line.served.send("another one")
    line.protocol.connection_lost(None)


async def test_unmasked_frames_are_refused():
    line = Line()
    line.comes(b"\x81\x02hi")
    assert line.close_code() == 1002
    line.protocol.connection_lost(None)


async def test_after_the_close_frame_nothing_is_sent():
    line = Line()
    await line.served.close(1012, "again")
    assert line.close_code() == 1012
    await line.served.close(1000, "")
    await line.served.send_event({"type": "websocket.send", "text": "x"})
    line.served.send("x")
    assert line.heard() == []
    line.protocol.connection_lost(None)


async def test_a_client_that_does_not_answer_the_close_frame_counts_as_gone(monkeypatch):
    monkeypatch.setattr(direct, "LAST_WORDS", 0.01)
    line = Line()
    await line.served.send_event({"type": "websocket.close", "code": 4001})
    assert line.close_code() == 4001
    with anyio.fail_after(5):
        assert await all_messages(line) == []
    with pytest.raises(Disconnected):
        line.served.send("x")


@pytest.mark.parametrize("let_go", [False, True])
async def test_who_had_the_connection_before_hears_of_its_end_once(let_go):
    line = Line()
    if let_go:
        line.served.let_go()
        assert line.before.lost == [None]
    line.protocol.connection_lost(ConnectionResetError())
    assert len(line.before.lost) == 1


async def test_what_is_lost_is_gone_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    line = Line()
    line.says((TEXT, b"half a", False))
    found = weakref.ref(line.served._protocol), weakref.ref(line)
    line.protocol.connection_lost(None)
    served = line.served
    del line
    line_is_gone = found[1]() is None
    del served
    protocol_is_gone = found[0]() is None
    gc.enable()
    assert line_is_gone
    assert protocol_is_gone


async def test_what_comes_and_goes_after_the_connection_is_lost_does_no_harm():
    line = Line()
    line.protocol.connection_lost(None)
    line.served.feed(b"\x81")
    line.served.abort()
    await line.served.close(1000, "")
    assert line.served.bytes_taken() is None
    assert await all_messages(line) == []


async def test_a_client_that_takes_nothing_is_dropped_in_the_end():
    line = Line()
    await line.served.finish(0.01)
    assert line.closing
