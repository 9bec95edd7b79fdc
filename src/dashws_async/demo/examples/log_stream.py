"""Log stream: a long job tells how far it is, line by line."""

from __future__ import annotations

import random
import time

import anyio
from dash import Dash, Input, Output, Patch, html, set_props

from dashws_async.demo.gallery import About, Gallery, Listing

ABOUT = About(
    slug="log-stream",
    title="Log stream",
    lead="A long job reports while it works: "
    "each line is a Patch that appends, the bar is a style that grows.",
    shows=("set_props", "Patch", "running"),
)

STEPS = [
    "checkout: main at 4f1c9e2",
    "install: resolving 41 packages",
    "install: 41 packages in 1.8 s",
    "lint: 96 files, nothing to say",
    "types: 96 files, no issues",
    "test: collecting",
    *[f"test: batch {batch} of 12 passed" for batch in range(1, 13)],
    "test: 1,184 passed in 6.2 s",
    "build: wheel, 212 kB",
    "build: image layers 1 to 7",
    "push: registry has 5 of 7 layers",
    "push: 2 layers sent",
    "release: old version drains",
    "release: new version answers",
]


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)

    @app.callback(
        Output("state", "children"),
        Input("deploy", "n_clicks"),
        running=[(Output("deploy", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    async def deploy(_clicks: int) -> str:
        set_props("log", {"children": []})
        started = time.monotonic()
        for number, text in enumerate(STEPS, start=1):
            await anyio.sleep(random.uniform(0.05, 0.6))  # the work
            seconds, done = time.monotonic() - started, number / len(STEPS)
            lines = Patch()
            lines.append(log_line(seconds, text))
            set_props("log", {"children": lines})
            set_props("bar", {"style": {"width": f"{done:.0%}"}})
            set_props("state", {"children": f"{done:.0%}"})
        return f"Released in {seconds:.1f} s"

    live = [
        html.Div(
            [
                html.Button("Deploy", id="deploy", className="primary"),
                html.Span("Nothing runs yet", id="state", className="state"),
            ],
            className="controls",
        ),
        html.Div(html.Div(id="bar"), className="progress"),
        html.Div(html.Div([], id="log"), className="log"),
        html.P("A simulated release: nothing is built, nothing is harmed.", className="note"),
    ]
    app.layout = gallery.page(ABOUT, live, [Listing.of(deploy)])
    return app


def log_line(seconds: float, text: str) -> html.Div:
    return html.Div([html.Time(f"{seconds:.2f}"), text])
