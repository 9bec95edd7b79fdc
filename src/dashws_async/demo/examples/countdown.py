"""Countdown: one click, many updates, one answer; the button waits for it."""

from __future__ import annotations

import anyio
from dash import Dash, Input, Output, html, set_props

from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="countdown",
    title="Countdown",
    lead="A callback that shows its way to the answer, "
    "with the button disabled for just as long as it runs.",
    shows=("set_props", "running"),
)


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)

    @app.callback(
        Output("left", "children"),
        Input("start", "n_clicks"),
        running=[
            (Output("start", "disabled"), True, False),
            (Output("start", "children"), "Counting", "Once more"),
        ],
        prevent_initial_call=True,
    )
    async def countdown(_clicks: int) -> str:
        for left in range(10, 0, -1):
            set_props("left", {"children": str(left)})
            set_props("ring", {"style": {"--left": left / 10}})
            await anyio.sleep(1)
        set_props("ring", {"style": {"--left": 0}})
        return "Done"

    live = [
        html.Div(html.Span("Ready", id="left"), id="ring", className="ring", style={"--left": 1}),
        html.Button("Start", id="start", className="primary"),
        html.P("Leave the page on the way, and the callback is cancelled.", className="note"),
    ]
    app.layout = gallery.page(ABOUT, live, [Listing.of(countdown)])
    return app
