"""Worker threads: opt-in, bounded, never a default.

Three ways lead here: `offload` for one function, ``mode="hybrid"`` for every
plain ``def``, and ``mode="threads"``, the documented thread-pool model of Dash
4.2, for everything. This module knows how to run a call in a thread so that its
task waits for it, and how many may do so at once; it does not know what a
callback is.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint_if_cancelled, current_token

from .loops import Ended, PerLoop, call_soon, in_daemon_thread

logger = logging.getLogger("dashws_async")

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """The worker threads of one app: how many there may be, are, and are waited for.

    Who comes first is served first.

    Args:
        limit: threads that may run at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy = 0
        self.waiting = 0
        self._held_for_good = 0
        self._has_warned = False
        self._limiter: PerLoop[anyio.CapacityLimiter] = PerLoop()

    @asynccontextmanager
    async def one(self, for_good: bool) -> AsyncIterator[None]:
        """Wait until a thread may be started, and hold its place.

        Args:
            for_good: for as long as a page stays open.
        """
        limiter = self._limiter.get(lambda: anyio.CapacityLimiter(self.limit))
        self.waiting += 1
        self._warn_if_stuck()
        try:
            await limiter.acquire()
        finally:
            self.waiting -= 1
        self.busy += 1
        self._held_for_good += for_good
        self._warn_if_stuck()
        try:
            yield
        finally:
            self.busy -= 1
            self._held_for_good -= for_good
            limiter.release()

    def _warn_if_stuck(self) -> None:
        if self.waiting and self._held_for_good >= self.limit and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Persistent callbacks hold all worker threads (max_workers=%d): a call waits for "
                "one until a page is closed. Raise WebSocketRuntime(max_workers=...)",
                self.limit,
            )


_OUTSIDE_CALLBACKS = Workers(40)
"""For what is offloaded where no app is known, a script say; as many as anyio's own."""


class Worker:
    """One callback's way into worker threads.

    Code in a thread has a `Worker` of its own, with one place: that of the thread, which
    waits meanwhile. So what a thread offloads, directly or on a loop of its own, takes no
    further place, and cannot wait for the one that it holds itself.

    Args:
        workers: those of its app.
        for_good: whether it takes a thread for as long as its page stays open.
    """

    __slots__ = ("_for_good", "_scopes", "_threads", "_workers", "begun", "waiting")

    def __init__(self, workers: Workers, for_good: bool = False) -> None:
        self.begun = False
        """Whether a thread has run any code of the callback."""
        self.waiting = 0
        """Calls that wait for a thread to be free."""
        self._workers = workers
        self._for_good = for_good
        self._threads: dict[int, Worker] = {}  # those that run, and what their code goes on with
        self._scopes: dict[anyio.CancelScope, EventLoopToken] = {}

    @property
    def thread_ids(self) -> list[int]:
        """The thread that runs code of the callback now (the latest of several), then the one
        that runs what that has offloaded, and so on."""
        latest = list(self._threads.items())[-1:]  # in one step: any thread may ask
        return [each for thread, within in latest for each in (thread, *within.thread_ids)]

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a worker thread, within a copy of the caller's context.

        What waits for its thread can be cancelled. A thread cannot: a cancellation of the
        caller waits for the call to end. (The task group is what waits, on asyncio too, where
        a native ``Task.cancel()`` would otherwise leave the thread behind.)

        Raises:
            Ended: it was abandoned.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            # An exception must not leave a child task: asyncio ends its loop for a SystemExit.
            self._threads[threading.get_ident()] = within = Worker(Workers(1))
            current_worker.set(within)
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)
            finally:
                del self._threads[threading.get_ident()]

        async with anyio.create_task_group() as owner:
            owner.start_soon(self._wait_for, work)
        if errors:
            raise errors[0]
        if not results:
            raise Ended
        return results[0]

    async def _wait_for(self, work: Callable[[], None]) -> None:
        async with AsyncExitStack() as place:
            self.waiting += 1
            try:
                await place.enter_async_context(self._workers.one(self._for_good))
                # On trio the cancellation may have come while the place was given to us.
                await checkpoint_if_cancelled()
            finally:
                self.waiting -= 1
            self.begun = True
            with anyio.CancelScope(shield=True) as scope:
                self._scopes[scope] = current_token()
                try:
                    await in_daemon_thread(work)
                finally:
                    del self._scopes[scope]

    def abandon(self) -> bool:
        """Leave its threads behind, and theirs: they run on, and nobody waits for them.

        Returns:
            Whether there was one.
        """
        for within in list(self._threads.values()):
            within.abandon()
        scopes = list(self._scopes.items())
        for scope, token in scopes:
            with suppress(RuntimeError):  # a thread's own loop may have ended
                call_soon(token, scope.cancel)
        return bool(scopes)


current_worker: ContextVar[Worker | None] = ContextVar("dashws_async_worker", default=None)
"""The running callback's."""

_offloaded: WeakSet[Callable[..., Any]] = WeakSet()


def offload(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run one slow plain function in a worker thread while its task waits.

    Put it under ``@callback``:

    ```python
    @callback(Output("report", "children"), Input("make", "n_clicks"))
    @offload
    def make_report(n_clicks):
        set_props("status", {"children": "Reading..."})  # still streams
        return render(read_the_big_file())
    ```

    It works over the WebSocket and over HTTP, on asyncio and on trio; an async callback
    may also await it. The threads of an app are bounded by
    ``WebSocketRuntime(max_workers=...)``; further calls wait in the order they came, and one
    whose client leaves meanwhile never starts. What an offloaded function itself offloads
    takes no further place, and runs one call at a time.
    When the client leaves, ``ctx.websocket.is_shutdown`` becomes true; a thread
    cannot be cancelled, so a long loop should look at it.

    To await from the thread (``get_prop``), hand the call to the loop:
    ``anyio.from_thread.run(ws.get_prop, "input", "value")``.

    Raises:
        TypeError: at decoration, for a function that is not a plain ``def``.
    """
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        raise TypeError(
            f"@offload is for plain functions that block; {function.__qualname__!r} is not one. "
            "An async function runs on the event loop already: drop @offload"
        )

    @functools.wraps(function)
    async def in_thread(*args: P.args, **kwargs: P.kwargs) -> T:
        worker = current_worker.get() or Worker(_OUTSIDE_CALLBACKS)
        return await worker.run(functools.partial(function, *args, **kwargs))

    _offloaded.add(in_thread)
    return in_thread


def is_offloaded(function: Callable[..., Any]) -> bool:
    """Whether `offload` made this very function, so that all of it runs in a thread."""
    return function in _offloaded


async def run_async_in_thread(
    function: Callable[[], Awaitable[T]], backend: str, worker: Worker
) -> T:
    """Run an async function in a worker thread, on an event loop of its own.

    Args:
        backend: ``"asyncio"`` or ``"trio"``: which loop the thread gets.
    """
    return await worker.run(functools.partial(anyio.run, function, backend=backend))
