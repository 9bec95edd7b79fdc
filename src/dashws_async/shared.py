"""What all connections of one app have in common."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from .dash_bridge import DashApp
from .loops import Loop
from .settings import Settings
from .threads import Workers


class Clock:
    """Seconds since the start in which the event loop turned, told to whoever looks.

    Silence is measured with it. It costs nothing to read, is as coarse as the
    `Runtime.sweep` that moves it on, and leaves out the time in which something
    blocked the loop: a client is not silent while nobody listens.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0


class Counters:
    """What is counted over all connections."""

    __slots__ = (
        "bad_messages",
        "blocked",
        "callbacks",
        "closed",
        "frames_sent",
        "longest_blocked",
        "messages_delayed",
        "persistent",
        "refused",
        "requests_refused",
        "stuck",
        "unsuitable",
        "updates_dropped",
        "updates_sent",
    )

    def __init__(self) -> None:
        self.bad_messages = 0
        self.messages_delayed = 0
        self.requests_refused = 0
        self.unsuitable: set[str] = set()  # the names of these callbacks
        self.callbacks = 0  # persistent ones too
        self.persistent = 0
        self.stuck = 0
        self.frames_sent = 0
        self.updates_sent = 0
        self.updates_dropped = 0
        self.closed: Counter[str] = Counter()
        self.blocked = 0
        self.longest_blocked = 0.0  # seconds
        self.refused: Counter[str] = Counter()


class Shared(NamedTuple):
    """What a connection is given by its runtime."""

    app: DashApp
    """The Dash app."""
    settings: Settings
    """The knobs."""
    workers: Workers
    """The app's worker threads."""
    counters: Counters
    """Where everything is counted."""
    clock: Clock
    """By which silence is measured."""
    loop: Loop
    """That runs all of them."""
    batch_delay: float
    """Seconds that updates gather, if somebody has asked for that; 0.0."""
    silence_timeout: float
    """Seconds without a word from a client, by that clock, after which it counts as gone."""
    inactivity_timeout: float | None
    """Seconds in which nothing but heartbeats passes; None: for as long as it likes."""
