"""The front page: what this is, the line that makes it so, and a card per example."""

from __future__ import annotations

from dash import Dash, html

from dashws_async.demo.code import highlight
from dashws_async.demo.gallery import About, Gallery

ABOUT = About(slug="", title="Gallery", lead="", shows=())

ONE_LINE = """\
app = Dash(__name__, backend="quart", websocket_callbacks=True,
           plugins=[WebSocketRuntime()])
"""


def create(gallery: Gallery) -> Dash:
    app = gallery.app(ABOUT)
    app.layout = gallery.frame(
        ABOUT,
        html.Header(
            [
                html.H1("Live pages, one event loop"),
                html.P(
                    "Every page here is a small Dash app that the server keeps up to date. "
                    "They all share one process, and each callback that runs is a task "
                    "on its event loop, not a thread.",
                    className="lead",
                ),
                highlight(ONE_LINE),
            ],
            className="page-head hero",
        ),
        html.Div([_card(each) for each in gallery.examples], className="cards"),
    )
    return app


def _card(about: About) -> html.A:
    return html.A(
        [
            html.Span(html.Span(className=f"glyph glyph-{about.slug}"), className="tile"),
            html.H2(about.title),
            html.P(about.lead),
            html.Ul([html.Li(each) for each in about.shows], className="tags"),
        ],
        href=about.path,
        className="panel card",
    )
