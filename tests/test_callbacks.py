"""What callbacks can do over the WebSocket, on both loops, through a page in memory."""

import json

import anyio
import dash
import pytest
from dash import (
    ALL,
    MATCH,
    Input,
    Output,
    Patch,
    State,
    ctx,
    dcc,
    html,
    no_update,
    set_props,
)
from dash.exceptions import PreventUpdate
from hypothesis import given
from hypothesis import strategies as st

from apps import add_neighbour, make_app
from dashws_async import WebSocketHandle, WebSocketRuntime
from dashws_async.dash_bridge import to_json
from dashws_async.testing import open_browser

pytestmark = pytest.mark.anyio


async def test_updates_stream_at_once_and_the_return_value_comes_last(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    seen = anyio.Event()

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def count(_):
        for number in range(3):
            set_props("out", {"children": number})
            await anyio.sleep(0)
        await seen.wait()  # the page has the last update while the callback still runs
        return "done"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", 2)
        seen.set()
        await page.wait_for("out", "children", "done")
        assert page.history("out", "children") == [0, 1, 2, "done"]


async def test_a_persistent_callback_starts_with_the_page_and_ends_with_it(anyio_backend):
    app = make_app(anyio_backend, "live")
    ended = anyio.Event()

    @app.callback(persistent=True)
    async def live():
        ws, number = ctx.websocket, 0
        while not ws.is_shutdown:
            set_props("live", {"children": number})
            number += 1
            await anyio.sleep(0.001)
        ended.set()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", 3)
        assert page.history("live", "children")[:4] == [0, 1, 2, 3]
        await browser.drop()
        with anyio.fail_after(5):
            await ended.wait()


async def test_patches_are_applied_in_order(anyio_backend):
    app = make_app(anyio_backend, "go")
    app.layout = html.Div([html.Button(id="go"), dcc.Store(id="store", data={"rows": []})])

    @app.callback(Output("store", "data"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def fill(_):
        for number in range(3):
            patch = Patch()
            patch["rows"].append(number)
            set_props("store", {"data": patch})
        last = Patch()
        last["done"] = True
        return last

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("store", "data", {"rows": [0, 1, 2], "done": True})


async def test_a_value_is_sent_as_it_was_when_it_was_set(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def change(_):
        value = ["before"]
        set_props("out", {"children": value})
        value[0] = "after"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", ["before"])
        await page.wait_idle()
        assert page.get("out", "children") == ["before"]


async def test_get_prop_reads_what_the_page_has_now(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    dict_id = {"type": "field", "index": 1}
    app.layout.children.append(dcc.Input(id=dict_id, value="typed"))

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def read(_):
        ws = ctx.websocket
        set_props("out", {"children": "just set"})
        return [
            await ws.get_prop("out", "children"),
            await ws.get_prop(dict_id, "value"),
            await ws.get_prop("nowhere", "value"),
            await ws.get_prop("out", "no such prop"),
        ]

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", ["just set", "typed", None, None])


async def test_get_prop_times_out_with_the_question_in_the_message(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def read(_):
        try:
            await ctx.websocket.get_prop("out", "children", timeout=0.01)
        except TimeoutError as error:
            return str(error)

    async with open_browser(app, answer_get_props=False) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for(
            "out",
            "children",
            "get_prop('out', 'children'): the page did not answer within 0.01 seconds",
        )


async def test_set_prop_can_be_awaited(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Input("go", "n_clicks"), prevent_initial_call=True)
    async def write(_):
        await ctx.websocket.set_prop({"type": "x", "index": 0}, "children", "dict id")
        await ctx.websocket.set_prop("out", "children", "plain id")

    app.layout.children.append(html.Div(id={"type": "x", "index": 0}))
    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "plain id")
        assert page.get({"type": "x", "index": 0}, "children") == "dict id"


async def test_no_update_and_prevent_update_change_nothing(anyio_backend):
    app = make_app(anyio_backend, "go", "stay", "a", "b")

    @app.callback(Output("stay", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def prevent(_):
        set_props("stay", {"children": no_update})
        raise PreventUpdate

    @app.callback(
        Output("a", "children"),
        Output("b", "children"),
        Input("go", "n_clicks"),
        prevent_initial_call=True,
    )
    async def half(_):
        return no_update, "changed"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("b", "children", "changed")
        await page.wait_idle()
        assert page.get("a", "children") is None
        assert page.history("stay", "children") == []
        assert not page.errors


async def test_pattern_matching_ids(anyio_backend):
    app = make_app(anyio_backend, "all")

    def item(index):
        return html.Div(
            [
                html.Button(id={"type": "button", "index": index}),
                html.Div(id={"type": "text", "index": index}),
            ]
        )

    app.layout.children += [item(0), item(1)]

    @app.callback(
        Output({"type": "text", "index": MATCH}, "children"),
        Input({"type": "button", "index": MATCH}, "n_clicks"),
        State({"type": "button", "index": MATCH}, "id"),
        prevent_initial_call=True,
    )
    async def one(clicks, own_id):
        return f"{own_id['index']}: {clicks} {ctx.triggered_id['index']}"

    @app.callback(
        Output("all", "children"),
        Input({"type": "button", "index": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    async def every(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click({"type": "button", "index": 1})
        await page.wait_for({"type": "text", "index": 1}, "children", "1: 1 1")
        await page.wait_for("all", "children", [None, 1])
        assert page.get({"type": "text", "index": 0}, "children") is None


async def test_multiple_and_grouped_outputs_and_inputs(anyio_backend):
    app = make_app(anyio_backend, "go", "a", "b", "c", "d")

    @app.callback(
        Output("a", "children"),
        Output("b", "children"),
        Input("go", "n_clicks"),
        prevent_initial_call=True,
    )
    async def several(clicks):
        return clicks, clicks + 1

    @app.callback(
        output={"first": Output("c", "children"), "second": Output("d", "children")},
        inputs={"clicks": Input("go", "n_clicks")},
        prevent_initial_call=True,
    )
    async def grouped(clicks):
        assert ctx.args_grouping.clicks.triggered
        return {"first": clicks, "second": ctx.using_outputs_grouping}

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        for name, value in {"a": 1, "b": 2, "c": 1, "d": True}.items():
            await page.wait_for(name, "children", value)


async def test_running_is_set_while_it_runs(anyio_backend):
    app = make_app(anyio_backend, "go", "out")
    go_on = anyio.Event()

    @app.callback(
        Output("out", "children"),
        Input("go", "n_clicks"),
        running=[(Output("go", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    async def work(_):
        await go_on.wait()
        return "done"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("go", "disabled", True)
        go_on.set()
        await page.wait_for("out", "children", "done")
        await page.wait_for("go", "disabled", False)


async def test_on_error_of_the_callback_and_of_the_app(anyio_backend):
    async def fail(_):
        raise ValueError("no")

    def handle(error):
        set_props("log", {"children": f"handled {error}"})

    app = make_app(anyio_backend, "go", "a", "b", "log", on_error=lambda error: f"app: {error}")
    arguments = [Input("go", "n_clicks")]
    app.callback(Output("a", "children"), *arguments, on_error=handle, prevent_initial_call=True)(
        fail
    )
    app.callback(Output("b", "children"), *arguments, prevent_initial_call=True)(fail)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("log", "children", "handled no")
        await page.wait_for("b", "children", "app: no")
        assert page.get("a", "children") is None


@pytest.mark.parametrize("debug", [False, True])
async def test_a_callback_that_raises_answers_and_harms_no_neighbour(anyio_backend, debug, caplog):
    app = make_app(anyio_backend, "go", "out", "live")
    app.enable_dev_tools(debug=debug, dev_tools_hot_reload=False)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def divide(_):
        return 1 / 0

    add_neighbour(app)

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.wait_for("live", "children", lambda n: n is not None)
        await page.click("go")
        error = await page.wait_for_error()
        reached = page.get("live", "children")
        await page.wait_for("live", "children", lambda n: n > reached)

    logged = caplog.text
    assert "ZeroDivisionError" in logged
    assert "divide failed (reference " in logged
    if debug:
        assert error.message == "ZeroDivisionError: division by zero"
    else:  # the text of an exception may hold a secret
        assert "division" not in error.message
        reference = error.message.split("reference ")[1][:8]
        assert f"reference {reference})" in logged


async def test_exit_in_a_callback_ends_the_callback_only(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def leave(clicks):
        if clicks == 1:
            raise SystemExit(1)
        return "still here"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for_error()
        await page.click("go")
        await page.wait_for("out", "children", "still here")


async def test_plain_functions_run_too(anyio_backend):
    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    def plain(clicks):
        set_props("go", {"title": "running"})
        return f"{clicks} {type(ctx.websocket) is WebSocketHandle}"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "1 True")
        assert page.get("go", "title") == "running"


async def test_per_callback_websocket_beside_http(anyio_backend):
    app = make_app(anyio_backend, "go", "ws", "http", websocket_callbacks=False)

    @app.callback(
        Output("ws", "children"), Input("go", "n_clicks"), websocket=True, prevent_initial_call=True
    )
    async def over_websocket(_):
        set_props("ws", {"title": "streamed"})
        return ctx.websocket is not None

    @app.callback(Output("http", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def over_http(_):
        return ctx.websocket is None

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("ws", "children", True)
        await page.wait_for("http", "children", True)
        refused = await page.call(output="http.children", inputs=[])
        assert refused["status"] == "error"
        assert "websocket=True" in refused["message"]


async def test_two_tabs_share_the_socket_and_nothing_else(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        set_props("go", {"title": f"clicked {clicks}"})
        return await ctx.websocket.get_prop("go", "n_clicks")

    async with open_browser(app) as browser:
        first, second = await browser.open_page(), await browser.open_page()
        await first.click("go")
        await second.click("go")
        await second.click("go")
        await first.wait_for("out", "children", 1)
        await second.wait_for("out", "children", 2)
        assert first.get("go", "title") == "clicked 1"
        assert runtime.statistics().connections == 1


async def test_an_unknown_callback_and_a_bad_message_harm_nothing(anyio_backend):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", runtime=runtime)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        for text in ["not json", "[]", '{"type": "dance"}', '{"type": "callback_request"}']:
            await browser.send_text(text)
        unknown = await page.call(output="nothing.here", inputs=[])
        assert unknown["status"] == "error"
        assert "nothing.here" in unknown["message"]
        await page.click("go")
        await page.wait_for("out", "children", 1)
        assert runtime.statistics().bad_messages == 5


async def test_a_plain_persistent_callback_is_refused_by_name(anyio_backend, caplog):
    app = make_app(anyio_backend, "go", "out")

    with pytest.warns(RuntimeWarning):

        @app.callback(persistent=True)
        def endless():
            raise AssertionError("must not run")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        return clicks

    async with open_browser(app) as browser:
        page = await browser.open_page()
        error = await page.wait_for_error()
        for part in ["endless", "async def", "@offload"]:
            assert part in error.message
            assert part in caplog.text
        await page.click("go")
        await page.wait_for("out", "children", 1)


async def test_json_is_made_once_per_value(anyio_backend, monkeypatch):
    import plotly.io.json

    encoded = []
    encode = plotly.io.json.to_json_plotly

    def counting(value, *args, **kwargs):
        encoded.append(value)
        return encode(value, *args, **kwargs)

    app = make_app(anyio_backend, "go", "out")

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(_):
        monkeypatch.setattr(plotly.io.json, "to_json_plotly", counting)
        set_props("out", {"children": ["streamed"], "title": ["two"]})
        return "returned"

    async with open_browser(app) as browser:
        page = await browser.open_page()
        await page.click("go")
        await page.wait_for("out", "children", "returned")
        monkeypatch.undo()
    assert encoded == [
        ["streamed"],
        ["two"],
        {"multi": True, "response": {"out": {"children": "returned"}}},
    ]


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()))
def test_plain_values_mean_the_same_as_by_dashs_own_encoder(value):
    def outcome(encode):
        try:
            return json.loads(encode(value))
        except TypeError:
            return TypeError

    assert outcome(to_json) == outcome(dash._utils.to_json)
