"""Apps with the runtime work under Dash's own test fixture, which runs them in a thread."""

import anyio
import pytest
from dash import Dash, Input, Output, ctx, html, set_props
from dash.testing.composite import DashComposite
from quart import Quart
from quart_trio import QuartTrio

from dashws_async import WebSocketRuntime
from ports import free_port


def _app(server: type[Quart]) -> Dash:
    app = Dash(
        __name__,
        server=server(__name__),
        websocket_callbacks=True,
        plugins=[WebSocketRuntime()],
    )
    app.layout = html.Div(
        [html.Button("Go", id="go"), html.Div("Ready", id="out"), html.Div(id="ticks")]
    )

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def go(n_clicks: int) -> str:
        set_props("out", {"children": "Working..."})
        clicks = await ctx.websocket.get_prop("go", "n_clicks")
        await anyio.sleep(0.5)
        return f"Done after {clicks} click"

    @app.callback(persistent=True)
    async def tick() -> None:
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("ticks", {"children": f"Tick {(number := number + 1)}"})
            await anyio.sleep(0.1)

    return app


@pytest.mark.parametrize("server", [Quart, QuartTrio])
def test_dash_duo_starts_drives_and_stops_an_app(
    dash_duo: DashComposite, server: type[Quart]
) -> None:
    dash_duo.start_server(_app(server), port=free_port())
    dash_duo.wait_for_contains_text("#ticks", "Tick", timeout=10)
    dash_duo.find_element("#go").click()
    dash_duo.wait_for_text_to_equal("#out", "Working...", timeout=10)
    dash_duo.wait_for_text_to_equal("#out", "Done after 1 click", timeout=10)
    assert dash_duo.get_logs() == []

    thread = dash_duo.server.thread
    dash_duo.server.stop()
    assert not thread.is_alive(), "the server goes on after stop(), with a page connected"
