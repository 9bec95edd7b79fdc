"""This process: the gallery watches itself."""

from __future__ import annotations

from collections import deque

import anyio
from dash import Dash, ctx, dcc, html, set_props

from dashws_async.demo.charts import STILL, area
from dashws_async.demo.gallery import About, Gallery, Listing, figures

ABOUT = About(
    slug="this-process",
    title="This process",
    lead="All pages of the gallery, and everybody who looks at them, in one process: "
    "open a few more and watch what grows and what does not.",
    shows=("persistent", "runtime.statistics()"),
)


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)
    meter = gallery.meter

    @app.callback(persistent=True)
    async def watch() -> None:
        ws = ctx.websocket
        rates: deque[float] = deque(maxlen=60)
        callbacks: deque[int] = deque(maxlen=60)
        before = meter.read()
        while not ws.is_shutdown:
            await anyio.sleep(1)
            now = meter.read()  # sums runtime.statistics() of each app
            rates.append(now.updates_per_second_since(before))
            callbacks.append(now.callbacks)
            set_props("numbers", {"children": figures(now, before)})
            set_props("rates", {"figure": area(rates)})
            set_props("callbacks", {"figure": area(callbacks)})
            before = now

    live = [
        html.Dl(figures(None), id="numbers", className="figures"),
        html.H3("Updates per second"),
        dcc.Graph(id="rates", figure=area([]), config=STILL, style={"height": 150}),
        html.H3("Callbacks running"),
        dcc.Graph(id="callbacks", figure=area([]), config=STILL, style={"height": 150}),
        html.P(
            "Tabs of one browser on the same page share one connection; "
            "each has its own callbacks, one of them for the numbers in the side bar.",
            className="note",
        ),
    ]
    app.layout = gallery.page(ABOUT, live, [Listing.of(watch)])
    return app
