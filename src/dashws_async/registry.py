"""What an operator sees of a runtime: its statistics, and what lives at this moment.

Plain values, copied when they are asked for.
"""

from __future__ import annotations

from typing import NamedTuple


class Statistics(NamedTuple):
    """What one app's runtime does at this moment, and has done since the process started."""

    connections: int
    """WebSockets open now, those included whose callbacks still clean up."""
    tabs: int
    """Pages on them: the tabs of one browser share a WebSocket."""
    event_callbacks: int
    """Event-triggered callbacks running now over WebSockets."""
    persistent_callbacks: int
    """Callbacks registered with ``persistent=True`` running now."""
    stuck: int
    """Of all these, callbacks that have not ended ``cleanup_timeout`` after their page had gone."""
    connections_total: int
    """WebSockets accepted since the start."""
    closed: dict[str, int]
    """How many of those have ended, by reason: `ENDS` lists the keys."""
    updates_sent: int
    """Messages sent since the start: updates, answers, requests."""
    frames_sent: int
    """WebSocket frames that carried them; what gathers travels together."""
    bad_messages: int
    """Client messages that could not be understood."""

    @property
    def callbacks(self) -> int:
        """Callbacks of both kinds running now."""
        return self.event_callbacks + self.persistent_callbacks


ENDS = {
    "left": "the browser closed the connection, or it broke",
    "silent": "nothing came for `silence_timeout`",
    "inactive": "nothing but heartbeats for `Dash(websocket_inactivity_timeout=...)`",
    "slow": "the client took nothing for `send_timeout`, or let `max_outbox_bytes` gather",
    "callback": "a callback called `ctx.websocket.close()`",
    "hook": "a `websocket_message` hook rejected a message",
    "restart": "the server stopped",
    "error": "a defect of dashws-async",
}
"""Why connections end: the keys of `Statistics.closed`."""


class CallbackInfo(NamedTuple):
    """One running callback."""

    name: str
    """``module.function``."""
    tab: str
    """The page it runs for: the ``rendererId`` of a page load."""
    persistent: bool
    """Registered with ``persistent=True``."""
    running_for: float
    """Seconds since it started."""
    ended_for: float | None
    """Seconds since its page has gone; None while the page is there."""
    stuck: bool
    """It has not ended ``cleanup_timeout`` after that."""
    where: str
    """Where it stands: ``file:line in function``."""


class ConnectionInfo(NamedTuple):
    """One WebSocket: a browser with all its tabs of one app."""

    id: str
    """Its name in the log and in the names of its tasks."""
    client: str
    """The peer's address, as the server knows it (behind a proxy, the proxy's)."""
    open_for: float
    """Seconds since it was accepted."""
    tabs: tuple[str, ...]
    """The pages on it: the ``rendererId`` of each page load."""
    callbacks: tuple[CallbackInfo, ...]
    """What runs because of it."""
    waiting_bytes: int
    """What waits to be sent."""
    closing: str | None
    """Why it ends, one of `ENDS`, once the end has begun; its callbacks may still clean up."""
