"""The wire: client messages in, server messages out; never an exception of another kind."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashws_async import messages
from dashws_async.messages import BadMessage, CallbackRequest, GetPropsResponse, Heartbeat

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Lone surrogates have no UTF-8 and so cannot come over a WebSocket.
texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=messages.MAX_NAME)
unknown = st.dictionaries(texts.filter(lambda name: name not in PAYLOAD), json_values, max_size=4)

PAYLOAD = {
    "output": '..out.children...{"n":["ALL"]}.value..',
    "outputs": [{"id": "out", "property": "children"}, [{"id": {"n": 1}, "property": "value"}]],
    "inputs": [
        {"id": "in", "property": "value", "value": None},
        [{"id": {"n": 1, "type": "x"}, "property": "value", "value": 1, "and": "more"}],
        [],
    ],
    "state": [{"id": {"n": {"wild": "MATCH"}}, "property": "value"}],  # allow_optional, not there
    "changedPropIds": ["in.value", '{"n":1,"type":"x"}.value'],
}
"""A request as pages make it, with all that may be in one."""


def decode(text, max_bytes=10_000):
    return messages.decode(text, max_bytes)


def request(payload, **fields):
    return {
        "type": "callback_request",
        "rendererId": "a",
        "requestId": "a-1",
        "payload": payload,
        **fields,
    }


@given(names, names, unknown)
def test_a_callback_request_arrives_as_it_was_sent_but_for_what_nobody_reads(
    renderer_id, request_id, unknown
):
    text = json.dumps(
        request(PAYLOAD | unknown, rendererId=renderer_id, requestId=request_id, unknown=1)
    )
    assert decode(text, 10**6) == CallbackRequest(renderer_id, request_id, PAYLOAD, len(text))


def test_the_other_client_messages():
    text = '{"type":"get_props_response","rendererId":"a","requestId":"read-1","payload":{"v":1}}'
    assert decode(text) == GetPropsResponse("a", "read-1", {"v": 1})
    assert decode('{"type":"heartbeat"}') == Heartbeat()


@given(st.text() | json_values.map(json.dumps) | st.binary())
def test_whatever_comes_is_a_message_or_a_bad_message(text):
    with suppress(BadMessage):
        assert isinstance(decode(text), messages.ClientMessage)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("output", None, "$.output"),
        ("output", {"a": 1}, "$.output"),
        ("outputs", "out.children", "$.outputs"),
        ("outputs", [[["deeper"]]], "$.outputs[0][0]"),
        ("outputs", {"id": "out"}, "`property` - at `$.outputs"),
        ("inputs", None, "$.inputs"),
        ("inputs", {"id": "in", "property": "value"}, "$.inputs"),
        ("inputs", [None], "$.inputs[0]"),
        ("inputs", [{"id": ["x"], "property": "value"}], "$.inputs[0].id"),
        ("inputs", [{"id": "in", "property": {}}], "$.inputs[0].property"),
        ("inputs", [[{"id": "in", "property": "value"}] * 20_001], "length <= 20000"),
        ("outputs", [{"id": "in", "property": "value"}] * 20_001, "length <= 20000"),
        ("state", None, "$.state"),
        ("state", 7, "$.state"),
        ("changedPropIds", [{}], "$.changedPropIds[0]"),
        ("changedPropIds", "in.value", "$.changedPropIds"),
        ("changedPropIds", ["in.value"] * 20_001, "length <= 20000"),
        ("changedPropIds", ['{"n":[[[1]]]}.value'], "payload"),  # a pattern-matching id
        ("changedPropIds", ['{"n":}.value'], "payload"),
        ("changedPropIds", ["{"], "payload"),
    ],
)
def test_a_payload_of_another_shape_is_a_bad_message_that_says_where(name, value, where):
    with pytest.raises(BadMessage) as caught:
        decode(json.dumps(request(PAYLOAD | {name: value})), 10**7)
    assert where in str(caught.value)
    assert caught.value.request_id == "a-1"


def test_what_is_nested_deeper_than_dash_can_encode_is_a_bad_message():
    def nested(levels):
        return json.dumps(request(PAYLOAD | {"x": [], "y": "[" * levels})).replace(
            '"x": []', '"x": ' + "[" * levels + "]" * levels
        )

    depth = messages.MAX_NESTING - 1  # the payload is an object itself
    decode(nested(depth))
    for levels in (depth + 1, 800):
        with pytest.raises(BadMessage, match="250 arrays and objects in each other") as caught:
            decode(nested(levels))
        assert caught.value.request_id == "a-1"


def test_a_message_of_too_many_arrays_and_objects_is_not_decoded():
    def wide(count):
        return json.dumps(request(PAYLOAD | {"x": [[]] * count}))

    most = messages.MAX_BRACKETS - wide(0).count("[") - wide(0).count("{")
    decode(wide(most), 10**7)
    with pytest.raises(BadMessage, match="500001 arrays and objects") as caught:
        decode(wide(most + 1), 10**7)
    assert caught.value.request_id == "a-1"


@given(st.text("\ud83d\ude00\\ud8\n", max_size=12))
def test_halves_of_surrogate_pairs_become_question_marks_and_nothing_else_changes(text):
    sent = json.dumps(request(PAYLOAD | {"state": [{"id": text, "property": "x"}]}))
    # Which of them are pairs is what UTF-16 says.
    found = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    (state,) = decode(sent).payload["state"]
    assert state["id"] == found.replace("\ufffd", "?")


def test_a_message_is_measured_in_bytes_and_one_too_long_is_not_decoded():
    message = json.dumps(request(PAYLOAD | {"x": "ä"}), ensure_ascii=False)
    size = len(message.encode())
    assert size > len(message)
    decode(message, size)
    with pytest.raises(BadMessage, match=f"{size} bytes, at most {size - 1}") as caught:
        decode(message, size - 1)
    assert caught.value.request_id == "a-1"


def test_what_a_bad_message_quotes_is_one_line_and_short():
    with pytest.raises(BadMessage) as caught:
        decode(json.dumps({"type": "line\nbreak\x1b[0m" + "x" * 5000}))
    assert "line?break?[0m" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "addressee"),
    [
        ("", (None, None)),
        (b"\xff\x00", (None, None)),
        ('{"type":"heartbeat","type":"heartbeat","a":NaN}', (None, None)),
        (json.dumps(request({}, rendererId="a" * 257)), (None, "a-1")),
        (json.dumps(request({}, requestId="a" * 257)), ("a", None)),
        ("not json", (None, None)),
        ("[]", (None, None)),
        ('{"type":"dance","rendererId":"a"}', ("a", None)),
        ('{"type":"callback_request","rendererId":"a","requestId":"a-1"}', ("a", "a-1")),
        ('{"type":"callback_request","rendererId":7,"requestId":{}}', (None, None)),
        (
            '{"type":"callback_request","rendererId":"a","requestId":"a-1","payload":3}',
            ("a", "a-1"),
        ),
        ('{"type":"heartbeat"' + ',"a":[' * 1, (None, None)),
        ('{"x":' + "[" * 100_000 + "]" * 100_000 + "}", (None, None)),
    ],
)
def test_a_bad_message_says_whom_to_answer(text, addressee):
    with pytest.raises(BadMessage) as caught:
        decode(text, 10**6)
    assert (caught.value.renderer_id, caught.value.request_id) == addressee


@given(texts, texts, texts, json_values)
def test_server_messages_are_json_whatever_the_names(renderer_id, name, prop, value):
    tab = messages.quote(renderer_id)
    update = messages.set_props(tab, name, prop, json.dumps(value))
    assert json.loads(update) == {
        "type": "set_props",
        "rendererId": renderer_id,
        "payload": {"componentId": name, "props": {prop: value}},
    }
    ask = messages.get_props_request(tab, "read-1", name, prop, ["rows", 0])
    assert json.loads(ask) == {
        "type": "get_props_request",
        "rendererId": renderer_id,
        "requestId": "read-1",
        "payload": {"componentId": name, "properties": [prop], "path": ["rows", 0]},
    }
    answer = messages.callback_response(tab, name, messages.ok(json.dumps(value)))
    assert json.loads(answer) == {
        "type": "callback_response",
        "rendererId": renderer_id,
        "requestId": name,
        "payload": {"status": "ok", "data": value},
    }


def test_the_other_payloads():
    assert json.loads(messages.error('say "no"')) == {"status": "error", "message": 'say "no"'}
    assert json.loads(messages.stream("[1]")) == {"status": "ok", "stream": True, "data": [1]}
    assert json.loads(messages.STREAM_DONE) == {"status": "ok", "stream": True, "done": True}
    assert json.loads(messages.PREVENT_UPDATE) == {"status": "prevent_update"}
    error = json.loads(messages.page_error('"a"', "what", "BAD_MESSAGE"))
    assert error["payload"] == {"message": "what", "code": "BAD_MESSAGE"}
