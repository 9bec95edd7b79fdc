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
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from anyio.lowlevel import EventLoopToken, current_token

from . import messages, threads, whereabouts
from .dash_bridge import CallbackSpec, DashApp, PreventUpdate, WebsocketDisconnected, to_json
from .handle import Line, WebSocketHandle
from .loops import Ended, OwnedRun, backend_name, call_soon, owned_run
from .messages import CallbackRequest
from .outbox import Outgoing
from .settings import Mode
from .shared import Shared

logger = logging.getLogger("dashws_async")


class Refused(Exception):
    """A request that gets an error answer and no run; the text is for the page."""

    log_level = logging.INFO
    """What a client asks for says nothing of the server."""


class Unsuitable(Refused):
    """The callback itself cannot run as it is registered."""

    log_level = logging.ERROR


def find_callback(app: DashApp, request: CallbackRequest, mode: Mode) -> CallbackSpec:
    """The callback that a request asks for.

    Raises:
        Refused: unknown, not to be called over the WebSocket, or a plain ``def``
            that is persistent and would hold the event loop for ever.
    """
    output = request.payload.get("output")
    spec = app.find(output) if isinstance(output, str) else None
    if spec is None:
        raise Refused(f"There is no callback for output {output!r} on this server.")
    if not spec.websocket:
        raise Refused(
            f"Callback {spec.name} ({output}) may not run over the WebSocket: register it with "
            "websocket=True, or the app with websocket_callbacks=True."
        )
    if spec.persistent and not spec.is_async and mode == "async":
        raise Unsuitable(
            f"Persistent callback {spec.name} is a plain def and would block the server for ever. "
            "Two ways out: make it an async def that awaits between updates, or put @offload "
            "(from dashws_async) under @callback to run it in a thread of its own."
        )
    return spec


class CallbackTask:
    """One run of one callback, owned by its tab.

    Args:
        shared: the app, the knobs, the threads' limiter.
        spec: what is known of the callback.
        request: the page's request.
        line: the page.
    """

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
        self._mode = shared.settings.mode
        self._worker = threads.Worker(shared.limiter)
        self._run: OwnedRun = owned_run()
        self._coro: Coroutine[Any, Any, str] | None = None
        # In mode="threads", the loop of its own that an async callback runs on; the lock
        # is for the moment when it starts: whoever ends the callback then is heard.
        self._thread_lock = threading.Lock()
        self._in_thread: tuple[EventLoopToken, OwnedRun] | None = None
        self._untold: Callable[[OwnedRun], None] | None = None

    async def run(self) -> None:
        """Run the callback and answer its request.

        Whatever the callback raises is an answer; only ``KeyboardInterrupt`` goes on.
        """
        try:
            self._coro = self._outcome()
            answer = await self._run.run(self._coro)
        except Ended:
            answer = messages.PREVENT_UPDATE
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # exit() in a callback is for the callback only
            answer = self._failure(error)
        self._answer(answer)

    def where(self) -> str:
        """Where it stands: ``file:line in function``. From any thread."""
        if self._worker.thread_id is not None:
            return whereabouts.of_thread(self._worker.thread_id, self.spec.file)
        return whereabouts.of_awaitable(self._coro, self.spec.file)

    def cancel(self) -> None:
        """Deliver one cancellation to the callback."""
        self._tell(lambda run: run.cancel())

    def abandon(self) -> None:
        """End the callback whatever it does; a worker thread that it is in stays behind."""
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

    async def _outcome(self) -> str:
        handle = WebSocketHandle(self._line, self)
        threads.current_worker.set(self._worker)
        try:
            result = await self._call(self._app.bind(self.request.payload, handle))
        except PreventUpdate:
            return messages.PREVENT_UPDATE
        if isinstance(result, str):
            return messages.ok(result)
        return await self._stream(result.frames)

    async def _call(self, bound: Callable[[], Any]) -> Any:
        if self._mode == "threads" and self.spec.is_async:
            return await threads.run_async_in_thread(
                lambda: self._on_a_loop_of_its_own(bound), backend_name(), self._worker
            )
        if self._mode != "async" and not self.spec.is_async:
            return await threads.run_in_thread(bound, self._worker)
        result = bound()
        return await result if inspect.isawaitable(result) else result

    async def _on_a_loop_of_its_own(self, bound: Callable[[], Awaitable[Any]]) -> Any:
        token, run = current_token(), owned_run()
        with self._thread_lock:
            self._in_thread, untold = (token, run), self._untold
        if untold is not None:
            call_soon(token, lambda: untold(run))
        try:
            return await run.run(_await(bound()))
        finally:
            with self._thread_lock:
                self._in_thread = None

    async def _stream(self, frames: Any) -> str:
        # Dash 4.5: what a generator callback yields, one answer each.
        try:
            async for frame in frames:
                if not frame.get("done"):
                    self._answer(messages.stream(to_json(frame)))
                elif self._line.ended:
                    return messages.PREVENT_UPDATE
                elif error := frame.get("error"):
                    return self._failure_text(str(error.get("message", "")), None)
                else:
                    break
        finally:
            await frames.aclose()
        return messages.STREAM_DONE

    def _answer(self, payload: str) -> None:
        tab = self._line.literal
        text = messages.callback_response(tab, self.request.request_id, payload)
        self._line.post(Outgoing(tab, text, is_update=False))

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


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _only_disconnected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(WebsocketDisconnected)[1] is None
    return isinstance(error, WebsocketDisconnected)
