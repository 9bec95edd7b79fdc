"""What the callbacks send, the same for all contenders. Knows no Dash: the floor uses it too."""

import random
import time

POINTS = 32
"""Rows and columns of a heatmap."""

_random = random.Random(6)
_ROWS = [[round(_random.random(), 6) for _ in range(POINTS)] for _ in range(POINTS)]


def stamp(when=None):
    """What `dashws_async.load` looks for; contenders need not have that installed."""
    return f"@{time.monotonic_ns() if when is None else when}@"


def heatmap():
    return {"data": [{"type": "heatmap", "z": _ROWS}], "layout": {"title": {"text": stamp()}}}


class Ticks:
    """When a live dashboard is due: at a phase of its own, in equal steps. One missed is gone."""

    def __init__(self, interval):
        self._step = int(interval * 1e9)
        self.due = time.monotonic_ns() + random.randrange(self._step) - self._step

    def until_next(self):
        """Seconds from now to the next tick, which is `due` from here on."""
        now = time.monotonic_ns()
        self.due += self._step * max(1, -((self.due - now) // self._step))
        return (self.due - now) / 1e9
