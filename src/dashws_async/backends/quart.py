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
from typing import Any, NamedTuple, cast

import anyio
import hypercorn.config
from anyio.lowlevel import EventLoopToken, current_token
from quart import Quart, Response, abort, g, has_websocket_context, redirect, request, websocket
from quart.asgi import ASGIWebsocketConnection
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.security import safe_join

from .. import browser
from ..dash_bridge import DashApp, QuartDashServer, QuartRequestAdapter, QuartResponseAdapter
from ..descriptors import allow_descriptors
from ..loops import PerLoop, call_soon
from ..runtime import HandshakeRefused, Runtime
from ..threads import Worker, current_worker
from .carrier import CARRIER, Carrier
from .lifespan import STOP_SIGNALS, Lifespan

logger = logging.getLogger("dashws_async")

ONE_YEAR = 365 * 24 * 60 * 60  # seconds

BACKLOG = 2048
"""TCP connections that wait to be accepted under ``app.run``. Hypercorn lets 100 wait; clients of
which the system drops the first packet send it again after 1, 3, 7 and more seconds."""

OTHER_DESCRIPTORS = 256
"""File descriptors that a server has besides those of its WebSockets: for HTTP, files, pipes."""


class UnsupportedServer(TypeError):
    """The app's server is not one that the runtime can serve WebSockets on."""


class DirectConnection(ASGIWebsocketConnection):
    """Quart's side of a WebSocket of ours, on either loop: no queue without a bound, no task.

    Quart's own fills such a queue in a task, which also cancels the handler when the client
    leaves. Here the handler hears the client itself, from the server.
    """

    async def __call__(self, receive: Any, send: Any) -> None:
        scope: Any = self.scope
        # Behind Hypercorn's ProxyFixMiddleware this is what the browser's requests have, but
        # Quart's routes know a WebSocket by it.
        scope["scheme"] = {"http": "ws", "https": "wss"}.get(scope["scheme"], scope["scheme"])
        carrier: Carrier = scope[CARRIER]
        carrier.opened(receive, send)
        self.queue: Any = _Inbox(carrier.receive_message)
        websocket: Any = self._create_websocket_from_scope(carrier.send_event)
        websocket.buffer = self.queue  # Quart 0.23's name for it
        try:
            await self.handle_websocket(websocket, carrier.send_event)
        finally:
            if (rest := carrier.closed()) is not None:
                Lifespan.of(self.app).start_soon(rest)


class _Inbox(NamedTuple):
    """Where ``quart.websocket`` receives from."""

    get: Callable[[], Awaitable[str | bytes]]


class HandshakeAdapter(QuartRequestAdapter):
    """What ``ctx`` reads cookies, headers, path and so on from: the request, or the handshake.

    Of the handshake, each is made from what came, and not kept: Quart would keep it, in 1.5 KB
    for each connection, and take its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handshake: Any = None
        if has_websocket_context():
            self._handshake = cast(Any, websocket)._get_current_object()
            # Quart writes their names in one way. Of several with one name the first counts.
            fields = list(self._handshake.headers)
            self._fields: dict[str, str] = {**dict(fields), **dict(fields[::-1])}

    @property
    def request(self) -> Any:
        """Quart's request or WebSocket, whichever there is."""
        return super().request if self._handshake is None else self._handshake

    @property
    def context(self) -> Any:
        """Where ``ctx.record_timing`` keeps its numbers."""
        return super().context if self._handshake is None else g

    @property
    def headers(self) -> Any:
        """By name."""
        return super().headers if self._handshake is None else self._fields

    @property
    def origin(self) -> Any:
        """The page's."""
        return super().origin if self._handshake is None else self._fields.get("Origin")

    @property
    def cookies(self) -> Any:
        """By name."""
        if self._handshake is not None and "Cookie" not in self._fields:
            return {}
        return super().cookies

    @property
    def args(self) -> Any:
        """The query, of which the browser's worker sends none."""
        if self._handshake is not None and not self._handshake.query_string:
            return _NO_ARGS
        return super().args

    @property
    def full_path(self) -> Any:
        """Path and query."""
        if self._handshake is None:
            return super().full_path
        return f"{self._handshake.path}?{self._handshake.query_string.decode(errors='replace')}"


_NO_ARGS: ImmutableMultiDict[str, str] = ImmutableMultiDict()


class LateResponseAdapter(QuartResponseAdapter):
    """``ctx.response``, whose response is made when somebody looks at it."""

    def __init__(self) -> None:
        pass  # Dash's makes the response here

    def __getattr__(self, name: str) -> Any:
        if name != "_quart_response":  # Dash's name for it
            raise AttributeError(name)
        self._quart_response = Response(content_type="application/json")
        return self._quart_response


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
        self.response_adapter = LateResponseAdapter
        self._dash_app = dash_app
        self._runtime = runtime
        self._set_ups: list[Callable[[], Any]] = []
        self._set_up_lock: PerLoop[anyio.Lock] = PerLoop()
        self._is_set_up = False
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
        self._is_set_up = False
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
        self.server.asgi_websocket_class = _direct_at(path, self.server.asgi_websocket_class)
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

    async def _serve_websocket(self) -> Response | None:
        app, headers = self._dash_app, websocket.headers
        origins, hosts = headers.getlist("origin"), headers.getlist("host")
        try:
            with self._runtime.admit(app, origins, hosts, secure=websocket.scheme == "wss"):
                if await self._set_up() is not None:
                    message = "A before_request function answered it"
                    raise HandshakeRefused("set_up", 403, message)
                settings, scope = self._runtime.settings, cast("dict[str, Any]", websocket.scope)
                carrier: Carrier = scope[CARRIER]
                await carrier.accept(
                    websocket.accept, settings.max_message_bytes, settings.compression
                )
                peer = scope.get("client")
                client = f"{peer[0]}:{peer[1]}" if peer else ""
                await self._runtime.serve(carrier.transport, app, websocket, client)
        except HandshakeRefused as refused:
            return Response(str(refused), refused.status, mimetype="text/plain")
        return None

    async def _set_up(self) -> Any:
        """Run Dash's set-up functions; what one returns is the answer.

        They decide themselves whether there is anything left to do, but not whether another
        caller is still about it: until they have run once, it is one caller at a time.
        """
        if self._is_set_up:  # who has waited for a lock passes one in each turn of the loop
            return await self._run_set_ups()
        async with self._set_up_lock.get(_lock_at_once):
            answer = await self._run_set_ups()
            if answer is None:
                self._is_set_up = True
            return answer

    async def _run_set_ups(self) -> Any:
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
            current_worker.set(Worker(self._runtime.workers))
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
        config.backlog = BACKLOG
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
        allow_descriptors(self._runtime.settings.max_connections + OTHER_DESCRIPTORS)
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


def _direct_at(path: str, elsewhere: Callable[[Quart, Any], Any]) -> Any:
    """What an app makes of a WebSocket: `DirectConnection` at a path."""

    def connection(app: Quart, scope: Any) -> Any:
        here = scope["path"].endswith(path)  # the server may listen below another path
        return (DirectConnection if here else elsewhere)(app, scope)

    return connection


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


def _lock_at_once() -> anyio.Lock:
    """A lock that is taken at once where it is free; anyio's others are held for a turn before."""
    return anyio.Lock(fast_acquire=True)


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
