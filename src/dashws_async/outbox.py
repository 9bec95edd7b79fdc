"""The waiting line between a connection's callbacks and its socket.

Pure: no I/O, no event loop, no Dash. Callbacks put messages in, the writer
takes frames out; whatever gathered while the last frame was being sent leaves
together in the next one, and nothing ever waits on a timer.

**Frames.** The browser's worker delivers the ``set_props`` of an array first, per
tab, and everything else after. So an update may not share an array with an earlier
message of its tab that is not an update: it would overtake it, and the page would end
with the older value. `Outbox.take` cuts the frame there. (Several tabs of one browser
share the socket, so a frame may mix them.)

**Loss.** A client that keeps up gets everything. One for which more waits than a frame
holds is *behind*, until a take finds nothing left. From then on messages gather apart
from those that leave (`_Gathered`), and a full value drops the older ones of its
property that gathered before it, patches included: the page would end the same without
them. Three promises bound what may be dropped:

* Order: the newer value stands where it was put, at the end.
* What a reply or a read finds: no value is dropped for one that was put after a reply
  or a read of its tab.
* Progress: nothing is dropped from what has begun to leave. A page whose properties
  are all set again, faster than a frame leaves, would otherwise get the first few of
  them time and again, and never the others.
"""

from __future__ import annotations

from typing import NamedTuple

Property = tuple[str, str]
"""A component's id, as the page writes it, and the name of a property."""


class Outgoing(NamedTuple):
    """One message that waits to be sent."""

    tab: str
    """Whose it is; messages of one tab keep their order."""
    text: str
    """The message as JSON text."""
    sets: Property | None = None
    """What a ``set_props`` sets. None for all else, which the browser delivers after
    the ``set_props`` of a frame."""
    is_patch: bool = False
    """Whether the page applies it to the value it has, which must be there then."""


_Entry = tuple[int, Outgoing, int]
"""A message in the line: its number, itself, its size in bytes of UTF-8."""


class OutboxFull(Exception):
    """More bytes wait than the bound allows: the client does not keep up."""


class Outbox:
    """Messages in the order they were produced, bounded in bytes.

    Args:
        max_bytes: how much may wait. One message at a time may itself be longer, and waits
            besides.
        max_frame_bytes: a frame is cut before it is longer, so that replies and
            heartbeats get their turn between large updates; a message cannot be cut.
            A client for which more waits is behind.
        max_messages: with more than these waiting it is behind, too.
    """

    def __init__(
        self, max_bytes: int, max_frame_bytes: int = 256 * 1024, max_messages: int = 1000
    ) -> None:
        self._max_bytes = max_bytes
        self._max_frame_bytes = max_frame_bytes
        self._lossless_bytes = min(max_bytes, max_frame_bytes)
        self._max_messages = max_messages
        self._leaving: list[_Entry] = []
        self._gathered: _Gathered | None = None  # while the client is behind
        self._urgent = ""
        self._last = 0
        self._oversized: list[int] = []  # sizes of those that wait and alone exceed the bound
        self.waiting_bytes = 0
        self.dropped = 0
        """Updates that a newer value has made needless, so far."""

    def __len__(self) -> int:
        gathered = len(self._gathered.entries) if self._gathered is not None else 0
        return len(self._leaving) + gathered + bool(self._urgent)

    @property
    def behind(self) -> bool:
        """Whether the client does not keep up: older values are dropped for newer ones."""
        return self._gathered is not None

    def put(self, message: Outgoing) -> int:
        """Append a message; returns how many older ones it has made needless.

        Raises:
            OutboxFull: more waits now than the bound allows.
        """
        text, leaving = message.text, self._leaving
        size = len(text) if text.isascii() else len(text.encode())
        self.waiting_bytes += size
        if size > self._max_bytes:
            self._oversized.append(size)
        self._last += 1
        entry = self._last, message, size
        if self._gathered is None and (
            (self.waiting_bytes <= self._lossless_bytes and len(leaving) < self._max_messages)
            or not leaving
        ):
            leaving.append(entry)
            return 0
        return self._put_behind(entry)

    def put_urgent(self, text: str) -> None:
        """Put a message that belongs to no tab before all others (``heartbeat_ack``).

        One is enough: a second one takes the place of the first.
        """
        self._urgent = text

    def take(self) -> tuple[str, int]:
        """Take the next frame: ``(text, number of messages in it)``, ``("", 0)`` when empty."""
        if self._gathered is not None and not self._leaving:
            self._leaving.extend(self._gathered.entries.values())
            self._gathered = _Gathered() if self._leaving else None
        if len(self._leaving) == 1 and not self._urgent:
            _, message, size = self._leaving.pop()
            self._release(size)
            return message.text, 1
        texts = [self._urgent] if self._urgent else []
        self._urgent = ""
        frame_bytes = 0
        replied: set[str] = set()
        taken = 0
        for _, message, size in self._leaving:
            frame_bytes += size
            if frame_bytes > self._max_frame_bytes and texts:
                break
            if message.sets is None:
                replied.add(message.tab)
            elif message.tab in replied:
                break
            taken += 1
            self._release(size)
            texts.append(message.text)
        del self._leaving[:taken]
        if len(texts) <= 1:
            return "".join(texts), len(texts)
        return "[" + ",".join(texts) + "]", len(texts)

    def mark(self) -> int:
        """The end of the line as it is now, for `has_left`."""
        return self._last

    def has_left(self, mark: int) -> bool:
        """Whether all that was put before a mark has been taken, or dropped for what came later."""
        if self._leaving:
            return self._leaving[0][0] > mark
        if self._gathered is not None and self._gathered.entries:
            return next(iter(self._gathered.entries)) > mark
        return True

    def forget(self, tab: str) -> None:
        """Forget what waits for a tab: nobody is left to read it, but the others' goes on."""
        for _, message, size in self._entries():
            if message.tab == tab:
                self._release(size)
        self._leaving = [entry for entry in self._leaving if entry[1].tab != tab]
        if self._gathered is not None:
            self._gathered.forget(tab)

    def clear(self) -> None:
        """Forget everything that waits: nobody is left to read it."""
        self._leaving.clear()
        self._gathered = None
        self._urgent = ""
        self._oversized.clear()
        self.waiting_bytes = 0

    def _put_behind(self, entry: _Entry) -> int:
        dropped_before = self.dropped
        if self._gathered is None:
            self._gather_all()
        self._gather(entry)
        if self._is_full() and self._leaving:
            # The last resort may drop what has begun to leave. It takes 1.5 µs for each message
            # that waits, but not again before the next frame has been taken.
            self._gather_all()
        if self._is_full():
            raise OutboxFull(
                f"{self.waiting_bytes} bytes wait for this client, "
                f"more than the bound of {self._max_bytes} bytes"
            )
        return self.dropped - dropped_before

    def _is_full(self) -> bool:
        oversized = self._oversized
        return self.waiting_bytes - sum(oversized) > self._max_bytes or len(oversized) > 1

    def _release(self, size: int) -> None:
        """A message of so many bytes waits no longer."""
        self.waiting_bytes -= size
        if size > self._max_bytes:
            self._oversized.remove(size)

    def _entries(self) -> list[_Entry]:
        gathered = self._gathered.entries.values() if self._gathered is not None else ()
        return [*self._leaving, *gathered]

    def _gather_all(self) -> None:
        entries = self._entries()
        self._leaving.clear()
        self._gathered = _Gathered()
        for entry in entries:
            self._gather(entry)

    def _gather(self, entry: _Entry) -> None:
        assert self._gathered is not None, "the client is behind"
        for _, _, size in self._gathered.add(entry):
            self._release(size)
            self.dropped += 1


class _Gathered:
    """What gathers for a client that is behind: of each property what the page needs."""

    __slots__ = ("_updates", "entries")

    def __init__(self) -> None:
        self.entries: dict[int, _Entry] = {}
        """By their numbers, in order."""
        # The numbers of each tab's updates that a full value may still drop.
        self._updates: dict[str, dict[Property, list[int]]] = {}

    def add(self, entry: _Entry) -> list[_Entry]:
        """Append a message; returns those that it has made needless, which are gone."""
        number, message, _ = entry
        needless = []
        if message.sets is None:
            self._updates.pop(message.tab, None)
        else:
            updates = self._updates.setdefault(message.tab, {}).setdefault(message.sets, [])
            if not message.is_patch:
                needless = [self.entries.pop(older) for older in updates]
                updates.clear()
            updates.append(number)
        self.entries[number] = entry
        return needless

    def forget(self, tab: str) -> None:
        """Forget the messages of a tab."""
        self._updates.pop(tab, None)
        self.entries = {
            number: entry for number, entry in self.entries.items() if entry[1].tab != tab
        }
