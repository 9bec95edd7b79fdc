"""The goals, and whether a run met them. Ratios are of figures from the same run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .contenders import DASH, FLOOR, OURS
from .results import Medians


@dataclass(frozen=True)
class Goal:
    """A limit for one figure of `contenders.OURS`, at every size of its scenario."""

    scenario: str
    figure: str
    limit: float
    against: str | None = None
    """The limit is one for the ratio to this contender's figure; ``None``: for the figure."""
    at_least: bool = False
    """The limit is the least that is allowed; otherwise the most."""
    sizes: tuple[float, ...] = ()
    """Only these; empty: all."""


GOALS = [
    Goal("live", "served_percent", 100, at_least=True),
    Goal("live", "lateness_p99_ms", 500),
    Goal("live", "cpu_per_update_us", 0.45, DASH),
    Goal("live", "cpu_per_update_us", 1.6, FLOOR),
    Goal("live", "memory_per_connection_kib", 0.6, DASH),
    Goal("live-deflate", "memory_per_connection_kib", 0.3, DASH),
    Goal("idle", "memory_per_connection_kib", 0.6, DASH),
    Goal("idle", "idle_cpu_percent", 0.5),
    Goal("echo", "requests_per_second", 2, DASH, at_least=True, sizes=(50,)),
    Goal("stream", "delay_p50_ms", 2),
    Goal("get_prop", "round_trip_p50_ms", 1),
    Goal("burst", "total_ms", 1, DASH),
    Goal("burst", "first_update_ms", 10),
    Goal("burst-figures", "total_ms", 1, DASH),
    Goal("burst-figures", "first_update_ms", 10),
    Goal("come-back", "served_percent", 100, at_least=True),
    Goal("come-back", "all_live_after_s", 20),
]


class Verdict(NamedTuple):
    """A goal at one size."""

    goal: Goal
    size: float
    ours: float | None
    """``None``: not measured, because it failed."""
    other: float | None
    """The figure of the contender that the goal is against."""

    @property
    def value(self) -> float | None:
        """What the limit is for."""
        if self.ours is None or self.other is None:
            return self.ours
        return self.ours / self.other if self.other else math.inf

    @property
    def met(self) -> bool:
        value, limit = self.value, self.goal.limit
        if value is None:
            return False
        return value >= limit if self.goal.at_least else value <= limit


def judge(found: Medians) -> Iterator[Verdict]:
    """All goals whose scenario was run, by both where a goal is against another contender."""
    for goal in GOALS:
        for scenario, size, contender in found:
            if (scenario, contender) != (goal.scenario, OURS):
                continue
            if goal.sizes and size not in goal.sizes:
                continue
            ours = found[scenario, size, OURS].get(goal.figure)
            if goal.against is None:
                yield Verdict(goal, size, ours, None)
            elif goal.figure in (other := found.get((scenario, size, goal.against), {})):
                yield Verdict(goal, size, ours, other[goal.figure])
