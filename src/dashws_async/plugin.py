"""`WebSocketRuntime`: the line that users add to their app, and its knobs."""

from __future__ import annotations

from collections.abc import Callable

import dash

from .backends.quart import QuartBackend
from .dash_bridge import DashApp
from .registry import ConnectionInfo, Peer, Statistics
from .runtime import Runtime
from .settings import Identify, Mode, Settings


class WebSocketRuntime:
    """Run a Dash app's WebSocket callbacks as tasks of the event loop.

    ```python
    from dash import Dash
    from dashws_async import WebSocketRuntime

    app = Dash(__name__, backend="quart", websocket_callbacks=True,
               plugins=[WebSocketRuntime()])
    ```

    Works with ``backend="quart"``, ``server=Quart(...)``, ``server=QuartTrio(...)``
    (then everything runs on trio) and ``Dash(server=False)`` with a later
    ``app.init_app(quart_app)``. One runtime serves one app.

    Args:
        mode: where callbacks run. ``"async"`` (default): all on the event loop, no
            worker threads; a slow plain function can go to one with `offload`.
            ``"hybrid"``: every plain ``def`` in a worker thread. ``"threads"``: every
            callback in a worker thread, the guide's thread-pool model.
        cleanup_timeout: seconds that a callback gets to clean up once its page has gone
            or its connection has ended, before it is cancelled (again). Default 10.
        send_timeout: seconds that a client may take nothing of what is sent to it before
            it is closed (1013). Where the system does not say what was taken: seconds for
            one frame (256 KiB, or a longer single message). Default 20.
        silence_timeout: seconds without a word from a client, after which it counts as
            gone and its connection is closed (4000). Default: two and a half of the
            browser's heartbeats, 75 s unless ``Dash(websocket_heartbeat_interval=...)``
            is above 30 s.
        tab_timeout: seconds without a word from one of several tabs of a browser, after
            which it counts as gone. Only for pages that were loaded before the server had
            this runtime; others tell when they go. They are asked after half the time.
            Default 60.
        drain_rate: connections that are closed per second when the server stops, so
            that not all browsers come back at once. Default 500.
        max_outbox_bytes: bytes that may wait for one client; one that lets more
            gather is closed (1013). Default 16 MiB.
        max_message_bytes: bytes that one message of a client may have. The requests of all
            callbacks that run for one connection may have four times as many. Default 16 MiB.
        compression: whether a client that offers permessage-deflate, as browsers do, gets
            it. It saves bandwidth and costs memory for each connection. For Hypercorn;
            other servers have a switch of their own. Default False.
        max_messages_per_second: messages that are taken from one connection, one second's
            worth of them at once; what comes faster waits on the client's side. A large message
            counts as one for each 16 KiB, at most as a second's worth. Default 1000.
        max_bad_messages: messages of one connection that may be refused at once, and as
            many per minute, because they are not understood or ask for what is not there;
            with more it is closed (1008). Default 100.
        max_callbacks: callbacks that may run at once for one connection, the tabs of a
            browser together; a request past that gets an error. Default 1000.
        max_reads: answers to ``get_prop`` that may be awaited at once from one connection;
            a call past that raises ``RuntimeError``. Default 1000.
        max_connections: WebSockets that this app takes at once in this process. A handshake
            past that gets HTTP 503; browsers try again after a while. Default 20,000.
        hook_timeout: seconds that a ``dash.hooks.websocket_connect`` or
            ``websocket_message`` hook, or ``identify``, may take; then the connection is
            closed (1013). Default 10.
        identify: tells who a connection belongs to. It is called with the framework's
            WebSocket (the handshake's headers, cookies and session) once the connect hooks
            have let the connection in; plain or async. What it returns stands in
            `ConnectionInfo.identity` and is what `close` can choose by. If it raises, the
            connection is closed (4001). Default: nobody asks.
        max_workers: worker threads that this app may have at once. Default: in
            ``mode="threads"`` ``min(32, cpu_count + 4)``, otherwise
            ``Dash(websocket_max_workers=...)``.
        blocked_after: seconds that the event loop may not turn before the log names the
            code that holds it up. None: nobody looks. Default 0.2.
        tune_gc: whether Python's garbage collector looks at young objects more rarely while the
            server serves, which is for the whole process. At Python's own setting what pages
            need for a second passes for lasting, and the collector stops the event loop every
            few seconds to look at everything. Default True.

    Raises:
        ValueError: a knob's value is not allowed.
        TypeError: a knob's value is of the wrong type.
    """

    def __init__(
        self,
        *,
        mode: Mode = "async",
        cleanup_timeout: float = 10.0,
        send_timeout: float = 20.0,
        silence_timeout: float | None = None,
        tab_timeout: float = 60.0,
        drain_rate: float = 500.0,
        max_outbox_bytes: int = 16 * 1024 * 1024,
        max_message_bytes: int = 16 * 1024 * 1024,
        compression: bool = False,
        max_messages_per_second: float = 1000.0,
        max_bad_messages: int = 100,
        max_callbacks: int = 1000,
        max_reads: int = 1000,
        max_connections: int = 20_000,
        hook_timeout: float = 10.0,
        identify: Identify | None = None,
        max_workers: int | None = None,
        blocked_after: float | None = 0.2,
        tune_gc: bool = True,
    ) -> None:
        self._runtime = Runtime(
            Settings(
                mode=mode,
                cleanup_timeout=cleanup_timeout,
                send_timeout=send_timeout,
                silence_timeout=silence_timeout,
                tab_timeout=tab_timeout,
                drain_rate=drain_rate,
                max_outbox_bytes=max_outbox_bytes,
                max_message_bytes=max_message_bytes,
                compression=compression,
                max_messages_per_second=max_messages_per_second,
                max_bad_messages=max_bad_messages,
                max_callbacks=max_callbacks,
                max_reads=max_reads,
                max_connections=max_connections,
                hook_timeout=hook_timeout,
                identify=identify,
                max_workers=max_workers,
                blocked_after=blocked_after,
                tune_gc=tune_gc,
            )
        )
        self._app: dash.Dash | None = None

    def plug(self, app: dash.Dash) -> None:
        """Called by Dash before it makes the app's routes.

        Raises:
            RuntimeError: this runtime serves another app already.
        """
        if self._app is not None:
            raise RuntimeError(
                "this WebSocketRuntime serves another Dash app already: "
                "give each app its own, plugins=[WebSocketRuntime()]"
            )
        self._app = app
        dash_app = DashApp(app)
        self._runtime.plug(dash_app)
        app.backend = QuartBackend(app.server, dash_app, self._runtime)

    def close(
        self,
        where: Callable[[Peer], object],
        code: int = 4001,
        reason: str = "Session ended",
    ) -> int:
        """End the connections of a user, or whichever you choose: a session was revoked, say.

        ```python
        runtime.close(where=lambda peer: peer.identity == "ann")
        ```

        From any thread, from a callback, from a view; it does not wait for the callbacks,
        which end as they do whenever a connection ends. A callback that closes its own
        connection so is no exception. Handshakes that come afterwards are the business of
        a connect hook.

        Args:
            where: asked about each open connection, in the calling thread, and about each
                that is just being let in, on the event loop, once its identity is known.
                Those for which it says true are ended.
            code: what the browser is told. It stays away after 1000 and 4001, and comes
                back after any other code; see `WebSocketHandle.close` for what is allowed.
            reason: the same in words, at most 123 bytes of UTF-8; the page's console shows it.

        Returns:
            How many connections are ended, without those that were just being let in.

        Raises:
            Exception: what ``where`` raises; no connection is ended then. Raised about one
                that is just being let in, it is logged, and that one is closed.
            ValueError: a code or reason that may not be sent.
            TypeError: a code or reason of the wrong type.
        """
        return self._runtime.close(where, code, reason)

    def statistics(self) -> Statistics:
        """What the app's WebSockets do at this moment, and have done since the start.

        Cheap, and from any thread.
        """
        return self._runtime.statistics()

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The app's WebSockets, their tabs and running callbacks, each as of this moment.

        From any thread. It costs some microseconds for each callback: for a page that
        an operator looks at, not for a gauge that is read all the time.
        """
        return self._runtime.connections
