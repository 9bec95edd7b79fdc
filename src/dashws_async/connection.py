"""One WebSocket as a task group: a reader, a writer, and the callbacks.

::

    serve ── task group ─┬─ reader     client messages: start callbacks, resolve get_prop
                         ├─ writer     frames from the outbox
                         ├─ its watch  ends the connection of a client that takes nothing
                         └─ callbacks  one task each (`callbacks.CallbackTask`)

The first three live in the surroundings: when those are cancelled, which is how
a server tells that the client has left, they stop. The callbacks do not: how
they end is this module's business and Dash's documented contract. `end` decides
it in one step without an await; `_wind_up` waits for it.

Knows a transport of three verbs, not a web framework: tests drive it in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple, Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from . import messages
from .callbacks import CallbackTask, Refused, find_callback
from .dash_bridge import DashApp
from .handle import Reply
from .messages import BadMessage, CallbackRequest, ClientMessage, GetPropsResponse, Heartbeat
from .outbox import Outbox, OutboxFull, Outgoing
from .settings import Settings

logger = logging.getLogger("dashws_async")


class Close(NamedTuple):
    """How a connection is closed: what the close frame says."""

    code: int
    reason: str


GONE = Close(1001, "The client has left")
"""The client ended the connection; there is nobody to send a close frame to."""
INTERNAL_ERROR = Close(1011, "Internal error")
RESTART = Close(1012, "The server restarts")
TRY_AGAIN = Close(1013, "The client does not keep up")
"""Not 1000 or 4001: after these the browser's worker would stay away for good."""


CLOSE_TIMEOUT = 1.0
"""Seconds that sending the close frame may take."""


class Disconnected(Exception):
    """The peer has left; a transport raises it from ``receive`` or ``send``."""


class Transport(Protocol):
    """A WebSocket, as far as a connection needs one."""

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            Disconnected: the peer has left (being cancelled says the same).
        """

    async def send(self, text: str) -> None:
        """Send one text frame; returns when the next one may be sent."""

    async def close(self, code: int, reason: str) -> None:
        """Send the close frame."""


MessageHook = Callable[[dict[str, Any]], Awaitable[Close | None]]
"""Looks at a client's message; what it returns closes the connection."""


class Counters:
    """What connections count, summed over all connections of one runtime."""

    __slots__ = ("bad_messages", "callbacks", "frames_sent", "updates_sent")

    def __init__(self) -> None:
        self.bad_messages = 0
        self.callbacks = 0
        self.frames_sent = 0
        self.updates_sent = 0


class Connection:
    """One browser's WebSocket, and everything that runs because of it.

    Args:
        transport: the accepted socket.
        app: the Dash app.
        settings: the runtime's knobs.
        limiter: bounds the app's worker threads.
        counters: where this connection counts.
        message_hook: asked for every client message, if there is one.
    """

    def __init__(
        self,
        transport: Transport,
        app: DashApp,
        settings: Settings,
        limiter: anyio.CapacityLimiter,
        counters: Counters,
        message_hook: MessageHook | None = None,
    ) -> None:
        self._transport = transport
        self._app = app
        self._settings = settings
        self._limiter = limiter
        self._counters = counters
        self._message_hook = message_hook
        self._batch_delay = app.batch_delay
        self._token = current_token()
        self._thread_id = threading.get_ident()

        self._outbox = Outbox(settings.max_outbox_bytes)
        self._something_to_send = anyio.Event()
        self._running: dict[str, CallbackTask] = {}
        self._idle = anyio.Event()
        self._reads: dict[str, tuple[str, Reply]] = {}
        self._read_ids = count(1)
        self._ending: Close | None = None
        self._close_waiters: list[Reply] = []
        self._transport_closed = False
        self._sending_since: float | None = None
        self._callbacks: TaskGroup

    # What callbacks use: the `handle.Line` of this connection.

    @property
    def ended(self) -> bool:
        """Whether the end has begun; never false again."""
        return self._ending is not None

    @property
    def token(self) -> EventLoopToken:
        """The loop that serves this connection."""
        return self._token

    @property
    def thread_id(self) -> int:
        """The thread of that loop."""
        return self._thread_id

    def post(self, message: Outgoing) -> None:
        """Send a message, in order; a client that does not take them is closed with 1013."""
        if self._ending is not None:
            return
        try:
            self._outbox.put(message)
        except OutboxFull as full:
            logger.warning("Closing a connection with %d: %s", TRY_AGAIN.code, full)
            self._outbox.clear()
            self.end(TRY_AGAIN)
        self._something_to_send.set()

    def ask(
        self,
        tab: str,
        component_id: str,
        prop_name: str,
        path: list[str | int] | None,
        reply: Reply,
    ) -> str:
        """Ask the page for a property; ``reply`` is set when it answers, or at the end."""
        request_id = f"read-{next(self._read_ids)}"
        if self._ending is not None:
            reply.set(None)
            return request_id
        self._reads[request_id] = tab, reply
        text = messages.get_props_request(tab, request_id, component_id, prop_name, path)
        self.post(Outgoing(tab, text, is_update=False))
        return request_id

    def forget(self, request_id: str) -> None:
        """The answer to this request is not awaited any more."""
        self._reads.pop(request_id, None)

    def close(self, code: int, reason: str, by: object, closed: Reply) -> None:
        """What ``ws.close()`` does: end the connection, sparing the callback that asked for it."""
        if self._transport_closed:
            closed.set({})
        else:
            self._close_waiters.append(closed)
            self.end(Close(code, reason), spare=by)

    # The life of the connection.

    async def serve(self) -> None:
        """Serve until the connection has ended and every callback of it too."""
        async with anyio.create_task_group() as self._callbacks:
            try:
                async with anyio.create_task_group() as conversation:
                    conversation.start_soon(self._write, conversation.cancel_scope)
                    conversation.start_soon(self._watch_writer, conversation.cancel_scope)
                    await self._read()
                    conversation.cancel_scope.cancel()
            except Exception:
                logger.exception("A connection failed; this is a defect of dashws-async")
                self.end(INTERNAL_ERROR)
            finally:
                self.end(GONE)
                with anyio.CancelScope(shield=True):
                    try:
                        await self._close_transport()
                    finally:
                        await self._wind_up()

    def end(self, close: Close, spare: object = None) -> None:
        """End the connection: the one step in which everything about it is decided.

        From here on ``is_shutdown`` is true, updates go nowhere, reads raise,
        and event-triggered callbacks have their cancellation. Persistent ones, and
        the one that asked for the end (``spare``), are left to end by themselves.
        """
        if self._ending is not None:
            return
        self._ending = close
        # First the cancellations: they are what a callback hears that waits in get_prop.
        for callback in self._running.values():
            if not callback.spec.persistent and callback is not spare:
                callback.cancel()
        for _, reply in self._reads.values():
            reply.set(None)
        self._reads.clear()
        self._something_to_send.set()

    def abandon(self) -> None:
        """End what `end` and the cancellations of `_wind_up` did not: the server has to exit."""
        for callback in self._running.values():
            logger.error("Callback %s does not end; abandoning it", callback.spec.name)
            callback.abandon()

    async def _wind_up(self) -> None:
        """Wait for the callbacks; cancel those that stay, once per ``cleanup_timeout``."""
        torn_down: BaseException | None = None
        while self._running:
            try:
                with anyio.move_on_after(self._settings.cleanup_timeout):
                    await self._idle.wait()
            except anyio.get_cancelled_exc_class() as error:
                # On asyncio a shield does not keep out the task's own cancellation: Quart's,
                # when the client answers our close frame, and the loop's at its end.
                torn_down = error
                continue
            for callback in self._running.values():
                logger.warning(
                    "Callback %s still runs %g s after its connection ended; cancelling it",
                    callback.spec.name,
                    self._settings.cleanup_timeout,
                )
                callback.cancel()
        if torn_down is not None:
            raise torn_down

    async def _write(self, conversation: anyio.CancelScope) -> None:
        """Send frames as they come; at the end what still waits, and the close frame."""
        while True:
            frame, count_of_messages = self._outbox.take()
            if frame:
                self._sending_since = anyio.current_time()
                try:
                    await self._transport.send(frame)
                except Disconnected:
                    self.end(GONE)
                    break
                self._sending_since = None
                self._counters.frames_sent += 1
                self._counters.updates_sent += count_of_messages
            elif self._ending is not None:
                await self._close_transport()
                break
            else:
                await self._something_to_send.wait()
                self._something_to_send = anyio.Event()
                if self._batch_delay:
                    await anyio.sleep(self._batch_delay)
        conversation.cancel()

    async def _watch_writer(self, conversation: anyio.CancelScope) -> None:
        """End the connection of a client that takes nothing for ``send_timeout``.

        A send that waits cannot be relied on to be cancelled (Hypercorn shields it on
        trio), so the end does not wait for it.
        """
        timeout = self._settings.send_timeout
        while True:
            began = self._sending_since
            now = anyio.current_time()
            if began is not None and now >= began + timeout:
                break
            await anyio.sleep(timeout if began is None else began + timeout - now)
        logger.warning(
            "Closing a connection with %d: the client took nothing for %g s",
            TRY_AGAIN.code,
            timeout,
        )
        self.end(TRY_AGAIN)
        conversation.cancel()
        with anyio.CancelScope(shield=True):
            await self._wind_up()

    async def _close_transport(self) -> None:
        """Send the close frame, once. Left to itself, Quart would send 1000: stay away."""
        if not self._transport_closed:
            self._transport_closed = True
            assert self._ending is not None, "the end comes first"
            with suppress(Disconnected), anyio.move_on_after(CLOSE_TIMEOUT):
                await self._transport.close(*self._ending)
        self._outbox.clear()
        for reply in self._close_waiters:
            reply.set({})
        self._close_waiters.clear()

    async def _read(self) -> None:
        while True:
            try:
                text = await self._transport.receive()
            except Disconnected:
                return
            if self._ending is not None:
                continue  # the close frame is on its way; what the client says is not heard
            try:
                message = messages.decode(text)
                if self._message_hook is not None:
                    close = await self._message_hook(messages.as_object(text))
                    if close is not None:
                        self.end(close)
                        continue
            except BadMessage as bad:
                self._reject(bad)
            else:
                self._handle(message)

    def _handle(self, message: ClientMessage) -> None:
        match message:
            case CallbackRequest():
                self._start_callback(message)
            case GetPropsResponse():
                tab, reply = self._reads.get(message.request_id, (None, None))
                if reply is not None and tab == messages.quote(message.renderer_id):
                    reply.set(message.payload or {})
            case Heartbeat():
                self._outbox.put_urgent(messages.HEARTBEAT_ACK)
                self._something_to_send.set()

    def _start_callback(self, request: CallbackRequest) -> None:
        tab, request_id = messages.quote(request.renderer_id), request.request_id
        try:
            spec = find_callback(self._app, request, self._settings.mode)
        except Refused as refused:
            logger.log(refused.log_level, "Refused a callback request: %s", refused)
            self._answer_error(tab, request_id, str(refused))
            return
        callback = CallbackTask(
            self._app, spec, request, tab, self, self._settings.mode, self._limiter
        )

        async def run() -> None:
            # Registered from inside: a task that is torn down before its first step is nobody's.
            if self._running.setdefault(request_id, callback) is not callback:
                text = f"request {request_id!r} runs already"
                self._reject(BadMessage(text, request.renderer_id, None))
                return
            self._counters.callbacks += 1
            try:
                await callback.run()
            finally:
                self._counters.callbacks -= 1
                del self._running[request_id]
                if self._ending is not None and not self._running:
                    self._idle.set()

        self._callbacks.start_soon(run, name=spec.name)

    def _reject(self, bad: BadMessage) -> None:
        """Answer a bad message where the page can see it; it harms nothing else."""
        self._counters.bad_messages += 1
        logger.info("Bad message from a client: %s", bad)
        if bad.renderer_id is None:
            return
        tab = messages.quote(bad.renderer_id)
        if bad.request_id is not None:
            self._answer_error(tab, bad.request_id, f"Bad message: {bad}")
        else:
            text = messages.page_error(tab, f"Bad message: {bad}", "BAD_MESSAGE")
            self.post(Outgoing(tab, text, is_update=False))

    def _answer_error(self, tab: str, request_id: str, message: str) -> None:
        text = messages.callback_response(tab, request_id, messages.error(message))
        self.post(Outgoing(tab, text, is_update=False))
