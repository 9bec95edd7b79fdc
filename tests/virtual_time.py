"""A clock that jumps: hours pass in a moment, to the same instants in every run.

Knows both event loops. The clock stands still while any task can go on; when all
of them wait, it jumps to the next timer. It sees neither threads nor sockets: a
test that waits for one of these would find its deadlines gone by at once.

A test opts in by a mark, ``@pytest.mark.virtual_time``, next to ``anyio``. It then
asks for ``anyio_backend_name``, as ``anyio_backend`` carries the clock too.
"""

import asyncio
import selectors

import trio.testing
from anyio.lowlevel import current_token

MOST_TURNS_WITHOUT_REST = 100_000
"""Turns of an asyncio loop that is never idle until the clock moves on even so."""


def backend(name):
    """What an ``anyio_backend`` fixture returns for this loop on a virtual clock."""
    if name == "trio":
        return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return name, {"loop_factory": VirtualTimeLoop}


def block(seconds):
    """Let time pass while the event loop does not turn, as ``time.sleep`` does to a real clock."""
    loop = current_token().native_token
    if isinstance(loop, VirtualTimeLoop):
        loop.clock.now += seconds
    else:
        trio.lowlevel.current_clock().jump(seconds)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, its timers set by a clock that starts at 0 and jumps."""

    def __init__(self):
        self.clock = _JumpingSelector()
        super().__init__(self.clock)

    def time(self):
        return self.clock.now


class _JumpingSelector(selectors.DefaultSelector):
    """Where an event loop waits for I/O or its next timer: here the wait is a jump."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self._turns_without_rest = 0

    def select(self, timeout=None):
        if timeout is None:  # without a timer only I/O, or another thread, can end the wait
            return super().select()
        ready = super().select(0)
        if timeout > 0 and not ready:
            self.now += timeout
            self._turns_without_rest = 0
        else:
            self._turns_without_rest += 1
        # A cancelled anyio scope keeps the loop busy until its tasks have ended, as a test
        # that fails leaves behind: it is to fail, not to hang.
        if self._turns_without_rest > MOST_TURNS_WITHOUT_REST:
            self.now += 1
        return ready
