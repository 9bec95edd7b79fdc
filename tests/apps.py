"""Small Dash apps for tests, on the loop that the test runs on."""

from typing import Any

from dash import Dash, html
from quart import Quart
from quart_trio import QuartTrio

from dashws_async import WebSocketRuntime


def make_server(loop: str, name: str = "tests") -> Quart:
    """The server class that runs on a loop."""
    return (QuartTrio if loop == "trio" else Quart)(name)


def make_app(loop: str, *ids: str, runtime: WebSocketRuntime | None = None, **options: Any) -> Dash:
    """An app whose layout is a Div per id, with the runtime plugged in."""
    options = {"websocket_callbacks": True, **options}
    app = Dash(
        __name__,
        server=make_server(loop),
        plugins=[runtime or WebSocketRuntime()],
        **options,
    )
    app.layout = html.Div([html.Div(id=name) for name in ids])
    return app
