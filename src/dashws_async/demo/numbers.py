"""What this process is doing right now, read from the runtimes and from the system.

Knows how to count; does not know who looks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dashws_async import WebSocketRuntime

__all__ = ["Meter", "Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers of one moment, summed over every app of the process."""

    at: float  #: seconds on the monotonic clock
    connections: int  #: open WebSockets
    callbacks: int  #: callbacks that are running
    updates_sent: int  #: updates and answers sent since the process started
    threads: int  #: threads of the whole process, the event loop's own included

    def updates_per_second_since(self, earlier: Reading) -> float:
        seconds = self.at - earlier.at
        return (self.updates_sent - earlier.updates_sent) / seconds if seconds > 0 else 0.0


class Meter:
    """Reads the numbers of all `runtimes`; the sequence may still grow afterwards."""

    def __init__(self, runtimes: Sequence[WebSocketRuntime]) -> None:
        self._runtimes = runtimes

    def read(self) -> Reading:
        stats = [runtime.statistics() for runtime in self._runtimes]
        return Reading(
            at=time.monotonic(),
            connections=sum(each.connections for each in stats),
            callbacks=sum(each.callbacks for each in stats),
            updates_sent=sum(each.updates_sent for each in stats),
            threads=_threads(),
        )


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # Linux: also counts threads of C code
    except OSError:
        return threading.active_count()
