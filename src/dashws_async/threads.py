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
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from .loops import Ended, PerLoop, in_daemon_thread

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
        self._limiter: PerLoop[anyio.CapacityLimiter] = PerLoop()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait until a thread may be started, and hold its place."""
        limiter = self._limiter.get(lambda: anyio.CapacityLimiter(self.limit))
        self.waiting += 1
        try:
            await limiter.acquire()
        finally:
            self.waiting -= 1
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            limiter.release()


_NO_APPS = Workers(40)  # anyio's number


class Worker:
    """One callback's way into worker threads.

    Args:
        workers: those of its app.
    """

    __slots__ = ("_scopes", "_thread_ids", "_workers", "begun", "waiting")

    def __init__(self, workers: Workers) -> None:
        self.begun = False
        """Whether a thread has run any code of the callback."""
        self.waiting = 0
        """Calls that wait for a thread to be free."""
        self._workers = workers
        self._thread_ids: list[int] = []
        self._scopes: set[anyio.CancelScope] = set()

    @property
    def thread_id(self) -> int | None:
        """The thread that runs code of the callback now, if one does (the latest of several)."""
        latest = self._thread_ids[-1:]  # in one step: any thread may ask
        return latest[0] if latest else None

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
            self._thread_ids.append(threading.get_ident())
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)
            finally:
                self._thread_ids.remove(threading.get_ident())

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
                await place.enter_async_context(self._workers.one())
                # On trio the cancellation may have come while the place was given to us.
                await checkpoint_if_cancelled()
            finally:
                self.waiting -= 1
            self.begun = True
            with anyio.CancelScope(shield=True) as scope:
                self._scopes.add(scope)
                try:
                    await in_daemon_thread(work)
                finally:
                    self._scopes.discard(scope)

    def abandon(self) -> bool:
        """Leave its threads behind: they run on, and nobody waits for them.

        Returns:
            Whether there was one.
        """
        for scope in self._scopes:
            scope.cancel()
        return bool(self._scopes)


current_worker: ContextVar[Worker | None] = ContextVar("dashws_async_worker", default=None)
"""The running callback's."""


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
    whose client leaves meanwhile never starts.
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
        worker = current_worker.get() or Worker(_NO_APPS)
        return await worker.run(functools.partial(function, *args, **kwargs))

    return in_thread


async def run_async_in_thread(
    function: Callable[[], Awaitable[T]], backend: str, worker: Worker
) -> T:
    """Run an async function in a worker thread, on an event loop of its own.

    Args:
        backend: ``"asyncio"`` or ``"trio"``: which loop the thread gets.
    """
    return await worker.run(functools.partial(anyio.run, function, backend=backend))
