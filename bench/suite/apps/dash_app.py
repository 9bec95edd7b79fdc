"""The app that every contender but the floor serves: one callback per scenario, Dash's API only.

``serve.py`` runs it. A page shows nothing but values: what is measured is the way there.
"""

import asyncio
import time

from dash import Dash, Input, Output, ctx, html, set_props
from data import Ticks, heatmap, stamp


def create(interval, *, sleep=asyncio.sleep, **options):
    """The app.

    Args:
        interval: seconds between the updates of each live dashboard.
        sleep: the loop's.
        options: of `Dash`.
    """
    app = Dash("bench", websocket_callbacks=True, **options)
    names = ["live", "n", "echo", "plain", "stream", "burst", "figures", "read", "text", "alive"]
    app.layout = html.Div([html.Div(id=name) for name in [*names, "flood"]])
    alive = 0
    start = {"inputs": Input("n", "title"), "prevent_initial_call": True}

    @app.callback(persistent=True)
    async def live():
        nonlocal alive
        alive += 1
        set_props("live", {"children": stamp()})
        ticks = Ticks(interval)
        try:
            while not ctx.websocket.is_shutdown:
                await sleep(ticks.until_next())
                set_props("live", {"children": stamp(ticks.due)})
        finally:
            alive -= 1

    @app.callback(Output("alive", "title"), **start)
    async def how_many_are_alive(_):
        return alive

    @app.callback(Output("echo", "title"), **start)
    async def echo(value):
        return value

    @app.callback(Output("plain", "title"), **start)
    def plain_echo(value):
        return value

    @app.callback(Output("stream", "title"), **start)
    async def stream(value):
        cadence, count = value
        for _ in range(count):
            set_props("live", {"children": stamp()})
            await sleep(cadence)
        return "done"

    @app.callback(Output("burst", "title"), **start)
    async def burst(count):
        for _ in range(count):
            set_props("live", {"children": stamp()})
            await sleep(0)
        return "done"

    @app.callback(Output("figures", "title"), **start)
    async def figures(count):
        for _ in range(count):
            set_props("live", {"figure": heatmap()})
            await sleep(0)
        return "done"

    @app.callback(Output("read", "title"), **start)
    async def read(count):
        taken = []
        for _ in range(count):
            begun = time.monotonic_ns()
            await ctx.websocket.get_prop("text", "title")
            taken.append(time.monotonic_ns() - begun)
        return taken

    @app.callback(Output("flood", "title"), **start)
    async def flood(value):
        size, cadence, count = value
        text = "x" * size
        for _ in range(count):
            set_props("live", {"children": text})
            await sleep(cadence)
        return "done"

    return app
