"""All connections of one app: who may connect, who is here, what they do, how all leave.

Knows Dash's rules for a handshake (origin, hooks) and the registry of
connections; what happens on one of them is the connection's business, and how
a socket is accepted the backend's.
"""

from __future__ import annotations

import inspect
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio

from .connection import (
    RESTART,
    Close,
    Connection,
    Counters,
    Disconnected,
    Transport,
)
from .dash_bridge import DashApp, hooks
from .loops import PerLoop
from .settings import Mode, Settings

logger = logging.getLogger("dashws_async")

REJECTED = Close(4001, "Connection rejected")
MESSAGE_REJECTED = Close(4001, "Message rejected")
HOOK_FAILED = Close(4001, "Authentication error")


@dataclass(frozen=True, kw_only=True)
class RuntimeStats:
    """What one app's runtime does at this moment, and has done."""

    connections: int
    """WebSockets open now."""
    connections_total: int
    """WebSockets accepted since the start."""
    callbacks: int
    """Callbacks running over WebSockets now, persistent ones included."""
    updates_sent: int
    """Messages sent since the start: updates, answers, requests."""
    frames_sent: int
    """WebSocket frames that carried them; what gathers travels together."""
    bad_messages: int
    """Client messages that could not be understood."""


class Headers(Protocol):
    """A request's headers, looked up without regard to case."""

    def get(self, name: str, /) -> str | None:
        """A header's value, if it was sent."""


class Runtime:
    """The connections of one Dash app.

    Args:
        settings: the knobs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._counters = Counters()
        self._all_gone: anyio.Event | None = None  # while draining
        self._limiter: PerLoop[anyio.CapacityLimiter] = PerLoop()

    def stats(self) -> RuntimeStats:
        """The numbers of this moment; cheap, from any thread."""
        return RuntimeStats(
            connections=len(self._connections),
            connections_total=self._accepted,
            callbacks=self._counters.callbacks,
            updates_sent=self._counters.updates_sent,
            frames_sent=self._counters.frames_sent,
            bad_messages=self._counters.bad_messages,
        )

    def refuse_handshake(self, app: DashApp, headers: Headers) -> str | None:
        """Why a handshake must not be accepted, or None. Nothing of the app has run yet.

        Args:
            headers: the request's.
        """
        if self._all_gone is not None:
            return "The server is shutting down"
        origin, host = headers.get("origin"), headers.get("host")
        if not origin:
            return "Origin header required"
        if origin not in app.allowed_origins and urlsplit(origin).netloc != host:
            return (
                f"Origin {origin!r} is not this host, {host!r}; "
                "allow it with Dash(websocket_allowed_origins=[...])"
            )
        return None

    async def serve(self, transport: Transport, app: DashApp, websocket: object) -> None:
        """Serve an accepted WebSocket to its end.

        Args:
            transport: the socket.
            app: the Dash app it belongs to.
            websocket: the framework's own object, for Dash's hooks.
        """
        with app.current():  # for the hooks, and inherited by every callback's task
            await self._serve(transport, app, websocket)

    async def _serve(self, transport: Transport, app: DashApp, websocket: object) -> None:
        rejected = await _ask_hooks("websocket_connect", REJECTED, websocket)
        if rejected is not None:
            with suppress(Disconnected):
                await transport.close(*rejected)
            return

        if self._all_gone is not None:  # the drain has begun while the hooks were asked
            with suppress(Disconnected):
                await transport.close(*RESTART)
            return

        async def look_at(message: dict[str, Any]) -> Close | None:
            return await _ask_hooks("websocket_message", MESSAGE_REJECTED, websocket, message)

        connection = Connection(
            transport,
            app,
            self.settings,
            self._limiter.get(lambda: anyio.CapacityLimiter(self._max_threads(app))),
            self._counters,
            look_at if hooks.get_hooks("websocket_message") else None,
        )
        self._connections.add(connection)
        self._accepted += 1
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
            if self._all_gone is not None and not self._connections:
                self._all_gone.set()

    def open(self) -> None:
        """Accept handshakes; so it is at first, and again after a `drain`."""
        self._all_gone = None

    async def drain(self) -> None:
        """Close all connections (1012: the browser comes back), and wait for their callbacks.

        Callbacks that have not ended after ``cleanup_timeout`` are cancelled, and those
        that swallow that are abandoned: the server has to exit. Handshakes are refused
        until `open`.
        """
        if self._all_gone is None:
            self._all_gone = anyio.Event()
        for connection in self._connections:
            connection.end(RESTART)
        # The cancellation at the end of cleanup_timeout gets a second to be cleaned up after.
        for patience in (self.settings.cleanup_timeout + 1, 1):
            with anyio.move_on_after(patience):
                if self._connections:
                    await self._all_gone.wait()
            for connection in self._connections:
                connection.abandon()

    def _max_threads(self, app: DashApp) -> int:
        if self.settings.max_threads is not None:
            return self.settings.max_threads
        return default_threads(self.settings.mode, app.max_workers)


def default_threads(mode: Mode, max_workers: int) -> int:
    """How many worker threads an app may have where nobody says.

    In ``mode="threads"`` the guide's number (Connection Limits and Scaling:
    ``min(32, cpu_count + 4)``), otherwise ``Dash(websocket_max_workers=...)``.
    """
    return min(32, (os.cpu_count() or 1) + 4) if mode == "threads" else max_workers


async def _ask_hooks(name: str, default: Close, *arguments: object) -> Close | None:
    """Run Dash's WebSocket hooks; the first that objects decides how to close."""
    for hook in hooks.get_hooks(name):
        try:
            verdict = hook(*arguments)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception:
            logger.exception("The %s hook failed, which rejects", name)
            return HOOK_FAILED
        if verdict is False:
            return default
        if isinstance(verdict, tuple) and len(verdict) == 2:
            return Close(*verdict)
    return None
