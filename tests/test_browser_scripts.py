"""The scripts for the browser, without one: what pages are told, and what is served where."""

import inspect
import re

import pytest
from dash import Dash, Input, Output, html

from apps import make_app, make_server
from dashws_async import WebSocketRuntime, browser
from dashws_async.dash_bridge import DashApp

pytestmark = pytest.mark.anyio

PAGE_SCRIPT = r'<script src="([^"]*/_dashws-async/page\.\w+\.js)"></script>'
IMMUTABLE = {"public", "max-age=31536000", "immutable"}


async def get(app, path, **kwargs):
    """A response, and its text."""
    response = await app.server.test_client().get(path, **kwargs)
    return response, await response.get_data(as_text=True)


def scripts(index):
    """The URLs that a page's HTML names: of our script in it, and of its worker."""
    worker = re.search(r'"worker_url":"([^"]*)"', index)[1].replace("\\u002f", "/")
    return re.findall(PAGE_SCRIPT, index), worker


@pytest.mark.parametrize(
    ("prefixes", "public", "routes"),
    [
        ({}, "/", "/"),
        ({"url_base_pathname": "/app/"}, "/app/", "/app/"),
        (
            {"requests_pathname_prefix": "/proxy/app/", "routes_pathname_prefix": "/app/"},
            "/proxy/app/",
            "/app/",
        ),
        ({"requests_pathname_prefix": "/proxy/", "routes_pathname_prefix": "/"}, "/proxy/", "/"),
    ],
)
async def test_pages_name_the_public_paths_and_the_server_serves_its_own(
    anyio_backend, prefixes, public, routes
):
    app = make_app(anyio_backend, "out", **prefixes)
    _, index = await get(app, routes)
    (page,), worker = scripts(index)
    for url in (page, worker):
        assert url.startswith(f"{public}_dashws-async/")
        response, _ = await get(app, url.replace(public, routes, 1))
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert set(response.headers["Cache-Control"].split(", ")) == IMMUTABLE


async def test_prefixes_that_init_app_brings_are_heeded(anyio_backend):
    app = Dash(__name__, server=False, websocket_callbacks=True, plugins=[WebSocketRuntime()])
    app.layout = html.Div()
    app.init_app(
        make_server(anyio_backend),
        requests_pathname_prefix="/proxy/late/",
        routes_pathname_prefix="/late/",
    )
    _, index = await get(app, "/late/")
    (page,), worker = scripts(index)
    for url in (page, worker):
        assert url.startswith("/proxy/late/_dashws-async/")
        response, _ = await get(app, url.removeprefix("/proxy"))
        assert response.mimetype == "text/javascript"


async def test_an_app_that_moves_to_another_server_names_its_script_once(anyio_backend):
    app = make_app(anyio_backend, "out")
    app.init_app(
        make_server(anyio_backend, "other"),
        requests_pathname_prefix="/proxy/",
        routes_pathname_prefix="/",
    )
    _, index = await get(app, "/")
    (page,), worker = scripts(index)
    assert page.startswith("/proxy/")
    assert worker.startswith("/proxy/")


async def test_our_worker_loads_dashs_which_dash_serves(anyio_backend):
    app = make_app(anyio_backend, "out")
    _, index = await get(app, "/")
    _, text = await get(app, scripts(index)[1])
    dashs = re.match(r'const DASH_WORKER = "([^"]*)";\n', text)[1]
    assert dashs == DashApp(app).dash_worker_url
    response, text = await get(app, dashs)
    assert response.status_code == 200
    assert "onconnect" in text


async def test_the_workers_url_changes_with_dashs_worker(anyio_backend, monkeypatch):
    app = make_app(anyio_backend, "out")
    _, index = await get(app, "/")
    monkeypatch.setattr(Dash, "_get_worker_url", lambda app, *_: '/elsewhere/"worker".js')
    _, changed = await get(app, "/")
    assert scripts(changed)[1] != scripts(index)[1]
    _, text = await get(app, scripts(changed)[1])
    assert text.startswith(r'const DASH_WORKER = "/elsewhere/\"worker\".js";')


def test_a_scripts_path_changes_with_its_text():
    script = browser.page_script()
    changed = script._replace(text=script.text + "\n")
    assert script.path != changed.path
    assert re.fullmatch(r"_dashws-async/page\.[0-9a-f]{16}\.js", script.path)


async def test_other_workers_of_dash_stay_dashs(anyio_backend):
    app = make_app(anyio_backend, "out")
    if not inspect.signature(Dash._get_worker_url).parameters.keys() - {"self"}:
        pytest.skip("this Dash has one worker")
    assert "/dash-stream-worker." in app._get_worker_url(
        "dash-renderer/build/dash-stream-worker.js"
    )


@pytest.mark.parametrize("kind", ["page", "worker"])
async def test_a_page_of_another_version_gets_todays_script_and_does_not_keep_it(
    anyio_backend, kind
):
    app = make_app(anyio_backend, "out")
    response, text = await get(app, f"/_dashws-async/{kind}.0123456789abcdef.js")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-cache"
    assert "dashws_gone" in text


async def test_the_script_comes_before_the_renderer_and_the_users_scripts(anyio_backend):
    users = ["https://example.com/theirs.js"]
    apps = [make_app(anyio_backend, "out", external_scripts=users) for _ in range(2)]
    assert users == ["https://example.com/theirs.js"]
    for app in apps:
        _, index = await get(app, "/")
        places = [index.index(each) for each in ("/page.", "theirs.js", "dash_renderer")]
        assert places == sorted(places)
        assert len(scripts(index)[0]) == 1


async def test_a_page_without_websocket_callbacks_has_no_worker(anyio_backend):
    app = make_app(anyio_backend, "go", "out", websocket_callbacks=False)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"))
    def plain(clicks):
        return clicks

    _, index = await get(app, "/")
    assert "_dashws-async/worker" not in index.replace("\\u002f", "/")
    assert "dash-ws-worker" not in index
