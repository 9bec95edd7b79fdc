"""The waiting line between a connection's callbacks and its socket.

Pure: no I/O, no event loop, no Dash. Callbacks put messages in, the writer
takes frames out; whatever gathered while the last frame was being sent leaves
together in the next one, and nothing ever waits on a timer.

One rule shapes the frames. The browser's worker delivers the ``set_props`` of
an array first, per tab, and everything else after. So an update may not share
an array with an earlier message of its tab that is not an update: it would
overtake it, and the page would end with the older value. `Outbox.take` cuts
the frame there. (Several tabs of one browser share the socket, so a frame may
mix them.)
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Outgoing(NamedTuple):
    """One message that waits to be sent."""

    tab: str
    """Whose it is; messages of one tab keep their order."""
    text: str
    """The message as JSON text."""
    is_update: bool
    """Whether it is a ``set_props``, which the browser delivers before all else in a frame."""

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


class OutboxFull(Exception):
    """More bytes wait than the bound allows: the client does not keep up."""


class Outbox:
    """Messages in the order they were produced, bounded in bytes.

    Args:
        max_bytes: how much may wait. One message always fits into an empty outbox.
        max_frame_bytes: a frame is cut once it is this long, so that replies and
            heartbeats get their turn between large updates.
    """

    def __init__(self, max_bytes: int, max_frame_bytes: int = 256 * 1024) -> None:
        self._max_bytes = max_bytes
        self._max_frame_bytes = max_frame_bytes
        self._waiting: deque[tuple[Outgoing, int]] = deque()  # with their sizes
        self._urgent: deque[str] = deque()
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._urgent)

    def put(self, message: Outgoing) -> None:
        """Append a message.

        Raises:
            OutboxFull: the bound is reached; the message was not taken.
        """
        size = message.size
        if self._waiting and self.waiting_bytes + size > self._max_bytes:
            raise OutboxFull(
                f"{self.waiting_bytes} bytes wait for this client and {size} more would pass "
                f"the bound of {self._max_bytes} bytes"
            )
        self._waiting.append((message, size))
        self.waiting_bytes += size

    def put_urgent(self, text: str) -> None:
        """Put a message that belongs to no tab before all others (``heartbeat_ack``).

        One is enough: a second one that is put while the first waits is left out.
        """
        if not self._urgent:
            self._urgent.append(text)

    def take(self) -> tuple[str, int]:
        """Take the next frame: ``(text, number of messages in it)``, ``("", 0)`` when empty."""
        texts = list(self._urgent)
        self._urgent.clear()
        frame_bytes = 0
        replied: set[str] = set()
        while self._waiting and frame_bytes < self._max_frame_bytes:
            message, size = self._waiting[0]
            if not message.is_update:
                replied.add(message.tab)
            elif message.tab in replied:
                break
            self._waiting.popleft()
            frame_bytes += size
            self.waiting_bytes -= size
            texts.append(message.text)
        if len(texts) <= 1:
            return "".join(texts), len(texts)
        return "[" + ",".join(texts) + "]", len(texts)

    def clear(self) -> None:
        """Forget everything that waits: nobody is left to read it."""
        self._waiting.clear()
        self._urgent.clear()
        self.waiting_bytes = 0
