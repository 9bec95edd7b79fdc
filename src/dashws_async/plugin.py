"""`WebSocketRuntime`: the line that users add to their app, and its knobs."""

from __future__ import annotations

import dash

from .backends.quart import QuartBackend
from .dash_bridge import DashApp
from .runtime import Runtime, RuntimeStats
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
        cleanup_timeout: seconds that a callback gets to clean up once its connection
            has ended, before it is cancelled (again). Default 10.
        send_timeout: seconds that a client may take nothing before it is closed
            (1013). Default 20.
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
        max_outbox_bytes: int = 16 * 1024 * 1024,
        max_threads: int | None = None,
    ) -> None:
        self._runtime = Runtime(
            Settings(
                mode=mode,
                cleanup_timeout=cleanup_timeout,
                send_timeout=send_timeout,
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

    def stats(self) -> RuntimeStats:
        """What the app's WebSockets do at this moment, and have done since the start."""
        return self._runtime.stats()
