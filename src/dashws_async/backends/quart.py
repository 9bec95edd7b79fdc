"""Dash on Quart and QuartTrio: routes, the WebSocket endpoint, and ``app.run``.

Dash's own Quart backend does the HTTP part. This one puts itself around it:

* the WebSocket endpoint belongs to the runtime;
* Dash's plain functions (views, hooks, assets) are served on the event loop,
  where Quart would send each to a worker thread;
* the set-up that Dash does before the first HTTP request is also done before
  the first WebSocket, which comes first after a redeploy;
* ``app.run`` serves on asyncio or on trio, as the server object wants it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import mimetypes
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import hypercorn.config
import quart.wrappers
from anyio.lowlevel import EventLoopToken, current_token
from quart import Quart, Response, abort, g, has_websocket_context, redirect, request, websocket
from werkzeug.security import safe_join

from .. import browser
from ..connection import Disconnected
from ..dash_bridge import DashApp, QuartDashServer, QuartRequestAdapter
from ..loops import PerLoop, call_soon
from ..runtime import Runtime
from .hypercorn import TcpConnection
from .hypercorn import abort as abort_tcp
from .lifespan import STOP_SIGNALS, TCP, Lifespan

logger = logging.getLogger("dashws_async")

POLICY_VIOLATION = 1008
ONE_YEAR = 365 * 24 * 60 * 60  # seconds

_GONE: tuple[type[Exception], ...] = (OSError,)
if hasattr(quart.wrappers, "ClientDisconnectedError"):  # Quart 0.23
    _GONE += (quart.wrappers.ClientDisconnectedError,)


class UnsupportedServer(TypeError):
    """The app's server is not one that the runtime can serve WebSockets on."""


class QuartTransport:
    """The WebSocket of the running Quart handler, as a `connection.Transport`.

    Quart cancels the handler when the client leaves; since 0.23 it may also say
    so with an exception.
    """

    def __init__(self) -> None:
        self._tcp: TcpConnection | None = websocket.scope.get(TCP)

    async def receive(self) -> str | bytes:
        try:
            message: str | bytes = await websocket.receive()
        except _GONE as error:
            raise Disconnected from error
        return message

    async def send(self, text: str) -> None:
        try:
            await websocket.send(text)
        except _GONE as error:
            raise Disconnected from error

    async def close(self, code: int, reason: str) -> None:
        try:
            await websocket.close(code, reason)
        except _GONE as error:
            raise Disconnected from error
        except RuntimeError as error:  # closed before
            raise Disconnected from error

    def abort(self) -> None:
        """Drop the TCP connection, where the server lets us: for a client that reads nothing."""
        if self._tcp is not None:
            abort_tcp(self._tcp)


class HandshakeAdapter(QuartRequestAdapter):
    """What ``ctx`` reads cookies, headers, path and so on from: the request, or the handshake."""

    @property
    def request(self) -> Any:
        """Quart's request or WebSocket, whichever there is."""
        return websocket if has_websocket_context() else super().request

    @property
    def context(self) -> Any:
        """Where ``ctx.record_timing`` keeps its numbers."""
        return g if has_websocket_context() else super().context


class QuartBackend(QuartDashServer):  # type: ignore[misc]  # Dash is untyped here
    """The backend object of a Dash app with the runtime.

    Args:
        server: the app's server; it may be replaced until `register_assets_blueprint`,
            the first call of ``Dash.init_app``, looks at it.
        dash_app: the app.
        runtime: serves the WebSockets.
    """

    def __init__(self, server: Any, dash_app: DashApp, runtime: Runtime) -> None:
        super().__init__(server)
        self.request_adapter = HandshakeAdapter
        self._dash_app = dash_app
        self._runtime = runtime
        self._set_ups: list[Callable[[], Any]] = []
        self._set_up_lock: PerLoop[anyio.Lock] = PerLoop()
        self._endpoint_made = False

    # What Dash asks for when it makes an app's routes.

    def register_assets_blueprint(
        self, blueprint_name: str, assets_url_path: str, assets_folder: str
    ) -> None:
        """Serve the assets folder on the loop; Quart's static files would take threads.

        Raises:
            UnsupportedServer: the server is not a Quart app.
        """
        if not isinstance(self.server, Quart):
            raise UnsupportedServer(
                f"WebSocketRuntime cannot serve {type(self.server).__module__}."
                f"{type(self.server).__qualname__}: it serves Quart and QuartTrio. Use "
                'Dash(backend="quart", ...), Dash(server=Quart(__name__), ...) or '
                "Dash(server=QuartTrio(__name__), ...)"
            )

        async def asset(filename: str) -> Response:
            return await _send_file(assets_folder, filename)

        self.server.add_url_rule(
            f"{assets_url_path.rstrip('/')}/<path:filename>",
            endpoint=f"{blueprint_name}.static",
            view_func=asset,
        )

    def add_url_rule(
        self,
        rule: str,
        view_func: Callable[..., Any],
        endpoint: str | None = None,
        methods: list[str] | None = None,
    ) -> None:
        """Add a view of Dash's, to run on the loop."""
        super().add_url_rule(rule, self._on_loop(view_func), endpoint, methods)

    def add_redirect_rule(self, app: Any, fullname: str, path: str) -> None:
        """Redirect one page's path to another (``register_page(redirect_from=...)``)."""
        target = app.get_relative_path(path)

        async def to_target() -> Any:
            return redirect(target, code=301)

        self.server.add_url_rule(fullname, fullname, to_target)

    def before_request(self, func: Callable[[], Any]) -> None:
        """Have a set-up function of Dash's run before requests, and before the WebSocket."""
        self._set_ups.append(func)
        if len(self._set_ups) == 1:
            self.server.before_request(self._set_up)

    @property
    def websocket_capability(self) -> bool:
        """Whether pages should open a WebSocket: only where a callback may use it.

        Dash also asks before it makes the routes, and cannot know of callbacks yet.
        """
        return not self._endpoint_made or self._dash_app.uses_websocket

    def serve_websocket_callback(self, dash_app: Any) -> None:
        """Make the WebSocket endpoint."""
        self._endpoint_made = True
        Lifespan.of(self.server).runtimes.append(self._runtime)
        path = self._dash_app.websocket_path
        self.server.add_websocket(path, endpoint=path, view_func=self._serve_websocket)
        self._serve_browser_scripts()

    def _serve_browser_scripts(self) -> None:
        """Make pages use our scripts in the browser, and serve them."""
        app = self._dash_app

        def worker() -> browser.Script:
            return browser.worker_script(app.dash_worker_url)

        async def serve(kind: str, fingerprint: str) -> Response:
            script = worker() if kind == "worker" else browser.page_script()
            response = Response(script.text, mimetype="text/javascript")
            if script.path.endswith(f".{fingerprint}.js"):
                response.cache_control.public = True
                response.cache_control.max_age = ONE_YEAR
                response.cache_control.immutable = True
            else:  # a page of another version asks, before or after a deploy
                response.cache_control.no_cache = True
            return response

        app.add_page_script(browser.page_script().path)
        app.replace_worker(lambda: worker().path)
        rule = f"{app.routes_prefix}{browser.FOLDER}<any(page, worker):kind>.<fingerprint>.js"
        self.server.add_url_rule(rule, endpoint=rule, view_func=serve)

    async def _serve_websocket(self) -> None:
        refusal = self._runtime.refuse_handshake(self._dash_app, websocket.headers)
        if refusal is not None:
            logger.info("Refused a WebSocket: %s", refusal)
            await websocket.close(POLICY_VIOLATION, refusal)  # before accept: HTTP 403
            return
        if await self._set_up() is not None:
            logger.info("Refused a WebSocket: a before_request function answered it")
            await websocket.close(POLICY_VIOLATION)
            return
        await websocket.accept()
        peer = websocket.scope.get("client")
        client = f"{peer[0]}:{peer[1]}" if peer else ""
        await self._runtime.serve(QuartTransport(), self._dash_app, websocket, client)

    async def _set_up(self) -> Any:
        """Run Dash's set-up functions, one caller at a time; what one returns is the answer.

        They decide themselves whether there is anything left to do.
        """
        async with self._set_up_lock.get(anyio.Lock):
            with self._dash_app.current():
                for function in self._set_ups:
                    answer = await _call(function)
                    if answer is not None:
                        return answer
        return None

    def _on_loop(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Make a plain function async without a thread; ``dash.get_app()`` gives this app in it."""

        @functools.wraps(function)
        async def on_loop(*args: Any, **kwargs: Any) -> Any:
            with self._dash_app.current():
                return await _call(function, *args, **kwargs)

        return on_loop

    # app.run

    def run(self, dash_app: Any, host: str, port: int, debug: bool, **options: Any) -> None:
        """Serve until SIGINT or SIGTERM; ``app.run`` calls this.

        Args:
            options: Hypercorn settings (``certfile``, ``keyfile``, ``accesslog``, ...).
        """
        config = hypercorn.config.Config()
        config.bind = [f"{host}:{port}"]
        config.loglevel = "INFO" if "accesslog" in options else "WARNING"  # Dash says where it runs
        config.graceful_timeout = 1.0  # seconds for HTTP; the WebSockets are closed by then
        for name, value in options.items():
            if hasattr(hypercorn.config.Config, name):
                setattr(config, name, value)
            else:
                logger.warning("app.run(%s=%r) is not a setting of Hypercorn: ignored", name, value)
        if debug and self._dash_app.silence_routes_logging:
            logging.getLogger("quart.app").setLevel(logging.ERROR)
        self.config = {"debug": debug, **options}
        backend, serve = _hypercorn(self.server)
        anyio.run(self._run_server, config, serve, backend=backend)

    async def _run_server(
        self, config: hypercorn.config.Config, serve: Callable[..., Awaitable[None]]
    ) -> None:
        lifespan = Lifespan.of(self.server)
        lifespan.closing_time = math.inf  # the server waits until the runtimes are drained
        serving = anyio.CancelScope()

        def limit() -> None:
            # Python 3.12's asyncio would wait for HTTP clients that read nothing without a limit.
            serving.deadline = anyio.current_time() + config.graceful_timeout + 2

        async def until_drained() -> None:
            await lifespan.drained()
            limit()

        self._ws_shutdown_event: _StopForDashTesting | None = _StopForDashTesting(
            lifespan.stop, current_token()
        )
        try:
            with serving, _stop_signals_handled_by(limit):
                await serve(self.server, config, shutdown_trigger=until_drained)
        finally:
            self._ws_shutdown_event = None


class _StopForDashTesting:
    """What ``dash.testing``'s runner takes for the server's ``asyncio.Event``.

    It stops a Quart app from another thread with
    ``event._loop.call_soon_threadsafe(event.set)``; with trio there is no such
    event, so both loops get this one.
    """

    def __init__(self, stop: Callable[[], None], token: EventLoopToken) -> None:
        self.set = stop
        self._token = token

    @property
    def _loop(self) -> _StopForDashTesting:
        return self

    def is_closed(self) -> bool:
        return False  # it is gone when the loop is

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        call_soon(self._token, call)


@contextmanager
def _stop_signals_handled_by(handle: Callable[[], None]) -> Iterator[None]:
    """Be the one who handles the signals to stop, in place of the loop; `Lifespan` comes first.

    Only the main thread can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def handle_once(number: int, _frame: FrameType | None) -> None:
        handle()
        signal.signal(number, before[number])  # where even this does not help, the next one ends us

    for stop_signal in STOP_SIGNALS:
        before[stop_signal] = signal.signal(stop_signal, handle_once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hypercorn(server: Quart) -> tuple[str, Callable[..., Awaitable[None]]]:
    """The event loop that a server object wants, and Hypercorn's ``serve`` for it."""
    if server.event_class.__module__.startswith("trio"):
        import hypercorn.trio

        return "trio", hypercorn.trio.serve
    import hypercorn.asyncio

    return "asyncio", hypercorn.asyncio.serve


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def _send_file(folder: str, filename: str) -> Response:
    """One file of a folder, read on the loop, with ``ETag`` and ranges.

    Small files from the page cache take less time than a thread would.
    """
    path = safe_join(folder, filename)
    if path is None or not Path(path).is_file():
        abort(404)
    data = Path(path).read_bytes()
    mimetype = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    response = Response(data, mimetype=mimetype)
    response.last_modified = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)
    await response.add_etag()
    await response.make_conditional(request, accept_ranges=True, complete_length=len(data))
    return response
