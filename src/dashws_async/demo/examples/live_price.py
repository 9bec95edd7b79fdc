"""Live price: what `dcc.Interval` asked for every second, the server now sends."""

from __future__ import annotations

import random
from collections import deque

import anyio
from dash import Dash, ctx, dcc, html, set_props

from dashws_async.demo.charts import STILL, line
from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="live-price",
    title="Live price",
    lead="A page that polled once a second is now told: "
    "no requests, and no backlog when a price takes its time.",
    shows=("persistent", "set_props"),
)

POLLING = """\
dcc.Interval(id="poll", interval=1000)

@callback(Output("price", "children"),
          Input("poll", "n_intervals"))
def update_price(n):
    return f"${latest_price():,.2f}"
"""


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)

    @app.callback(persistent=True)
    async def stream_price() -> None:
        ws = ctx.websocket
        prices = deque([180.0], maxlen=60)
        while not ws.is_shutdown:
            prices.append(prices[-1] + random.gauss(0, 0.4))
            change = prices[-1] - prices[-2]
            set_props("price", {"children": f"${prices[-1]:,.2f}"})
            set_props("change", {"children": signed(change)})
            set_props("trend", {"figure": line(prices)})
            await anyio.sleep(1)

    live = [
        html.Div(
            [html.Span("ACME"), html.Strong("...", id="price"), html.Span(id="change")],
            className="quote",
        ),
        dcc.Graph(id="trend", figure=line([]), config=STILL, style={"height": 220}),
        html.P("A simulated price: a random walk, a new one with every page.", className="note"),
    ]
    app.layout = gallery.page(
        ABOUT,
        live,
        [
            Listing("Before: the browser asks, every second", POLLING),
            Listing.of(stream_price, "After: the server sends. This is what runs"),
        ],
    )
    return app


def signed(change: float) -> html.Span:
    return html.Span(f"{change:+.2f}", className="up" if change >= 0 else "down")
