"""Worker threads: opt-in, bounded, never a default.

Three ways lead here: `offload` for one function, ``mode="hybrid"`` for every
plain ``def``, and ``mode="threads"``, the documented thread-pool model of Dash
4.2, for everything. This module knows how to run a call in a thread so that its
task waits for it; it does not know what a callback is.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """One callback's way into worker threads.

    Args:
        limiter: bounds the threads of its app; None: anyio's own bound.
    """

    __slots__ = ("limiter", "thread_id")

    def __init__(self, limiter: anyio.CapacityLimiter | None = None) -> None:
        self.limiter = limiter
        self.thread_id: int | None = None
        """The thread that runs code of the callback now, if one does."""


current_worker: ContextVar[Worker | None] = ContextVar("dashws_async_worker", default=None)
"""The running callback's; None over HTTP."""


async def run_in_thread(call: Callable[[], T], worker: Worker) -> T:
    """Run a blocking call in a worker thread, within a copy of the caller's context.

    A thread cannot be cancelled: a cancellation of the caller waits for the call
    to end. The task group is what waits, on asyncio too, where a native
    ``Task.cancel()`` would otherwise leave the thread behind.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        # An exception must not leave a child task: asyncio ends its loop for a SystemExit.
        worker.thread_id = threading.get_ident()
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            worker.thread_id = None

    async def wait() -> None:
        await anyio.to_thread.run_sync(work, limiter=worker.limiter)

    async with anyio.create_task_group() as owner:
        owner.start_soon(wait)
    if errors:
        raise errors[0]
    return results[0]


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

    It works over the WebSocket and over HTTP, on asyncio and on trio. The threads
    of an app's WebSocket callbacks are bounded by ``WebSocketRuntime(max_threads=...)``.
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
        call = functools.partial(function, *args, **kwargs)
        return await run_in_thread(call, current_worker.get() or Worker())

    return in_thread


async def run_async_in_thread(
    function: Callable[[], Awaitable[T]], backend: str, worker: Worker
) -> T:
    """Run an async function in a worker thread, on an event loop of its own.

    Args:
        backend: ``"asyncio"`` or ``"trio"``: which loop the thread gets.
    """
    return await run_in_thread(functools.partial(anyio.run, function, backend=backend), worker)
