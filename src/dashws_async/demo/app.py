"""All apps of the gallery on one server."""

from __future__ import annotations

from dash import Dash
from quart import Quart

from dashws_async.demo import landing
from dashws_async.demo.examples import (
    ag_grid,
    countdown,
    game_of_life,
    live_feed,
    live_price,
    log_stream,
    this_process,
)
from dashws_async.demo.gallery import Gallery

__all__ = ["EXAMPLES", "create_app"]

EXAMPLES = (live_price, countdown, game_of_life, ag_grid, log_stream, live_feed, this_process)


def create_app(loop: str = "asyncio") -> Dash:
    """The front page's app; its `server` carries the examples too.

    `loop` is `"asyncio"` or `"trio"`: the kind of server object decides on which
    of the two everything runs.
    """
    gallery = Gallery(_server(loop), loop, [example.ABOUT for example in EXAMPLES])
    for example in EXAMPLES:
        example.create(gallery)
    return landing.create(gallery)


def _server(loop: str) -> Quart:
    if loop == "asyncio":
        return Quart(__name__)
    if loop == "trio":
        from quart_trio import QuartTrio

        return QuartTrio(__name__)
    raise ValueError(f"loop={loop!r}: there is 'asyncio' and there is 'trio'")
