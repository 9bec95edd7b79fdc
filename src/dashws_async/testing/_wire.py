"""How a browser reaches an app: HTTP, and one WebSocket at a time.

Knows: two kinds of site. `MemorySite` speaks ASGI to an app in this process, as a
server would; `NetworkSite` uses real sockets. Both give an `httpx.AsyncClient` and
`Socket` objects. The WebSocket protocol itself is the sans-I/O half of
``websockets``, over anyio streams: nothing here depends on the event loop.
Refuses to know: Dash's messages, pages, tabs.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.tls
import httpx
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event, State
from websockets.uri import parse_uri

__all__ = [
    "ASGIApp",
    "MemorySite",
    "NetworkSite",
    "Rejected",
    "Site",
    "Socket",
    "SocketClosed",
    "serve_in_memory",
]

logger = logging.getLogger("dashws_async.testing")

ASGIEvent = MutableMapping[str, Any]
ASGIReceive = Callable[[], Awaitable[ASGIEvent]]
ASGISend = Callable[[ASGIEvent], Awaitable[None]]
ASGIApp = Callable[[ASGIEvent, ASGIReceive, ASGISend], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

FRAMES_IN_FLIGHT = 16
"""Frames an in-memory socket holds that nobody has read; then the server's send waits,
as it does when the buffers of a real socket are full."""
HTTP_TIMEOUT = 60.0
"""Seconds for one HTTP request."""
STARTUP_TIMEOUT = 10.0
"""Seconds for an app in this process to start."""
CLOSE_TIMEOUT = 2.0
"""Seconds for the other side to answer a close frame."""


class SocketClosed(Exception):
    """The WebSocket has ended, by whichever side."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Rejected(Exception):
    """The server refused the WebSocket handshake, or could not be reached.

    Args:
        status: HTTP status of the answer, ``None`` where there was none.
    """

    def __init__(self, status: int | None, message: str = "") -> None:
        super().__init__(status, message)
        self.status = status


class Socket(Protocol):
    """An open WebSocket."""

    async def send(self, text: str) -> None:
        """Send one text frame. Does nothing once the socket has ended."""

    async def receive(self) -> str:
        """The next text frame.

        Raises:
            SocketClosed: there is none, the socket has ended.
        """

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""

    async def abort(self) -> None:
        """End without a close frame, as a lost network does (code 1006)."""


class Site(Protocol):
    """Where an app can be reached."""

    @property
    def base_url(self) -> str:
        """URL of the index page, with a slash at its end."""

    def client(self) -> httpx.AsyncClient: ...

    async def connect(self, url: str, headers: Headers) -> Socket:
        """Open a WebSocket.

        Args:
            url: ``ws:`` or ``wss:``.
            headers: of the handshake, ``Host`` among them.

        Raises:
            Rejected: the handshake failed.
        """


# In memory


@dataclass(eq=False)
class MemorySocket:
    """The browser's end of a WebSocket that an ASGI app serves in this process."""

    app: ASGIApp
    scope: dict[str, Any]

    def __post_init__(self) -> None:
        self._to_app, self._app_reads = anyio.create_memory_object_stream[ASGIEvent](float("inf"))
        self._app_writes, self._from_app = anyio.create_memory_object_stream[str](FRAMES_IN_FLIGHT)
        self._answered = anyio.Event()
        self._accepted = False
        self._status = 403
        self._ended: SocketClosed | None = None
        self._to_app.send_nowait({"type": "websocket.connect"})

    async def serve(self) -> None:
        """Run the app for this socket; what an ASGI server does for each connection."""
        try:
            await self.app(self.scope, self._app_reads.receive, self._app_sends)
        except Exception:
            logger.exception("the app failed while serving a WebSocket")
            self._status = 500
        finally:
            self._end(SocketClosed(1011 if self._accepted else 1006))
            self._answered.set()
            self._app_reads.close()
            self._to_app.close()

    async def handshake(self) -> None:
        await self._answered.wait()
        if not self._accepted:
            raise Rejected(self._status)

    async def _app_sends(self, event: ASGIEvent) -> None:
        kind = event["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self._answered.set()
        elif kind == "websocket.send":
            text = event.get("text")
            frame = text if text is not None else event["bytes"].decode()
            # As servers do: what is sent after the end is dropped.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._app_writes.send(frame)
        elif kind == "websocket.close":
            code = event.get("code") or 1000
            self._end(SocketClosed(code if self._accepted else 1006, event.get("reason") or ""))
            self._answered.set()
        elif kind == "websocket.http.response.start":
            self._status = event["status"]

    def _end(self, closed: SocketClosed) -> None:
        if self._ended is None:
            self._ended = closed
            self._app_writes.close()
            self._tell_app(closed)

    def _tell_app(self, closed: SocketClosed) -> None:
        # The app may have returned.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._to_app.send_nowait(
                {"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason}
            )

    async def send(self, text: str) -> None:
        if self._ended is None:
            self._to_app.send_nowait({"type": "websocket.receive", "text": text})
        await anyio.lowlevel.checkpoint()

    async def receive(self) -> str:
        try:
            return await self._from_app.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            assert self._ended is not None
            raise self._ended from None

    async def close(self, code: int, reason: str) -> None:
        self._leave(SocketClosed(code, reason))
        await anyio.lowlevel.checkpoint()

    async def abort(self) -> None:
        self._leave(SocketClosed(1006))
        await anyio.lowlevel.checkpoint()

    def _leave(self, closed: SocketClosed) -> None:
        self._end(closed)
        self._from_app.close()  # frees an app that waits in send


@dataclass(eq=False)
class MemorySite:
    """An ASGI app in this process, behind a proxy that maps one prefix to another.

    Args:
        app: the ASGI app.
        tasks: owns the task that serves each socket.
        state: the lifespan's state, shared with each socket's scope.
        public_prefix: under which the page finds the app.
        app_prefix: under which the app serves it.
    """

    app: ASGIApp
    tasks: anyio.abc.TaskGroup
    state: dict[str, Any] = field(default_factory=dict)
    public_prefix: str = "/"
    app_prefix: str = "/"

    @property
    def base_url(self) -> str:
        return f"http://dash.test{self.public_prefix}"

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(
            self._proxied,
            raise_app_exceptions=False,
        )
        return httpx.AsyncClient(
            transport=transport, verify=False, timeout=HTTP_TIMEOUT, trust_env=False
        )

    async def connect(self, url: str, headers: Headers) -> Socket:
        parts = urlsplit(url)
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": parts.scheme,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers],
            "client": ("127.0.0.1", 50000),
            "server": (parts.hostname, parts.port or 80),
            "subprotocols": [],
            "state": dict(self.state),
            "extensions": {"websocket.http.response": {}},
        }
        socket = MemorySocket(self._proxied, scope)
        self.tasks.start_soon(socket.serve)
        try:
            await socket.handshake()
        except BaseException:
            await socket.abort()
            raise
        return socket

    async def _proxied(self, scope: ASGIEvent, receive: ASGIReceive, send: ASGISend) -> None:
        path = scope["path"]
        if path.startswith(self.public_prefix):
            path = self.app_prefix + path[len(self.public_prefix) :]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


_serving: anyio.lowlevel.RunVar[dict[int, MemorySite]] = anyio.lowlevel.RunVar(
    "dashws_async.testing.serving"
)


@asynccontextmanager
async def serve_in_memory(
    app: ASGIApp, *, public_prefix: str, app_prefix: str, shutdown_timeout: float
) -> AsyncIterator[MemorySite]:
    """Run the app's lifespan around a `MemorySite` for it.

    An app that is already served in this event loop is shared: several browsers can
    visit it, and its lifespan is the first one's.

    Args:
        shutdown_timeout: seconds for the app to end its connections and its lifespan
            before they are cancelled.

    Raises:
        RuntimeError: the app refused to start.
    """
    served = _serving.get(None)
    if served is None:
        _serving.set(served := {})
    if id(app) in served:
        # Two Dash apps on one server: the same lifespan, each at its own prefix.
        yield replace(served[id(app)], public_prefix=public_prefix, app_prefix=app_prefix)
        return
    async with anyio.create_task_group() as lifespan_tasks:
        lifespan = _Lifespan(app)
        lifespan_tasks.start_soon(lifespan.run)
        await lifespan.startup()
        try:
            async with anyio.create_task_group() as tasks:
                site = MemorySite(app, tasks, lifespan.state, public_prefix, app_prefix)
                served[id(app)] = site
                try:
                    yield site
                finally:
                    del served[id(app)]
                    tasks.cancel_scope.deadline = anyio.current_time() + shutdown_timeout

                    async def shut_down_late() -> None:
                        # Connections that cannot be cancelled are the app's to end.
                        await anyio.sleep(shutdown_timeout)
                        await lifespan.shutdown()

                    lifespan_tasks.start_soon(shut_down_late)
        finally:
            with anyio.move_on_after(shutdown_timeout, shield=True):
                await lifespan.shutdown()
            lifespan_tasks.cancel_scope.cancel()


class _Lifespan:
    """The server's side of ASGI's lifespan protocol."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app, self._app_reads = anyio.create_memory_object_stream[ASGIEvent](2)
        self._to_app.send_nowait({"type": "lifespan.startup"})
        self._started = anyio.Event()
        self._stopped = anyio.Event()
        self._told_to_stop = False
        self._failure: str | None = None

    async def run(self) -> None:
        scope: ASGIEvent = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        with self._to_app, self._app_reads:
            try:
                await self._app(scope, self._app_reads.receive, self._heard)
            except Exception as error:
                if self._started.is_set():
                    raise
                # Servers take it that the app does not speak lifespan, and go on.
                logger.debug("the app has no lifespan: %r", error)
            finally:
                self._started.set()
                self._stopped.set()

    async def startup(self) -> None:
        with anyio.fail_after(STARTUP_TIMEOUT):
            await self._started.wait()
        if self._failure is not None:
            raise RuntimeError(f"the app did not start: {self._failure}")

    async def shutdown(self) -> None:
        if not self._told_to_stop and not self._stopped.is_set():
            self._told_to_stop = True
            self._to_app.send_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()

    async def _heard(self, event: ASGIEvent) -> None:
        kind = event["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self._failure = event.get("message") or "no reason given"
            self._started.set()
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            self._stopped.set()


# Over the network


class NetworkSite:
    """An app behind a URL.

    Args:
        base_url: of its index page.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url if base_url.endswith("/") else base_url + "/"
        secure = base_url.startswith("https:")
        self._tls = ssl.create_default_context() if secure else None

    def client(self) -> httpx.AsyncClient:
        verify = self._tls if self._tls is not None else False
        return httpx.AsyncClient(verify=verify, timeout=HTTP_TIMEOUT, trust_env=False)

    async def connect(self, url: str, headers: Headers) -> Socket:
        uri = parse_uri(url)
        try:
            stream: anyio.abc.ByteStream
            if uri.secure:
                stream = await anyio.connect_tcp(
                    uri.host, uri.port, tls=True, ssl_context=self._tls
                )
            else:
                stream = await anyio.connect_tcp(uri.host, uri.port)
        except OSError as error:
            raise Rejected(None, str(error)) from error
        protocol = ClientProtocol(
            uri, extensions=enable_client_permessage_deflate(None), max_size=None
        )
        socket = NetworkSocket(stream, protocol)
        try:
            await socket.handshake(headers)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return socket


class NetworkSocket:
    """The browser's end of a WebSocket over a byte stream."""

    def __init__(self, stream: anyio.abc.ByteStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._events: deque[Event] = deque()
        self._fragments: list[bytes] = []
        self._writing = anyio.Lock()
        self._aborted = False

    async def handshake(self, headers: Headers) -> None:
        request = self._protocol.connect()
        for name, _ in headers:
            with suppress(KeyError):
                del request.headers[name]
        for name, value in headers:
            request.headers[name] = value
        self._protocol.send_request(request)
        await self._flush()
        event = await self._next_event()
        problem = self._protocol.handshake_exc
        if problem is not None or event is None:
            status = event.status_code if isinstance(event, Response) else None
            raise Rejected(status, str(problem))

    async def send(self, text: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())
            await self._flush()

    async def receive(self) -> str:
        while True:
            frame = await self._next_event()
            if frame is None:
                raise self._closed()
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.CLOSE:
                await self._stream.aclose()
                raise self._closed()
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    data = b"".join(self._fragments)
                    self._fragments.clear()
                    return data.decode()

    async def close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            await self._flush()

    async def abort(self) -> None:
        self._aborted = True
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket, None)
        if raw is not None:  # a reset, not an orderly end of the stream
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):  # it may have ended already
                raw.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
        await anyio.aclose_forcefully(self._stream)

    def _closed(self) -> SocketClosed:
        heard = self._protocol.close_rcvd
        if self._aborted or heard is None:
            return SocketClosed(1006)
        return SocketClosed(heard.code, heard.reason)

    async def _next_event(self) -> Event | None:
        """The next thing the server said; ``None`` at the end of the stream."""
        while not self._events:
            if self._aborted or self._protocol.state is State.CLOSED:
                return None
            try:
                self._protocol.receive_data(await self._stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._protocol.receive_eof()
            await self._flush()  # pongs, and the echo of a close frame
            self._events.extend(self._protocol.events_received())
        return self._events.popleft()

    async def _flush(self) -> None:
        async with self._writing:
            for data in self._protocol.data_to_send():
                try:
                    if data:
                        await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return  # the reader sees the end
