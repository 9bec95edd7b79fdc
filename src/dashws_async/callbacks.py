"""One callback as a task: context, run, answer, end.

Knows how a request becomes a call of user code and how its outcome becomes an
answer. Does not know sockets; the connection owns the task and decides when it
ends.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from . import messages, threads
from .dash_bridge import CallbackSpec, DashApp, PreventUpdate, WebsocketDisconnected, to_json
from .handle import Line, WebSocketHandle
from .loops import EndedByOwner, OwnedRun, backend_name, call_soon, owned_run
from .messages import CallbackRequest
from .outbox import Outgoing
from .settings import Mode

logger = logging.getLogger("dashws_async")


class Refused(Exception):
    """A request that gets an error answer and no run; the text is for the page."""


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
        raise Refused(
            f"Persistent callback {spec.name} is a plain def and would block the server for ever. "
            "Two ways out: make it an async def that awaits between updates, or put @offload "
            "(from dashws_async) under @callback to run it in a thread of its own."
        )
    return spec


class CallbackTask:
    """One run of one callback, owned by its connection.

    Args:
        app: where the callback is registered.
        spec: what is known of it.
        request: the page's request.
        tab: the page, as a JSON literal.
        line: the connection.
        mode: where user code runs.
        limiter: bounds the worker threads of the app.
    """

    def __init__(
        self,
        app: DashApp,
        spec: CallbackSpec,
        request: CallbackRequest,
        tab: str,
        line: Line,
        mode: Mode,
        limiter: anyio.CapacityLimiter,
    ) -> None:
        self.spec = spec
        self.request_id = request.request_id
        self.tab = tab
        self._app = app
        self._payload = request.payload
        self._line = line
        self._mode = mode
        self._limiter = limiter
        self._run: OwnedRun = owned_run()
        self._in_thread: tuple[EventLoopToken, OwnedRun] | None = None

    async def run(self) -> None:
        """Run the callback and answer its request. Raises nothing that the callback raised."""
        if self._line.ended:
            return
        try:
            answer = await self._run.run(self._outcome())
        except EndedByOwner:
            return
        except (Exception, SystemExit) as error:  # exit() in a callback is for the callback only
            answer = self._failure(error)
        self._answer(answer)

    def cancel(self) -> None:
        """Deliver one cancellation to the callback."""
        if self._in_thread is None:
            self._run.cancel()
            return
        token, run = self._in_thread
        try:
            call_soon(token, run.cancel)
        except RuntimeError:
            self._in_thread = None  # its loop ended just now, and the callback with it

    async def _outcome(self) -> str:
        handle = WebSocketHandle(self._line, self.tab, self)
        threads.offload_limiter.set(self._limiter)
        with self._app.current():
            try:
                result = await self._call(self._app.bind(self._payload, handle))
                if isinstance(result, str):
                    return messages.ok(result)
                return await self._stream(result.frames)
            except (PreventUpdate, WebsocketDisconnected):
                return messages.PREVENT_UPDATE

    async def _call(self, bound: Callable[[], Any]) -> Any:
        if self._mode == "threads" and self.spec.is_async:
            return await threads.run_async_in_thread(
                lambda: self._on_a_loop_of_its_own(bound), backend_name(), self._limiter
            )
        if self._mode != "async" and not self.spec.is_async:
            return await threads.run_in_thread(bound, self._limiter)
        result = bound()
        return await result if inspect.isawaitable(result) else result

    async def _on_a_loop_of_its_own(self, bound: Callable[[], Awaitable[Any]]) -> Any:
        run = owned_run()
        self._in_thread = current_token(), run
        try:
            return await run.run(_await(bound()))
        finally:
            self._in_thread = None

    async def _stream(self, frames: Any) -> str:
        # Dash 4.5: what a generator callback yields, one answer each.
        try:
            async for frame in frames:
                if not frame.get("done"):
                    self._answer(messages.stream(to_json(frame)))
                elif error := frame.get("error"):
                    return self._failure_text(str(error.get("message", "")), None)
                else:
                    break
        finally:
            await frames.aclose()
        return messages.STREAM_DONE

    def _answer(self, payload: str) -> None:
        text = messages.callback_response(self.tab, self.request_id, payload)
        self._line.post(Outgoing(self.tab, text, is_update=False))

    def _failure(self, error: BaseException) -> str:
        if self._line.ended and _only_disconnected(error):
            return messages.PREVENT_UPDATE
        return self._failure_text(f"{type(error).__name__}: {error}", error)

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
    if isinstance(error, ExceptionGroup):
        return error.split(WebsocketDisconnected)[1] is None
    return isinstance(error, WebsocketDisconnected)
