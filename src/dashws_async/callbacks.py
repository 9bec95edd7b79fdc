"""One callback as a task: context, run, answer, end.

Knows how a request becomes a call of user code and how its outcome becomes an
answer. Does not know sockets; the tab owns the task and decides when it ends.
"""

from __future__ import annotations

import inspect
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from anyio.lowlevel import EventLoopToken, current_token

from . import messages, threads, whereabouts
from .dash_bridge import CallbackSpec, DashApp, PreventUpdate, WebsocketDisconnected, to_json
from .handle import Line, WebSocketHandle, on_loop_of
from .loops import Ended, OwnedRun, backend_name, call_soon, owned_run, running_frames
from .messages import BadMessage, CallbackRequest
from .outbox import Outgoing
from .settings import Mode
from .shared import Shared

logger = logging.getLogger("dashws_async")


class Unsuitable(Exception):
    """The callback that is asked for cannot run as it is registered: a fault of the app's.

    Attributes:
        name: the callback's.
    """

    def __init__(self, reason: str, name: str) -> None:
        super().__init__(reason)
        self.name = name


def find_callback(app: DashApp, request: CallbackRequest, mode: Mode) -> CallbackSpec:
    """The callback that a request asks for.

    Raises:
        BadMessage: unknown, not to be called over the WebSocket, or with other inputs or
            outputs than the page asks for.
        Unsuitable: a plain ``def`` that is persistent and would hold the event loop for ever.
    """
    addressee = request.renderer_id, request.request_id
    output = request.payload["output"]
    spec = app.find(output)
    if spec is None:
        text = f"There is no callback for output {messages.in_short(output)!r} on this server."
        raise BadMessage(text, *addressee)
    if not spec.websocket:
        raise BadMessage(
            f"Callback {spec.name} ({output}) may not run over the WebSocket: register it with "
            "websocket=True, or the app with websocket_callbacks=True.",
            *addressee,
        )
    if (mismatch := app.mismatch(request.payload)) is not None:
        raise BadMessage(f"Bad message: {mismatch} ({output})", *addressee)
    if spec.persistent and not spec.is_async and mode == "async":
        raise Unsuitable(
            f"Persistent callback {spec.name} is a plain def and would block the server for ever. "
            "Two ways out: make it an async def that awaits between updates, or put @offload "
            "(from dashws_async) under @callback to run it in a thread of its own, of which there "
            f"are {app.max_workers} at once, or WebSocketRuntime(max_workers=...).",
            spec.name,
        )
    return spec


class CallbackTask:
    """One run of one callback, owned by its tab.

    Args:
        shared: the app, the knobs, the app's threads.
        spec: what is known of the callback.
        request: the page's request.
        line: the page.
    """

    __slots__ = (
        "_abandoned",
        "_app",
        "_begins_in_thread",
        "_coro",
        "_handle",
        "_in_thread",
        "_line",
        "_mode",
        "_run",
        "_thread_lock",
        "_untold",
        "_waits_for_client",
        "_worker",
        "created",
        "request",
        "spec",
        "stuck",
    )

    def __init__(
        self, shared: Shared, spec: CallbackSpec, request: CallbackRequest, line: Line
    ) -> None:
        self.spec = spec
        self.request = request
        self.created = time.monotonic()
        self.stuck = False
        """It has not ended ``cleanup_timeout`` after its page had gone."""
        self._app = shared.app
        self._line = line
        self._handle = WebSocketHandle(line, self)
        self._mode = shared.settings.mode
        in_thread = (
            self._mode == "threads" or not spec.is_async or threads.is_offloaded(spec.decorated)
        )
        self._begins_in_thread = in_thread
        self._worker = threads.Worker(shared.workers, for_good=in_thread and spec.persistent)
        self._run = shared.loop.new_run(line.steps)
        self._coro: Coroutine[Any, Any, Any] | None = None
        # In mode="threads", the loop of its own that an async callback runs on; the lock
        # is for the moment when it starts: whoever ends the callback then is heard.
        self._thread_lock = threading.Lock()
        self._in_thread: tuple[EventLoopToken, OwnedRun] | None = None
        self._untold: Callable[[OwnedRun], None] | None = None
        self._abandoned = False
        self._waits_for_client = False

    async def run(self) -> None:
        """Run the callback and answer its request.

        Whatever the callback raises is an answer; only ``KeyboardInterrupt`` goes on.
        Where the client has much to take already, an event-triggered callback starts
        later, so that its answer does not have to wait.
        """
        threads.current_worker.set(self._worker)
        try:
            if not self.spec.persistent and not self._line.has_room(0):
                await self._room_for(0)
                if self._line.ended:
                    return
            try:
                self._coro = self._call(self._app.bind(self.request.payload, self._handle))
                answer = await self._run.run(self._coro)
            except (PreventUpdate, Ended):
                answer = messages.PREVENT_UPDATE
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # exit() in a callback is for the callback only
                answer = self._failure(error)
            await self._answer(answer)
        finally:
            self._line.steps.release()
            del self._handle  # a cycle of references would wait for the collector

    @property
    def has_begun(self) -> bool:
        """Whether any code of it has run: it may still be in line for a worker thread."""
        return self._worker.begun or not self._begins_in_thread

    def where(self) -> str:
        """Where it stands: ``file:line in function``. From any thread."""
        if self._worker.waiting:
            return "the line for a worker thread"
        if self._waits_for_client:
            return "the wait for its client, which has much to take already"
        file, thread_ids = self.spec.file, self._worker.thread_ids
        if len(thread_ids) == 1 and self._in_thread is not None:
            if frames := running_frames(thread_ids[0]):
                return whereabouts.of_frames(frames, file)
        elif thread_ids:
            return whereabouts.of_thread(thread_ids[-1], file)
        return whereabouts.of_awaitable(self._coro, file)

    def cancel(self) -> None:
        """Deliver one cancellation to the callback."""
        self._tell(lambda run: run.cancel())

    def abandon(self) -> None:
        """End the callback whatever it does; a worker thread that blocks stays behind.

        One that runs an event loop may end in order first: it is left at the second call.
        """
        may_end_in_order = self._in_thread is not None and not self._abandoned
        self._abandoned = True
        if may_end_in_order or not self._worker.abandon():
            self._tell(lambda run: run.abandon())

    def _tell(self, message: Callable[[OwnedRun], None]) -> None:
        with self._thread_lock:
            in_thread = self._in_thread
            if in_thread is None:
                self._untold = message
        if in_thread is None:
            message(self._run)
            return
        token, run = in_thread
        # A RuntimeError says that its loop ended just now, and the callback with it.
        with suppress(RuntimeError):
            call_soon(token, lambda: message(run))

    def _call(self, bound: Callable[[], Any]) -> Coroutine[Any, Any, str]:
        """What calls it, where it is to run, and gives its answer."""
        if self._mode == "threads" and self.spec.is_async:
            return threads.run_async_in_thread(
                lambda: self._on_a_loop_of_its_own(bound), backend_name(), self._worker
            )
        if self._mode != "async" and not self.spec.is_async:
            return self._in_worker(bound)
        return self._finish(bound)

    async def _in_worker(self, bound: Callable[[], Any]) -> str:
        result = await self._worker.run(bound)
        return await self._finish(lambda: result)

    async def _finish(self, bound: Callable[[], Any]) -> str:
        """Make an answer of what a callback gives."""
        result = bound()
        if inspect.isawaitable(result):
            result = await result
        return messages.ok(result) if isinstance(result, str) else await self._stream(result.frames)

    async def _on_a_loop_of_its_own(self, bound: Callable[[], Awaitable[Any]]) -> str:
        token, run = current_token(), owned_run()
        with self._thread_lock:
            self._in_thread, untold = (token, run), self._untold
        if untold is not None:
            call_soon(token, lambda: untold(run))
        outer, self._coro = self._coro, self._finish(bound)
        try:
            return await run.run(self._coro)
        finally:
            self._coro = outer
            with self._thread_lock:
                self._in_thread = None

    async def _stream(self, frames: Any) -> str:
        # Dash 4.5: what a generator callback yields, one answer each.
        try:
            async for frame in frames:
                if not frame.get("done"):
                    await self._answer(messages.stream(to_json(frame)))
                elif self._line.ended:
                    return messages.PREVENT_UPDATE
                elif error := frame.get("error"):
                    return self._failure_text(str(error.get("message", "")), None)
                else:
                    break
        finally:
            await frames.aclose()
        return messages.STREAM_DONE

    async def _answer(self, payload: str) -> None:
        line = self._line
        text = messages.callback_response(line.literal, self.request.request_id, payload)
        answer = Outgoing(line.literal, text)
        if line.thread_id == threading.get_ident() and line.has_room(len(text)):
            line.post(answer)
        else:
            await self._room_for(len(text))
            on_loop_of(line, lambda: line.post(answer))

    async def _room_for(self, size: int) -> None:
        """Wait until an answer of so many characters may be posted, no longer than the page lives.

        Many may wait for the same moment, and there need not be room for all of them.
        """
        line = self._line
        while not on_loop_of(line, lambda: line.has_room(size)):
            self._waits_for_client = True
            on_loop_of(line, line.steps.release)
            try:
                await self._handle.drain()
            finally:
                self._waits_for_client = False

    def _failure(self, error: BaseException) -> str:
        if _only_disconnected(error):
            return messages.PREVENT_UPDATE
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:  # its __str__ is broken too
            text = type(error).__name__
        return self._failure_text(text, error)

    def _failure_text(self, text: str, error: BaseException | None) -> str:
        reference = secrets.token_hex(4)
        logger.error(
            "Callback %s failed (reference %s): %s",
            self.spec.name,
            reference,
            text,
            exc_info=error,
        )
        if self._app.debug:
            return messages.error(text)
        return messages.error(f"Callback error, reference {reference}: see the server's log.")


def callback_of(frames: Sequence[FrameType], apps: Iterable[DashApp]) -> CallbackSpec | None:
    """The callback that these frames of a running thread belong to, if to one.

    One that came over HTTP, and a task that a callback has started, are known by the code
    of the function that the user wrote, and of those inside it.

    Args:
        frames: from the outside in.
        apps: whose callbacks it may be.
    """
    for frame in frames:
        if frame.f_code is CallbackTask.run.__code__:
            task: CallbackTask = frame.f_locals["self"]
            return task.spec
    by_code = {code: spec for app in apps for code, spec in app.callbacks_by_code().items()}
    return next((by_code[frame.f_code] for frame in frames if frame.f_code in by_code), None)


def _only_disconnected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(WebsocketDisconnected)[1] is None
    return isinstance(error, WebsocketDisconnected)
