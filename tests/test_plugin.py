"""`WebSocketRuntime`: where it works, and what it says where it does not."""

import gc

import dash
import flask
import pytest
from dash import Dash, Input, Output, html
from quart import Quart
from quart_trio import QuartTrio

from apps import make_app
from dashws_async import WebSocketRuntime, dash_bridge
from dashws_async.testing import open_browser


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"mode": "thread"}, ValueError, "mode='thread'.*'async', 'hybrid', 'threads'"),
        ({"cleanup_timeout": 0}, ValueError, "cleanup_timeout=0.*seconds above 0"),
        ({"cleanup_timeout": "10"}, TypeError, "cleanup_timeout='10'.*number of seconds"),
        ({"send_timeout": float("inf")}, ValueError, "send_timeout=inf.*finite"),
        ({"send_timeout": float("nan")}, ValueError, "send_timeout=nan"),
        ({"max_outbox_bytes": 10}, ValueError, "max_outbox_bytes=10.*at least 1024 bytes"),
        ({"max_outbox_bytes": 1e6}, TypeError, "max_outbox_bytes.*whole number of bytes"),
        ({"max_message_bytes": 10}, ValueError, "max_message_bytes=10.*at least 1024 bytes"),
        ({"max_messages_per_second": 0}, ValueError, "max_messages_per_second=0.*above 0"),
        ({"max_bad_messages": 0}, ValueError, "max_bad_messages=0.*at least 1 messages"),
        ({"max_callbacks": 0}, ValueError, "max_callbacks=0.*at least 1 callbacks"),
        ({"max_reads": None}, TypeError, "max_reads=None.*whole number of reads"),
        ({"compression": 1}, TypeError, "compression=1.*must be a bool"),
        ({"max_connections": 0}, ValueError, "max_connections=0.*at least 1 connections"),
        ({"hook_timeout": None}, TypeError, "hook_timeout=None.*number of seconds"),
        ({"identify": "user"}, TypeError, "identify='user'.*must be a function"),
        ({"max_workers": 0}, ValueError, "max_workers=0.*at least 1 threads"),
        ({"max_workers": True}, TypeError, "max_workers=True"),
        ({"blocked_after": 0}, ValueError, "blocked_after=0.*seconds above 0"),
        ({"tune_gc": 1}, TypeError, "tune_gc=1.*must be a bool"),
        ({"cleanup_timout": 1}, TypeError, "cleanup_timout"),
    ],
)
def test_a_wrong_knob_is_named_with_its_value_and_what_is_allowed(knobs, error, message):
    with pytest.raises(error, match=message):
        WebSocketRuntime(**knobs)


@pytest.mark.parametrize("options", [{}, {"backend": "flask"}, {"server": flask.Flask("x")}])
def test_flask_is_refused_at_construction(options):
    with pytest.raises(TypeError, match=r'cannot serve flask\..*Dash\(backend="quart"'):
        Dash(__name__, plugins=[WebSocketRuntime()], **options)


def test_a_runtime_serves_one_app():
    runtime = WebSocketRuntime()
    Dash(__name__, backend="quart", plugins=[runtime])
    with pytest.raises(RuntimeError, match="give each app its own"):
        Dash(__name__, backend="quart", plugins=[runtime])


@pytest.mark.parametrize("version", ["3.9.9", "4.3.1", "4.6.0", "5.0.0rc1"])
def test_an_unknown_dash_is_refused_with_what_to_install(version):
    with pytest.raises(ImportError, match=rf"found {version}.*dash\[quart\]>=4.4,<4.6"):
        dash_bridge.check_dash(version)


@pytest.mark.parametrize("name", dash_bridge.PRIVATE_NAMES)
def test_a_private_name_that_is_gone_is_named(name, monkeypatch):
    owner, _, attribute = name.rpartition(".")
    if owner == "Dash":
        monkeypatch.delattr(dash.Dash, attribute)
    else:
        monkeypatch.delattr(f"{owner}.{attribute}")
    with pytest.raises(ImportError, match=f"lacks {name}"):
        dash_bridge.check_dash()


def test_the_private_attributes_that_are_read_exist():
    app = dash_bridge.DashApp(Dash(__name__, backend="quart", websocket_batch_delay=0.2))
    assert app.allowed_origins == frozenset()
    assert app.batch_delay == 0.2
    assert app.max_workers == 4
    assert app.debug is False
    assert app.silence_routes_logging is False
    assert app.uses_websocket is False
    assert app.find("nothing") is None
    assert app.websocket_path == "/_dash-ws-callback"


@pytest.mark.parametrize("value", [None, 0, 0.005])
def test_nothing_waits_on_the_batch_delay_by_default(value):
    app = Dash(__name__, backend="quart", websocket_batch_delay=value)
    assert dash_bridge.DashApp(app).batch_delay == 0.0


def quart_by_name(plugins):
    return Dash(__name__, backend="quart", plugins=plugins, websocket_callbacks=True)


def quart_object(plugins):
    return Dash(__name__, server=Quart("x"), plugins=plugins, websocket_callbacks=True)


def quart_trio_object(plugins):
    return Dash(__name__, server=QuartTrio("x"), plugins=plugins, websocket_callbacks=True)


def server_later(server_class):
    def make(plugins):
        app = Dash(__name__, server=False, plugins=plugins, websocket_callbacks=True)
        app.init_app(server_class("x"))
        return app

    return make


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "make"),
    [
        ("asyncio", quart_by_name),
        ("asyncio", quart_object),
        ("asyncio", server_later(Quart)),
        ("trio", quart_trio_object),
        ("trio", server_later(QuartTrio)),
    ],
    indirect=["anyio_backend"],
)
async def test_it_works_with_every_way_to_name_a_server(make):
    runtime = WebSocketRuntime()
    app = make([runtime])
    app.layout = html.Div([html.Button(id="go"), html.Div(id="out")])

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 1)
        stats = runtime.statistics()
    assert stats.connections_total == 1
    assert stats.updates_sent == 1


def test_the_backend_calls_itself_what_dash_testing_looks_for():
    app = quart_by_name([WebSocketRuntime()])
    assert app.backend.server_type == "quart"  # what dash.testing looks at


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("threshold", "tune_gc", "meanwhile"),
    [(700, True, 20_000), (700, False, 700), (50_000, True, 50_000), (0, True, 0)],
)
async def test_the_garbage_collector_waits_for_more_while_the_server_serves(
    anyio_backend, threshold, tune_gc, meanwhile
):
    app = make_app(anyio_backend, runtime=WebSocketRuntime(tune_gc=tune_gc))
    before = gc.get_threshold()
    try:
        gc.set_threshold(threshold, 9, 11)
        async with open_browser(app):
            assert gc.get_threshold() == (meanwhile, 9, 11)
        assert gc.get_threshold() == (threshold, 9, 11)
    finally:
        gc.set_threshold(*before)
