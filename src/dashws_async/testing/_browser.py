"""A browser: one SharedWorker with one WebSocket, and the tabs that share it.

Knows: what Dash's worker (``dash-ws-worker.js``) does with frames, and which task
does what. `open_browser` owns every task: one reads and one writes per socket, one
per HTTP request. What a page makes of a message is decided in `PageState`, without
waiting.
Refuses to know: the shape of callbacks (`_graph`), sockets and ASGI (`_wire`).
"""

from __future__ import annotations

import re
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import orjson
from dash import Dash

from ._layout import ComponentId, component_key, parse_id, prop_key
from ._page import PageError, PageState, Request, Url
from ._wire import (
    CLOSE_TIMEOUT,
    HTTP_TIMEOUT,
    ASGIApp,
    NetworkSite,
    Rejected,
    Site,
    Socket,
    SocketClosed,
    serve_in_memory,
)

__all__ = ["SAME_ORIGIN", "Browser", "Page", "open_browser"]

SAME_ORIGIN = "same-origin"
DEFAULT_TIMEOUT = 5.0
"""Seconds that the waiting methods wait unless told otherwise."""

_CONFIG = re.compile(r'<script id="_dash-config"[^>]*>(.*?)</script>', re.DOTALL)


@asynccontextmanager
async def open_browser(
    app: Dash | ASGIApp | str,
    *,
    origin: str | None = SAME_ORIGIN,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    answer_get_props: bool = True,
    heartbeat: float | None = None,
    heartbeat_timeout: float = 10.0,
    history_limit: int = 1000,
    frames_limit: int = 1000,
    shutdown_timeout: float = 5.0,
) -> AsyncIterator[Browser]:
    """A browser without a browser, for tests of Dash apps.

    ```python
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("start-btn")
        await page.wait_for("countdown-display", "children", "Done!")
    ```

    Args:
        app: a `dash.Dash` app or an ASGI app, which then runs in this process and
            event loop (asyncio or trio), without sockets or threads, its lifespan
            around the browser; or the URL of an app that is served somewhere.
            Several browsers may visit one app: the first one's context must then
            be the outermost.
        origin: ``Origin`` of the WebSocket handshake. By default that of the page;
            ``None`` sends none.
        headers: sent with every HTTP request and with the WebSocket handshake.
        cookies: the browser has from the start. Those that the app sets are kept
            and sent too.
        answer_get_props: ``False``: the pages never answer ``get_prop``.
        heartbeat: seconds between two heartbeats; ``None`` sends none. (Dash's
            worker: 30 s.)
        heartbeat_timeout: seconds until an unanswered heartbeat closes the socket
            with 4000, as the worker does.
        history_limit: values and errors kept per property and page; older ones go.
        frames_limit: received frames kept in `Browser.frames`; older ones go.
        shutdown_timeout: seconds that an app in this process has to end what the
            browser left behind, before it is cancelled.

    Raises:
        TypeError: ``app`` is none of the above.
        RuntimeError: the app did not start.
    """
    failure: BaseException
    try:
        async with (
            _visit(app, shutdown_timeout) as site,
            site.client() as client,
            anyio.create_task_group() as tasks,
        ):
            client.headers["User-Agent"] = "dashws-async testing"
            client.headers.update(headers or {})
            client.cookies.update(dict(cookies or {}))
            browser = Browser(
                site,
                client,
                tasks,
                origin=origin,
                answer_get_props=answer_get_props,
                heartbeat=heartbeat,
                heartbeat_timeout=heartbeat_timeout,
                history_limit=history_limit,
                frames_limit=frames_limit,
            )
            try:
                yield browser
            finally:
                browser._pages.clear()
                with anyio.CancelScope(shield=True):
                    await browser.close()
                tasks.cancel_scope.cancel()
        return
    except BaseExceptionGroup as group:
        # The test's own failure, not the groups it was wrapped in on its way.
        failure = group
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            failure = failure.exceptions[0]
    raise failure


@asynccontextmanager
async def _visit(app: Dash | ASGIApp | str, shutdown_timeout: float) -> AsyncIterator[Site]:
    if isinstance(app, str):
        yield NetworkSite(app)
        return
    if isinstance(app, Dash):
        if app.server is None:
            raise RuntimeError("this Dash app has no server yet: call app.init_app(server) first")
        asgi_app: ASGIApp = app.server
        prefixes = app.config.requests_pathname_prefix, app.config.routes_pathname_prefix
    elif callable(app):
        asgi_app = app
        prefixes = "/", "/"
    else:
        raise TypeError(f"open_browser takes a Dash app, an ASGI app or a URL, not {app!r}")
    async with serve_in_memory(
        asgi_app,
        public_prefix=prefixes[0],
        app_prefix=prefixes[1],
        shutdown_timeout=shutdown_timeout,
    ) as site:
        yield site


class Browser:
    """One browser: made by `open_browser`.

    Attributes:
        frames: the raw text frames received, oldest first; bounded.
        frames_received: how many frames came, forgotten ones included.
        bytes_received: of those frames, in UTF-8.
        updates_received: ``set_props`` messages that came, for whichever tab.
        messages_received: messages of every type; a frame may carry several.
        unroutable: messages for a tab that is not open.
        heartbeats_sent, heartbeats_acked: of this browser's heartbeats.
        close_code: of the last socket, once it has ended; 1006 where there was no
            close frame, or no handshake.
        close_reason: that came with it.
        handshake_status: HTTP status of a refused WebSocket handshake.
    """

    def __init__(
        self,
        site: Site,
        client: httpx.AsyncClient,
        tasks: anyio.abc.TaskGroup,
        *,
        origin: str | None,
        answer_get_props: bool,
        heartbeat: float | None,
        heartbeat_timeout: float,
        history_limit: int,
        frames_limit: int,
    ) -> None:
        self.frames: deque[str] = deque(maxlen=frames_limit)
        self.frames_received = 0
        self.bytes_received = 0
        self.updates_received = 0
        self.messages_received = 0
        self.unroutable = 0
        self.heartbeats_sent = 0
        self.heartbeats_acked = 0
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.handshake_status: int | None = None
        self.answer_get_props = answer_get_props
        self._site = site
        self._client = client
        self._tasks = tasks
        self._origin = origin
        self._heartbeat = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self._history_limit = history_limit
        self._url: str | None = None
        self._connection: _Connection | None = None
        self._connecting = anyio.Lock()
        self._connect_wanted = False
        self._pages: dict[str, Page] = {}
        self._unsent: dict[str, str] = {}
        self._was_disconnected = False

    @property
    def pages(self) -> list[Page]:
        """The open tabs."""
        return list(self._pages.values())

    @property
    def connected(self) -> bool:
        """Is the WebSocket open?"""
        return self._connection is not None

    async def open_page(self, path: str = "/") -> Page:
        """Load a page in a new tab.

        Fetches the index, the layout and the callbacks, opens the WebSocket if the
        app has one and it is not open yet (a refused one leaves the page without,
        see `close_code`), and fires the initial and the persistent callbacks.

        Args:
            path: of the page, below the app's prefix; may have a query and a hash.

        Raises:
            RuntimeError: the server did not answer with a Dash page.
        """
        address = urljoin(self._site.base_url, path.lstrip("/"))
        index = await self._get(address)
        found = _CONFIG.search(index.text)
        if found is None:
            raise RuntimeError(f"{address} is not a Dash page: {index.text[:200]!r}")
        config = orjson.loads(found[1])
        base = urljoin(address, config["requests_pathname_prefix"])
        layout = await self._get(urljoin(base, "_dash-layout"))
        dependencies = await self._get(urljoin(base, "_dash-dependencies"))
        state = PageState(
            str(uuid.uuid4()),
            config,
            layout.json(),
            dependencies.json(),
            history_limit=self._history_limit,
        )
        page = Page(self, state, base)
        self._pages[page.renderer_id] = page
        if state.websocket is not None:
            self._url = urljoin(base, state.websocket["url"])
            await self._connect()
        state.load(_window_location(address))
        page._turn()
        return page

    async def send_text(self, text: str) -> None:
        """Send a raw text frame.

        Raises:
            RuntimeError: the WebSocket is not open.
        """
        if self._connection is None:
            raise RuntimeError("the WebSocket is not open")
        self._connection.post(text)
        await anyio.lowlevel.checkpoint()

    def pause_reading(self) -> None:
        """Take nothing from the socket until `resume_reading`: a slow client."""
        if self._connection is not None:
            self._connection.pause()

    def resume_reading(self) -> None:
        """Take from the socket again."""
        if self._connection is not None:
            self._connection.resume()

    async def wait_closed(self, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Wait until the WebSocket has ended; returns the close code.

        Raises:
            TimeoutError: it is still open after ``timeout`` seconds.
        """
        connection = self._connection
        if connection is not None:
            with anyio.move_on_after(timeout):
                await connection.ended.wait()
            if not connection.ended.is_set():
                raise TimeoutError(f"the WebSocket is still open after {timeout} s")
        if self.close_code is None:
            raise RuntimeError("there was no WebSocket")
        return self.close_code

    async def close(self, code: int = 1000, reason: str = "Client disconnect") -> None:
        """Close the WebSocket politely, with a close frame. The tabs stay."""
        connection = self._connection
        if connection is None:
            return
        connection.resume()
        connection.post_close(code, reason)
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await connection.ended.wait()
        await self.drop()  # for a server that does not answer the close frame

    async def drop(self) -> None:
        """End the WebSocket abruptly, as a lost network does (code 1006).

        What was pending is resolved as ``prevent_update``. A callback that had waited
        for one of those may fire then, and so bring a new socket at once: as in the
        page.
        """
        connection = self._connection
        if connection is None:
            return
        connection.resume()
        await connection.socket.abort()
        await connection.ended.wait()

    async def reconnect(self) -> None:
        """Open a new WebSocket, as the worker does after one was lost.

        An open one is dropped first. Callbacks without output and input (persistent
        ones) are sent again; everything else that was pending has already been
        resolved as ``prevent_update``. A refused handshake raises nothing: see
        `connected`, `close_code` and `handshake_status`.

        Raises:
            RuntimeError: no page with a WebSocket was opened before.
        """
        if self._url is None:
            raise RuntimeError("no page with a WebSocket was opened: nothing to reconnect")
        await self.drop()
        await self._connect()

    # The worker

    async def _get(self, url: str) -> httpx.Response:
        with anyio.fail_after(HTTP_TIMEOUT):
            response = await self._client.get(url, follow_redirects=True)
        if response.status_code != 200:
            raise RuntimeError(f"{url} answered {response.status_code}: {response.text[:200]!r}")
        return response

    async def _connect(self) -> None:
        assert self._url is not None
        async with self._connecting:
            self._connect_wanted = False
            if self._connection is not None:
                return
            # As for any request to this host: cookies, the user's headers, Host.
            request = self._client.build_request("GET", self._url)
            headers = [
                (name, value)
                for name, value in request.headers.items()
                if name not in ("accept", "accept-encoding", "connection")
            ]
            if self._origin is not None:
                parts = urlsplit(self._url)
                same = f"{parts.scheme}://{parts.netloc}"
                headers.append(("origin", same if self._origin == SAME_ORIGIN else self._origin))
            self.close_code = self.close_reason = self.handshake_status = None
            try:
                with anyio.fail_after(DEFAULT_TIMEOUT):
                    socket = await self._site.connect(re.sub("^http", "ws", self._url), headers)
            except (Rejected, TimeoutError) as refused:
                self.handshake_status = getattr(refused, "status", None)
                self._disconnected(1006, "")
                return
            self._connection = connection = _Connection(socket)
            self._tasks.start_soon(self._serve, connection)
            if self._was_disconnected:
                for page in self.pages:
                    page._reconnected(set(self._unsent))
            unsent, self._unsent = self._unsent, {}
            for text in unsent.values():
                connection.post(text)

    async def _serve(self, connection: _Connection) -> None:
        """Everything that happens on one socket, until it ends."""
        closed = SocketClosed(1006)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.write)
                if self._heartbeat is not None:
                    tasks.start_soon(self._beat, connection, self._heartbeat)
                try:
                    while True:
                        frame = await connection.socket.receive()
                        if not connection.reading.is_set():
                            await connection.reading.wait()
                        self._deliver(frame)
                except SocketClosed as end:
                    closed = end
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await connection.socket.abort()  # does nothing to an ended one
            self._connection = None
            self._disconnected(closed.code, closed.reason)
            connection.ended.set()

    async def _beat(self, connection: _Connection, interval: float) -> None:
        while True:
            await anyio.sleep(interval)
            connection.acked = anyio.Event()
            self.heartbeats_sent += 1
            connection.post('{"type":"heartbeat"}')
            with anyio.move_on_after(self._heartbeat_timeout):
                await connection.acked.wait()
            if not connection.acked.is_set():
                connection.post_close(4000, "Heartbeat timeout")

    def _disconnected(self, code: int, reason: str) -> None:
        self.close_code = code
        self.close_reason = reason
        self._was_disconnected = True
        for page in self.pages:
            page._disconnected(set(self._unsent))

    def _post(self, request_id: str, text: str) -> None:
        """Send a callback request now, or over the next socket (which it asks for)."""
        if self._connection is not None:
            self._connection.post(text)
            return
        self._unsent[request_id] = text
        if not self._connect_wanted:
            self._connect_wanted = True
            self._tasks.start_soon(self._connect)

    def _deliver(self, text: str) -> None:
        """One frame. Of an array, the worker delivers every ``set_props`` first, tab by
        tab, and then the rest."""
        self.frames.append(text)
        self.frames_received += 1
        self.bytes_received += len(text) if text.isascii() else len(text.encode())
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            for page in self.pages:
                page._failed(PageError("Failed to parse message"))
            return
        messages: list[dict[str, Any]] = content if isinstance(content, list) else [content]
        self.messages_received += len(messages)
        updates: dict[str, list[dict[str, Any]]] = {}
        others = []
        for message in messages:
            kind = message.get("type")
            if kind == "set_props":
                updates.setdefault(message["rendererId"], []).append(message)
                self.updates_received += 1
            elif kind == "heartbeat_ack":
                self.heartbeats_acked += 1
                if self._connection is not None:
                    self._connection.acked.set()
            else:
                others.append(message)
        touched: dict[Page, None] = {}
        for message in (*(m for batch in updates.values() for m in batch), *others):
            tab = self._pages.get(message.get("rendererId", ""))
            if tab is None:
                self.unroutable += 1
                continue
            tab._receive(message)
            touched[tab] = None
        for tab in touched:
            tab._turn()


class _Connection:
    """One socket and what is about to be written to it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.ended = anyio.Event()
        self.reading = anyio.Event()
        self.reading.set()
        self.acked = anyio.Event()
        # As in a browser, sending never waits, and a close frame leaves after what
        # was sent before it.
        self._posted, self._outgoing = anyio.create_memory_object_stream[
            Callable[[], Awaitable[None]]
        ](float("inf"))

    def post(self, text: str) -> None:
        """Send a text frame; a socket that is ending drops it."""
        self._queue(partial(self.socket.send, text))

    def post_close(self, code: int, reason: str) -> None:
        self._queue(partial(self.socket.close, code, reason))

    def _queue(self, send: Callable[[], Awaitable[None]]) -> None:
        with suppress(anyio.ClosedResourceError):
            self._posted.send_nowait(send)

    async def write(self) -> None:
        with self._posted, self._outgoing:
            async for send in self._outgoing:
                await send()

    def pause(self) -> None:
        self.reading = anyio.Event()

    def resume(self) -> None:
        self.reading.set()


class Page:
    """One tab: opened by `Browser.open_page`.

    Ids are plain strings or dicts. Values are what the page holds: do not change
    them in place.

    Attributes:
        renderer_id: what tells this tab from the others, on the wire.
    """

    def __init__(self, browser: Browser, state: PageState, base_url: str) -> None:
        self.renderer_id = state.renderer_id
        self._browser = browser
        self._state = state
        self._base_url = base_url
        self._changed = anyio.Event()
        self._calls: dict[str, _Call] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Page {self.renderer_id} at {self._base_url}>"

    # What is in the page

    def get(self, component_id: ComponentId, prop: str) -> Any:
        """The current value of a property; ``None`` where it has none.

        Raises:
            LookupError: the component is not in the page.
        """
        return self._state.layout[component_id]["props"].get(prop)

    def __contains__(self, component_id: ComponentId) -> bool:
        """Is there a component with this id in the page now?"""
        return component_id in self._state.layout

    def history(self, component_id: ComponentId, prop: str) -> list[Any]:
        """Every value the property was given since the page was loaded, in order.

        The value that the layout came with is not among them. The last
        ``history_limit`` ones are kept.
        """
        return self._state.history(component_id, prop)

    @property
    def errors(self) -> list[PageError]:
        """What went wrong, in order: answers with status ``error``, ``error`` messages,
        and what the page itself could not do. ``str()`` of one is its message."""
        return list(self._state.errors)

    @property
    def running(self) -> list[str]:
        """Ids of the requests that have no answer yet, persistent ones included."""
        return [*self._state.running, *self._calls]

    @property
    def config(self) -> Mapping[str, Any]:
        """The ``_dash-config`` of the page."""
        return self._state.config

    # What a user does

    async def set_props(self, component_id: ComponentId, /, **props: Any) -> None:
        """Edit a component as a user would; fires the callbacks that watch it.

        Properties that already have the value fire nothing, as in the page.

        Raises:
            LookupError: the component is not in the page.
            RuntimeError: the tab is closed.
        """
        self._check_open()
        self._state.edit(component_id, props)
        self._turn()
        await anyio.lowlevel.checkpoint()

    async def click(self, component_id: ComponentId) -> None:
        """Click: one more ``n_clicks``.

        Raises:
            LookupError: the component is not in the page.
            RuntimeError: it is disabled: a browser would not deliver the click.
        """
        if self.get(component_id, "disabled"):
            raise RuntimeError(f"{component_key(component_id)!r} is disabled: it cannot be clicked")
        await self.set_props(component_id, n_clicks=(self.get(component_id, "n_clicks") or 0) + 1)

    async def navigate(self, path: str) -> None:
        """Follow a ``dcc.Link``: another address, without loading the page again.

        Args:
            path: below the app's prefix; may have a query and a hash.
        """
        self._check_open()
        self._state.navigate(_window_location(urljoin(self._base_url, path.lstrip("/"))))
        self._turn()
        await anyio.lowlevel.checkpoint()

    # What a test waits for

    async def wait_for(
        self,
        component_id: ComponentId,
        prop: str,
        expected: Any,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """Wait until a property has, or since this call had for a moment, a value.

        Args:
            expected: the value, or a predicate of it.
            timeout: in seconds.

        Returns:
            The value that matched.

        Raises:
            TimeoutError: it did not; the message tells the last values.
        """
        matches: Callable[[Any], Any] = (
            expected if callable(expected) else lambda value: bool(value == expected)
        )
        state = self._state
        component = state.layout.find(component_id)
        if component is not None and matches(component["props"].get(prop)):
            return component["props"].get(prop)
        seen = state.values_seen(component_id, prop)
        with anyio.move_on_after(timeout):
            while True:
                await self._changed.wait()
                new = state.values_seen(component_id, prop) - seen
                seen += new
                taken = state.history(component_id, prop)[-new:] if new else []
                for value in taken:
                    if matches(value):
                        return value
                component = state.layout.find(component_id)
                if not new and component is not None and matches(component["props"].get(prop)):
                    return component["props"].get(prop)  # a new component came with it
        where = prop_key(component_id, prop)
        wanted = "the predicate" if callable(expected) else repr(expected)
        raise TimeoutError(
            f"{where} was not {wanted} within {timeout} s; {self._last_values(component_id, prop)}"
            f"{self._errors_so_far()}"
        )

    async def wait_idle(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until no request is pending, persistent callbacks apart.

        Raises:
            TimeoutError: some still are; the message names their outputs.
        """
        with anyio.move_on_after(timeout):
            while not self._state.idle or self._calls:
                await self._changed.wait()
            return
        pending = [r.spec.output for r in self._state.running.values() if not r.persistent]
        raise TimeoutError(f"still pending after {timeout} s: {pending}{self._errors_so_far()}")

    async def wait_for_error(self, timeout: float = DEFAULT_TIMEOUT) -> PageError:
        """Wait for the first error of the page, and return it.

        Raises:
            TimeoutError: there was none.
        """
        with anyio.move_on_after(timeout):
            while not self._state.errors:
                await self._changed.wait()
            return self._state.errors[0]
        raise TimeoutError(f"no error within {timeout} s")

    # Below the page

    async def call(
        self,
        output: str = "",
        inputs: Iterable[Mapping[str, Any]] = (),
        *,
        outputs: Any = None,
        state: Iterable[Mapping[str, Any]] | None = None,
        changed: Iterable[str] | None = None,
        payload: Any = None,
        request_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> dict[str, Any]:
        """Send one raw ``callback_request`` and return the payload of its answer.

        Nothing of the answer reaches the page. Of a streamed answer (Dash 4.5) the
        last frame is returned.

        Args:
            output: the callback's ``output``, as on the wire.
            inputs: ``{"id", "property", "value"}`` each.
            outputs: by default derived from ``output``.
            state: as ``inputs``.
            changed: ``id.property`` of the triggers; by default the first input.
            payload: the whole payload, in place of all the above; any JSON value.
            request_id: by default the next one of this tab.
            timeout: in seconds.

        Returns:
            ``{"status": ...}``; ``prevent_update`` where the socket was lost, as the
            worker says.

        Raises:
            TimeoutError: no answer.
            RuntimeError: the tab is closed, or the WebSocket is not open.
        """
        self._check_open()
        if payload is None:
            payload = _raw_payload(output, list(inputs), outputs, state, changed)
        call = _Call()
        request_id = request_id or self._state.next_request_id()
        self._calls[request_id] = call
        try:
            await self._browser.send_text(self._request_text(request_id, payload))
            with anyio.move_on_after(timeout):
                await call.done.wait()
        finally:
            del self._calls[request_id]
            self._tell_waiters()
        if call.answer is None:
            raise TimeoutError(f"no answer to {request_id} ({output!r}) within {timeout} s")
        return call.answer

    async def close(self) -> None:
        """Close the tab. Nothing tells the server: the worker reports no such thing."""
        self._closed = True
        self._browser._pages.pop(self.renderer_id, None)
        await anyio.lowlevel.checkpoint()

    # What the browser tells the tab

    def _receive(self, message: Mapping[str, Any]) -> None:
        kind = message.get("type")
        payload = message.get("payload") or {}
        if kind == "set_props":
            self._state.set_props(payload)
        elif kind == "callback_response":
            call = self._calls.get(message["requestId"])
            if call is not None:
                call.take(payload)
            self._state.answer(message["requestId"], payload)
        elif kind == "get_props_request":
            self._answer_get_props(message["requestId"], payload)
        elif kind == "error":
            code = payload.get("code")
            text = payload.get("message") or "Unknown error"
            self._failed(PageError(text, code=None if code is None else str(code)))
        else:
            self._failed(PageError(f"Unknown message type from server: {kind}"))

    def _answer_get_props(self, request_id: str, payload: Mapping[str, Any]) -> None:
        connection = self._browser._connection
        if connection is None or not self._browser.answer_get_props:
            return
        connection.post(
            _dumps(
                {
                    "type": "get_props_response",
                    "rendererId": self.renderer_id,
                    "requestId": request_id,
                    "payload": self._state.get_props(payload),
                }
            )
        )

    def _disconnected(self, unsent: set[str]) -> None:
        self._state.disconnected(unsent)
        for call in self._calls.values():
            call.take({"status": "prevent_update"})
        self._turn()

    def _reconnected(self, unsent: set[str]) -> None:
        self._state.reconnected(unsent)
        self._turn()

    def _failed(self, error: PageError) -> None:
        self._state.errors.append(error)
        self._tell_waiters()

    def _turn(self) -> None:
        """Send what the page has to send now, and wake who waits for a change."""
        for request in self._state.turn():
            if request.over_websocket:
                self._browser._post(request.id, self._request_text(request.id, request.payload))
            else:
                self._browser._tasks.start_soon(self._send_by_http, request)
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _request_text(self, request_id: str, payload: Any) -> str:
        return _dumps(
            {
                "type": "callback_request",
                "rendererId": self.renderer_id,
                "requestId": request_id,
                "payload": payload,
            }
        )

    async def _send_by_http(self, request: Request) -> None:
        client = self._browser._client
        headers = {"Content-Type": "application/json"}
        token = client.cookies.get(self.config.get("csrf_token_name") or "_csrf_token")
        if token:
            headers[self.config.get("csrf_header_name") or "X-CSRFToken"] = token
        end_id = self.config.get("end_id")
        try:
            with anyio.fail_after(HTTP_TIMEOUT):
                response = await client.post(
                    urljoin(self._base_url, "_dash-update-component"),
                    content=_dumps(request.payload),
                    headers=headers,
                    params={"endId": end_id} if end_id else None,
                )
        except (httpx.TransportError, TimeoutError):
            message = "Callback failed: the server did not respond."
            answer: dict[str, Any] = {"status": "error", "message": message}
        else:
            answer = _http_answer(response)
        if not self._closed:
            self._state.answer(request.id, answer)
            self._turn()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this tab is closed: open another with browser.open_page()")

    def _last_values(self, component_id: ComponentId, prop: str) -> str:
        if component_id not in self._state.layout:
            return "the component is not in the page"
        taken = self.history(component_id, prop)[-5:]
        if taken:
            return "the last values it took: " + ", ".join(map(repr, taken))
        return f"it is {self.get(component_id, prop)!r} since the page was loaded"

    def _errors_so_far(self) -> str:
        errors = [str(error) for error in self._state.errors]
        return f"; errors of the page: {errors}" if errors else ""


class _Call:
    """One raw request of `Page.call`."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.answer: dict[str, Any] | None = None

    def take(self, answer: dict[str, Any]) -> None:
        partial = answer.get("status") == "stream" or answer.get("stream")
        if partial and not answer.get("done"):
            return
        self.answer = answer
        self.done.set()


def _raw_payload(
    output: str,
    inputs: list[Mapping[str, Any]],
    outputs: Any,
    state: Iterable[Mapping[str, Any]] | None,
    changed: Iterable[str] | None,
) -> dict[str, Any]:
    if outputs is None and "." in output:
        many = output.startswith("..")
        parts = [part.rpartition(".") for part in (output[2:-2].split("...") if many else [output])]
        listed = [{"id": parse_id(part[0]), "property": part[2]} for part in parts]
        outputs = listed if many else listed[0]
    if changed is None:
        changed = [prop_key(item["id"], item["property"]) for item in inputs[:1]]
    changed = list(changed)
    payload = {
        "output": output,
        "outputs": outputs,
        "inputs": inputs,
        "changedPropIds": changed,
        "parsedChangedPropsIds": changed,
    }
    if state is not None:
        payload["state"] = list(state)
    return payload


def _http_answer(response: httpx.Response) -> dict[str, Any]:
    """An HTTP response in the words of the WebSocket's ``callback_response``."""
    if response.status_code == 200:
        return {"status": "ok", "data": response.json()}
    if response.status_code == 204:
        return {"status": "prevent_update"}
    return {"status": "error", "message": response.text or f"HTTP {response.status_code}"}


def _window_location(address: str) -> Url:
    parts = urlsplit(address)
    return Url(
        href=address,
        pathname=parts.path or "/",
        search=f"?{parts.query}" if parts.query else "",
        hash=f"#{parts.fragment}" if parts.fragment else "",
    )


def _dumps(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
