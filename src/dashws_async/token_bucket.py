"""How often something may happen. Knows the time only as it is told."""

from __future__ import annotations

import math


class TokenBucket:
    """Lets something happen ``rate`` times per second on the average, ``burst`` times at once.

    Args:
        rate: tokens per second that come in.
        burst: tokens that there are at first, and at most.
    """

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = 0.0
        self._filled_at = -math.inf

    def take(self, now: float, tokens: float = 1) -> float:
        """Take tokens; returns the seconds until all are there, 0.0 if they are now.

        Args:
            now: the time in seconds, by any clock.
            tokens: how many; more than ``burst`` are never there at once.
        """
        come = (now - self._filled_at) * self._rate
        self._tokens = min(self._tokens + come, self._burst) - tokens
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)
