"""What a page says, and how often it tries again, when the server does not want it."""

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from browser.conftest import OpenPage
from guide.extract import Loop
from serving import Server, server_class
from until import until

APP = """
    import logging
    import anyio
    import dash
    from dash import Dash, ctx, html, set_props
    from {package} import {server}
    from dashws_async import WebSocketRuntime

    logging.basicConfig(level=logging.INFO)
    runtime = WebSocketRuntime({knobs})
    app = Dash(__name__, server={server}(__name__), websocket_callbacks=True, plugins=[runtime])
    app.layout = html.Div("nothing yet", id="live")

    @app.callback(persistent=True)
    async def live():
        number = 0
        while not ctx.websocket.is_shutdown:
            set_props("live", {{"children": f"value {{number}}"}})
            number += 1
            await anyio.sleep(0.1)

    @app.server.get("/close")
    async def close():
        return str(runtime.close(lambda peer: True, reason="Signed out elsewhere"))
"""

HOST_IS_LOST = """
    class Proxy:  # does not say which host the browser asked for
        def __init__(self, app):
            self.app = app
        async def __call__(self, scope, receive, send):
            if scope["type"] == "websocket":
                headers = [header for header in scope["headers"] if header[0] != b"host"]
                scope = {**scope, "headers": [*headers, (b"host", b"127.0.0.1:1")]}
            await self.app(scope, receive, send)

    app.server.asgi_app = Proxy(app.server.asgi_app)
"""

HOOK = """
    @dash.hooks.websocket_connect()
    async def decide(websocket):
        return {verdict}
"""

ServeApp = Callable[..., Server]


@pytest.fixture
def serve_app(loop: Loop, tmp_path: Path) -> Iterator[ServeApp]:
    """Serve the app above with something more in it."""
    servers: list[Server] = []

    def serve_app(more: str = "", knobs: str = "") -> Server:
        package, name = server_class(loop)
        source = textwrap.dedent(APP.format(package=package, server=name, knobs=knobs))
        servers.append(Server(source + textwrap.dedent(more), loop, tmp_path, "hypercorn"))
        servers[0].start()
        return servers[0]

    yield serve_app
    for server in servers:
        server.stop()


def accepted(server: Server) -> int:
    """How many WebSockets were opened."""
    return server.log.count("asked for /_dash-ws-callback: 101")


def refused(server: Server, why: str) -> int:
    """How many were not, as the runtime's log says."""
    return len(re.findall(f"Refused a WebSocket: .*{why}", server.log))


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ("False", "Connection rejected"),
        ("(4001, 'sign in')", "sign in"),
        ("(4003, 'banned')", "banned"),
        ("(1008, 'not you')", "not you"),
    ],
)
def test_a_page_that_the_connect_hook_rejects_says_why_and_stays_away(
    serve_app: ServeApp, open_page: OpenPage, verdict: str, reason: str
) -> None:
    server = serve_app(HOOK.format(verdict=verdict))
    page = open_page(server, "#live")
    until(lambda: reason in page.lost, "the page is told")
    # One that comes back does so at once, and is let in before it is closed again.
    before = accepted(server)
    assert page.rests("#live", seconds=4) == "nothing yet"
    assert page.lost[-1] == reason
    assert accepted(server) <= before + 1  # a machine may be slow


def test_a_page_of_another_origin_tries_again_ever_more_slowly(
    serve_app: ServeApp, open_page: OpenPage
) -> None:
    server = serve_app(HOST_IS_LOST)
    page = open_page(server, "#live")
    until(lambda: len(page.lost) == 3, "it has tried three times", 15)
    assert set(page.lost) == {"Connection closed"}
    assert accepted(server) == 0
    assert refused(server, "is not this host, '127.0.0.1:1'") >= 3
    # Once for everybody to see, and then at level INFO.
    assert server.log.count("WARNING:dashws_async:Refused a WebSocket") == 1


def test_a_page_that_finds_the_server_full_comes_in_when_there_is_room(
    serve_app: ServeApp, open_page: OpenPage
) -> None:
    server = serve_app(knobs="max_connections=1")
    with connect(server.url.replace("http", "ws") + "/_dash-ws-callback", origin=server.url):
        page = open_page(server, "#live")
        until(lambda: page.lost, "the page is told")
        assert refused(server, "all the connections it takes")
    page.wait("#live", lambda seen: len(seen) > 3, timeout=20)


def test_a_page_whose_session_is_revoked_says_why_and_stays_away(
    serve_app: ServeApp, open_page: OpenPage
) -> None:
    server = serve_app()
    first, second = open_page(server, "#live"), open_page(server, "#live")
    for page in (first, second):
        page.wait("#live", lambda seen: len(seen) > 3)
    assert first.run("return (await fetch('/close')).text()") == "1"
    for page in (first, second):
        until(lambda page=page: page.lost, "the page is told")
        assert page.lost == ["Signed out elsewhere"]
    assert first.rests("#live", seconds=3)
    assert accepted(server) == 1
