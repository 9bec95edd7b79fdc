"""What an operator sees of a runtime: its statistics, and what lives at this moment.

Plain values, copied when they are asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple


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
    refused: dict[str, int]
    """How many others were not let in, by reason: `REFUSALS` lists the keys."""
    updates_sent: int
    """Messages sent since the start: updates, answers (those to heartbeats too), requests."""
    updates_dropped: int
    """Updates that were not sent: a newer value came while they waited for a slow client."""
    frames_sent: int
    """WebSocket frames that carried them; what gathers travels together."""
    behind: int
    """WebSockets whose client does not keep up at this moment."""
    bad_messages: int
    """Client messages that were refused: not understood, or asking for what is not there."""
    messages_delayed: int
    """Client messages that waited, because `max_messages_per_second` had come."""
    requests_refused: int
    """Callback requests that were refused, because `max_callbacks` ran on their connection, or
    callbacks for large requests, or because it is a persistent plain ``def``."""
    workers_busy: int
    """Worker threads that run callbacks, or what callbacks offload, now."""
    workers_waiting: int
    """Calls that wait for such a thread, because there are `max_workers`."""
    max_workers: int
    """How many there may be at once."""
    blocked: int
    """How often the event loop has not turned for `blocked_after` since the start."""
    longest_blocked: float
    """Seconds that the longest of these took."""

    @property
    def callbacks(self) -> int:
        """Callbacks of both kinds running now."""
        return self.event_callbacks + self.persistent_callbacks


ENDS = {
    "left": "the browser closed the connection, or it broke",
    "silent": "nothing came for `silence_timeout`",
    "inactive": "nothing but heartbeats for `Dash(websocket_inactivity_timeout=...)`",
    "slow": "the client took nothing for `send_timeout`, or let `max_outbox_bytes` gather",
    "abuse": "more than `max_bad_messages` came at once, or more than as many per minute",
    "callback": "a callback called `ctx.websocket.close()`",
    "hook": "a `websocket_message` hook rejected a message",
    "revoked": "`WebSocketRuntime.close` named it",
    "restart": "the server stopped",
    "error": "a defect of dashws-async",
}
"""Why connections end: the keys of `Statistics.closed`."""

REFUSALS = {
    "origin": "its `Origin` is not this host, and not in `websocket_allowed_origins`",
    "full": "`max_connections` were there",
    "restart": "the server was stopping",
    "set_up": "a function that Dash runs before requests answered it",
    "hook": "a `websocket_connect` hook or `identify` rejected it",
}
"""Why WebSockets are not let in: the keys of `Statistics.refused`."""


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


class Peer(NamedTuple):
    """Who is at the other end of a connection: what `WebSocketRuntime.close` chooses by."""

    id: str
    """The connection's name in the log and in the names of its tasks."""
    client: str
    """The peer's address, as the server knows it (behind a proxy, the proxy's)."""
    identity: Any
    """What `WebSocketRuntime(identify=...)` said; None without it."""


class ConnectionInfo(NamedTuple):
    """One WebSocket: a browser with all its tabs of one app."""

    id: str
    """Its name in the log and in the names of its tasks."""
    client: str
    """The peer's address, as the server knows it (behind a proxy, the proxy's)."""
    identity: Any
    """What `WebSocketRuntime(identify=...)` said; None without it."""
    open_for: float
    """Seconds since it was accepted."""
    tabs: tuple[str, ...]
    """The pages on it: the ``rendererId`` of each page load."""
    callbacks: tuple[CallbackInfo, ...]
    """What runs because of it."""
    waiting_bytes: int
    """What waits to be sent."""
    behind: bool
    """The client does not keep up: older values are dropped for newer ones."""
    dropped: int
    """Updates that were dropped so since it was accepted."""
    closing: str | None
    """Why it ends, one of `ENDS`, once the end has begun; its callbacks may still clean up."""
