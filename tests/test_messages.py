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


@given(texts, texts, st.dictionaries(st.text(), json_values, max_size=5))
def test_a_callback_request_arrives_as_it_was_sent(renderer_id, request_id, payload):
    sent = {
        "type": "callback_request",
        "rendererId": renderer_id,
        "requestId": request_id,
        "payload": payload,
        "unknown": 1,
    }
    message = messages.decode(json.dumps(sent))
    assert message == CallbackRequest(renderer_id, request_id, json.loads(json.dumps(payload)))


def test_the_other_client_messages():
    text = '{"type":"get_props_response","rendererId":"a","requestId":"read-1","payload":{"v":1}}'
    assert messages.decode(text) == GetPropsResponse("a", "read-1", {"v": 1})
    assert messages.decode('{"type":"heartbeat"}') == Heartbeat()


@given(st.text() | json_values.map(json.dumps) | st.binary())
def test_whatever_comes_is_a_message_or_a_bad_message(text):
    with suppress(BadMessage):
        assert isinstance(messages.decode(text), messages.ClientMessage)


@pytest.mark.parametrize(
    ("text", "addressee"),
    [
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
        messages.decode(text)
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
