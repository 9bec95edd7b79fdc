"""The HTTP side: no threads, assets, and a page that opens no WebSocket for nothing."""

import threading

import dash
import pytest
from dash import Dash, Input, Output, dcc, html

from apps import make_app, make_server
from dashws_async import WebSocketRuntime
from dashws_async.testing import open_browser

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_new_thread(monkeypatch):
    """Fails the test if anything starts a thread, but for the watchdog."""
    started = []
    start = threading.Thread.start

    def watched(thread):
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", watched)
    yield
    assert set(started) <= {"dashws-async watchdog"}


@pytest.mark.usefixtures("no_new_thread")
async def test_dashs_own_views_hooks_and_assets_take_no_thread(anyio_backend, tmp_path):
    (tmp_path / "style.css").write_text("body {}")
    app = make_app(
        anyio_backend, "go", "out", websocket_callbacks=False, assets_folder=str(tmp_path)
    )

    @app.callback(Output("out", "children"), Input("go", "n_clicks"))
    def plain(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 1)
    client = app.server.test_client()
    for path in ["/", "/_dash-layout", "/_dash-dependencies", "/_reload-hash", "/_favicon.ico"]:
        response = await client.get(path)
        assert response.status_code == 200, path
    assert (await client.get("/assets/style.css")).status_code == 200


async def test_assets_have_etags_types_and_ranges_and_no_way_out(anyio_backend, tmp_path):
    folder = tmp_path / "assets"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "deep" / "style.css").write_text("body { color: red }")
    app = make_app(anyio_backend, "out", assets_folder=str(folder))
    client = app.server.test_client()

    found = await client.get("/assets/deep/style.css")
    assert found.mimetype == "text/css"
    assert await found.get_data(as_text=True) == "body { color: red }"
    again = await client.get(
        "/assets/deep/style.css", headers={"If-None-Match": found.headers["ETag"]}
    )
    assert again.status_code == 304
    part = await client.get("/assets/deep/style.css", headers={"Range": "bytes=0-3"})
    assert (part.status_code, await part.get_data(as_text=True)) == (206, "body")
    for path in ["/assets/none.css", "/assets/../secret", "/assets/%2e%2e/secret", "/assets/deep"]:
        response = await client.get(path)
        body = await response.get_data(as_text=True)
        assert "secret" not in body
        assert response.status_code == 404 or "_dash-config" in body, path


async def test_the_page_links_its_assets(anyio_backend, tmp_path):
    (tmp_path / "style.css").write_text("body {}")
    app = make_app(anyio_backend, "out", assets_folder=str(tmp_path))
    index = await (await app.server.test_client().get("/")).get_data(as_text=True)
    assert "/assets/style.css?m=" in index


@pytest.mark.usefixtures("own_pages")
async def test_redirects_of_pages(anyio_backend):
    app = Dash(
        __name__,
        server=make_server(anyio_backend),
        use_pages=True,
        pages_folder="",
        plugins=[WebSocketRuntime()],
    )
    dash.register_page("new", path="/new", redirect_from=["/old"], layout=html.Div("x"))
    app.layout = html.Div([dash.page_container])
    app.backend.add_redirect_rule(app, "/older", "/new")
    response = await app.server.test_client().get("/older")
    assert (response.status_code, response.headers["Location"]) == (301, "/new")


@pytest.mark.parametrize(
    ("option", "callback_option", "expected"),
    [(False, {}, False), (False, {"websocket": True}, True), (True, {}, True)],
)
async def test_only_a_page_with_websocket_callbacks_opens_a_websocket(
    anyio_backend, option, callback_option, expected
):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime, websocket_callbacks=option)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), **callback_option)
    def answer(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 1)
        assert ("websocket" in page.config) is expected
    assert runtime.statistics().connections_total == int(expected)


async def test_an_async_http_callback_runs_on_the_servers_loop(anyio_backend):
    import anyio

    from dashws_async.loops import backend_name

    app = make_app(anyio_backend, "go", "out", websocket_callbacks=False)
    app.layout.children.append(dcc.Store(id="store"))

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(_):
        await anyio.sleep(0)
        return backend_name()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", anyio_backend)
