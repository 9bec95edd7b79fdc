"""The outbox: what the browser ends up with, whatever is put in and whenever it is taken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashws_async import messages
from dashws_async.outbox import Outbox, OutboxFull, Outgoing

TABS = ["a", "b"]


def update(tab, value, prop="p"):
    text = messages.set_props(messages.quote(tab), "id", prop, json.dumps(value))
    return Outgoing(messages.quote(tab), text, is_update=True)


def answer(tab, value):
    payload = messages.ok(json.dumps(value))
    text = messages.callback_response(messages.quote(tab), "r", payload)
    return Outgoing(messages.quote(tab), text, is_update=False)


def delivered(frame):
    """What a frame's messages are for each tab, in the order the browser's worker delivers them."""
    found = json.loads(frame)
    array = found if isinstance(found, list) else [found]
    array = [message for message in array if message["type"] != "heartbeat_ack"]
    updates = [message for message in array if message["type"] == "set_props"]
    others = [message for message in array if message["type"] != "set_props"]
    order = {tab: [] for tab in TABS}
    for message in updates + others:
        payload = message["payload"]
        value = payload["props"]["p"] if message["type"] == "set_props" else payload["data"]
        order[message["rendererId"]].append(value)
    return order


operations = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.sampled_from(TABS)),
        st.tuples(st.just("answer"), st.sampled_from(TABS)),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("heartbeat"), st.none()),
    ),
    max_size=60,
)


@given(operations, st.sampled_from([1, 200, 10_000]))
def test_each_tab_gets_everything_in_the_order_it_was_produced(operations, max_frame_bytes):
    outbox = Outbox(10**6, max_frame_bytes)
    produced = {tab: [] for tab in TABS}
    received = {tab: [] for tab in TABS}

    def take():
        frame, _ = outbox.take()
        if frame:
            for tab, values in delivered(frame).items():
                received[tab] += values

    for number, (operation, tab) in enumerate(operations):
        if operation == "take":
            take()
        elif operation == "heartbeat":
            outbox.put_urgent(messages.HEARTBEAT_ACK)
        else:
            outbox.put(update(tab, number) if operation == "update" else answer(tab, number))
            produced[tab].append(number)
    while len(outbox):
        take()

    assert received == produced
    assert outbox.waiting_bytes == 0
    assert outbox.take() == ("", 0)


def test_what_gathered_leaves_in_one_frame():
    outbox = Outbox(10**6)
    for value in range(3):
        outbox.put(update("a", value))
    frame, count = outbox.take()
    assert count == 3
    assert delivered(frame)["a"] == [0, 1, 2]


def test_an_update_never_shares_an_array_with_an_earlier_answer_of_its_tab():
    outbox = Outbox(10**6)
    outbox.put(answer("a", 1))
    outbox.put(update("b", 2))
    outbox.put(update("a", 3))
    first, _ = outbox.take()
    second, _ = outbox.take()
    assert [m["type"] for m in json.loads(first)] == ["callback_response", "set_props"]
    assert json.loads(second)["payload"]["props"] == {"p": 3}


def test_a_heartbeat_is_answered_before_what_waits_and_once():
    outbox = Outbox(10**6)
    outbox.put(answer("a", 1))
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    frame, _ = outbox.take()
    assert [m["type"] for m in json.loads(frame)] == ["heartbeat_ack", "callback_response"]


def test_a_full_outbox_refuses_and_keeps_what_it_has():
    first = update("a", "x" * 100)
    outbox = Outbox(max_bytes=first.size + 10)
    outbox.put(first)
    with pytest.raises(OutboxFull, match=rf"{first.size} bytes wait"):
        outbox.put(update("a", "y" * 100))
    assert outbox.take() == (first.text, 1)


def test_one_message_always_fits_into_an_empty_outbox():
    outbox = Outbox(max_bytes=10)
    outbox.put(update("a", "x" * 100))
    assert outbox.take()[1] == 1


def test_bytes_are_those_on_the_wire():
    outbox = Outbox(10**6)
    message = Outgoing("t", "é😀", is_update=True)
    outbox.put(message)
    assert outbox.waiting_bytes == len("é😀".encode()) == message.size
