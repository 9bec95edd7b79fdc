"""Who holds up the event loop: a thread of its own sees it, and the log names the code.

The loop cannot see itself stand. So a daemon thread looks at its stack, twice in the time
that it may be blocked for. A loop that waits for something to do is left alone. One that
runs something is asked to make a call: who holds it up is who runs when that is overdue.
Nothing is noted where callbacks run.

Code is not to be blamed for what it did not do. The time does not count in which the
loop's thread waited for a CPU, in which the whole process stood still (suspended,
stopped), or in which somebody looks at the code with a debugger.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NamedTuple, Self

from anyio.lowlevel import current_token

from . import whereabouts
from .callbacks import callback_of
from .dash_bridge import DashApp
from .loops import call_soon, running_frames, waits

logger = logging.getLogger("dashws_async")

SHORTEST_PAUSE = 0.05
"""Seconds between two looks, at least."""

REPORT_AFTER = 1.0
"""Seconds after which the log tells of a blockage that is not over yet; later at ten times that."""

_DEBUGGERS = {"bdb", "pydevd", "_pydevd_bundle"}


class Stretch:
    """A stretch of time up to now, and how much of it a loop could have used to turn.

    Args:
        loop_thread: the thread that runs the loop.
        starved: give the seconds that it, and the thread that waits, had no CPU so far.
    """

    def __init__(self, loop_thread: threading.Thread, *starved: Callable[[], float]) -> None:
        self._loop_thread = loop_thread
        self._starved = [(seconds, seconds()) for seconds in starved]
        self._cpu = self._cpu_now()
        self._begun = time.monotonic()
        self._waited = 0.0

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Let time pass until the event, or so many seconds."""
        begun = time.monotonic()
        happened = event.wait(seconds)
        self._waited += min(time.monotonic() - begun, seconds)
        return happened

    def elapsed(self) -> float:
        """All of its seconds."""
        return time.monotonic() - self._begun

    def usable(self) -> float:
        """The seconds in which the loop's thread ran, or waited for anything but a CPU."""
        elapsed = self.elapsed()
        starved = max(seconds() - before for seconds, before in self._starved)
        # Where nothing else explains that the waits took longer, the process stood still.
        late = elapsed - self._waited
        stood_still = max(late - starved - (self._cpu_now() - self._cpu), 0)
        return elapsed - starved - stood_still

    def _cpu_now(self) -> float:
        if sys.platform == "linux":
            return time.clock_gettime(time.pthread_getcpuclockid(self._loop_thread.ident or 0))
        return time.process_time()


class RunQueue:
    """How long a thread has been ready to run but had no CPU; always 0 where Linux does not tell.

    Args:
        thread: its native id.
    """

    def __init__(self, thread: int | None) -> None:
        self._file: int | None = None
        with suppress(OSError):
            self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def seconds(self) -> float:
        """Since the thread has started."""
        if self._file is None:
            return 0.0
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e9


class Culprit(NamedTuple):
    """What the loop's thread is busy with."""

    name: str
    """The callback, for people; empty where it is none."""
    where: str
    """``file:line in function``."""
    task: FrameType
    """The outermost frame, of a task as a rule: by it one is told from another."""


class Watchdog:
    """Watches the running loop for as long as it is entered.

    Args:
        blocked_after: seconds that the loop may not turn.
        count: told, in the watchdog's thread, how long each blockage took, in seconds.
        apps: whose callbacks are known by name.
    """

    def __init__(
        self, blocked_after: float, count: Callable[[float], None], apps: Sequence[DashApp] = ()
    ) -> None:
        self._blocked_after = blocked_after
        self._pause = max(blocked_after / 2, SHORTEST_PAUSE)
        self._limit = self._pause + blocked_after
        self._count = count
        self._apps = apps
        self._turned, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dashws-async watchdog")
        self._thread.daemon = True

    def __enter__(self) -> None:
        self._token = current_token()
        self._loop_thread = threading.current_thread()
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._turned.set()
        self._thread.join(1)

    def _watch(self) -> None:
        ours = threading.get_native_id()
        with RunQueue(self._loop_thread.native_id) as loops, RunQueue(ours) as our:
            while self._look_once(Stretch(self._loop_thread, loops.seconds, our.seconds)):
                pass

    def _look_once(self, stretch: Stretch) -> bool:
        """Pause, ask a loop that runs something to turn, and wait until it does.

        Returns:
            Whether to go on.
        """
        collections = _full_collections()
        if stretch.wait(self._left, self._pause):
            return False
        culprit = self._look_if_late(stretch)
        if culprit is None and waits(self._loop_thread.ident or 0):
            return not self._left.is_set()
        self._turned.clear()
        try:
            call_soon(self._token, self._turned.set)
        except RuntimeError:
            return False  # the loop has ended
        culprit = self._wait_for_turn(stretch, culprit)
        if culprit is not None and not self._left.is_set():
            seconds = stretch.usable() - self._pause
            self._count(seconds)
            collected = _full_collections() > collections
            _report("blocked", culprit, seconds, ", with garbage collection" * collected)
        # The log may take long, and the thread of a loop that was left may be gone.
        return not self._left.is_set()

    def _wait_for_turn(self, stretch: Stretch, culprit: Culprit | None) -> Culprit | None:
        """Wait until the loop turns, and return what held it up, if that took too long."""
        before: Culprit | None = None
        report_after = REPORT_AFTER
        looked_at = self._pause
        while not stretch.wait(self._turned, self._blocked_after / 2):
            if self._left.is_set():
                return None
            looked_at = stretch.elapsed()
            now = self._look()
            if now is None:
                continue
            if self._is_overdue(stretch):
                # Where another task runs each time, none of them is to be blamed.
                alone = before is None or before.task is now.task
                culprit = now if alone else now._replace(name="")
                seconds = stretch.usable() - self._pause
                if seconds >= report_after:
                    _report("has been blocking", culprit, seconds)
                    report_after *= 10
            before = now
        was_late = stretch.elapsed() >= looked_at + self._blocked_after
        if culprit is None and was_late and not self._left.is_set():
            culprit = self._look_if_late(stretch)
        return culprit

    def _look_if_late(self, stretch: Stretch) -> Culprit | None:
        """What has held up this thread too, by the interpreter's lock: it is there still."""
        if stretch.elapsed() < self._limit:
            return None
        culprit = self._look()  # first, because what follows lets the loop go on
        return culprit if self._is_overdue(stretch) else None

    def _is_overdue(self, stretch: Stretch) -> bool:
        return stretch.elapsed() >= self._limit and stretch.usable() >= self._limit

    def _look(self) -> Culprit | None:
        """Who holds up the loop; None if it waits, or somebody looks at it with a debugger."""
        frames = running_frames(self._loop_thread.ident or 0)
        if not frames or any(_package(frame) in _DEBUGGERS for frame in frames):
            return None
        tasks = (frame for frame in frames if frame.f_code.co_flags & inspect.CO_COROUTINE)
        spec = callback_of(frames, self._apps)
        name, home = (spec.name, spec.file) if spec is not None else ("", "")
        return Culprit(name, whereabouts.of_frames(frames, home), next(tasks, frames[0]))


def _report(verb: str, culprit: Culprit, seconds: float, remark: str = "") -> None:
    who = f"Callback {culprit.name}" if culprit.name else "Code"
    message = "%s %s the event loop for %.2f s, at %s%s"
    logger.warning(message, who, verb, seconds, culprit.where, remark)


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def _full_collections() -> int:
    collections: int = gc.get_stats()[-1]["collections"]
    return collections
