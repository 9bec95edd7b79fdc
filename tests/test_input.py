"""Whatever a client sends: what it is told, what is counted, and that nobody else is harmed."""

import json
import logging
import re
import threading

import anyio
import pytest
from dash import ALL, Input, Output, State, ctx, set_props
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.token_bucket import TokenBucket
from raw_client import open_client, payload_of, request
from until import eventually

pytestmark = pytest.mark.anyio

MAX_BYTES = 50_000
"""Of one message, in most of these tests."""

GO = payload_of("out.children", ("go.n_clicks", 1))
ALL_OUTPUT = GO | {
    "output": '{"n":["ALL"]}.title',
    "outputs": [{"id": {"n": 1}, "property": "title"}],
}
"""For a callback with a pattern-matching output, and no other."""
ALL_INPUT = payload_of("sum.children", inputs=[[]])
"""For a callback with a pattern-matching input."""


def value(text):
    """A request whose input has a value written so."""
    return json.dumps(request(payload_of("out.children", ("go.n_clicks", "HERE")))).replace(
        '"HERE"', text
    )


def without(message, *names):
    return {name: value for name, value in message.items() if name not in names}


class Stage:
    """An app with a persistent neighbour, and callbacks that can be asked for.

    ``out`` runs at once; ``held`` runs until `release` is set; ``ask`` reads a property.
    """

    def __init__(self, loop, **knobs):
        self.runtime = WebSocketRuntime(**{"max_message_bytes": MAX_BYTES} | knobs)
        self.runs = []
        self.release = anyio.Event()
        self.app = app = make_app(
            loop, "go", "out", runtime=self.runtime, websocket_callbacks=False
        )

        @app.callback(persistent=True, websocket=True)
        async def live():
            number = 0
            while not ctx.websocket.is_shutdown:
                set_props("live", {"children": number})
                number += 1
                await anyio.sleep(0.001)

        self._neighbour = next(iter(app.callback_map))

        @app.callback(Output("out", "children"), Input("go", "n_clicks"), websocket=True)
        async def out(clicks):
            self.runs.append(clicks)
            return "done"

        @app.callback(Output("sum", "children"), Input({"n": ALL}, "value"), websocket=True)
        async def add(values):
            return len(values)

        @app.callback(Output({"n": ALL}, "title"), Input("go", "n_clicks"), websocket=True)
        async def each(clicks):
            return [clicks] * len(ctx.outputs_list)

        @app.callback(Output("held", "children"), State("go", "n_clicks"), websocket=True)
        async def held(number):
            self.runs.append(number)
            await self.release.wait()
            return number

        @app.callback(Output("ask", "children"), Input("go", "n_clicks"), websocket=True)
        async def ask(clicks):
            return len(await ctx.websocket.get_prop("go", "title", timeout=clicks))

        @app.callback(Output("http", "children"), Input("go", "n_clicks"))
        async def http(clicks):
            raise AssertionError("must not run over the WebSocket")

    def open(self):
        return open_client(self.app)

    async def start_neighbour(self, client):
        await client.send(
            request({"output": self._neighbour, "inputs": [], "changedPropIds": []}, "live")
        )
        await eventually(lambda: client.live >= 0)


@pytest.mark.parametrize(
    ("message", "answer", "text"),
    [
        # What is no message at all: there is nobody to tell.
        pytest.param("hello", None, "", id="not JSON"),
        pytest.param("", None, "", id="empty"),
        pytest.param(b"", None, "", id="empty binary"),
        pytest.param(b"\x00\xff", None, "", id="binary"),
        pytest.param([request(GO)], None, "", id="an array"),
        pytest.param("7", None, "", id="a scalar"),
        pytest.param("null", None, "", id="null"),
        pytest.param("[" * 100_000, None, "", id="100,000 levels"),
        pytest.param({"type": "dance"}, None, "", id="an unknown type from nobody"),
        # What is a message, with something amiss.
        pytest.param(request(GO, type="dance"), "error", "'dance'", id="an unknown type"),
        pytest.param(without(request(GO), "type"), "error", "`type`", id="no type"),
        pytest.param(request(GO, rendererId={}), None, "", id="rendererId an object"),
        pytest.param(request(GO, rendererId="a" * 300), None, "", id="rendererId too long"),
        pytest.param(request(GO, requestId={}), "page", "$.requestId", id="requestId an object"),
        pytest.param(without(request(GO), "requestId"), "page", "`requestId`", id="no requestId"),
        pytest.param(request(GO, requestId="a" * 300), "page", "<= 256", id="requestId too long"),
        pytest.param(without(request(GO), "payload"), "error", "`payload`", id="no payload"),
        pytest.param(request(None), "error", "$.payload", id="payload null"),
        pytest.param(request("x"), "error", "$.payload", id="payload a string"),
        pytest.param(request([]), "error", "$.payload", id="payload an array"),
        pytest.param(request(GO | {"output": {}}), "error", "$.output", id="unhashable output"),
        pytest.param(request(GO | {"inputs": None}), "error", "$.inputs", id="inputs null"),
        pytest.param(request(GO | {"inputs": [7]}), "error", "$.inputs[0]", id="inputs scalars"),
        pytest.param(
            request(GO | {"changedPropIds": [{}]}), "error", "changedPropIds", id="changed objects"
        ),
        pytest.param(request(GO | {"x": "x" * MAX_BYTES}), "error", "at most", id="too long"),
        # Values; the first two are no JSON.
        pytest.param(value("NaN"), None, "", id="NaN"),
        pytest.param(value("-Infinity"), None, "", id="Infinity"),
        pytest.param(value("1e999"), "error", "out of range", id="1e999"),
        pytest.param(value("9" * 5000), "error", "out of range", id="5000 digits"),
        pytest.param(value("[" * 800 + "]" * 800), "error", "each other", id="800 levels"),
        # What is asked for is not there.
        pytest.param(
            request(payload_of("no.children")), "error", "no callback", id="unknown callback"
        ),
        pytest.param(
            request(payload_of("http.children", ("go.n_clicks", 1))),
            "error",
            "websocket=True",
            id="a callback without websocket=True",
        ),
        pytest.param(request(GO | {"inputs": []}), "error", "inputs", id="inputs missing"),
        pytest.param(
            request(GO | {"state": GO["inputs"]}), "error", "inputs", id="states too many"
        ),
        pytest.param(
            request(GO | {"inputs": [GO["inputs"]]}), "error", "inputs", id="several for one"
        ),
        pytest.param(
            request(ALL_INPUT | {"inputs": GO["inputs"]}), "error", "inputs", id="one for several"
        ),
        pytest.param(request(without(GO, "outputs")), "error", "outputs", id="no outputs"),
        pytest.param(request(GO | {"outputs": []}), "error", "outputs", id="outputs empty"),
        pytest.param(
            request(GO | {"outputs": {"id": "go", "property": "children"}}),
            "error",
            "outputs",
            id="outputs of another callback",
        ),
        pytest.param(
            request(ALL_OUTPUT | {"outputs": [*ALL_OUTPUT["outputs"], []]}),
            "error",
            "outputs",
            id="a list among what one output stands for",
        ),
    ],
)
async def test_a_bad_message_is_answered_and_counted_and_harms_nobody(
    anyio_backend, message, answer, text, caplog
):
    caplog.set_level(logging.INFO)
    stage = Stage(anyio_backend)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        await client.send(message)
        await client.send(request(GO, "after"))
        assert (await client.answer("after"))["status"] == "ok"
        await client.goes_on()
        assert stage.runtime.statistics().bad_messages == 1
    assert stage.runs == [1]
    answers = [each for each in client.answers("r") if answer == "error"]
    errors = [each["payload"] for each in client.received if each["type"] == "error"]
    assert len(client.received) == 1 + len(answers) + len(errors)
    assert (len(answers), len(errors)) == (answer == "error", answer == "page")
    for said in answers + errors:
        assert text in said["message"]
        assert said.get("status", "error") == "error"
        assert len(said["message"]) < 400
    assert all(record.levelno <= logging.INFO and not record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(request(GO | {"new": 1}, new=2), id="unknown fields"),
        pytest.param(request(ALL_OUTPUT), id="an output that stands for several"),
        pytest.param(json.dumps(request(GO)).encode(), id="JSON in a binary message"),
        pytest.param(value('{"__proto__": {"a": 1}, "a": 1, "a": 2}'), id="__proto__, a key twice"),
        pytest.param(value('"\\u0000"'), id="U+0000"),
        pytest.param(value('"\\ud83d"'), id="half an emoji"),
        pytest.param(value("100000000000000000000"), id="1e20 as JavaScript writes it"),
        pytest.param(value("[" * 200 + "]" * 200), id="200 levels"),
    ],
)
async def test_what_is_unusual_but_right_is_served(anyio_backend, message):
    stage = Stage(anyio_backend)
    async with stage.open() as client:
        await client.send(message)
        assert (await client.answer("r"))["status"] == "ok"
    assert stage.runtime.statistics().bad_messages == 0


@pytest.mark.parametrize(
    "message",
    [
        {"type": "get_props_response", "rendererId": "tab", "requestId": "never", "payload": {}},
        {"type": "get_props_response", "rendererId": "tab", "requestId": "n", "payload": None},
        {"type": "get_props_response", "rendererId": "who", "requestId": "never", "payload": {}},
        {"type": "tab_gone", "rendererId": "who"},
    ],
    ids=["an answer never asked for", "without a payload", "of an unknown tab", "its end"],
)
async def test_what_may_come_late_is_ignored(anyio_backend, message):
    stage = Stage(anyio_backend)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        await client.send(message)
        await client.goes_on()
        stats = stage.runtime.statistics()
        assert (stats.bad_messages, stats.tabs) == (0, 1)
    assert client.received == []


async def test_a_request_id_that_runs_already_is_refused(anyio_backend):
    stage = Stage(anyio_backend)
    held = payload_of("held.children", state=GO["inputs"])
    async with stage.open() as client:
        await stage.start_neighbour(client)
        for _ in range(2):
            await client.send(request(held))
        await eventually(lambda: client.received)
        (error,) = client.received
        assert "'r' runs already" in error["payload"]["message"]
        await client.send(request(held, tab="other"))  # another tab's ids are its own
        await eventually(lambda: len(stage.runs) == 2)
        stage.release.set()
        for tab in ("tab", "other"):
            assert (await client.answer("r", tab))["status"] == "ok"
        await client.send(request(GO))  # it is free again
        await eventually(lambda: len(client.answers("r")) == 2)
        await client.goes_on()
        assert stage.runtime.statistics().bad_messages == 1
    assert len(stage.runs) == 3


def read_answer(asked, title, **fields):
    """The page's answer to a ``get_props_request``."""
    return {
        "type": "get_props_response",
        "rendererId": asked["rendererId"],
        "requestId": asked["requestId"],
        "payload": {"title": title},
        **fields,
    }


async def test_the_first_answer_of_the_tab_that_was_asked_counts(anyio_backend):
    stage = Stage(anyio_backend)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        await client.send(request(payload_of("out.children", ("go.n_clicks", 1)), tab="other"))
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 5))))
        await client.answer("r", tab="other")
        (asked,) = await client.asked()
        await client.send(read_answer(asked, "forged", rendererId="other"))
        await client.send(read_answer(asked, "x"))
        await client.send(read_answer(asked, "again"))
        answer = await client.answer("r")
        assert answer["data"]["response"] == {"ask": {"children": len("x")}}
        await client.goes_on()
        assert stage.runtime.statistics().bad_messages == 0


async def test_a_property_of_10_mb_can_be_read(anyio_backend):
    stage = Stage(anyio_backend, max_message_bytes=16 * 1024 * 1024)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 20))))
        (asked,) = await client.asked()
        await client.send(read_answer(asked, "x" * 10_000_000))
        answer = await client.answer("r")
        assert answer["data"]["response"] == {"ask": {"children": 10_000_000}}
        await client.goes_on()


# Limits


async def test_past_max_callbacks_a_request_gets_an_error(anyio_backend):
    stage = Stage(anyio_backend, max_callbacks=4)
    held = payload_of("held.children", state=GO["inputs"])
    async with stage.open() as client:
        await stage.start_neighbour(client)
        for number in range(6):
            await client.send(request(held, f"r{number}", tab=f"tab{number % 2}"))
        for number in (3, 4, 5):
            answer = await client.answer(f"r{number}", tab=f"tab{number % 2}")
            assert answer["status"] == "error"
            assert "4 callbacks of this browser run already" in answer["message"]
        await client.goes_on()
        stats = stage.runtime.statistics()
        assert (stats.callbacks, stats.requests_refused, stats.bad_messages) == (4, 3, 0)
        stage.release.set()
        await eventually(lambda: stage.runtime.statistics().callbacks == 1)
        await client.send(request(GO))
        assert (await client.answer("r"))["status"] == "ok"


async def test_past_max_reads_get_prop_raises(anyio_backend, caplog):
    stage = Stage(anyio_backend, max_reads=2)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        for number in range(3):
            ask = payload_of("ask.children", ("go.n_clicks", 5))
            await client.send(request(ask, f"r{number}", tab=f"tab{number % 2}"))
        answer = await client.answer("r2", tab="tab0")
        assert answer["status"] == "error"
        assert "max_reads" not in answer["message"]  # it stays in the log
        assert "2 answers are awaited from this browser already" in caplog.text
        for asked in await client.asked(2):
            await client.send(read_answer(asked, "x"))
        for number in range(2):
            await client.answer(f"r{number}", tab=f"tab{number}")
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 5)), "later"))
        await client.asked(3)
        await client.goes_on()


async def test_reads_given_up_and_reads_of_tabs_that_went_make_room(anyio_backend):
    stage = Stage(anyio_backend, max_reads=1)
    async with stage.open() as client:
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 0.001)), "short"))
        assert (await client.answer("short"))["status"] == "error"
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 5)), tab="other"))
        await client.asked(2)
        await client.send({"type": "tab_gone", "rendererId": "other"})
        await client.send(request(payload_of("ask.children", ("go.n_clicks", 5))))
        await client.send(read_answer((await client.asked(3))[-1], "x"))
        assert (await client.answer("r"))["status"] == "ok"


@pytest.mark.virtual_time
async def test_too_many_bad_messages_in_a_minute_close_the_connection(anyio_backend_name, caplog):
    stage = Stage(anyio_backend_name, max_bad_messages=10)
    async with stage.open() as client:
        for _ in range(3):  # ten a minute are borne for ever
            for _ in range(10):
                await client.send("bad")
            await anyio.sleep(60)
        await stage.start_neighbour(client)
        assert stage.runtime.statistics().bad_messages == 30
        for _ in range(11):
            await client.send("bad")
        await eventually(lambda: client.closed)
    assert client.closed == 1008
    stats = stage.runtime.statistics()
    assert (stats.closed["abuse"], stats.bad_messages) == (1, 41)
    assert "more than 10 bad messages at once, or more than as many per minute" in caplog.text


async def test_a_callback_that_cannot_run_is_no_fault_of_the_clients(anyio_backend, caplog):
    stage = Stage(anyio_backend, max_bad_messages=5)

    @stage.app.callback(
        Output("go", "title"), Input("go", "n_clicks"), persistent=True, websocket=True
    )
    def blocks(clicks):
        raise AssertionError("must not run")

    async with stage.open() as client:
        await stage.start_neighbour(client)
        for number in range(20):
            await client.send(request(payload_of("go.title", ("go.n_clicks", 1)), str(number)))
        for number in range(20):
            assert "is a plain def and would block" in (await client.answer(str(number)))["message"]
        await client.goes_on()
        stats = stage.runtime.statistics()
        assert (stats.bad_messages, stats.requests_refused) == (0, 20)
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1


@pytest.mark.virtual_time
async def test_what_a_client_calls_its_tabs_cannot_forge_lines_of_the_log(
    anyio_backend_name, caplog
):
    caplog.set_level(logging.INFO)
    stage = Stage(anyio_backend_name)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        persistent = {"output": stage._neighbour, "inputs": []}
        await client.send(request(persistent, tab="a tab\nERROR forged"))
        for _ in range(10):
            await anyio.sleep(20)
            await client.send({"type": "heartbeat"})
        assert "does not answer" in caplog.text
        assert all("\n" not in record.message for record in caplog.records)


async def test_requests_are_bounded_in_bytes_while_their_callbacks_run(anyio_backend):
    stage = Stage(anyio_backend)
    held = payload_of(
        "held.children", state=[GO["inputs"][0] | {"value": "x" * (MAX_BYTES - 1000)}]
    )
    async with stage.open() as client:
        await stage.start_neighbour(client)
        for _ in range(2):
            for number in range(6):
                await client.send(request(held, f"r{number}", tab=f"tab{number % 2}"))
            for number in (4, 5):  # the neighbour and four of these have less than 4 MAX_BYTES
                answer = await client.answer(f"r{number}", tab=f"tab{number % 2}")
                assert f"at most {4 * MAX_BYTES} are allowed" in answer["message"]
            client.received.clear()
            stage.release.set()
            await eventually(lambda: stage.runtime.statistics().callbacks == 1)
            stage.release = anyio.Event()
        await client.goes_on()
        stats = stage.runtime.statistics()
        assert (stats.requests_refused, stats.bad_messages) == (4, 0)


@pytest.mark.virtual_time
async def test_large_messages_count_for_more(anyio_backend_name):
    stage = Stage(anyio_backend_name, max_messages_per_second=10, max_message_bytes=10**6)

    async def seconds(count, size):
        large = request(GO | {"x": "x" * size})
        begun = anyio.current_time()
        for number in range(count):
            await client.send(large | {"requestId": f"{number} of {size}"})
        await client.answer(f"{count - 1} of {size}")
        return anyio.current_time() - begun

    async with stage.open() as client:
        assert 1.9 < await seconds(10, 2 * 16 * 1024) < 2.1  # each counts as three, 10 are free
        assert 4.9 < await seconds(5, 900_000) < 5.1  # each as a second's worth


@pytest.mark.virtual_time
async def test_messages_that_come_too_fast_wait_and_none_is_lost(anyio_backend_name):
    stage = Stage(anyio_backend_name, max_messages_per_second=10)
    async with stage.open() as client:
        begun = anyio.current_time()
        for number in range(50):
            await client.send(request(GO, str(number)))
        for number in range(50):
            await client.answer(str(number))
        took = anyio.current_time() - begun
        assert 3.9 < took < 4.2  # ten at once, then ten a second
        stats = stage.runtime.statistics()
        assert (stats.messages_delayed, stats.bad_messages) == (40, 0)
        await anyio.sleep(10)
        begun = anyio.current_time()
        for number in range(10):
            await client.send(request(GO, f"again {number}"))
        await client.answer("again 9")
        assert anyio.current_time() - begun < 0.1


@given(
    st.floats(0.1, 1e4),
    st.floats(1, 1e4),
    st.lists(st.floats(0, 100), min_size=1, max_size=50),
)
def test_a_token_bucket_gives_no_more_than_its_rate_and_its_burst(rate, burst, pauses):
    bucket, now, taken_at = TokenBucket(rate, burst), 1000.0, []
    for pause in pauses:
        now += pause
        taken_at.append(now + bucket.take(now))
    for first in range(len(taken_at)):
        for last in range(first, len(taken_at)):
            allowed = burst + rate * (taken_at[last] - taken_at[first])
            assert last - first + 1 <= allowed + 1 + 1e-6


async def test_a_client_that_always_has_something_to_say_leaves_turns_to_others(anyio_backend):
    stage = Stage(anyio_backend)
    turns, said = 0, 0

    async def receive():
        nonlocal said
        said += 1
        if said == 1:
            return {"type": "websocket.connect"}
        if said <= 500:  # returns at once, as a server's queue does that is never empty
            return {"type": "websocket.receive", "text": '{"type":"heartbeat"}'}
        return {"type": "websocket.disconnect"}

    async def send(event):
        pass

    async def others():
        nonlocal turns
        while said <= 500:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with open_client(stage.app), anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        scope = {
            "type": "websocket",
            "path": "/_dash-ws-callback",
            "query_string": b"",
            "scheme": "ws",
            "headers": [(b"host", b"dash.test"), (b"origin", b"http://dash.test")],
        }
        await stage.app.server(scope, receive, send)
    assert turns >= 500 / 20


@pytest.mark.parametrize(
    "flood",
    [
        '{"type":"heartbeat"}',
        json.dumps(request(GO, "flood")),
        json.dumps(read_answer({"rendererId": "tab", "requestId": "x"}, "x" * 1000)),
        '{"type":"tab_watched","rendererId":"NUMBER"}',
        json.dumps(request(GO, tab="NUMBER")),
        "garbage",
    ],
    ids=["heartbeats", "requests", "answers", "tabs", "tabs that ask", "garbage"],
)
async def test_a_flood_leaves_nothing_behind(anyio_backend, flood, monkeypatch):
    monkeypatch.setattr("dashws_async.connection.MAX_TABS", 50)
    stage = Stage(anyio_backend, max_messages_per_second=1e6, max_bad_messages=10_000)
    async with stage.open() as client:
        await stage.start_neighbour(client)
        for number in range(2000):
            await client.send(flood.replace("NUMBER", str(number)))
        await client.send(request(GO, "after"))
        assert (await client.answer("after"))["status"] == "ok"
        await client.goes_on()
        await eventually(lambda: stage.runtime.statistics().callbacks == 1)
        (connection,) = stage.runtime.connections
        assert len(connection.tabs) <= 50


# Fuzzing the whole connection: messages that are almost right.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)

VALID = [
    request(GO),
    request(GO, tab="other"),
    request(ALL_INPUT | {"inputs": [[{"id": {"n": 1}, "property": "value", "value": 1}]]}),
    request(ALL_OUTPUT),
    request(payload_of("held.children", state=GO["inputs"])),
    request(payload_of("ask.children", ("go.n_clicks", 1))),
    read_answer({"rendererId": "tab", "requestId": "x"}, "title"),
    {"type": "heartbeat"},
    {"type": "tab_watched", "rendererId": "other"},
    {"type": "tab_gone", "rendererId": "other"},
    {"type": "tab_visible", "rendererId": "tab"},
]


@st.composite
def almost_valid(draw):
    """A message in which one place, or one character, is another."""
    message = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    where = message
    while draw(st.booleans()):
        inner = where.values() if isinstance(where, dict) else where
        deeper = [each for each in inner if isinstance(each, dict | list) and each]
        if not deeper:
            break
        where = draw(st.sampled_from(deeper))
    if draw(st.booleans()):
        place = draw(st.sampled_from(list(where) if isinstance(where, dict) else range(len(where))))
        if draw(st.booleans()):
            where[place] = draw(json_values)
        else:
            del where[place]
    text = json.dumps(message)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text('[]{}",:0e\\u\x00x', max_size=3)) + text[at + 1 :]
    return text


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.lists(almost_valid(), min_size=1, max_size=40))
def test_almost_valid_messages_harm_nobody(loop, messages, caplog):
    async def scenario():
        stage = Stage(loop)
        async with stage.open() as client:
            await stage.start_neighbour(client)
            for message in messages:
                await client.send(message)
            await client.send(request(GO, "after", tab="a new one"))
            assert (await client.answer("after", "a new one"))["status"] == "ok"
            assert client.closed is None
            stage.release.set()

    caplog.clear()
    anyio.run(scenario, backend=loop)
    # What fails are reads that time out, or with a timeout that is none, and no defects.
    for record in caplog.records:
        assert re.search(r"Callback .*\.ask failed .*(get_prop|float|TypeError)", record.message), (
            record.message
        )
    assert threading.active_count() < 20
