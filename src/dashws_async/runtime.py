"""All connections of one app: who may connect, who is here, what they do, how all leave.

Knows Dash's rules for a handshake (origin, hooks) and the registry of
connections; what happens on one of them is the connection's business, and how
a socket is accepted the backend's.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio

from .connection import CLOSE_TIMEOUT, RESTART, Close, Connection, Disconnected, Transport
from .dash_bridge import DashApp, hooks
from .loops import PerLoop
from .registry import ENDS, ConnectionInfo, Statistics
from .settings import Mode, Settings
from .shared import Clock, Counters, Shared

logger = logging.getLogger("dashws_async")

REJECTED = Close(4001, "Connection rejected", "hook")
MESSAGE_REJECTED = Close(4001, "Message rejected", "hook")
HOOK_FAILED = Close(4001, "Authentication error", "hook")

SILENT_HEARTBEATS = 2.5
"""Heartbeats of the browser that may be missing before it counts as gone."""

DRAIN_STEP = 0.02
"""Seconds; connections that a drain closes in such a time are closed together."""


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
        self._clock = Clock()
        self._swept = False
        self._all_gone: anyio.Event | None = None  # while draining
        self._hurried = False
        self._patience: set[anyio.CancelScope] = set()
        self._shared: PerLoop[Shared] = PerLoop()

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """What lives at this moment; from any thread."""
        return tuple(connection.info() for connection in tuple(self._connections))

    def statistics(self) -> Statistics:
        """The numbers of this moment; cheap, from any thread."""
        counters, connections = self._counters, tuple(self._connections)
        return Statistics(
            connections=len(connections),
            tabs=sum(len(connection.tabs) for connection in connections),
            event_callbacks=counters.callbacks - counters.persistent,
            persistent_callbacks=counters.persistent,
            stuck=counters.stuck,
            connections_total=self._accepted,
            closed={why: counters.closed[why] for why in ENDS},
            updates_sent=counters.updates_sent,
            frames_sent=counters.frames_sent,
            bad_messages=counters.bad_messages,
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

    async def serve(
        self, transport: Transport, app: DashApp, websocket: object, client: str = ""
    ) -> None:
        """Serve an accepted WebSocket to its end.

        Args:
            transport: the socket.
            app: the Dash app it belongs to.
            websocket: the framework's own object, for Dash's hooks.
            client: the peer's address, for operators.
        """
        with app.current():  # for the hooks, and inherited by every callback's task
            await self._serve(transport, app, websocket, client)

    async def _serve(
        self, transport: Transport, app: DashApp, websocket: object, client: str
    ) -> None:
        rejected = await _ask_hooks("websocket_connect", REJECTED, websocket)
        if rejected is None and self._all_gone is not None:
            rejected = RESTART  # the drain has begun while the hooks were asked
        if rejected is not None:
            with suppress(Disconnected):
                await transport.close(rejected.code, rejected.reason)
            return

        async def look_at(message: dict[str, Any]) -> Close | None:
            return await _ask_hooks("websocket_message", MESSAGE_REJECTED, websocket, message)

        connection = Connection(
            transport,
            self._shared.get(lambda: self._share(app)),
            client,
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

    def _share(self, app: DashApp) -> Shared:
        if not self._swept:
            logger.warning(
                "The server does not run the app's lifespan, so nobody looks after the time: "
                "silent clients and clients that take nothing are not closed, and the end of "
                "the server is not noticed (see Deploying)"
            )
        settings, heartbeat = self.settings, app.heartbeat_interval
        inactivity = app.inactivity_timeout
        return Shared(
            app=app,
            settings=settings,
            limiter=anyio.CapacityLimiter(self._max_threads(app)),
            counters=self._counters,
            clock=self._clock,
            silence_timeout=settings.silence_timeout or SILENT_HEARTBEATS * heartbeat,
            # Dash's worker looks with each heartbeat, and is to be the first to close.
            inactivity_timeout=inactivity and inactivity + 2 * heartbeat,
        )

    def _max_threads(self, app: DashApp) -> int:
        if self.settings.max_threads is not None:
            return self.settings.max_threads
        return default_threads(self.settings.mode, app.max_workers)

    async def sweep(self) -> None:
        """Look after all connections now and then, until cancelled; the server runs it.

        One task for all of them, where a timer each would cost memory and time.
        """
        self._swept = True
        settings = self.settings
        timeouts = settings.send_timeout, settings.tab_timeout, settings.silence_timeout or math.inf
        interval = min(timeouts) / 8
        before = anyio.current_time()
        while True:
            await anyio.sleep(interval)
            now = anyio.current_time()
            # Much later than that, and something has blocked the loop.
            self._clock.now += min(now - before, 2 * interval)
            before = now
            for connection in tuple(self._connections):
                try:
                    connection.sweep()
                except Exception:  # would end the look-out for all others, and the server's life
                    logger.exception("A sweep failed; this is a defect of dashws-async")

    def open(self) -> None:
        """Accept handshakes; so it is at first, and again after a `drain`."""
        self._all_gone = None
        self._hurried = False

    async def drain(self, within: float = math.inf) -> None:
        """Close all connections (1012: the browser comes back), and wait for their callbacks.

        They are closed one after the other, ``drain_rate`` a second, so that not all
        browsers come back at once. Callbacks that have not ended ``cleanup_timeout``
        later are cancelled, and those that swallow that are abandoned: the server has to
        exit. Handshakes are refused until `open`.

        Args:
            within: seconds that the closing may take; it goes faster where it must.
        """
        if self._all_gone is None:
            self._all_gone = anyio.Event()
        with anyio.CancelScope() as patience:
            self._patience.add(patience)
            try:
                if self._hurried:
                    patience.cancel()
                await self._close_one_by_one(within)
                await self._wait_until_all_gone(CLOSE_TIMEOUT)
                for connection in self._connections:
                    connection.drop()
                # The cancellation at the end of cleanup_timeout gets a second to be
                # cleaned up after.
                await self._wait_until_all_gone(self.settings.cleanup_timeout + 1 - CLOSE_TIMEOUT)
            finally:
                self._patience.discard(patience)
        for connection in self._connections:
            connection.end(RESTART)
            connection.drop()
            connection.abandon()
        await self._wait_until_all_gone(1)
        for connection in self._connections:
            connection.abandon()  # what was in its cleanup at the first time

    def hurry(self) -> None:
        """Let a drain, under way or to come, wait for nothing and nobody (until `open`)."""
        self._hurried = True
        for patience in self._patience:
            patience.cancel()

    async def _close_one_by_one(self, within: float) -> None:
        connections = tuple(self._connections)
        rate = max(self.settings.drain_rate, len(connections) / within)
        begun = anyio.current_time()
        for number, connection in enumerate(connections):
            # A sleep for each would be too many; one for what is due in the next moment is not.
            ahead = begun + number / rate - anyio.current_time()
            if ahead > DRAIN_STEP:
                await anyio.sleep(ahead)
            connection.end(RESTART)

    async def _wait_until_all_gone(self, timeout: float) -> None:
        if self._connections:
            assert self._all_gone is not None, "a drain is under way"
            with anyio.move_on_after(timeout):
                await self._all_gone.wait()


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
            code, reason = verdict
            return Close(code, reason, "hook")
    return None
