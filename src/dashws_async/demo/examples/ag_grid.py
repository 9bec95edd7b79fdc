"""AG Grid: rows that change in place, a few times a second, for as long as they are looked at."""

from __future__ import annotations

import json
import random
from typing import Any

import anyio
import dash_ag_grid as dag  # type: ignore[import-untyped]
from dash import Dash, Input, Output, ctx, dcc, html, set_props

from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="ag-grid",
    title="AG Grid",
    lead="A table of prices, updated row by row in place: sort it while it moves.",
    shows=("persistent", "get_prop", "dash_ag_grid"),
)

OPENING = {
    "ACME": 182.40, "BOLT": 47.15, "CIRRUS": 311.02, "DELTA": 96.88, "EMBER": 12.34,
    "FJORD": 221.70, "GALE": 64.05, "HELIX": 150.33, "IRIS": 88.90, "JUNO": 407.61,
}  # fmt: skip

SIGN = {"function": "params.value >= 0 ? {color: 'var(--up)'} : {color: 'var(--down)'}"}
COLUMNS: list[dict[str, Any]] = [
    {"field": "symbol", "headerName": "Symbol", "cellClass": "symbol"},
    {
        "field": "price",
        "type": "rightAligned",
        "valueFormatter": {"function": "d3.format('$,.2f')(params.value)"},
    },
    {
        "field": "change",
        "type": "rightAligned",
        "headerName": "Today",
        "valueFormatter": {"function": "d3.format('+.2%')(params.value)"},
        "cellStyle": SIGN,
    },
    {
        "field": "volume",
        "type": "rightAligned",
        "valueFormatter": {"function": "d3.format(',')(params.value)"},
    },
]

# AG Grid in the colours of the page, which are CSS variables.
PARAMETERS = {
    "backgroundColor": "transparent",
    "foregroundColor": "var(--ink)",
    "borderColor": "var(--line)",
    "accentColor": "var(--accent)",
    "rowHoverColor": "var(--hover)",
    "headerBackgroundColor": "transparent",
    "headerTextColor": "var(--muted)",
    "headerFontWeight": 500,
    "headerHeight": 42,
    "rowHeight": 39,
    "fontFamily": "inherit",
    "fontSize": 13,
    "cellHorizontalPadding": 8,
    "wrapperBorder": False,
    "valueChangeValueHighlightBackgroundColor": "var(--accent-soft)",
}
THEME = {"function": f"themeQuartz.withParams({json.dumps(PARAMETERS)})"}


def opening_rows() -> list[dict[str, Any]]:
    return [
        {"symbol": symbol, "price": price, "change": 0.0, "volume": 0}
        for symbol, price in OPENING.items()
    ]


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)

    @app.callback(
        Output("streaming", "data"),
        Output("toggle", "children"),
        Input("toggle", "n_clicks"),
        prevent_initial_call=True,
    )
    async def toggle(clicks: int) -> tuple[bool, str]:
        paused = clicks % 2 == 1
        return not paused, "Resume" if paused else "Pause"

    @app.callback(persistent=True)
    async def stream_rows() -> None:
        ws = ctx.websocket
        rows = opening_rows()
        while not ws.is_shutdown:
            if await ws.get_prop("streaming", "data"):
                for row in random.sample(rows, k=3):
                    opening = OPENING[row["symbol"]]
                    row["price"] *= 1 + random.gauss(0, 0.003)
                    row["change"] = row["price"] / opening - 1
                    row["volume"] += random.randrange(10, 900)
                set_props("grid", {"rowData": rows})
            await anyio.sleep(0.5)

    live = [
        html.Div(html.Button("Pause", id="toggle"), className="controls"),
        dag.AgGrid(
            id="grid",
            columnDefs=COLUMNS,
            rowData=opening_rows(),
            getRowId="params.data.symbol",  # the same rows again: change them, do not rebuild
            defaultColDef={"flex": 1, "resizable": False, "enableCellChangeFlash": True},
            dashGridOptions={
                "domLayout": "autoHeight",
                "animateRows": True,
                "cellFlashDuration": 150,
                "cellFadeDuration": 700,
                "theme": THEME,
            },
            className="grid",
            style={"height": "auto", "width": "auto"},
        ),
        dcc.Store(id="streaming", data=True),
        html.P("Simulated prices. Click a heading to sort.", className="note"),
    ]
    app.layout = gallery.page(ABOUT, live, [Listing.of(stream_rows), Listing.of(toggle, "Pause")])
    return app
