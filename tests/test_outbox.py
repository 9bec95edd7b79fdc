"""The outbox: what the browser ends up with, whatever is put in and whenever it is taken."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashws_async import messages
from dashws_async.outbox import Outbox, OutboxFull, Outgoing

TABS = ["a", "b"]
PROPS = ["p", "q"]


def update(tab, value, prop="p"):
    """A ``set_props`` of a full value."""
    return _set_props(tab, prop, {"set": value})


def patch(tab, value, prop="p"):
    """A ``set_props`` of a ``Patch`` that appends; `Browser` knows it by its key."""
    return _set_props(tab, prop, {"append": value}, is_patch=True)


def _set_props(tab, prop, value, is_patch=False):
    text = messages.set_props(messages.quote(tab), "id", prop, json.dumps(value))
    return Outgoing(messages.quote(tab), text, ("id", prop), is_patch)


def answer(tab, value):
    payload = messages.ok(json.dumps(value))
    text = messages.callback_response(messages.quote(tab), "r", payload)
    return Outgoing(messages.quote(tab), text)


def read(tab, value):
    text = messages.get_props_request(messages.quote(tab), str(value), "id", "p", None)
    return Outgoing(messages.quote(tab), text)


KINDS = {"set": update, "patch": patch, "answer": answer, "read": read}


class Browser:
    """The pages of each tab, and what reached them: ``(kind, number)`` in the order of delivery."""

    def __init__(self):
        self.pages = {tab: {prop: [] for prop in PROPS} for tab in TABS}
        self.delivered = {tab: [] for tab in TABS}
        self.found = {}
        """What the page was when each answer or read came, by their numbers."""

    def take(self, outbox):
        """Receive a frame as the worker does: every update of it first, then the rest."""
        frame, _ = outbox.take()
        found = json.loads(frame or "[]")
        array = found if isinstance(found, list) else [found]
        updates = [message for message in array if message["type"] == "set_props"]
        others = [message for message in array if message["type"] != "set_props"]
        for message in updates + others:
            if message["type"] != "heartbeat_ack":
                self._deliver(message["rendererId"], message)
        return frame

    def take_all(self, outbox):
        while len(outbox):
            self.take(outbox)

    def _deliver(self, tab, message):
        if message["type"] == "set_props":
            ((prop, change),) = message["payload"]["props"].items()
            ((kind, number),) = change.items()
            self.apply(tab, "patch" if kind == "append" else "set", number, prop)
        elif message["type"] == "callback_response":
            self.apply(tab, "answer", message["payload"]["data"])
        else:
            self.apply(tab, "read", int(message["requestId"]))

    def apply(self, tab, kind, number, prop=None):
        self.delivered[tab].append((kind, number))
        page = self.pages[tab]
        if kind == "patch":
            page[prop].append(number)
        elif kind == "set":
            page[prop] = [number]
        else:
            self.found[number] = {prop: list(values) for prop, values in page.items()}


class Run:
    """What operations on an outbox led to, beside a browser that got everything at once."""

    def __init__(self, operations, **sizes):
        self.outbox = Outbox(**sizes)
        self.browser, self.ideal = Browser(), Browser()
        self.ever_behind = False
        self.marks = []
        self.refused_with = []
        self.operate(operations)

    def operate(self, operations, first=0):
        for number, (operation, tab, prop) in enumerate(operations, first):
            if operation == "take":
                self.browser.take(self.outbox)
            elif operation == "heartbeat":
                self.outbox.put_urgent(messages.HEARTBEAT_ACK)
            elif operation == "mark":
                self.marks.append((self.outbox.mark(), self._put()))
            else:
                of = (prop,) if operation in ("set", "patch") else ()
                message = KINDS[operation](tab, number, *of)
                before = self.outbox.dropped
                try:
                    assert self.outbox.put(message) == self.outbox.dropped - before
                except OutboxFull:  # a connection ends here, an outbox could go on
                    waiting = self.outbox._entries()
                    self.refused_with.append([len(each.text) for _, each, _ in waiting])
                self.ideal.apply(tab, operation, number, *of)
            self.ever_behind |= self.outbox.behind

    def _put(self):
        return {each for tab in TABS for each in self.ideal.delivered[tab]}

    def arrived(self):
        return {each for tab in TABS for each in self.browser.delivered[tab]}


operations = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "set", "set", "take", "heartbeat", "mark"]),
        st.sampled_from(TABS),
        st.sampled_from(PROPS),
    ),
    max_size=80,
)
sizes = st.fixed_dictionaries(
    {
        "max_bytes": st.sampled_from([50, 130, 500, 10**6]),
        "max_frame_bytes": st.sampled_from([1, 200, 1000, 10**6]),
        "max_messages": st.sampled_from([1, 3, 1000]),
    }
)


@given(operations, sizes)
def test_a_page_ends_as_if_it_had_got_everything(operations, sizes):
    run = Run(operations, **sizes)
    run.browser.take_all(run.outbox)
    assert run.browser.pages == run.ideal.pages


@given(operations, sizes)
def test_an_answer_or_a_read_finds_the_page_as_if_it_had_got_everything(operations, sizes):
    run = Run(operations, **sizes)
    run.browser.take_all(run.outbox)
    assert run.browser.found == run.ideal.found  # so none is lost either


@given(operations, sizes)
def test_each_tab_gets_what_it_gets_in_the_order_it_was_produced(operations, sizes):
    run = Run(operations, **sizes)
    run.browser.take_all(run.outbox)
    for tab in TABS:
        got = run.browser.delivered[tab]
        assert got == [each for each in run.ideal.delivered[tab] if each in set(got)]


@given(operations, sizes)
def test_what_is_dropped_is_counted(operations, sizes):
    run = Run(operations, **sizes)
    run.browser.take_all(run.outbox)
    lost = run._put() - run.arrived()
    assert len(lost) == run.outbox.dropped
    assert run.ever_behind or not lost


@given(operations, sizes)
def test_waiting_bytes_are_those_of_the_messages_that_wait(operations, sizes):
    run = Run(operations, **sizes)
    waiting, left = run.outbox.waiting_bytes, 0
    run.outbox.put_urgent("")  # takes the place of an answer to a heartbeat
    while len(run.outbox):
        frame, count = run.outbox.take()
        left += len(frame) - (count + 1 if count > 1 else 0)  # brackets and commas
    assert waiting == left
    assert run.outbox.waiting_bytes == 0
    assert run.outbox.take() == ("", 0)


@given(operations, sizes)
def test_a_mark_is_left_when_all_before_it_has_been_taken_or_dropped(operations, sizes):
    run = Run(operations, **sizes)
    left = [(put, run.outbox.has_left(mark)) for mark, put in run.marks]
    arrived = run.arrived()
    run.browser.take_all(run.outbox)
    for put, has_left in left:
        if has_left:
            assert put & run.arrived() <= arrived
        else:
            assert not put <= arrived
    assert all(run.outbox.has_left(mark) for mark, _ in run.marks)


@given(operations, operations, sizes)
def test_what_waits_for_a_tab_that_has_gone_is_forgotten_and_nothing_else(before, after, sizes):
    run = Run(before, **sizes)
    reached = list(run.browser.delivered["a"])
    run.outbox.forget(messages.quote("a"))
    run.operate([(operation, "b", prop) for operation, _, prop in after], first=len(before))
    run.browser.take_all(run.outbox)
    assert run.browser.delivered["a"] == reached
    assert run.browser.pages["b"] == run.ideal.pages["b"]
    assert run.outbox.waiting_bytes == 0
    assert all(run.outbox.has_left(mark) for mark, _ in run.marks)


@given(operations, sizes)
def test_an_outbox_is_full_only_where_more_waits_than_one_message_beyond_the_bound(
    operations, sizes
):
    run = Run(operations, **sizes)
    for waiting in run.refused_with:  # sizes of what waited, the refused one included
        within = [size for size in waiting if size <= sizes["max_bytes"]]
        assert sum(within) > sizes["max_bytes"] or len(waiting) - len(within) > 1


def received(browser, tab="a"):
    return [number for _, number in browser.delivered[tab]]


def test_what_gathered_leaves_in_one_frame():
    outbox, browser = Outbox(10**6), Browser()
    for value in range(3):
        outbox.put(update("a", value))
    assert len(json.loads(browser.take(outbox))) == 3
    assert received(browser) == [0, 1, 2]


def test_an_update_never_shares_an_array_with_an_earlier_answer_of_its_tab():
    outbox = Outbox(10**6)
    outbox.put(answer("a", 1))
    outbox.put(update("b", 2))
    outbox.put(update("a", 3))
    first, _ = outbox.take()
    second, _ = outbox.take()
    assert [m["type"] for m in json.loads(first)] == ["callback_response", "set_props"]
    assert json.loads(second)["payload"]["props"] == {"p": {"set": 3}}


def test_a_heartbeat_is_answered_before_what_waits_and_once():
    outbox = Outbox(10**6)
    outbox.put(answer("a", 1))
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    frame, _ = outbox.take()
    assert [m["type"] for m in json.loads(frame)] == ["heartbeat_ack", "callback_response"]


def test_a_frame_is_cut_before_it_is_longer_than_allowed():
    message = update("a", "x" * 100)
    outbox = Outbox(10**6, max_frame_bytes=2 * len(message.text))
    for _ in range(5):
        outbox.put(message._replace(sets=None))  # nothing that could be dropped
    assert [outbox.take()[1] for _ in range(3)] == [2, 2, 1]


def test_a_heartbeat_is_not_answered_in_one_frame_with_a_value_longer_than_a_frame():
    outbox = Outbox(10**6, max_frame_bytes=1000)
    outbox.put(update("a", "x" * 2000))
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    assert outbox.take() == (messages.HEARTBEAT_ACK, 1)
    assert outbox.take()[1] == 1


@pytest.mark.parametrize(
    ("sizes", "value"),
    [({"max_messages": 10}, "x"), ({"max_frame_bytes": 2000}, "x" * 200)],
    ids=["messages", "bytes"],
)
def test_a_client_that_falls_behind_gets_the_newest_value(sizes, value):
    outbox, browser = Outbox(10**6, **sizes), Browser()
    for number in range(20):
        outbox.put(update("a", [value, number]))
    browser.take(outbox)
    assert received(browser) == [[value, 19]]
    assert outbox.dropped == 19


def test_a_client_is_behind_until_it_has_taken_everything():
    outbox, browser = Outbox(10**6, max_messages=1), Browser()
    for value in range(2):
        outbox.put(update("a", value))
    browser.take(outbox)
    outbox.put(update("a", 2))
    outbox.put(update("a", 3))
    browser.take(outbox)
    assert outbox.behind
    assert browser.take(outbox) == ""
    assert not outbox.behind
    assert received(browser) == [1, 3]


def test_one_long_message_is_not_behind():
    outbox = Outbox(10**6, max_frame_bytes=1000)
    outbox.put(update("a", "x" * 2000))
    assert not outbox.behind


def test_a_full_value_drops_the_patches_that_gathered_before_it_and_no_other():
    outbox, browser = Outbox(10**6, max_messages=1), Browser()
    for message in [
        update("a", 0),
        patch("a", 1),
        patch("a", 2, "q"),
        patch("b", 3),
        update("a", 4),
        patch("a", 5),
        patch("a", 6),
    ]:
        outbox.put(message)
    browser.take_all(outbox)
    assert browser.delivered == {
        "a": [("patch", 2), ("set", 4), ("patch", 5), ("patch", 6)],
        "b": [("patch", 3)],
    }


def test_an_answer_keeps_the_values_before_it_for_its_own_tab_only():
    outbox, browser = Outbox(10**6, max_messages=1), Browser()
    for message in [update("a", 0), update("b", 1), answer("a", 2), update("a", 3), update("b", 4)]:
        outbox.put(message)
    browser.take_all(outbox)
    assert (received(browser, "a"), received(browser, "b")) == ([0, 2, 3], [4])


def test_each_of_many_properties_gets_its_turn_however_often_all_are_set():
    value = "x" * 1000
    outbox = Outbox(10**6, max_frame_bytes=3000)
    got = set()
    for round_ in range(10):  # a frame, which has room for two, leaves in each round
        for name in range(20):
            text = messages.set_props('"a"', str(name), "p", json.dumps([round_, value]))
            outbox.put(Outgoing('"a"', text, (str(name), "p")))
        frame, _ = outbox.take()
        got |= {int(message["payload"]["componentId"]) for message in json.loads(frame)}
    assert got == set(range(20))


def test_what_waits_for_a_client_that_takes_nothing_does_not_grow():
    outbox = Outbox(10**6)

    def put_many():
        for value in range(5000):
            outbox.put(update("a", value))

    put_many()
    tracemalloc.start()
    try:
        put_many()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(outbox) == 1
    assert grown < 5000


def test_a_full_outbox_refuses_what_cannot_be_dropped():
    message = patch("a", "x" * 100)
    outbox = Outbox(max_bytes=2 * len(message.text))
    outbox.put(message)
    outbox.put(message)
    with pytest.raises(OutboxFull, match=rf"{3 * len(message.text)} bytes wait"):
        outbox.put(message)


def test_newer_values_do_not_fill_an_outbox():
    message = update("a", "x" * 100)
    outbox = Outbox(max_bytes=len(message.text))
    for _ in range(100):
        outbox.put(message)
    assert len(outbox) == 1


def test_what_has_begun_to_leave_is_dropped_before_an_outbox_is_full():
    value = "x" * 1000
    first, second = update("a", value, "p"), update("a", value, "q")
    outbox, browser = Outbox(2 * len(first.text), max_frame_bytes=1), Browser()
    for message in [first, second, first, second]:
        outbox.put(message)
    browser.take(outbox)
    for message in [first, second, first, second]:
        outbox.put(message)
    assert len(outbox) == 2


def test_one_message_always_fits_into_an_empty_outbox():
    outbox = Outbox(max_bytes=10)
    outbox.put(update("a", "x" * 100))
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    outbox.put(update("a", "x" * 200))  # in place of the first, the client being behind
    assert outbox.take()[1] == 2


def test_a_message_beyond_the_bound_may_wait_among_others_and_is_the_only_one():
    small, large = answer("a", 0), answer("a", "x" * 2000)
    outbox, browser = Outbox(max_bytes=1000), Browser()
    for message in [small, large, small]:
        outbox.put(message)
    with pytest.raises(OutboxFull):
        outbox.put(large)
    browser.take_all(outbox)
    for message in [small, large, small]:
        outbox.put(message)


def test_what_waited_for_a_tab_that_has_gone_makes_room():
    message = patch("a", "x" * 100)
    outbox = Outbox(max_bytes=3 * len(message.text))
    for _ in range(3):
        outbox.put(message)
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    outbox.forget(messages.quote("a"))
    assert outbox.waiting_bytes == 0
    for _ in range(3):
        outbox.put(patch("b", "x" * 100))
    assert outbox.take()[1] == 4


def test_a_tab_whose_messages_were_forgotten_may_come_again():
    outbox, browser = Outbox(10**6, max_messages=1), Browser()
    for value in range(2):
        outbox.put(update("a", value))
    outbox.forget(messages.quote("a"))
    for value in range(2, 4):
        outbox.put(update("a", value))
    browser.take_all(outbox)
    assert received(browser) == [3]


def test_bytes_are_those_on_the_wire():
    outbox = Outbox(10**6)
    outbox.put(Outgoing("t", "é😀"))
    assert outbox.waiting_bytes == len("é😀".encode())


def test_a_cleared_outbox_is_as_new():
    outbox = Outbox(10**6, max_messages=1)
    mark = outbox.mark()
    for value in range(3):
        outbox.put(update("a", value))
    outbox.put_urgent(messages.HEARTBEAT_ACK)
    outbox.clear()
    assert not outbox.behind
    assert outbox.has_left(mark)
    assert (len(outbox), outbox.waiting_bytes, outbox.take()) == (0, 0, ("", 0))
