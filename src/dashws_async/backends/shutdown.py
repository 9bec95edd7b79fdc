"""How a server's runtimes learn that the server is about to stop, and end together.

An ASGI application hears of it (``lifespan.shutdown``) only after its
connections are gone, for which a server may wait without a limit. So the end has
to be noticed where it begins: as a signal to this process, or, in a worker of the
``hypercorn`` command, which gets no signal, as the event that the command sets.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as ProcessEvent
from types import FrameType

import anyio
from anyio.lowlevel import current_token
from quart import Quart

from ..loops import call_soon
from ..runtime import Runtime

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_POLL = 0.1
"""Seconds between looks at the event of the ``hypercorn`` command, which looks as often."""


class Shutdown:
    """The runtimes of one server (several Dash apps may share it), and their common end."""

    _KEY = "dashws_async"

    def __init__(self) -> None:
        self.runtimes: list[Runtime] = []
        self.handled_by_app_run = False
        """``app.run`` waits for signals itself, and drains before the server stops."""

    @classmethod
    def of(cls, server: Quart) -> Shutdown:
        """The one of a server; made, and hooked into the server's lifespan, at first."""
        found: Shutdown | None = server.extensions.get(cls._KEY)
        if found is None:
            found = server.extensions[cls._KEY] = cls()
            server.while_serving_gens.append(_EachTime(found._while_serving))  # type: ignore[arg-type]
        return found

    def open(self) -> None:
        """Accept connections, again after a `drain`."""
        for runtime in self.runtimes:
            runtime.open()

    async def drain(self) -> None:
        """Close all connections of all apps, as `Runtime.drain` does."""
        async with anyio.create_task_group() as drains:
            for runtime in self.runtimes:
                drains.start_soon(runtime.drain)

    async def _while_serving(self) -> AsyncGenerator[None, None]:
        if self.handled_by_app_run:
            yield
            return
        self.open()
        begins, signals = anyio.Event(), _Signals()
        async with anyio.create_task_group() as tasks:
            with signals.announced_to(begins.set):
                tasks.start_soon(self._drain_when, begins, signals)
                if (event := _event_of_hypercorn()) is not None:
                    tasks.start_soon(_poll, event, begins)
                yield
                tasks.cancel_scope.cancel()

    async def _drain_when(self, begins: anyio.Event, signals: _Signals) -> None:
        await begins.wait()
        await self.drain()
        signals.let_go()


class _EachTime:
    """As much of an async generator as Quart uses, but for every start of a server object.

    (Quart makes the generator once, and moves it on at each start and each stop.)
    """

    def __init__(self, make: Callable[[], AsyncGenerator[None, None]]) -> None:
        self._make = make
        self._running: AsyncGenerator[None, None] | None = None

    async def __anext__(self) -> None:
        if self._running is None:
            self._running = self._make()
            await anext(self._running)
        else:
            running, self._running = self._running, None
            await anext(running)  # raises StopAsyncIteration


class _Signals:
    """Signals to stop: announced to us first, then left to whoever handles them.

    A signal that nobody handles would end the process on the spot. It is kept back
    until `let_go`, and then does what it would have done.
    """

    def __init__(self) -> None:
        self._kept_back: int | None = None
        self._let_go = False

    @contextmanager
    def announced_to(self, call: Callable[[], object]) -> Iterator[None]:
        """Have the running loop make a call when a signal comes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        token = current_token()
        previous = {number: signal.getsignal(number) for number in _SIGNALS}

        def handle(number: int, frame: FrameType | None) -> None:
            call_soon(token, call)
            handler = previous[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            else:
                self._kept_back = number
                if self._let_go:
                    self.let_go()

        # Handlers of an asyncio loop hang on its wake-up descriptor and are called besides.
        taken = [number for number in _SIGNALS if previous[number] not in (signal.SIG_IGN, None)]
        for number in taken:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in taken:
                if signal.getsignal(number) is handle:
                    signal.signal(number, previous[number])

    def let_go(self) -> None:
        """Nothing is left to wait for: a signal that nobody handles acts, a later one too."""
        self._let_go = True
        if self._kept_back is not None:
            signal.signal(self._kept_back, signal.SIG_DFL)
            os.kill(os.getpid(), self._kept_back)


def _event_of_hypercorn() -> ProcessEvent | None:
    """The event by which the ``hypercorn`` command tells its workers to stop.

    It is an argument of the worker function, which a process object keeps under a
    private name; Hypercorn offers no other way to it.
    """
    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event")
    return event if isinstance(event, ProcessEvent) else None


async def _poll(event: ProcessEvent, begins: anyio.Event) -> None:
    while not event.is_set():
        await anyio.sleep(_POLL)
    begins.set()
