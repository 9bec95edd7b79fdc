"""One WebSocket: a reader, a writer, and the callbacks of its tabs.

::

    serve ─┬─ reader     client messages: to the tab that they name
           └─ tasks ─┬─ writer     frames from the outbox that have to wait for the client
                     ├─ callbacks  one task each (`callbacks.CallbackTask`)
                     └─ wind-ups   one for each tab that has ended and has callbacks left

The reader lives in the surroundings: when those are cancelled, as a server does that
stops, it stops, and the writer with it. The callbacks do not: how they end is Dash's
documented contract (`tab`). That the client has left is the last that the reader receives: it
knows at once, unless it still waits with what came before (a hook, the rate limit).
What nobody tells, a peer that is silent or takes nothing, `sweep` finds out, called now
and then for all connections by the runtime.

Knows a transport of five verbs, not a web framework: tests drive it in memory.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple, Protocol

import anyio
from anyio.lowlevel import checkpoint, current_token

from . import messages
from .callbacks import Unsuitable, find_callback
from .dash_bridge import CallbackSpec
from .handle import Reply
from .loops import Cancellable, Tasks, cancel_scope, own_tasks
from .messages import (
    BadMessage,
    CallbackRequest,
    ClientMessage,
    GetPropsResponse,
    Heartbeat,
    TabGone,
    TabVisible,
    TabWatched,
)
from .outbox import Outbox, OutboxFull, Outgoing
from .registry import ConnectionInfo, Peer
from .shared import Shared
from .tab import Tab
from .token_bucket import TokenBucket

logger = logging.getLogger("dashws_async")


class Close(NamedTuple):
    """How a connection is closed."""

    code: int
    """What the close frame says."""
    reason: str
    """The same in words."""
    why: str
    """One of `registry.ENDS`."""


# Not 1000 or 4001 where the browser is to come back: after these its worker stays away.
GONE = Close(1001, "The client has left", "left")
"""The client ended the connection; there is nobody to send a close frame to."""
ABUSE = Close(1008, "Too many bad messages", "abuse")
INTERNAL_ERROR = Close(1011, "Internal error", "error")
RESTART = Close(1012, "The server restarts", "restart")
TRY_AGAIN = Close(1013, "The client does not keep up", "slow")
SILENT = Close(4000, "Nothing came from the client", "silent")
"""The code that Dash's own worker uses where nothing comes from the server."""
INACTIVE = Close(4001, "Inactivity timeout", "inactive")
"""As Dash's worker says it; the page comes back when somebody looks at it."""


CLOSE_TIMEOUT = 1.0
"""Seconds that sending the close frame may take."""

MAX_TABS = 1000
"""Pages that one browser may have open on one connection."""

BYTES_PER_MESSAGE = 16 * 1024
"""A longer message counts as several, though never as more than may come at once."""

FAIR_SHARE = 10
"""Messages that a client has handled until all others have had their turn."""


class Disconnected(Exception):
    """The peer has left; a transport raises it from ``receive`` or ``send``."""


class Transport(Protocol):
    """A WebSocket, as far as a connection needs one."""

    async def receive(self, take: Callable[[str | bytes], bool]) -> str | bytes:
        """The next message.

        Args:
            take: may be shown messages where they come in, in the caller's context; those that
                it takes are not returned.

        Raises:
            Disconnected: the peer has left, and all that it sent before was received.
        """

    sends_at_once: bool
    """Whether sending takes no await, but for a client that does not keep up."""

    def send(self, text: str) -> Callable[[], Awaitable[None]] | None:
        """Send one text frame.

        Returns:
            What to await, once, before the next one: it may raise ``Disconnected`` too. None,
            where the frame has left and the next one may follow, or the close frame has left
            and nothing does.
        """

    async def close(self, code: int, reason: str) -> None:
        """Send the close frame."""

    def bytes_taken(self) -> int | None:
        """How much the peer has taken so far, also amid a ``send``; None where nobody knows."""

    def abort(self) -> None:
        """Drop the connection, as far as the server lets us: what waits in ``send`` ends."""


class _Sending(NamedTuple):
    """A frame that is on its way."""

    frame: str
    messages: int
    """How many are in it."""
    wait: Callable[[], Awaitable[None]] | None
    """What the transport has to wait for."""


MessageHook = Callable[[dict[str, Any]], Awaitable[Close | None]]
"""Looks at a client's message; what it returns closes the connection."""


class Connection:
    """One browser's WebSocket, and everything that runs because of it. Its tabs' `tab.Wire`.

    Args:
        transport: the accepted socket.
        shared: what all connections share.
        client: the peer's address, for operators.
        identity: who the connection belongs to, for operators.
        message_hook: asked for every client message, if there is one.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_active_at",
        "_bad_messages_allowed",
        "_close_waiters",
        "_conversation",
        "_delay",
        "_drains",
        "_ending",
        "_heard_at",
        "_held",
        "_leaving",
        "_message_hook",
        "_messages_allowed",
        "_messages_at_once",
        "_outbox",
        "_read_ids",
        "_resting",
        "_sending_since",
        "_shared",
        "_taken",
        "_tasks",
        "_transport",
        "_transport_closed",
        "_writer",
        "_writes_at_once",
        "peer",
        "pending_reads",
        "request_bytes",
        "running_callbacks",
        "tabs",
        "thread_id",
        "token",
    )

    def __init__(
        self,
        transport: Transport,
        shared: Shared,
        client: str = "",
        identity: object = None,
        message_hook: MessageHook | None = None,
    ) -> None:
        self.peer = Peer(secrets.token_hex(4), client, identity)
        """Who is at the other end."""
        self.token = current_token()
        self.thread_id = threading.get_ident()
        self.tabs: dict[str, Tab] = {}
        """The pages that are there, by ``rendererId``."""
        self.running_callbacks = 0
        self.request_bytes = 0
        self.pending_reads = 0
        self._transport = transport
        self._shared = shared
        self._message_hook = message_hook
        self._accepted = time.monotonic()

        settings = shared.settings
        self._outbox = Outbox(settings.max_outbox_bytes)
        rate, bad = settings.max_messages_per_second, settings.max_bad_messages
        self._messages_at_once = max(rate, 1)
        self._messages_allowed = TokenBucket(rate, burst=self._messages_at_once)
        self._bad_messages_allowed = TokenBucket(bad / 60, burst=bad)
        self._writer: Cancellable | None = None
        self._writes_at_once = transport.sends_at_once and not shared.batch_delay
        self._held = False
        self._delay: float | None = None  # of a message that was not heard at once
        self._read_ids = count(1)
        self._leaving: dict[Tab, None] = {}
        self._resting: dict[str, list[tuple[CallbackSpec, CallbackRequest]]] = {}
        self._ending: Close | None = None
        self._drains: dict[Reply, int] = {}  # with marks of the outbox
        self._close_waiters: list[Reply] = []
        self._transport_closed = False
        self._heard_at = self._active_at = shared.clock.now
        self._sending_since: float | None = None
        self._taken: int | None = None
        self._tasks: Tasks | None = None  # until it is served
        self._conversation = cancel_scope()

    # What tabs use: the `tab.Wire` of this connection.

    @property
    def id(self) -> str:
        """The connection's name in the log."""
        return self.peer.id

    def post(self, message: Outgoing) -> None:
        """Send a message, in order; a client that does not take them is closed with 1013."""
        if self._ending is not None:
            return
        try:
            dropped = self._outbox.put(message)
        except OutboxFull as full:
            logger.warning("Closing connection %s with %d: %s", self.id, TRY_AGAIN.code, full)
            self._outbox.clear()
            self.end(TRY_AGAIN)
        else:
            self._shared.counters.updates_dropped += dropped
        if not self._held:
            self._wake_writer()

    def hold(self) -> None:
        """A callback runs: what it sends leaves when it awaits, in one frame."""
        self._held = True

    def release(self) -> None:
        """It awaits, or has ended."""
        self._held = False
        if self._writer is None and self._outbox:
            if self._writes_at_once and self._tasks is not None:
                self._write_at_once()
            else:
                self._start_writer(None)

    def has_room(self, size: int) -> bool:
        """Whether an answer may be posted, so that answers alone never fill the outbox.

        They leave half of it to updates, which nobody holds back.

        Args:
            size: characters of the answer.
        """
        waiting, max_bytes = self._outbox.waiting_bytes, self._shared.settings.max_outbox_bytes
        return waiting <= max_bytes / 2 and (not waiting or waiting + size <= max_bytes)

    def drain(self, drained: Reply) -> None:
        """Set ``drained`` once all that was sent so far is with the transport."""
        mark = self._outbox.mark()
        if self._sending_since is None and self._outbox.has_left(mark):
            drained.set({})
        else:
            self._drains[drained] = mark

    def forget_drain(self, drained: Reply) -> None:
        """Nobody waits for this any more."""
        self._drains.pop(drained, None)

    def _tell_drained(self) -> None:
        for drained, mark in list(self._drains.items()):
            if not self._outbox.has_left(mark):
                break  # what was marked later has not left either
            del self._drains[drained]
            drained.set({})

    def new_read_id(self) -> str:
        """A name for a ``get_props_request``, with ours in it.

        An answer may come late: over the next connection, or to the next tab of this name.
        """
        return f"{self.id}-{next(self._read_ids)}"

    def close(self, code: int, reason: str, by: object, closed: Reply) -> None:
        """What ``ws.close()`` does: end the connection, sparing the callback that asked for it."""
        self._close_waiters.append(closed)
        self.end(Close(code, reason, "callback"), spare=by)

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        """Start a task that lives as long as it likes, and the connection with it."""
        assert self._tasks is not None, "it is served"
        self._tasks.start_soon(function, *args, name=name)

    def reject(self, bad: BadMessage) -> None:
        """Answer a bad message where the page can see it; only too many harm anything else."""
        self._shared.counters.bad_messages += 1
        logger.info("Refused a message on connection %s: %s", self.id, bad)
        if bad.renderer_id is not None:
            tab = messages.quote(bad.renderer_id)
            if bad.request_id is not None:
                self.answer_error(tab, bad.request_id, str(bad))
            else:
                text = messages.page_error(tab, str(bad), "BAD_MESSAGE")
                self.post(Outgoing(tab, text))
        if self._bad_messages_allowed.take(self._shared.loop.time()) and self._ending is None:
            logger.warning(
                "Closing connection %s with %d: more than %d bad messages at once, or more than "
                "as many per minute",
                self.id,
                ABUSE.code,
                self._shared.settings.max_bad_messages,
            )
            self.end(ABUSE)

    def answer_error(self, tab: str, request_id: str, message: str) -> None:
        """Answer a request with an error, which the page shows."""
        text = messages.callback_response(tab, request_id, messages.error(message))
        self.post(Outgoing(tab, text))

    # The life of the connection.

    async def serve(self) -> None:
        """Serve until the connection has ended and every callback of it too."""
        self._tasks = own_tasks(self._fail)
        async with self._tasks:
            if self._ending is not None:  # it has, before it began
                self._wake_writer()
            try:
                with self._conversation:
                    await self._read()
            except Exception as error:
                self._fail(error)
            finally:
                self._conversation.cancel()
                self.end(GONE)
                writer, self._writer = self._writer, None
                if writer is not None and not self._transport_closed:
                    writer.cancel()
                await self._close_transport()

    def _fail(self, error: Exception) -> None:
        logger.error("A connection failed; this is a defect of dashws-async", exc_info=error)
        self.end(INTERNAL_ERROR)
        self._conversation.cancel()

    @property
    def ending(self) -> bool:
        """Whether the end has begun; never false again."""
        return self._ending is not None

    def end(self, close: Close, spare: object = None) -> None:
        """End the connection, and with it all its tabs; the first who asks decides how.

        Args:
            spare: the callback that called ``ws.close()``; it may go on.
        """
        if self._ending is not None:
            return
        self._ending = close
        self._shared.counters.closed[close.why] += 1
        for tab in list(self.tabs.values()):
            self._end_tab(tab, spare)
        self._wake_writer()

    def abandon(self) -> None:
        """End the callbacks that neither the end nor the cancellations after it ended."""
        for tab in self._leaving:
            tab.abandon()

    def drop(self) -> None:
        """End the conversation with a client that does not take what is sent to it."""
        self._conversation.cancel()
        self._transport.abort()  # some servers do not let a send that waits be cancelled

    def sweep(self) -> None:
        """Act on what has not happened for too long; called now and then."""
        shared, now = self._shared, self._shared.clock.now
        if self._sending_since is not None and self._ending is None:
            taken = self._transport.bytes_taken()
            if taken != self._taken:  # a client may take long over a large message
                self._taken, self._sending_since = taken, now
        settings, sending_since = shared.settings, self._sending_since
        if sending_since is not None and now >= sending_since + settings.send_timeout:
            if self._ending is not None:
                self.drop()
                return
            logger.warning(
                "Closing connection %s with %d: the client took nothing for %g s",
                self.id,
                TRY_AGAIN.code,
                settings.send_timeout,
            )
            self.end(TRY_AGAIN)
            self._conversation.cancel()  # so that the close frame need not wait
        elif self._ending is not None:
            return
        elif now >= self._heard_at + shared.silence_timeout:
            logger.info(
                "Closing connection %s with %d: nothing came from the client for %g s",
                self.id,
                SILENT.code,
                shared.silence_timeout,
            )
            self.end(SILENT)
        elif (
            shared.inactivity_timeout is not None
            and now >= self._active_at + shared.inactivity_timeout
        ):
            self.end(INACTIVE)
        elif len(self.tabs) + len(self._resting) > 1:  # one that is alone goes with the connection
            for tab in list(self.tabs.values()):
                # Asking one may fill the outbox, which ends the connection and all of them.
                if tab.is_gone(settings.tab_timeout) and not tab.ended:
                    self._rest(tab)

    def _wake_writer(self) -> None:
        """Have what waits sent on the next turn of the loop."""
        if self._writer is None:
            if self._writes_at_once and self._tasks and not self._conversation.cancel_called:
                self._writer = self._tasks.call_soon(self._write_at_once)
            else:
                self._start_writer(None)

    def _start_writer(self, sending: _Sending | None) -> None:
        if self._tasks is not None and not self._conversation.cancel_called:
            if sending is not None:
                self._sending_since = self._shared.clock.now
            name = f"writer of connection {self.id}"
            self._writer = self._tasks.start_soon(self._write, sending, name=name)

    def _write_at_once(self) -> None:
        """Send what waits, if it is one frame that leaves at once; a task does all else."""
        self._writer = None
        sending = self._send_next()
        if sending is not None and sending.wait is None:
            self._has_left(sending)
            sending = None
        if sending is not None or self._outbox or self._ending is not None:
            self._start_writer(sending)

    async def _write(self, sending: _Sending | None) -> None:
        """Send frames until none waits; at the end the close frame too.

        Args:
            sending: one that is on its way already.
        """
        if self._shared.batch_delay and sending is None:
            await anyio.sleep(self._shared.batch_delay)
        while sending := sending or self._send_next():
            if sending.wait is not None:
                self._sending_since = self._shared.clock.now
                try:
                    await sending.wait()
                except Disconnected:
                    self._peer_has_left()
                    return
                finally:
                    self._sending_since = None
            self._has_left(sending)
            sending = None
        if self._ending is None:
            self._writer = None
        else:
            await self._close_transport()
            self._conversation.cancel()

    def _send_next(self) -> _Sending | None:
        frame, count_of_messages = self._outbox.take()
        if not frame:
            return None
        try:
            return _Sending(frame, count_of_messages, self._transport.send(frame))
        except Disconnected:
            self._peer_has_left()
            return None

    def _has_left(self, sent: _Sending) -> None:
        counters, now = self._shared.counters, self._shared.clock.now
        if sent.frame != messages.HEARTBEAT_ACK:
            self._active_at = now
        counters.frames_sent += 1
        counters.updates_sent += sent.messages
        if self._drains:
            self._tell_drained()

    def _peer_has_left(self) -> None:
        self._conversation.cancel()
        self.end(GONE)

    async def _close_transport(self) -> None:
        """Send the close frame, once. Left to itself, Quart would send 1000: stay away."""
        if not self._transport_closed:
            self._transport_closed = True
            assert self._ending is not None, "the end comes first"
            # Shielded: the writer may be at it when the conversation is cancelled.
            with suppress(Disconnected), anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._transport.close(self._ending.code, self._ending.reason)
        self._outbox.clear()
        for reply in self._close_waiters:
            reply.set({})
        self._close_waiters.clear()

    async def _read(self) -> None:
        shared = self._shared
        for number in count(1):
            try:
                received = await self._transport.receive(self._hear_at_once)
            except Disconnected:
                return
            wait, self._delay = self._delay, None
            if wait is None:
                wait = self._seconds_until_allowed(received)
            if wait:
                shared.counters.messages_delayed += 1
                await anyio.sleep(wait)  # what the client sends meanwhile stays with it
            elif number % FAIR_SHARE == 0:
                await checkpoint()  # receiving what is there already need not be one
            if self._ending is None:  # otherwise the close frame is on its way
                if self._message_hook is None:
                    self._hear(received)
                else:
                    await self._hear_with_hook(self._message_hook, received)
            if self._conversation.cancel_called:
                return  # a hook has swallowed it
            del received  # it may be long, and the next one may be long in coming

    def _hear_at_once(self, received: str | bytes) -> bool:
        """Hear a message where it comes in, if nothing has to be awaited; whether it was heard."""
        if self._message_hook is not None or self._ending is not None:
            return False
        self._delay = self._seconds_until_allowed(received)
        if self._delay:
            return False
        self._hear(received)
        return True

    def _seconds_until_allowed(self, received: str | bytes) -> float:
        self._heard_at = self._shared.clock.now
        counts_as = min(1 + len(received) // BYTES_PER_MESSAGE, self._messages_at_once)
        return self._messages_allowed.take(self._shared.loop.time(), counts_as)

    def _hear(self, received: str | bytes) -> None:
        try:
            self._handle(self._decode(received))
        except Exception as error:  # whatever it is, the other callbacks have no part in it
            self._refuse(received, error)

    async def _hear_with_hook(self, hook: MessageHook, received: str | bytes) -> None:
        try:
            message = self._decode(received)
            if not isinstance(message, _OURS):
                close = await hook(messages.as_object(received))
                if close is not None:
                    self.end(close)
                if self._ending is not None:
                    return
            self._handle(message)
        except Exception as error:
            self._refuse(received, error)

    def _decode(self, received: str | bytes) -> ClientMessage:
        return messages.decode(received, self._shared.settings.max_message_bytes)

    def _refuse(self, received: str | bytes, error: Exception) -> None:
        if not isinstance(error, BadMessage):
            logger.error("A message failed; this is a defect of dashws-async", exc_info=error)
            text = "Internal error: see the server's log."
            error = BadMessage(text, *messages.addressee(received))
        self.reject(error)

    def _handle(self, message: ClientMessage) -> None:
        if not isinstance(message, Heartbeat):
            self._active_at = self._shared.clock.now
        match message:
            case CallbackRequest():
                self._start_callback(message)
            case GetPropsResponse():
                # One that we gave up may answer late.
                if message.renderer_id in self.tabs or message.renderer_id in self._resting:
                    tab = self._tab(message.renderer_id)
                    tab.answered(message.request_id, message.payload or {})
            case Heartbeat():
                self._outbox.put_urgent(messages.HEARTBEAT_ACK)
                self._wake_writer()
            case TabWatched():
                self._tab(message.renderer_id).watched = True
            case TabGone():
                self._forget_resting(message.renderer_id)
                if (gone := self.tabs.get(message.renderer_id)) is not None:
                    self._end_tab(gone)
            case TabVisible():
                pass  # the activity is all it says

    def _start_callback(self, request: CallbackRequest) -> None:
        tab, shared = self._tab(request.renderer_id), self._shared
        try:
            tab.start(find_callback(shared.app, request, shared.settings.mode), request)
        except Unsuitable as unsuitable:  # no fault of the client's
            shared.counters.requests_refused += 1
            if unsuitable.name not in shared.counters.unsuitable:
                shared.counters.unsuitable.add(unsuitable.name)
                logger.error("%s", unsuitable)
            self.answer_error(tab.literal, request.request_id, str(unsuitable))

    # Tabs come and go.

    def _tab(self, renderer_id: str) -> Tab:
        """The tab that a message names; a new one, if it is not there.

        Raises:
            BadMessage: this browser has more tabs than is reasonable.
        """
        tab = self.tabs.get(renderer_id)
        if tab is None:
            if len(self.tabs) + len(self._resting) >= MAX_TABS:
                text = f"Bad message: more than {MAX_TABS} tabs on one connection"
                raise BadMessage(text, renderer_id, None)
            tab = self.tabs[renderer_id] = Tab(renderer_id, self, self._shared)
            for spec, request in self._forget_resting(renderer_id):
                tab.start(spec, request)
        tab.heard_at = self._shared.clock.now
        return tab

    def _end_tab(self, tab: Tab, spare: object = None) -> None:
        del self.tabs[tab.renderer_id]
        tab.end(spare)
        if self._ending is None:  # else what waits is still sent, before the close frame
            self._outbox.forget(tab.literal)
            if self._sending_since is None:
                self._tell_drained()
        if tab.running:
            self._leaving[tab] = None
            name = f"wind-up of tab {tab.renderer_id!r} of connection {self.id}"
            self.start_soon(self._wind_up, tab, name=name)

    async def _wind_up(self, tab: Tab) -> None:
        await tab.wind_up()
        del self._leaving[tab]  # torn down before that, it is still to be abandoned

    def _rest(self, tab: Tab) -> None:
        """End a tab that does not answer. If it was only asleep, its persistent callbacks start
        again with its next word: the page believes that they run."""
        requests = [
            (callback.spec, callback.request)
            for callback in tab.running.values()
            if callback.spec.persistent
        ]
        if requests:
            logger.info("Tab %r of connection %s does not answer", tab.renderer_id, self.id)
            self._resting[tab.renderer_id] = requests
            self.request_bytes += sum(request.size for _, request in requests)
        self._end_tab(tab)

    def _forget_resting(self, renderer_id: str) -> list[tuple[CallbackSpec, CallbackRequest]]:
        requests = self._resting.pop(renderer_id, [])
        self.request_bytes -= sum(request.size for _, request in requests)
        return requests

    # For operators.

    @property
    def behind(self) -> bool:
        """Whether the client does not keep up."""
        return self._outbox.behind

    def info(self) -> ConnectionInfo:
        """What lives on the connection. From any thread."""
        tabs = list(self.tabs.values())
        return ConnectionInfo(
            **self.peer._asdict(),
            open_for=time.monotonic() - self._accepted,
            tabs=tuple(tab.renderer_id for tab in tabs),
            callbacks=tuple(
                callback for tab in [*tabs, *self._leaving] for callback in tab.callback_infos()
            ),
            waiting_bytes=self._outbox.waiting_bytes,
            behind=self.behind,
            dropped=self._outbox.dropped,
            closing=self._ending.why if self._ending is not None else None,
        )


_OURS = (TabWatched, TabGone, TabVisible)
"""What our own worker script says is no message of the app: its hooks do not see it."""
