"""`WebSocketRuntime`: the line that users add to their app, and its knobs."""

from __future__ import annotations

import dash

from .backends.quart import QuartBackend
from .dash_bridge import DashApp
from .registry import ConnectionInfo, Statistics
from .runtime import Runtime
from .settings import Mode, Settings


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
        send_timeout: seconds that a client may take nothing before it is closed
            (1013). Default 20.
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
        max_threads: worker threads of this app. Default: in ``mode="threads"``
            ``min(32, cpu_count + 4)``, otherwise ``Dash(websocket_max_workers=...)``.

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
        max_threads: int | None = None,
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
                max_threads=max_threads,
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
        app.backend = QuartBackend(app.server, DashApp(app), self._runtime)

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
