"""Live feed: the page keeps the history, the server sends what is new; the page chooses of what."""

from __future__ import annotations

import random
import time

import anyio
from dash import Dash, Patch, ctx, dcc, html, set_props

from dashws_async.demo.charts import STILL, line
from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="live-feed",
    title="Live feed",
    lead="The server asks the page which symbol it shows, and sends only what is new: "
    "chart and table grow by Patch.",
    shows=("persistent", "get_prop", "Patch"),
)

OPENING = {"ACME": 182.4, "BOLT": 47.2, "CIRRUS": 311.0}
POINTS, TRADES = 120, 7


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)

    @app.callback(persistent=True)
    async def stream_feed() -> None:
        ws = ctx.websocket
        prices, shown, sent = dict(OPENING), "", 0
        while not ws.is_shutdown:
            for symbol in prices:
                prices[symbol] *= 1 + random.gauss(0, 0.001)

            selected = await ws.get_prop("symbol", "value")
            if selected != shown:  # begin again
                shown, sent = selected, 0
                set_props("chart", {"figure": line([])})
                set_props("trades", {"children": []})

            chart, trades = Patch(), Patch()
            chart["data"][0]["y"].append(prices[shown])
            trades.prepend(trade(prices[shown]))
            sent += 1
            if sent > POINTS:
                del chart["data"][0]["y"][0]
            if sent > TRADES:
                del trades[TRADES]
            set_props("chart", {"figure": chart})
            set_props("trades", {"children": trades})
            await anyio.sleep(0.25)

    live = [
        html.Div(
            html.Label(
                [
                    "Symbol",
                    dcc.Dropdown(
                        [*OPENING], "ACME", id="symbol", clearable=False, searchable=False
                    ),
                ]
            ),
            className="controls",
        ),
        dcc.Graph(id="chart", figure=line([]), config=STILL, style={"height": 200}),
        html.Table(
            [
                html.Thead(html.Tr([html.Th("Time"), html.Th("Price"), html.Th("Size")])),
                html.Tbody([], id="trades"),
            ],
            className="trades",
        ),
        html.P("Simulated trades.", className="note"),
    ]
    app.layout = gallery.page(ABOUT, live, [Listing.of(stream_feed)])
    return app


def trade(price: float) -> html.Tr:
    cells = (time.strftime("%H:%M:%S"), f"${price:,.2f}", f"{random.randrange(1, 40) * 25:,}")
    return html.Tr([html.Td(cell) for cell in cells])
