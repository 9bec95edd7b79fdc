"""Small Dash apps for tests, on the loop that the test runs on."""

from typing import Any

import anyio
from dash import Dash, ctx, html, set_props
from quart import Quart
from quart_trio import QuartTrio

from dashws_async import WebSocketRuntime
from dashws_async.testing import Page


def make_server(loop: str, name: str = "tests") -> Quart:
    """The server class that runs on a loop."""
    return (QuartTrio if loop == "trio" else Quart)(name)


def make_app(loop: str, *ids: str, runtime: WebSocketRuntime | None = None, **options: Any) -> Dash:
    """An app whose layout is a Div per id, with the runtime plugged in."""
    options = {"websocket_callbacks": True, "server": make_server(loop), **options}
    app = Dash(
        __name__,
        plugins=[runtime or WebSocketRuntime()],
        **options,
    )
    app.layout = html.Div([html.Div(id=name) for name in ids])
    return app


def add_neighbour(app: Dash) -> None:
    """A persistent callback that counts in ``live`` for as long as its connection lives."""

    @app.callback(persistent=True)
    async def live() -> None:
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": number})
            number += 1
            await anyio.sleep(0.001)


async def neighbour_goes_on(page: Page) -> None:
    """Wait for it to count on."""
    reached = page.get("live", "children") or 0
    await page.wait_for("live", "children", lambda number: (number or 0) > reached)
