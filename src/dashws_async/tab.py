"""One page on a connection: its callbacks, what they ask of it, and their end.

The tabs of a browser share one WebSocket and are told apart by the
``rendererId`` of their page load. One can go while the others stay; when the
connection ends, all go. Either way callbacks end by one table (the guide's
"Handling Disconnections"), which is this module:

* `Tab.end`, one step without an await: ``is_shutdown`` is true, updates go
  nowhere, pending reads raise, event-triggered callbacks have their
  cancellation; persistent ones are left to end by themselves.
* `Tab.wind_up`, what follows: whoever stays is cancelled (again) once per
  ``cleanup_timeout``, counted as stuck, and named in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio
from anyio.lowlevel import EventLoopToken

from . import messages
from .callbacks import CallbackTask
from .dash_bridge import CallbackSpec
from .handle import Reply
from .loops import Steps
from .messages import BadMessage, CallbackRequest
from .outbox import Outgoing
from .registry import CallbackInfo
from .shared import Shared

logger = logging.getLogger("dashws_async")


MAX_REQUESTS_SIZE = 4
"""Times ``max_message_bytes``: what the requests of a connection's running callbacks may have."""


class Wire(Steps, Protocol):
    """What a tab asks of its connection."""

    token: EventLoopToken
    thread_id: int
    running_callbacks: int
    """Of all its tabs; they count them."""
    request_bytes: int
    """Of the requests of all these."""
    pending_reads: int
    """Of all its tabs; they count them."""

    @property
    def id(self) -> str:
        """The connection's name in the log."""

    def post(self, message: Outgoing) -> None:
        """Send a message, in order."""

    def has_room(self, size: int) -> bool:
        """Whether an answer of so many characters may be posted."""

    def new_read_id(self) -> str:
        """A name for a ``get_props_request``; no other one ever has it."""

    def drain(self, drained: Reply) -> None:
        """Set ``drained`` once all that was sent so far is with the transport."""

    def forget_drain(self, drained: Reply) -> None:
        """Nobody waits for this any more."""

    def close(self, code: int, reason: str, by: object, closed: Reply) -> None:
        """End the connection; ``closed`` is set once the close frame is out."""

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        """Start a task that the connection owns."""

    def reject(self, bad: BadMessage) -> None:
        """Answer a bad message."""

    def answer_error(self, tab: str, request_id: str, message: str) -> None:
        """Answer a request with an error."""


class Tab:
    """One page load of a browser, as a connection knows it. It is its callbacks' `handle.Line`.

    Args:
        renderer_id: the page's own name for itself.
        wire: its connection.
        shared: what all connections share.
    """

    __slots__ = (
        "_asked_at",
        "_drains",
        "_ended_at",
        "_idle",
        "_reads",
        "_shared",
        "_wire",
        "heard_at",
        "literal",
        "renderer_id",
        "running",
        "watched",
    )

    def __init__(self, renderer_id: str, wire: Wire, shared: Shared) -> None:
        self.renderer_id = renderer_id
        self.literal = messages.quote(renderer_id)
        self.running: dict[str, CallbackTask] = {}
        self.watched = False
        """The browser's worker will tell when the tab has gone."""
        self.heard_at = shared.clock.now
        self._ended_at: float | None = None
        self._asked_at: float | None = None
        self._wire = wire
        self._shared = shared
        self._reads: dict[str, Reply] = {}
        self._drains: dict[Reply, None] = {}  # those of `drain` that still wait
        self._idle: anyio.Event | None = None

    # What callbacks use: the `handle.Line`.

    @property
    def ended(self) -> bool:
        """Whether the end has begun; never false again."""
        return self._ended_at is not None

    @property
    def token(self) -> EventLoopToken:
        """The loop that serves the connection."""
        return self._wire.token

    @property
    def thread_id(self) -> int:
        """The thread of that loop."""
        return self._wire.thread_id

    @property
    def steps(self) -> Steps:
        """What is sent in one step of a callback leaves together at its end."""
        return self._wire

    def post(self, message: Outgoing) -> None:
        """Send a message to the page; after the end, to nobody."""
        if not self.ended:
            self._wire.post(message)

    def has_room(self, size: int) -> bool:
        """Whether an answer of so many characters may be posted; after the end always."""
        return self.ended or self._wire.has_room(size)

    def ask(
        self, component_id: str, prop_name: str, path: list[str | int] | None, reply: Reply
    ) -> str:
        """Ask the page for a property; ``reply`` is set when it answers, or at the end.

        Raises:
            RuntimeError: ``max_reads`` answers are awaited on this connection.
        """
        wire, max_reads = self._wire, self._shared.settings.max_reads
        request_id = wire.new_read_id()
        if self.ended:
            reply.set(None)
            return request_id
        if wire.pending_reads >= max_reads:
            raise RuntimeError(
                f"get_prop({component_id!r}, {prop_name!r}): {max_reads} answers are awaited "
                "from this browser already, which is as many as WebSocketRuntime(max_reads=...) "
                "allows"
            )
        self._reads[request_id] = reply
        wire.pending_reads += 1
        text = messages.get_props_request(self.literal, request_id, component_id, prop_name, path)
        self.post(Outgoing(self.literal, text))
        return request_id

    def forget(self, request_id: str) -> None:
        """The answer to this request is not awaited any more."""
        if self._reads.pop(request_id, None) is not None:
            self._wire.pending_reads -= 1

    def drain(self, drained: Reply) -> None:
        """Set ``drained`` once all that was sent so far is with the transport, or at the end."""
        if self.ended:
            drained.set({})
        else:
            self._drains[drained] = None
            self._wire.drain(drained)

    def forget_drain(self, drained: Reply) -> None:
        """Nobody waits for this any more."""
        self._drains.pop(drained, None)
        self._wire.forget_drain(drained)

    def close(self, code: int, reason: str, by: object, closed: Reply) -> None:
        """What ``ws.close()`` does: end the connection, sparing the callback that asked for it.

        After the end it does nothing: other tabs may be on the connection.
        """
        if self.ended:
            closed.set({})
        else:
            self._wire.close(code, reason, by, closed)

    # The page's side.

    def answered(self, request_id: str, props: dict[str, Any]) -> None:
        """The page has answered a read, perhaps one that nobody awaits any more."""
        reply = self._reads.get(request_id)
        self.forget(request_id)  # the first answer counts
        if reply is not None:
            reply.set(props)

    def start(self, spec: CallbackSpec, request: CallbackRequest) -> None:
        """Start a callback; one whose request runs already gets an error answer."""
        callback = CallbackTask(self._shared, spec, request, self)
        name = f"{spec.name} (tab {self.renderer_id!r} of connection {self._wire.id})"
        self._wire.start_soon(self._run, callback, name=name)

    async def _run(self, callback: CallbackTask) -> None:
        # Registered from inside: a task that is torn down before its first step is nobody's.
        if self.ended:
            return
        wire, counters, settings = self._wire, self._shared.counters, self._shared.settings
        request, persistent = callback.request, callback.spec.persistent
        request_id = request.request_id
        if request_id in self.running:
            text = f"Bad message: request {request_id!r} runs already"
            wire.reject(BadMessage(text, self.renderer_id, None))
            return
        max_request_bytes = MAX_REQUESTS_SIZE * settings.max_message_bytes
        text = ""
        if wire.running_callbacks >= settings.max_callbacks:
            text = (
                f"{settings.max_callbacks} callbacks of this browser run already; try again later."
            )
        elif wire.request_bytes + request.size > max_request_bytes:
            text = (
                f"Callbacks of this browser run already for requests of {wire.request_bytes} "
                f"bytes, at most {max_request_bytes} are allowed; try again later."
            )
        if text:
            counters.requests_refused += 1
            wire.answer_error(self.literal, request_id, text)
            return
        self.running[request_id] = callback
        wire.running_callbacks += 1
        wire.request_bytes += request.size
        counters.callbacks += 1
        counters.persistent += persistent
        try:
            await callback.run()
        finally:
            del self.running[request_id]
            wire.running_callbacks -= 1
            wire.request_bytes -= request.size
            counters.callbacks -= 1
            counters.persistent -= persistent
            counters.stuck -= callback.stuck
            if self._idle is not None and not self.running:
                self._idle.set()

    # The end.

    def end(self, spare: object = None) -> None:
        """End the tab: the one step in which everything about it is decided.

        Args:
            spare: the callback that called ``ws.close()``; it may go on.
        """
        if self.ended:
            return
        self._ended_at = time.monotonic()
        # First the cancellations: they are what a callback hears that waits in get_prop.
        for callback in self.running.values():
            # A persistent one is left to end by itself, unless it has not even begun.
            spared = callback is spare or (callback.spec.persistent and callback.has_begun)
            if not spared:
                callback.cancel()
        for reply in self._reads.values():
            reply.set(None)
        self._wire.pending_reads -= len(self._reads)
        self._reads.clear()
        for drained in self._drains:
            drained.set({})

    async def wind_up(self) -> None:
        """Wait for the callbacks after the end, cancelling those that stay. Cannot be cancelled."""
        self._idle = anyio.Event()
        begun = anyio.current_time()
        while self.running:
            with anyio.move_on_after(self._shared.settings.cleanup_timeout, shield=True):
                await self._idle.wait()
            for callback in self.running.values():
                if not callback.stuck:
                    callback.stuck = True
                    self._shared.counters.stuck += 1
                logger.warning(
                    "Callback %s still runs %.3g s after its page has gone, at %s; cancelling it",
                    callback.spec.name,
                    anyio.current_time() - begun,
                    callback.where(),
                )
                callback.cancel()

    def abandon(self) -> None:
        """End what neither `end` nor `wind_up` could: the server has to exit."""
        for callback in self.running.values():
            logger.error(
                "Callback %s has not ended, at %s; abandoning it",
                callback.spec.name,
                callback.where(),
            )
            callback.abandon()

    # A page that does not report its end.

    def is_gone(self, timeout: float) -> bool:
        """Whether the page must have gone, for all that is known; asks it where that is open.

        For pages whose browser does not tell, say because they were loaded before the
        server had this runtime. Called now and then.

        Args:
            timeout: seconds without a word; half of them before the page is asked.
        """
        now = self._shared.clock.now
        if self.watched or now < self.heard_at + timeout / 2:
            return False
        if self._asked_at is None or self._asked_at <= self.heard_at:
            # Every page answers, with nothing where there is no such component.
            self._asked_at = now
            read_id = self._wire.new_read_id()
            text = messages.get_props_request(self.literal, read_id, "", "id", None)
            self.post(Outgoing(self.literal, text))
        return now >= self._asked_at + timeout / 2

    # For operators.

    def callback_infos(self) -> list[CallbackInfo]:
        """What runs for the page. On the loop or off it."""
        now, ended = time.monotonic(), self._ended_at
        return [
            CallbackInfo(
                name=callback.spec.name,
                tab=self.renderer_id,
                persistent=callback.spec.persistent,
                running_for=now - callback.created,
                ended_for=None if ended is None else now - ended,
                stuck=callback.stuck,
                where=callback.where(),
            )
            for callback in list(self.running.values())
        ]
