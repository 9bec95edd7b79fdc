"""All that is different between asyncio and trio, and nothing else.

Everything above this file is written once, on anyio. What anyio does not offer is
made here, for each loop in its own words:

* Tasks that end by themselves, whatever is cancelled around their owner, and that cost
  little (`Tasks`). An anyio task has an event, a scope and a handle besides; a
  connection has a task for each callback, and one for each burst of updates.
* A scope for one task that costs as little (`CancelScope`).
* *One* cancellation (`OwnedRun`). A cancelled anyio scope cancels again at every
  await; Dash's documented behaviour, and plain sense for cleanup code, is one
  cancellation after which awaits work. On asyncio a native ``Task.cancel()`` is
  just that. On trio we cancel a scope behind a shield that is open only while
  the cancellation travels (see ``_TrioRun``).
* Whether anybody has cancelled the running task (`is_cancelled`).
* Handing a call to a loop from another thread (`call_soon`, `run_on`).
* A thread that the process need not wait for at its end (`in_daemon_thread`).
* What a loop runs at this moment, seen from another thread (`running_frames`, `waits`).

`PerLoop` is for what one loop must not inherit from another.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
from anyio._core._eventloop import threadlocals  # by which `anyio.from_thread` knows the loop
from anyio.lowlevel import EventLoopToken, current_token

from .whereabouts import frames_of_thread

sniffio: Any
try:
    import sniffio
except ImportError:  # trio brings it
    sniffio = None

T = TypeVar("T")


def backend_name() -> str:
    """``"asyncio"`` or ``"trio"``: the loop that runs the caller."""
    return (
        "asyncio" if isinstance(current_token().native_token, asyncio.AbstractEventLoop) else "trio"
    )


def is_cancelled() -> bool:
    """Whether the running task is cancelled, by a cancel scope or as an asyncio task.

    Where it is not, a cancellation that is raised has come from somewhere else: the code
    has awaited a task that was cancelled, say.
    """
    if backend_name() == "asyncio":
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return anyio.current_effective_deadline() == -math.inf


class Loop(NamedTuple):
    """What is asked of a loop time and again, found once: each of these takes microseconds."""

    new_run: Callable[[Steps], OwnedRun]
    """As `owned_run`."""
    time: Callable[[], float]
    """As ``anyio.current_time``."""


def this_loop() -> Loop:
    """The loop that runs the caller."""
    if backend_name() == "asyncio":
        return Loop(_AsyncioRun, asyncio.get_running_loop().time)
    return Loop(_for_trio().Run, anyio.current_time)


class PerLoop(Generic[T]):
    """A thing that belongs to one event loop (a lock, a limiter), made anew on another.

    An app may be served by one loop after the other, by tests for example.
    """

    def __init__(self) -> None:
        self._made: tuple[EventLoopToken, T] | None = None

    def get(self, make: Callable[[], T]) -> T:
        """The running loop's; ``make`` makes it at first."""
        token, made = current_token(), self._made
        if made is None or made[0] != token:
            made = self._made = token, make()
        return made[1]


class Cancellable(Protocol):
    """A task, or what stands for it."""

    def cancel(self) -> object:
        """Cancel it."""


class CancelScope(Cancellable, Protocol):
    """Where a cancellation of one task ends, as with anyio's, but on asyncio it comes once."""

    @property
    def cancel_called(self) -> bool:
        """Whether it was cancelled."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exception: Any) -> bool | None: ...


def cancel_scope() -> CancelScope:
    """A `CancelScope` for the running loop."""
    return _AsyncioScope() if backend_name() == "asyncio" else _for_trio().Scope()


class _AsyncioScope:
    __slots__ = ("_before", "_task", "cancel_called")

    def __init__(self) -> None:
        self.cancel_called = False
        self._task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        if not self.cancel_called and self._task is not None:
            self._task.cancel()
        self.cancel_called = True

    def __enter__(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._before = self._task.cancelling()
        if self.cancel_called:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        task, self._task = cast("asyncio.Task[Any]", self._task), None
        if not self.cancel_called:
            return False
        others = task.uncancel() > self._before
        return kind is asyncio.CancelledError and not others


class Tasks(Protocol):
    """Tasks that end before their owner's ``async with`` does.

    The owner waits for them. What is cancelled around it does not reach them.
    """

    async def __aenter__(self) -> Tasks: ...

    async def __aexit__(self, *exception: Any) -> Any: ...

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> Cancellable:
        """Start a task."""

    def call_soon(self, call: Callable[[], object]) -> Cancellable:
        """Make a call on the next turn of the loop, which on asyncio takes no task."""


def own_tasks(failed: Callable[[Exception], object]) -> Tasks:
    """`Tasks` for the running loop.

    Args:
        failed: is told what a task raises.
    """
    return _AsyncioTasks(failed) if backend_name() == "asyncio" else _for_trio().Tasks(failed)


class _AsyncioTasks:
    __slots__ = ("_failed", "_loop", "_running", "_started")

    def __init__(self, failed: Callable[[Exception], object]) -> None:
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, asyncio.Task[None]] = {}  # by their numbers, as they started
        self._started = 0

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(self, *exception: object) -> None:
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while self._running:
                try:
                    await asyncio.wait(self._running.values())
                    for number, task in list(self._running.items()):
                        if task.done():  # it never began, or it would have left
                            del self._running[number]
                except asyncio.CancelledError as error:
                    cancelled = error
        del self._failed  # the owner's: a cycle of references would wait for the collector
        if cancelled is not None:
            raise cancelled

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> asyncio.Task[None]:
        self._started = number = self._started + 1
        task = self._loop.create_task(self._run(number, function, args), name=name)
        self._running[number] = task
        return task

    def call_soon(self, call: Callable[[], object]) -> asyncio.Handle:
        return self._loop.call_soon(self._call, call)

    def _call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._failed(error)

    async def _run(
        self,
        number: int,
        function: Callable[..., Coroutine[Any, Any, None]],
        args: tuple[Any, ...],
    ) -> None:
        try:
            await function(*args)
        except Exception as error:
            self._failed(error)
        finally:
            # Here, where a callback of the task's would take one more turn of the loop.
            self._running.pop(number, None)


class Ended(Exception):
    """What ran in an `OwnedRun` let a cancellation pass, or was abandoned."""


class OwnedRun(Protocol):
    """One coroutine, in a task of `Tasks`, whose end is its owner's business.

    Each `cancel` arrives exactly once, as the loop's own cancellation exception, and the
    awaits that follow it work. (Who gets hold of the asyncio task can still cancel that.)
    """

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine to its end.

        Raises:
            Ended: it ended by a cancellation.
        """

    def cancel(self) -> None:
        """Deliver one cancellation; does nothing before the start and after the end.

        Must be called on the loop that runs it.
        """

    def abandon(self) -> None:
        """End a coroutine that swallows cancellations: the server has to exit.

        In place of a cancellation comes an exception that nobody expects, so that its
        task groups still end as they should. If it swallows that too, the next call
        closes it where it stands, as a generator is.
        """


class Steps(Protocol):
    """Who wants to know of the steps in which a coroutine runs, from one await to the next."""

    def hold(self) -> None:
        """A step begins."""

    def release(self) -> None:
        """It is over, and the coroutine awaits something. It is not told of the last one."""


class _NobodyKnows:
    def hold(self) -> None:
        pass

    release = hold


def owned_run(steps: Steps = _NobodyKnows()) -> OwnedRun:  # noqa: B008, it has no state
    """An `OwnedRun` for the running loop.

    Args:
        steps: is told of each, on the loop that runs the coroutine.
    """
    return this_loop().new_run(steps)


SPIN = 20
"""Cancellations at once after which the next one waits for a moment.

A trio nursery that is cancelled cancels at every await: a callback that swallows
this in a loop would burn a core.
"""

_AT_ONCE = 0.1
"""Seconds."""


async def _pause() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.5)


class _Abandoned(BaseException):
    """What comes in place of a cancellation that a coroutine would swallow."""


class _DrivenRun:
    """What both kinds of `OwnedRun` share: they stand between the loop and the coroutine."""

    __slots__ = ("_abandonments", "_steps")

    def __init__(self, steps: Steps) -> None:
        self._abandonments = 0
        self._steps = steps

    def cancel(self) -> None:
        raise NotImplementedError

    def abandon(self) -> None:
        self._abandonments += 1
        self.cancel()

    def _about_to_await(self) -> None:
        """The coroutine awaits something; the loop does not know yet."""

    def _woken_with(self, value: Any) -> bool:
        """The loop wakes the coroutine; whether it does so to cancel it."""
        raise NotImplementedError

    def _may_be_closed(self) -> bool:
        """Whether closing the coroutine leaves the loop's own books in order."""
        return True

    @types.coroutine
    def _drive(self, coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        resume: Callable[[Any], Any] = coro.send
        value: Any = None
        abandonments = at_once = 0
        cancelled_at = -math.inf
        steps = self._steps
        while True:
            steps.hold()
            try:
                request = resume(value)
            except StopIteration as stop:
                return cast(T, stop.value)
            except BaseException:
                if self._abandonments:
                    raise Ended from None
                raise
            steps.release()
            self._about_to_await()
            try:
                value = yield request
            except BaseException as error:
                resume, value = coro.throw, error
            else:
                resume = coro.send
            # A wait for a task group's children is not woken by a cancellation on trio: it
            # would leave the group open to break it off.
            if not self._woken_with(value):
                continue
            before, cancelled_at = cancelled_at, anyio.current_time()
            at_once = at_once + 1 if cancelled_at < before + _AT_ONCE else 1
            if self._abandonments > abandonments:
                abandonments = self._abandonments
                if abandonments > 1 and self._may_be_closed():
                    with suppress(RuntimeError):  # it awaits in its cleanup even so
                        coro.close()
                    raise Ended
                resume, value = coro.throw, _Abandoned()
            elif at_once > SPIN:
                yield from _pause().__await__()


class _AsyncioRun(_DrivenRun):
    """`OwnedRun` on asyncio: ``Task.cancel()`` is a single cancellation by nature.

    It also counts, and what counts above zero makes ``asyncio.TaskGroup`` cancel
    again; so the count is taken back as soon as the cancellation has arrived.
    """

    __slots__ = ("_arrived", "_task", "_under_way")

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self._task: asyncio.Task[Any] | None = None
        self._under_way = 0
        self._arrived = False

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        before = task.cancelling()
        self._task = task
        try:
            return await self._drive(coro)
        except asyncio.CancelledError as error:
            if self._arrived or task.cancelling() > before:
                raise Ended from None
            raise RuntimeError(
                "the callback raised asyncio.CancelledError, but nobody cancelled it; "
                "did it await a task or future that was cancelled?"
            ) from error
        finally:
            self._task = None
            while task.cancelling() > before:
                task.uncancel()

    def cancel(self) -> None:
        if self._task is not None:
            self._under_way += 1
            self._task.cancel()

    def _woken_with(self, value: Any) -> bool:
        if not self._under_way or not isinstance(value, asyncio.CancelledError):
            return False
        self._arrived = True
        for _ in range(self._under_way):
            cast("asyncio.Task[Any]", self._task).uncancel()
        self._under_way = 0
        return True


class _ForTrio(NamedTuple):
    Scope: Callable[[], CancelScope]
    Tasks: Callable[[Callable[[Exception], object]], Tasks]
    Run: Callable[[Steps], OwnedRun]


@functools.cache
def _for_trio() -> _ForTrio:
    # trio is an extra: it is there where a trio loop runs.
    import outcome
    import trio

    class _TrioTasks:
        __slots__ = ("_failed", "_manager", "_nursery")

        def __init__(self, failed: Callable[[Exception], object]) -> None:
            self._failed = failed
            self._manager = trio.open_nursery()

        async def __aenter__(self) -> Tasks:
            self._nursery = await self._manager.__aenter__()
            return self

        async def __aexit__(self, *exception: Any) -> bool | None:
            try:
                return await self._manager.__aexit__(*exception)
            finally:
                del self._failed, self._manager, self._nursery

        def start_soon(
            self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
        ) -> trio.CancelScope:
            scope = trio.CancelScope(shield=True)
            self._nursery.start_soon(self._run, scope, function, args, name=name)
            return scope

        def call_soon(self, call: Callable[[], object]) -> trio.CancelScope:
            async def call_it() -> None:
                call()

            return self.start_soon(call_it, name="call_soon")

        async def _run(
            self,
            scope: trio.CancelScope,
            function: Callable[..., Coroutine[Any, Any, None]],
            args: tuple[Any, ...],
        ) -> None:
            with scope:
                try:
                    await function(*args)
                except Exception as error:
                    self._failed(error)

    class _TrioRun(_DrivenRun):
        """`OwnedRun` on trio: a cancelled scope behind a shield.

        Opening the shield lets the cancellation in. It has to be shut again
        before the coroutine's cleanup awaits, and not before the exception has
        left the scopes that it unwinds: a nursery keeps a ``Cancelled`` to
        itself if no cancelled scope is visible outside of it. So it is decided at
        each await that follows the arrival: shut, unless the innermost nursery was
        there when the cancellation came and is now itself being cancelled, which
        means that the await is its wait for its children.

        The cancellation has arrived when trio wakes the coroutine with it, or,
        if that waited for a nursery's children, when it has left that nursery.
        """

        def __init__(self, steps: Steps) -> None:
            super().__init__(steps)
            self._cancelled = anyio.CancelScope()
            self._shield = anyio.CancelScope(shield=True)
            self._task: trio.lowlevel.Task | None = None
            self._waited_in: list[trio.Nursery] = []
            self._arrived = False

        async def run(self, coro: Coroutine[Any, Any, T]) -> T:
            self._task = trio.lowlevel.current_task()
            try:
                with self._cancelled, self._shield:
                    return await self._drive(coro)
                raise Ended
            finally:
                self._task = None

        def cancel(self) -> None:
            if self._task is not None:
                self._arrived = False
                self._waited_in = list(self._task.child_nurseries)
                self._cancelled.cancel()
                self._shield.shield = False

        def _about_to_await(self) -> None:
            if not self._cancelled.cancel_called:
                return
            nurseries = self._nurseries()
            if not self._arrived:
                self._arrived = any(
                    nursery.cancel_scope.cancel_called and nursery not in nurseries
                    for nursery in self._waited_in
                )
            if self._arrived:
                unwinding = (
                    bool(nurseries)
                    and nurseries[-1] in self._waited_in
                    and nurseries[-1].cancel_scope.cancel_called
                )
                self._shield.shield = not unwinding

        def _woken_with(self, value: Any) -> bool:
            # trio wakes a cancelled task with an outcome that holds the exception
            if not isinstance(value, outcome.Error) or not isinstance(value.error, trio.Cancelled):
                return False
            self._arrived = self._cancelled.cancel_called
            return self._arrived

        def _may_be_closed(self) -> bool:
            return not self._nurseries()  # trio stops for good if a nursery is left open

        def _nurseries(self) -> list[trio.Nursery]:
            return cast(trio.lowlevel.Task, self._task).child_nurseries

    return _ForTrio(trio.CancelScope, _TrioTasks, _TrioRun)


def call_soon(token: EventLoopToken, call: Callable[[], object]) -> None:
    """Have a loop make a call, from any thread; calls of one thread keep their order.

    Raises:
        RuntimeError: the loop has ended (``trio.RunFinishedError`` is one).
    """
    native = token.native_token
    if isinstance(native, asyncio.AbstractEventLoop):

        def call_it() -> None:
            # No task runs here, by which anyio (through sniffio, where that is
            # installed) would know the loop.
            if sniffio is not None:
                sniffio.current_async_library_cvar.set("asyncio")
            call()

        native.call_soon_threadsafe(call_it)
    else:
        cast(Any, native).run_sync_soon(call)


def run_on(token: EventLoopToken, call: Callable[[], T], timeout: float) -> T:
    """Have a loop make a call from another thread, and wait for its result.

    That a thread waits for each of its calls is what keeps it from filling the
    loop's queue faster than the loop empties it.

    Args:
        timeout: seconds.

    Raises:
        TimeoutError: the loop did not come round to it in time.
        RuntimeError: the loop has ended.
    """
    future: Future[T] = Future()

    def make() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    call_soon(token, make)
    try:
        return future.result(timeout)
    finally:
        future.cancel()


async def in_daemon_thread(work: Callable[[], None]) -> None:
    """Make a call in a thread that does not keep the process from ending.

    It runs in a copy of the caller's context, and ``anyio.from_thread`` works in it. A
    cancellation leaves it behind.

    Args:
        work: must not raise.
    """
    if backend_name() == "trio":  # whose threads are such
        alone = anyio.CapacityLimiter(1)
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=alone)
        return
    token, done, context = current_token(), anyio.Event(), copy_context()
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    with anyio.CancelScope() as scope:

        def run() -> None:
            threadlocals.current_token = token
            threadlocals.current_cancel_scope = scope
            context.run(work)
            with suppress(RuntimeError):  # it was left behind, and the loop has ended
                call_soon(token, done.set)

        threading.Thread(target=run, name="dashws-async worker", daemon=True).start()
        await done.wait()


def _loops() -> set[types.CodeType]:
    """The code of the loops that there may be; uvloop's own has no frames."""
    codes = {asyncio.BaseEventLoop._run_once.__code__, asyncio.Runner.run.__code__}  # type: ignore[attr-defined]
    if (trio := sys.modules.get("trio._core._run")) is not None:  # an extra
        codes.add(trio.unrolled_run.__code__)
    return codes


_WAITING = {"select", "get_events"}
"""What a loop calls, on any system, to wait for I/O and timers."""


def running_frames(thread_id: int) -> list[types.FrameType]:
    """What the loop of a thread runs, from the outside in; nothing while it waits.

    Args:
        thread_id: as ``threading.get_ident`` gives it.
    """
    loops = _loops()
    frames: list[types.FrameType] = []
    for frame in frames_of_thread(thread_id):
        if frame.f_code in loops:
            waits = bool(frames) and frames[-1].f_code.co_name in _WAITING
            return [] if waits else frames[::-1]
        frames.append(frame)
    return []


def waits(thread_id: int) -> bool:
    """Whether the loop of a thread waits for something to do; False where that is not certain.

    It looks at the innermost two frames only. Each that is looked at costs a few hundred bytes
    for as long as its coroutine lives.

    Args:
        thread_id: as ``threading.get_ident`` gives it.
    """
    frame = sys._current_frames().get(thread_id)  # documented, for debuggers
    if frame is None:
        return False
    loops = _loops()
    if (trio := sys.modules.get("trio._core._run")) is not None:
        loops.add(trio.run.__code__)  # which waits where `unrolled_run` has it do so
    if frame.f_code in loops:
        return True  # uvloop's waiting has no frame
    caller = frame.f_back
    return frame.f_code.co_name in _WAITING and caller is not None and caller.f_code in loops
