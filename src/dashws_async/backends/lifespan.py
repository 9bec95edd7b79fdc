"""What lives as long as a server serves: sweeps, the watchdog, and the ear for its end.

A server tells its application of the end (``lifespan.shutdown``) only after its
connections are gone, for which it may wait without a limit. So the end is noticed
where it begins: as a signal to this process; in a worker of the ``hypercorn``
command, which gets no signal, as the event that the command sets; or as the note
that Hypercorn keeps for itself.
"""

from __future__ import annotations

import gc
import inspect
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from multiprocessing.synchronize import Event as ProcessEvent
from types import FrameType
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from quart import Quart

from ..loops import Tasks, call_soon, own_tasks
from ..runtime import Runtime
from ..watchdog import Watchdog
from .carrier import CARRIER, Carrier
from .direct import DirectTransport
from .hypercorn import (
    TcpConnection,
    abort,
    contain_failures,
    only_called_by_server,
    server_stops,
    unsent_bytes,
)

logger = logging.getLogger("dashws_async")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

CLOSING_TIME = 2.0
"""Seconds in which all connections are closed where the server stops meanwhile: less than
the 3 of Hypercorn's ``graceful_timeout``, after which it cancels what is left."""

LAST_BYTES = 2.0
"""Seconds that a client has, once its WebSocket has ended, to take what was sent to it."""

BLOCKED = 5.0
"""Seconds after which a worker whose loop does not take note of SIGTERM ends by SIGALRM."""

GC_THRESHOLD = 20_000
"""The first threshold of Python's garbage collector with `tune_gc`, in place of 700 or 2,000:
objects made and not yet gone, after which it looks at them. A page that is updated every second
has some that live so long. At 700 they are taken for lasting ones, and once these have become a
quarter more, as often as every few seconds, everything is looked at."""

_POLL = 0.1
"""Seconds between looks at the event of the ``hypercorn`` command, which looks as often."""

_Message = dict[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class _Apart:
    """A WebSocket in a task of ours, which the server's own task need not outlast."""

    __slots__ = ("_server_waits", "begun", "cancel", "failure")

    def __init__(self) -> None:
        self._server_waits: anyio.Event | None = anyio.Event()
        self.begun = False
        self.cancel: Callable[[], object]
        self.failure: Exception | None = None

    def let_server_go(self) -> None:
        """Nothing is left to do for the server's task."""
        server_waits, self._server_waits = self._server_waits, None
        if server_waits is not None:
            server_waits.set()

    async def until_server_may_go(self) -> None:
        """Wait for that."""
        if self._server_waits is not None:
            await self._server_waits.wait()

    def fail(self, error: Exception) -> None:
        """Tell the server, if it still waits, and otherwise the log."""
        if self._server_waits is None:
            logger.error("A WebSocket failed", exc_info=error)
        else:
            self.failure = error


class Lifespan:
    """The runtimes of one server (several Dash apps may share it), from its start to its stop.

    It is put around the server's ``asgi_app``, as a middleware is: the tasks it runs
    have the server's own lifespan around them.
    """

    _KEY = "dashws_async"

    def __init__(self, app: Any) -> None:
        self._app = app
        self.runtimes: list[Runtime] = []
        self.closing_time = CLOSING_TIME
        """Seconds within which a drain closes all connections."""
        self._reset()

    @classmethod
    def of(cls, server: Quart) -> Lifespan:
        """The one of a server; made, and put around it, at first."""
        found: Lifespan | None = server.extensions.get(cls._KEY)
        if found is None:
            found = server.extensions[cls._KEY] = cls(server.asgi_app)
            server.asgi_app = found  # type: ignore[method-assign, assignment]
        return found

    def stop(self) -> None:
        """Begin to drain the runtimes, as at a signal. Must be called on the server's loop."""
        self._stop.set()

    def hurry(self) -> None:
        """End everything at once, as at a second signal."""
        self.stop()
        for runtime in self.runtimes:
            runtime.hurry()

    async def drained(self) -> None:
        """Wait until the server has been told to stop, and its runtimes are drained."""
        await self._drained.wait()

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that ends by itself, or with the server; none where that does not say."""
        if self._tasks is not None:
            self._tasks.start_soon(function)

    def __call__(self, scope: Any, receive: Any, send: _Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._live(scope, receive, send)
        if scope["type"] == "websocket":
            return self._serve_websocket(scope, receive, send)
        return cast("Awaitable[None]", self._app(scope, receive, send))

    def _reset(self) -> None:
        self._stop, self._drained = anyio.Event(), anyio.Event()
        self._tasks: TaskGroup | None = None  # while the server serves
        self._websockets: Tasks | None = None  # likewise
        self._aparts: set[_Apart] = set()  # those that run there
        self._watches_server = False

    async def _live(self, scope: Any, receive: Any, send: _Send) -> None:
        """Run our tasks while the server's own lifespan runs; they end before it says so."""
        last_words: list[_Message] = []
        failure: Exception | None = None

        async def receive_after_drain() -> _Message:
            message: _Message = await receive()
            if message["type"] == "lifespan.shutdown":  # callbacks may need what it ends
                self.stop()
                await self.drained()
            return message

        async def keep_last_words(message: _Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                last_words.append(message)
            else:
                await send(message)

        contain_failures()
        for runtime in self.runtimes:
            runtime.open()
        command = _event_of_hypercorn_command()
        signals = _Signals(self.stop, self.hurry, in_worker=command is not None)
        try:
            with signals, self._watchdog(), self._garbage_collection():
                async with self._serving_websockets(), anyio.create_task_group() as self._tasks:
                    for runtime in self.runtimes:
                        self._tasks.start_soon(runtime.sweep)
                    self._tasks.start_soon(self._drain_at_stop, signals)
                    if command is not None:
                        self._tasks.start_soon(self._stop_at_event, command)
                    try:
                        await self._app(scope, receive_after_drain, keep_last_words)
                    except Exception as error:  # not in a group: servers know it by its type
                        failure = error
                    self._tasks.cancel_scope.cancel()
        finally:
            self._reset()
        if failure is not None:
            raise failure
        for message in last_words:
            await send(message)

    @asynccontextmanager
    async def _serving_websockets(self) -> AsyncIterator[None]:
        def failed(error: Exception) -> None:
            logger.error("A WebSocket failed; this is a defect of dashws-async", exc_info=error)

        async with own_tasks(failed) as self._websockets:
            try:
                yield
            finally:
                for apart in self._aparts:  # what a drain has left, or where there was none
                    apart.cancel()

    def _watchdog(self) -> AbstractContextManager[None]:
        limits = [runtime.settings.blocked_after for runtime in self.runtimes]
        shortest = min((limit for limit in limits if limit is not None), default=None)

        def count(seconds: float) -> None:
            for runtime in self.runtimes:
                runtime.loop_was_blocked(seconds)

        apps = [runtime.app for runtime in self.runtimes]
        return nullcontext() if shortest is None else Watchdog(shortest, count, apps)

    def _garbage_collection(self) -> AbstractContextManager[None]:
        asked_for = any(runtime.settings.tune_gc for runtime in self.runtimes)
        return _collecting_rarely() if asked_for else nullcontext()

    async def _serve_websocket(self, scope: Any, receive: Any, send: _Send) -> None:
        carrier = scope[CARRIER] = Carrier(scope, receive, send)
        tcp = carrier.tcp
        if tcp is not None and self._tasks is not None and not self._watches_server:
            self._watches_server = True
            self._tasks.start_soon(self._stop_with, server_stops(tcp))
        if self._websockets is not None and carrier.may_leave and self._is_ours(scope):
            apart = _Apart()
            # A middleware in between is not done before the WebSocket is.
            if only_called_by_server(sys._getframe(1)):
                carrier.on_leaving = apart.let_server_go
            await self._serve_apart(apart, scope, carrier)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            del scope[CARRIER]  # the stream has the scope
            self._see_to_the_end_of(tcp)

    def _is_ours(self, scope: Any) -> bool:
        path: str = scope["path"]  # the server may listen below another path
        return any(path.endswith(runtime.app.websocket_path) for runtime in self.runtimes)

    async def _serve_apart(self, apart: _Apart, scope: Any, carrier: Carrier) -> None:
        assert self._websockets is not None, "the lifespan runs"
        task = self._websockets.start_soon(
            self._run_apart, apart, scope, carrier, name="a WebSocket"
        )
        apart.cancel = task.cancel
        self._aparts.add(apart)
        try:
            await apart.until_server_may_go()
        except BaseException:
            apart.cancel()
            if apart.begun:  # otherwise it never will
                with anyio.CancelScope(shield=True):
                    await apart.until_server_may_go()
            raise
        finally:
            if not apart.begun:
                self._aparts.discard(apart)
        if apart.failure is not None:
            raise apart.failure

    async def _run_apart(self, apart: _Apart, scope: Any, carrier: Carrier) -> None:
        apart.begun = True
        try:
            await self._app(scope, carrier.receive, carrier.send)
        except Exception as error:
            apart.fail(error)
        finally:
            apart.cancel = _nothing  # what is left to do takes no longer than LAST_BYTES
            del scope[CARRIER]
            try:
                if isinstance(carrier.transport, DirectTransport):
                    await carrier.transport.finish(LAST_BYTES)
                else:
                    self._see_to_the_end_of(carrier.tcp)
            finally:
                self._aparts.discard(apart)
                apart.let_server_go()

    def _see_to_the_end_of(self, tcp: TcpConnection | None) -> None:
        if tcp is not None and self._tasks is not None and unsent_bytes(tcp):
            self._tasks.start_soon(self._drop_later, tcp)

    async def _drop_later(self, connection: TcpConnection) -> None:
        """See to it that a TCP connection ends, now that its WebSocket has.

        Hypercorn waits without a limit for a client to take what was sent to it.
        """
        try:
            await anyio.sleep(LAST_BYTES)
        finally:
            abort(connection)

    # How the stop is noticed, besides the signals, and what then happens.

    async def _stop_at_event(self, event: ProcessEvent) -> None:
        while not event.is_set():
            await anyio.sleep(_POLL)
        self.stop()

    async def _stop_with(self, server_stops: Awaitable[None]) -> None:
        await server_stops
        self.stop()

    async def _drain_at_stop(self, signals: _Signals) -> None:
        await self._stop.wait()
        try:
            async with anyio.create_task_group() as drains:
                for runtime in self.runtimes:
                    drains.start_soon(runtime.drain, self.closing_time)
        finally:
            self._drained.set()
            signals.let_go()


def _nothing() -> None:
    pass


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    before = gc.get_threshold()
    if before[0]:  # 0: somebody has switched it off
        gc.set_threshold(max(before[0], GC_THRESHOLD), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Signals:
    """Signals to stop: they are for us first, and go to their handlers after the drain.

    So a signal that would end the process on the spot does so in peace, and trio's
    ``KeyboardInterrupt`` does not strike a callback that happens to run. What is
    registered with ``loop.add_signal_handler`` is not ours to hold back.

    Args:
        first: called on the running loop at the first signal.
        again: called there at the second.
        in_worker: this is a worker of the ``hypercorn`` command. It ignores SIGINT, which
            a terminal sends to it too, and sends SIGTERM to workers that are still there
            when another has ended: only SIGINT is somebody's wish there.
    """

    def __init__(
        self, first: Callable[[], object], again: Callable[[], object], in_worker: bool
    ) -> None:
        self._first: Callable[[], object] | None = first
        self._calls = [first, again]
        self._in_worker = in_worker
        self._handlers: dict[int, Any] = {}  # those that were there before
        self._held_back: int | None = None
        self._let_go = False

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._token = current_token()
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            ignored = handler is signal.SIG_IGN and not self._in_worker
            if handler is not None and not ignored:
                self._handlers[number] = handler
                signal.signal(number, self._handle)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        # Somebody may have wrapped our handler meanwhile (Dash 4.5 does), and keep it.
        self._let_go = True
        self._calls.clear()
        self._first = None
        self._pass_on()

    def let_go(self) -> None:
        """Nothing is left to wait for: signals go to their handlers, one that was held back too."""
        self._let_go = True
        # Not from a task: trio's handler raises KeyboardInterrupt where it is called.
        if self._handlers:
            call_soon(self._token, self._pass_on)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._held_back = number
        if self._in_worker and number == signal.SIGTERM:
            if self._first is not None:
                # The command waits for its workers: one whose loop is blocked has to go.
                signal.setitimer(signal.ITIMER_REAL, BLOCKED)
                call_soon(self._token, self._not_blocked)
                call_soon(self._token, self._first)
        elif self._calls:
            call_soon(self._token, self._calls.pop(0))
        else:
            self._let_go = True  # the loop may be blocked
        if self._let_go:
            self._pass_on()

    def _not_blocked(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _pass_on(self) -> None:
        number, self._held_back = self._held_back, None
        if number is None:
            return
        handler = self._handlers[number]
        if callable(handler):
            handler(number, inspect.currentframe())
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _event_of_hypercorn_command() -> ProcessEvent | None:
    """The event by which the ``hypercorn`` command tells its workers to stop.

    It is an argument of the worker function, which a process object keeps under a
    private name; Hypercorn offers no other way to it.
    """
    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event")
    return event if isinstance(event, ProcessEvent) else None
