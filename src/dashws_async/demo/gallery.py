"""The frame that every page of the gallery shares, and the one server below them all.

Each example is a Dash app of its own, mounted under its own path of one Quart
server: a persistent callback starts with every page of its app, so an example
that shared one app with the others would run on all of their pages too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from dash import Dash, ctx, html, set_props

from dashws_async import WebSocketRuntime
from dashws_async.demo.code import highlight, source_of
from dashws_async.demo.numbers import Meter, Reading

__all__ = ["About", "Gallery", "Listing", "figures"]


@dataclass(frozen=True, slots=True)
class About:
    """What the frame has to know of an example."""

    slug: str  #: the path it is mounted under, and the name of its glyph in the style sheet
    title: str
    lead: str  #: the one sentence under the title
    shows: tuple[str, ...]  #: the parts of the API that it uses

    @property
    def path(self) -> str:
        return f"/{self.slug}/" if self.slug else "/"


@dataclass(frozen=True, slots=True)
class Listing:
    """One code panel: a caption and the source below it."""

    caption: str
    source: str

    @classmethod
    def of(cls, function: Callable[..., Any], caption: str = "The callback that runs") -> Listing:
        return cls(caption, source_of(function))


class Gallery:
    """One Quart server, the apps on it, and the numbers of the process that runs them."""

    def __init__(self, server: Any, loop: str, examples: Sequence[About]) -> None:
        self.server = server
        self.loop = loop
        self.examples = examples
        self._runtimes: list[WebSocketRuntime] = []
        self.meter = Meter(self._runtimes)

    def app(self, about: About) -> Dash:
        """A Dash app under the path of `about`: one runtime, and the numbers in its side bar."""
        runtime = WebSocketRuntime()
        self._runtimes.append(runtime)
        app = Dash(
            "dashws_async.demo",  # where assets/ is
            server=self.server,
            url_base_pathname=about.path,
            websocket_callbacks=True,
            plugins=[runtime],
            title=f"{about.title} · dashws-async",
            update_title="",
            index_string=_INDEX,
        )
        self._stream_numbers(app)
        return app

    def page(self, about: About, live: Any, code: Iterable[Listing]) -> html.Div:
        """The layout of an example: what it is, the live thing, and the code behind it."""
        return self.frame(
            about,
            html.Header(
                [
                    html.Ul([html.Li(each) for each in about.shows], className="tags"),
                    html.H1(about.title),
                    html.P(about.lead, className="lead"),
                ],
                className="page-head",
            ),
            html.Div(
                [
                    html.Section(live, className="panel live"),
                    html.Section(
                        [
                            html.Figure([html.Figcaption(each.caption), highlight(each.source)])
                            for each in code
                        ],
                        className="panel listing",
                    ),
                ],
                className="split",
            ),
        )

    def frame(self, about: About, *content: Any) -> html.Div:
        """Any page of the gallery: the side bar, and `content` beside it."""
        return html.Div(
            [
                html.Aside(
                    [
                        html.A([html.Span(className="mark"), "dashws-async"], href="/"),
                        html.Nav([_link(each, here=each is about) for each in self.examples]),
                        html.Section(
                            [
                                html.H2(["This process", html.Span(self.loop)]),
                                html.Dl(figures(None), id="gallery-numbers"),
                            ],
                            className="numbers",
                        ),
                    ],
                    className="side",
                ),
                html.Main(content, className=f"page page-{about.slug or 'home'}"),
            ],
            className="frame",
        )

    def _stream_numbers(self, app: Dash) -> None:
        async def stream_numbers() -> None:
            ws = ctx.websocket
            before = self.meter.read()
            while not ws.is_shutdown:
                set_props(
                    "gallery-numbers", {"children": figures(now := self.meter.read(), before)}
                )
                before = now
                await anyio.sleep(1)

        _register_persistent(app, stream_numbers)


def _register_persistent(app: Dash, function: Callable[..., Any]) -> None:
    """`app.callback(persistent=True)(function)`, with an id that is its own.

    Dash names a callback without inputs and outputs after the first line on the
    stack whose file does not start with the path of the `dash` package. Installed
    beside it, `site-packages/dashws_async` does start so, and every persistent
    callback of an app would get the same name: the name of the line that called us.
    """
    register = compile("app.callback(persistent=True)(function)", f"<{function.__name__}>", "eval")
    eval(register, {"app": app, "function": function})


def figures(now: Reading | None, before: Reading | None = None) -> list[Any]:
    """The four numbers as terms and values of a `<dl>`."""
    rate = now.updates_per_second_since(before) if now and before else None
    terms = {
        "connections": now and now.connections,
        "callbacks running": now and now.callbacks,
        "updates per second": rate and round(rate),
        "threads": now and now.threads,
    }
    return [
        html.Div([html.Dt(term), html.Dd("\N{EN DASH}" if value is None else f"{value:,}")])
        for term, value in terms.items()
    ]


def _link(about: About, *, here: bool) -> html.A:
    current: dict[str, Any] = {"aria-current": "page", "className": "here"} if here else {}
    glyph = html.Span(className=f"glyph glyph-{about.slug}")
    return html.A([glyph, about.title], href=about.path, **current)


_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <meta name="color-scheme" content="light dark">
        <title>{%title%}</title>
        {%favicon%}
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>"""
