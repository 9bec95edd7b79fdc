"""All connections of one app: who may connect, who is here, what they do, how all leave.

Knows what a handshake has to pass (origin, limit, hooks) and the registry of
connections; what happens on one of them is the connection's business, and how
a socket is accepted the backend's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import anyio

from .connection import (
    CLOSE_TIMEOUT,
    RESTART,
    Close,
    Connection,
    Disconnected,
    MessageHook,
    Transport,
)
from .dash_bridge import DashApp
from .handle import check_close
from .hooks import Rejected, ask_hooks, ask_identity, has_hooks
from .loops import PerLoop, call_soon, this_loop
from .origins import find_fault
from .registry import ENDS, REFUSALS, ConnectionInfo, Peer, Statistics
from .settings import Mode, Settings
from .shared import Clock, Counters, Shared
from .threads import Workers

logger = logging.getLogger("dashws_async")

SILENT_HEARTBEATS = 2.5
"""Heartbeats of the browser that may be missing before it counts as gone."""

DRAIN_STEP = 0.02
"""Seconds; connections that a drain closes in such a time are closed together."""


class HandshakeRefused(Exception):
    """A handshake that gets no WebSocket.

    Args:
        why: one of `registry.REFUSALS`.
        status: of the HTTP answer. After any of them browsers try again for some minutes.
        message: the same for people, in the answer and in the log.
    """

    def __init__(self, why: str, status: int, message: str) -> None:
        super().__init__(message)
        self.why = why
        self.status = status


class _Handshake:
    """An accepted one, while the app is asked about it. Nobody knows yet whose it is."""

    def __init__(self) -> None:
        self.revocations: list[tuple[Callable[[Peer], object], Close]] = []
        """The calls of `Runtime.close` meanwhile."""

    def close_for(self, peer: Peer) -> Close | None:
        """How the first of them that names this peer closes its connection, if one does."""
        for where, close in self.revocations:
            try:
                if where(peer):
                    return close
            except Exception:
                logger.exception("close(where=...) failed for %r, which closes it", peer)
                return close
        return None


class _Place:
    """``with`` it, a connection has its place among ``max_connections``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __enter__(self) -> None:
        self._runtime.places_taken += 1

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._runtime.places_taken -= 1
        if isinstance(error, HandshakeRefused):
            self._runtime.note_refused(error)


class Runtime:
    """The connections of one Dash app.

    Args:
        settings: the knobs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connections: set[Connection] = set()
        self.places_taken = 0
        self._place = _Place(self)
        self._undecided: set[_Handshake] = set()
        self._accepted = 0
        self._counters = Counters()
        self._clock = Clock()
        self._swept = False
        self._all_gone: anyio.Event | None = None  # while draining
        self._hurried = False
        self._patience: set[anyio.CancelScope] = set()
        self._shared: PerLoop[Shared] = PerLoop()
        self.workers = Workers(settings.max_workers or default_workers(settings.mode))
        """The app's worker threads."""
        self.app: DashApp
        """The app, once it is plugged."""

    def plug(self, app: DashApp) -> None:
        """Take over what the app was made with. It need not have its routes yet."""
        self.app = app
        if self.settings.max_workers is None:
            self.workers.limit = default_workers(self.settings.mode, app.max_workers)

    def loop_was_blocked(self, seconds: float) -> None:
        """Count that the event loop has not turned for so long. From any thread."""
        self._counters.blocked += 1
        self._counters.longest_blocked = max(self._counters.longest_blocked, seconds)

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
            refused={why: counters.refused[why] for why in REFUSALS},
            updates_sent=counters.updates_sent,
            updates_dropped=counters.updates_dropped,
            frames_sent=counters.frames_sent,
            behind=sum(connection.behind for connection in connections),
            bad_messages=counters.bad_messages,
            messages_delayed=counters.messages_delayed,
            requests_refused=counters.requests_refused,
            workers_busy=self.workers.busy,
            workers_waiting=self.workers.waiting,
            max_workers=self.workers.limit,
            blocked=counters.blocked,
            longest_blocked=counters.longest_blocked,
        )

    def admit(
        self, app: DashApp, origins: Sequence[str], hosts: Sequence[str], secure: bool
    ) -> AbstractContextManager[None]:
        """Check a handshake, and hold a place for its connection. Nothing of the app has run yet.

        A `HandshakeRefused` from inside is counted and logged too.

        Args:
            app: the Dash app that is asked for.
            origins: the values of the ``Origin`` headers.
            hosts: the values of the ``Host`` headers.
            secure: whether the browser is known to have connected by TLS.

        Raises:
            HandshakeRefused: it must not be accepted.
        """
        try:
            if self._all_gone is not None:
                raise HandshakeRefused("restart", 503, "The server is shutting down")
            if (fault := find_fault(origins, hosts, secure, app.allowed_origins)) is not None:
                raise HandshakeRefused("origin", 403, fault)
            if self.places_taken >= self.settings.max_connections:
                raise HandshakeRefused("full", 503, "The server has all the connections it takes")
        except HandshakeRefused as refused:
            self.note_refused(refused)
            raise
        return self._place

    def note_refused(self, refused: HandshakeRefused) -> None:
        """Count a handshake that gets no WebSocket."""
        # A proxy that hides the host is to be seen, a flood of strangers not to fill the log.
        usual = refused.why == "restart" or self._counters.refused[refused.why]
        logger.log(logging.INFO if usual else logging.WARNING, "Refused a WebSocket: %s", refused)
        self._counters.refused[refused.why] += 1

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
            connection = await self._let_in(transport, app, websocket, client)
            if connection is None:
                return
            try:
                await connection.serve()
            finally:
                self._connections.discard(connection)
                if self._all_gone is not None and not self._connections:
                    self._all_gone.set()

    async def _let_in(
        self, transport: Transport, app: DashApp, websocket: object, client: str
    ) -> Connection | None:
        settings, identity, handshake = self.settings, None, _Handshake()
        self._undecided.add(handshake)
        try:
            await ask_hooks("websocket_connect", settings.hook_timeout, websocket)
            if settings.identify is not None:
                identity = await ask_identity(settings.identify, settings.hook_timeout, websocket)
            connection = Connection(
                transport,
                self._shared.get(self._share),
                client,
                identity,
                self._message_hook(websocket) if has_hooks("websocket_message") else None,
            )
            # Before it is no handshake any more: a `close` in another thread must not miss it.
            self._connections.add(connection)
        except Rejected as rejected:
            self._counters.refused[rejected.close.why] += 1
            await _turn_away(transport, rejected.close)
            return None
        finally:
            self._undecided.remove(handshake)
        self._accepted += 1
        if settings.identify is not None:
            logger.info("Connection %s belongs to %r", connection.id, identity)
        # What has happened while they were asked:
        if self._all_gone is not None:
            connection.end(RESTART)
        elif (close := handshake.close_for(connection.peer)) is not None:
            connection.end(close)
        return connection

    def _message_hook(self, websocket: object) -> MessageHook:
        async def look_at(message: dict[str, Any]) -> Close | None:
            timeout = self.settings.hook_timeout
            try:
                await ask_hooks("websocket_message", timeout, websocket, message)
            except Rejected as rejected:
                return rejected.close
            return None

        return look_at

    def close(self, where: Callable[[Peer], object], code: int, reason: str) -> int:
        """What `WebSocketRuntime.close` does."""
        check_close(code, reason)
        close = Close(code, reason, "revoked")
        for handshake in tuple(self._undecided):
            handshake.revocations.append((where, close))
        chosen = [
            connection
            for connection in tuple(self._connections)
            if not connection.ending and where(connection.peer)
        ]
        for connection in chosen:
            if connection.thread_id == threading.get_ident():
                connection.end(close)
            else:
                with suppress(RuntimeError):  # its loop has ended, and the connection with it
                    call_soon(connection.token, partial(connection.end, close))
        return len(chosen)

    def _share(self) -> Shared:
        if not self._swept:
            logger.warning(
                "The server does not run the app's lifespan, so nobody looks after the time: "
                "silent clients and clients that take nothing are not closed, and the end of "
                "the server is not noticed (see Deploying)"
            )
        settings, app = self.settings, self.app
        heartbeat, inactivity = app.heartbeat_interval, app.inactivity_timeout
        return Shared(
            app=app,
            settings=settings,
            workers=self.workers,
            counters=self._counters,
            clock=self._clock,
            loop=this_loop(),
            batch_delay=app.batch_delay,
            silence_timeout=settings.silence_timeout or SILENT_HEARTBEATS * heartbeat,
            # Dash's worker looks with each heartbeat, and is to be the first to close.
            inactivity_timeout=inactivity and inactivity + 2 * heartbeat,
        )

    async def sweep(self) -> None:
        """Look after all connections now and then, until cancelled; the server runs it.

        One task for all of them, where a timer each would cost memory and time.
        """
        self._swept = True
        settings, shared = self.settings, self._shared.get(self._share)
        shortest = min(
            settings.send_timeout,
            settings.tab_timeout,
            shared.silence_timeout,
            shared.inactivity_timeout or math.inf,
        )
        interval = shortest / 8
        before = anyio.current_time()
        while True:
            await anyio.sleep(interval)
            now = anyio.current_time()
            # Much later than that, and something has blocked the loop.
            self._clock.now += min(now - before, 2 * interval)
            before = now
            self._sweep_all()

    def _sweep_all(self) -> None:
        """Apart from `sweep`, whose frame would hold the last connection when it has gone."""
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
        apart = min(1 / self.settings.drain_rate, within / max(len(connections), 1))  # seconds
        begun = anyio.current_time()
        for number, connection in enumerate(connections):
            # A sleep for each would be too many; one for what is due in the next moment is not.
            ahead = begun + number * apart - anyio.current_time()
            if ahead > DRAIN_STEP:
                await anyio.sleep(ahead)
            connection.end(RESTART)

    async def _wait_until_all_gone(self, timeout: float) -> None:
        if self._connections:
            assert self._all_gone is not None, "a drain is under way"
            with anyio.move_on_after(timeout):
                await self._all_gone.wait()


async def _turn_away(transport: Transport, close: Close) -> None:
    """Close an accepted WebSocket that is not served."""
    with suppress(Disconnected), anyio.move_on_after(CLOSE_TIMEOUT, shield=True) as patience:
        await transport.close(close.code, close.reason)
    if patience.cancelled_caught:
        transport.abort()


def default_workers(mode: Mode, of_dash: int = 4) -> int:
    """How many worker threads an app may have where nobody says.

    In ``mode="threads"`` the guide's number (Connection Limits and Scaling:
    ``min(32, cpu_count + 4)``), otherwise ``Dash(websocket_max_workers=...)``.
    """
    return min(32, (os.cpu_count() or 1) + 4) if mode == "threads" else of_dash
