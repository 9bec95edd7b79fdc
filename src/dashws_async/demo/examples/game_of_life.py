"""Game of Life: a simulation that streams its frames and reads its controls as it goes."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
from dash import Dash, Input, Output, ctx, dcc, html, set_props

from dashws_async.demo.charts import ACCENT, STILL
from dashws_async.demo.code import source_of
from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="game-of-life",
    title="Game of Life",
    lead="Frame after frame from the server; before each, it looks up "
    "on the page whether to go on and how fast.",
    shows=("persistent", "get_prop", "set_props"),
)

ROWS, COLUMNS = 36, 54
Grid = npt.NDArray[np.bool_]


def random_grid() -> Grid:
    return np.random.default_rng().random((ROWS, COLUMNS)) < 0.28


def step(grid: Grid) -> Grid:
    neighbours = sum(
        np.roll(grid, (down, right), (0, 1)).astype(int)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        if (down, right) != (0, 0)
    )
    return (neighbours == 3) | (grid & (neighbours == 2))


def board(grid: Grid) -> dict[str, Any]:
    return {
        "data": [
            {
                "type": "heatmap",
                "z": grid.astype(int).tolist(),
                "zmin": 0,
                "zmax": 1,
                "colorscale": [[0, "rgba(128,140,144,0.08)"], [1, ACCENT]],
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
            }
        ],
        "layout": {
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {"visible": False, "constrain": "domain"},
            "yaxis": {"visible": False, "scaleanchor": "x", "autorange": "reversed"},
        },
    }


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)
    first = random_grid()

    @app.callback(
        Output("alive", "data"),
        Output("start", "disabled"),
        Output("stop", "disabled"),
        Input("start", "n_clicks"),
        Input("stop", "n_clicks"),
        prevent_initial_call=True,
    )
    async def start_or_stop(*_clicks: int | None) -> tuple[bool, ...]:
        alive = ctx.triggered_id == "start"
        return alive, alive, not alive

    @app.callback(persistent=True)
    async def run_game() -> None:
        ws = ctx.websocket
        grid, generation = first, 0
        while not ws.is_shutdown:
            if await ws.get_prop("alive", "data"):
                grid, generation = step(grid), generation + 1
                set_props("board", {"figure": board(grid)})
                set_props("turn", {"children": f"{generation:,}"})
                set_props("cells", {"children": f"{grid.sum():,}"})
            speed = await ws.get_prop("speed", "value")
            await anyio.sleep(1 / speed)

    live = [
        html.Div(
            [
                html.Button("Start", id="start", className="primary"),
                html.Button("Stop", id="stop", disabled=True),
                html.Label(["Speed", dcc.Slider(1, 20, 1, value=10, marks=None, id="speed")]),
            ],
            className="controls",
        ),
        dcc.Graph(id="board", figure=board(first), config=STILL, className="board"),
        html.Dl(
            [
                html.Div([html.Dt("generation"), html.Dd("0", id="turn")]),
                html.Div([html.Dt("living cells"), html.Dd(f"{first.sum():,}", id="cells")]),
            ],
            className="figures",
        ),
        dcc.Store(id="alive", data=False),
    ]
    app.layout = gallery.page(
        ABOUT,
        live,
        [
            Listing.of(run_game),
            Listing(
                "Its controls, and the rules of the game",
                source_of(start_or_stop) + "\n" + source_of(step),
            ),
        ],
    )
    return app
