"""How a server's runtimes learn that the server is about to stop, and end together.

An ASGI application hears of it (``lifespan.shutdown``) only after its
connections are gone, for which a server may wait without a limit. So the end has
to be noticed where it begins: as a signal to this process, or, in a worker of the
``hypercorn`` command, which gets no signal, as the event that the command sets.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as ProcessEvent
from types import FrameType
from typing import Any

import anyio
from anyio.lowlevel import current_token
from quart import Quart

from ..loops import call_soon
from ..runtime import Runtime

logger = logging.getLogger("dashws_async")

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
            server.while_serving(found._while_serving)
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
        begins = anyio.Event()
        with _call_at_signal(begins.set) as default_action:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._drain_when, begins, default_action)
                if (event := _event_of_hypercorn()) is not None:
                    tasks.start_soon(_poll, event, begins)
                yield
                tasks.cancel_scope.cancel()

    async def _drain_when(self, begins: anyio.Event, default_action: list[int]) -> None:
        await begins.wait()
        await self.drain()
        for number in default_action:
            # Nobody else handles this signal: what it would have done, it does now.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def _call_at_signal(call: Any) -> Iterator[list[int]]:
    """Make a call on this loop when a signal to stop comes, before the handler there was.

    Yields a list that gets the signal's number if there was none.
    """
    default_action: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield default_action
        return
    token = current_token()
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        call_soon(token, call)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            default_action.append(number)

    # asyncio's own handlers hang on the wake-up descriptor and are called besides.
    taken = [number for number in _SIGNALS if previous[number] not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, handle)
    try:
        yield default_action
    finally:
        for number in taken:
            if signal.getsignal(number) is handle:
                signal.signal(number, previous[number])


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
