"""`dashws_async.testing`, the parts that do no I/O: Patch, and what a page sends."""

import copy
import json

import dash
import pytest
from dash import ALL, ALLSMALLER, MATCH, Dash, Input, Output, Patch, State, dcc, html
from dash._utils import to_json
from hypothesis import given, settings
from hypothesis import strategies as st

from dashws_async.testing import PatchError, apply_patch
from dashws_async.testing._layout import Layout, component_key
from dashws_async.testing._page import PageState, Url

unhurried = settings(deadline=None)  # a loaded machine is no failure

HOME = Url("http://dash.test/", "/")


def wire(value):
    """A Python value as the browser gets it."""
    return json.loads(to_json(value))


def patched(old, patch):
    return apply_patch(old, wire(patch)["operations"])


# Patch

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
lists = st.lists(json_values, max_size=6)
dicts = st.dictionaries(st.text(min_size=1, max_size=3), json_values, max_size=5)


@unhurried
@given(lists, json_values)
def test_append_and_prepend_do_what_python_lists_do(items, value):
    patch = Patch()
    patch.append(value)
    patch.prepend(value)
    assert patched(items, patch) == [value, *items, value]


@unhurried
@given(lists, lists)
def test_extend_does_what_python_lists_do(items, more):
    patch = Patch()
    patch.extend(more)
    assert patched(items, patch) == items + more


@unhurried
@given(lists, st.integers(-6, 6), json_values)
def test_insert_puts_the_value_where_python_does_and_at_the_end_if_there_is_no_such_place(
    items, index, value
):
    patch = Patch()
    patch.insert(index, value)
    expected = list(items)
    position = index if index >= 0 else len(items) + index
    expected.insert(position if 0 <= position < len(items) else len(items), value)
    assert patched(items, patch) == expected


@unhurried
@given(lists.filter(bool), st.data())
def test_assign_and_delete_take_negative_indices(items, data):
    index = data.draw(st.integers(-len(items), len(items) - 1))
    assign, delete = Patch(), Patch()
    assign[index] = "new"
    del delete[index]
    assigned, deleted = list(items), list(items)
    assigned[index] = "new"
    del deleted[index]
    assert patched(items, assign) == assigned
    assert patched(items, delete) == deleted


@unhurried
@given(dicts, dicts)
def test_update_does_what_python_dicts_do(old, new):
    patch = Patch()
    patch.update(new)
    assert patched(old, patch) == {**old, **new}


@unhurried
@given(dicts.filter(bool), st.data())
def test_delete_removes_one_key(old, data):
    key = data.draw(st.sampled_from(sorted(old)))
    patch = Patch()
    del patch[key]
    assert patched(old, patch) == {name: value for name, value in old.items() if name != key}


@unhurried
@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(1, 100))
def test_arithmetic_does_what_python_does(old, step, divisor):
    patch = Patch()
    patch["n"] += step
    patch["n"] *= 3
    patch["n"] -= 2
    patch["n"] /= divisor
    assert patched({"n": old}, patch) == {"n": ((old + step) * 3 - 2) / divisor}


@unhurried
@given(lists)
def test_reverse_and_clear(items):
    reverse, clear = Patch(), Patch()
    reverse["deep"]["list"].reverse()
    clear["deep"]["list"].clear()
    value = {"deep": {"list": items}, "other": 1}
    assert patched(value, reverse) == {"deep": {"list": items[::-1]}, "other": 1}
    assert patched(value, clear) == {"deep": {"list": []}, "other": 1}


def test_clear_empties_a_dict_too():
    patch = Patch()
    patch.clear()
    assert patched({"a": 1}, patch) == {}


def test_remove_takes_away_every_equal_item_and_tells_true_from_one():
    patch = Patch()
    patch.remove(1)
    assert patched([1, True, 2, 1, {"a": 1}], patch) == [True, 2, {"a": 1}]


def test_assign_makes_what_is_missing_on_the_way():
    patch = Patch()
    patch["layout"]["title"]["text"] = "T"
    assert patched({"data": []}, patch) == {"data": [], "layout": {"title": {"text": "T"}}}


def test_a_division_by_zero_is_infinite_as_in_javascript():
    patch = Patch()
    patch["n"] /= 0
    assert patched({"n": -2}, patch) == {"n": float("-inf")}


@unhurried
@given(lists, dicts)
def test_the_old_value_is_left_as_it_was(items, entries):
    value = {"list": items, "dict": entries}
    before = copy.deepcopy(value)
    patch = Patch()
    patch["list"].append(1)
    patch["list"].reverse()
    patch["dict"]["new"] = 1
    patch["dict"].update({"x": 2})
    del patch["dict"]
    patched(value, patch)
    assert value == before


@pytest.mark.parametrize(
    "operations",
    [
        [{"operation": "Explode", "location": [], "params": {}}],
        [{"operation": "Append", "location": ["text"], "params": {"value": 1}}],
        [{"operation": "Add", "location": ["text"], "params": {"value": 1}}],
        [{"operation": "Extend", "location": ["nowhere"], "params": {"value": [1]}}],
    ],
)
def test_what_the_page_cannot_apply_is_an_error(operations):
    with pytest.raises(PatchError):
        apply_patch({"text": "abc"}, operations)


# Ids


def test_a_dict_id_has_one_key_however_it_was_written():
    keys = {
        component_key({"type": "é", "n": 1}),
        component_key({"n": 1.0, "type": "é"}),
        component_key('{"n": 1, "type": "\\u00e9"}'),
    }
    assert keys == {'{"n":1,"type":"é"}'}


def test_components_are_found_in_every_property_that_holds_some():
    tree = {
        "namespace": "n",
        "type": "T",
        "props": {
            "children": "text",
            "options": [{"label": wire(html.Div(id="in-option"))}, {"label": "plain"}],
            "icons": {"a": wire(html.Div(id="in-icon"))},
            "header": {"title": wire(html.Div(id="in-header"))},
            "data": wire(html.Div(id="not-a-component-here")),
        },
    }
    layout = Layout(tree, {"n": {"T": ["options[].label", "icons{}", "header.title"]}})
    assert [name for name in ("in-option", "in-icon", "in-header") if name in layout] == [
        "in-option",
        "in-icon",
        "in-header",
    ]
    assert "not-a-component-here" not in layout


# Pages


def make_page(layout, *declare, config=None, load=True):
    """A page with these callbacks, as the server would declare them."""
    app = Dash("t", compress=False)
    for declaration in declare:
        declaration(app)
    app.layout = layout
    app._setup_server()
    dependencies = json.loads(json.dumps([*app._callback_list]))
    page = PageState(
        "tab",
        {
            "websocket": {"enabled": True, "url": "/ws", "worker_url": "/worker.js"},
            "children_props": {"dash_core_components": {"Tab": ["label"]}},
            **(config or {}),
        },
        wire(layout),
        dependencies,
    )
    if load:
        page.load(HOME)
    return page


def on(*args, **options):
    """A callback that need not do anything: the page only sees its declaration."""
    return lambda app: app.callback(*args, **options)(lambda *values: None)


def persistent(app):
    @app.callback(persistent=True)
    async def stream():
        pass


def sent(page):
    return [request.payload["output"] for request in page.turn()]


def ok(response, **more):
    return {"status": "ok", "data": {"multi": True, "response": response, **more}}


def test_the_payload_is_what_the_browser_posts():
    page = make_page(
        html.Div([html.Button(id="go"), dcc.Input(id="name", value="Ada"), html.Div(id="out")]),
        on(
            Output("out", "children"),
            Input("go", "n_clicks"),
            State("name", "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit("go", {"n_clicks": 1})
    (request,) = page.turn()
    assert request.id == "tab-1"
    assert request.over_websocket
    assert request.payload == {
        "output": "out.children",
        "outputs": {"id": "out", "property": "children"},
        "inputs": [{"id": "go", "property": "n_clicks", "value": 1}],
        "changedPropIds": ["go.n_clicks"],
        "parsedChangedPropsIds": ["go.n_clicks"],
        "state": [{"id": "name", "property": "value", "value": "Ada"}],
    }


def test_a_property_without_a_value_is_left_out_of_the_payload_and_no_state_means_no_key():
    page = make_page(
        html.Div([dcc.Input(id="name"), html.Div(id="out")]),
        on(Output("out", "children"), Input("name", "value")),
    )
    (request,) = page.turn()
    assert request.payload["inputs"] == [{"id": "name", "property": "value"}]
    assert "state" not in request.payload
    assert request.payload["changedPropIds"] == []


def test_many_outputs_and_duplicate_outputs_keep_their_names_on_the_wire():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="a"), html.Div(id="b")]),
        on(
            [Output("a", "children", allow_duplicate=True), Output("b", "children")],
            Input("go", "n_clicks"),
            prevent_initial_call=True,
        ),
    )
    page.edit("go", {"n_clicks": 1})
    (request,) = page.turn()
    first, second = request.payload["outputs"]
    assert first["property"].startswith("children@")
    assert second == {"id": "b", "property": "children"}
    assert request.payload["output"] == f"..a.{first['property']}...b.children.."
    page.answer(request.id, ok({"a": {"children": "A"}, "b": {"children": "B"}}))
    assert page.history("a", "children") == ["A"]
    assert page.history("b", "children") == ["B"]


def test_a_callback_without_output_sends_no_outputs():
    page = make_page(html.Div([html.Button(id="go")]), on(Input("go", "n_clicks")))
    (request,) = page.turn()
    assert "outputs" not in request.payload
    assert len(request.payload["output"]) == 64


def test_grouped_inputs_and_outputs_are_flat_on_the_wire():
    page = make_page(
        html.Div([dcc.Input(id="x", value=1), dcc.Input(id="y", value=2), html.Div(id="out")]),
        on(
            output={"o": Output("out", "children")},
            inputs={"a": Input("x", "value"), "b": (Input("y", "value"),)},
        ),
    )
    (request,) = page.turn()
    assert request.payload["output"] == "..out.children.."
    assert request.payload["outputs"] == [{"id": "out", "property": "children"}]
    assert [item["value"] for item in request.payload["inputs"]] == [1, 2]


# Pattern matching


def rows(*numbers):
    return [
        part
        for n in numbers
        for part in (
            dcc.Input(id={"type": "in", "n": n}, value=n * 10),
            html.Div(id={"type": "out", "n": n}),
        )
    ]


def test_match_fires_for_the_one_row_that_changed():
    page = make_page(
        html.Div(rows(1, 2)),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit({"n": 2, "type": "in"}, {"value": "x"})
    (request,) = page.turn()
    assert request.payload == {
        "output": '{"n":["MATCH"],"type":"out"}.children',
        "outputs": {"id": {"type": "out", "n": 2}, "property": "children"},
        "inputs": [{"id": {"type": "in", "n": 2}, "property": "value", "value": "x"}],
        "changedPropIds": ['{"n":2,"type":"in"}.value'],
        "parsedChangedPropsIds": [{"n": 2, "type": "in"}],
    }
    page.answer(request.id, ok({'{"n":2,"type":"out"}': {"children": "seen"}}))
    assert page.history({"type": "out", "n": 2}, "children") == ["seen"]
    assert page.history({"type": "out", "n": 1}, "children") == []


def test_match_fires_once_per_row_at_load():
    page = make_page(
        html.Div(rows(1, 2, 3)),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
        ),
    )
    assert [r.payload["outputs"]["id"]["n"] for r in page.turn()] == [1, 2, 3]


def test_all_sends_every_component_in_layout_order():
    page = make_page(
        html.Div([*rows(1, 2), html.Div(id="sum")]),
        on(Output("sum", "children"), Input({"type": "in", "n": ALL}, "value")),
    )
    (request,) = page.turn()
    assert [entry["value"] for entry in request.payload["inputs"][0]] == [10, 20]


def test_all_without_any_component_still_fires_with_an_empty_list():
    page = make_page(
        html.Div(html.Div(id="sum")),
        on(Output("sum", "children"), Input({"type": "in", "n": ALL}, "value")),
    )
    (request,) = page.turn()
    assert request.payload["inputs"] == [[]]


def test_allsmaller_sends_the_rows_before_and_fires_for_the_rows_after():
    page = make_page(
        html.Div(rows(1, 2, 3)),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
            State({"type": "in", "n": ALLSMALLER}, "value"),
            prevent_initial_call=True,
        ),
        on(
            Output({"type": "out", "n": MATCH}, "title"),
            Input({"type": "in", "n": ALLSMALLER}, "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit({"type": "in", "n": 2}, {"value": "x"})
    own, after = page.turn()
    assert [entry["value"] for entry in own.payload["state"][0]] == [10]
    assert after.payload["outputs"] == {"id": {"type": "out", "n": 3}, "property": "title"}
    assert [entry["value"] for entry in after.payload["inputs"][0]] == [10, "x"]


def test_ids_compare_as_in_javascript_true_is_not_one():
    page = make_page(
        html.Div([dcc.Input(id={"k": True}), dcc.Input(id={"k": 1}), html.Div(id="out")]),
        on(Output("out", "children"), Input({"k": 1}, "value"), prevent_initial_call=True),
    )
    page.edit({"k": True}, {"value": "x"})
    assert sent(page) == []
    page.edit({"k": 1}, {"value": "x"})
    assert sent(page) == ["out.children"]


# What fires, and when


def chain():
    return make_page(
        html.Div([dcc.Input(id="a", value=1), html.Div(id="b"), html.Div(id="c")]),
        on(Output("c", "children"), Input("b", "children")),
        on(Output("b", "children"), Input("a", "value")),
    )


def test_an_initial_callback_waits_for_the_one_that_feeds_it():
    page = chain()
    assert sent(page) == ["b.children"]
    page.answer("tab-1", ok({"b": {"children": "B"}}))
    (request,) = page.turn()
    assert request.payload["inputs"] == [{"id": "b", "property": "children", "value": "B"}]
    assert request.payload["changedPropIds"] == ["b.children"]


@pytest.mark.parametrize("answer", [{"status": "prevent_update"}, {"status": "error"}, ok({})])
def test_what_waited_for_an_update_that_did_not_come_is_not_sent(answer):
    page = chain()
    page.turn()
    page.answer("tab-1", answer)
    assert sent(page) == []
    assert page.idle


def test_a_change_that_comes_while_the_feeding_callback_runs_waits_for_its_answer():
    page = chain()
    page.turn()
    page.answer("tab-1", {"status": "prevent_update"})
    page.turn()
    page.edit("a", {"value": 2})
    assert sent(page) == ["b.children"]
    page.set_props({"componentId": "b", "props": {"children": "half"}})
    assert sent(page) == []
    page.answer("tab-2", ok({"b": {"children": "done"}}))
    assert sent(page) == ["c.children"]


def test_callbacks_in_a_circle_start_once_and_stop():
    page = make_page(
        html.Div([dcc.Input(id="a", value=1), dcc.Input(id="b", value=2)]),
        on(Output("a", "value"), Input("b", "value")),
        on(Output("b", "value"), Input("a", "value")),
    )
    assert sent(page) == ["a.value"]
    page.answer("tab-1", ok({"a": {"value": 5}}))
    assert sent(page) == ["b.value"]
    page.answer("tab-2", ok({"b": {"value": 6}}))
    assert sent(page) == []


def test_two_changes_before_a_turn_are_one_request():
    page = make_page(
        html.Div([dcc.Input(id="a"), dcc.Input(id="b"), html.Div(id="out")]),
        on(
            Output("out", "children"),
            Input("a", "value"),
            Input("b", "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit("a", {"value": 1})
    page.edit("b", {"value": 2})
    (request,) = page.turn()
    assert sorted(request.payload["changedPropIds"]) == ["a.value", "b.value"]


def test_the_answer_of_a_request_that_was_made_again_is_dropped():
    page = make_page(
        html.Div([dcc.Input(id="a"), html.Div(id="out")]),
        on(Output("out", "children"), Input("a", "value"), prevent_initial_call=True),
    )
    for value in (1, 2):
        page.edit("a", {"value": value})
        page.turn()
    page.answer("tab-2", ok({"out": {"children": "new"}}))
    page.answer("tab-1", ok({"out": {"children": "old"}}))
    assert page.history("out", "children") == ["new"]


def test_a_user_edit_to_the_same_value_fires_nothing_but_a_set_props_does():
    page = make_page(
        html.Div([dcc.Input(id="a", value=1), html.Div(id="out")]),
        on(Output("out", "children"), Input("a", "value"), prevent_initial_call=True),
    )
    page.edit("a", {"value": 1})
    assert sent(page) == []
    page.set_props({"componentId": "a", "props": {"value": 1}})
    assert sent(page) == ["out.children"]


def test_a_page_runs_twelve_callbacks_at_once_and_the_others_after_them():
    page = make_page(
        html.Div([html.Button(id="go"), *(html.Div(id=f"o{n}") for n in range(14))]),
        *(on(Output(f"o{n}", "children"), Input("go", "n_clicks")) for n in range(14)),
    )
    assert sent(page) == [f"o{n}.children" for n in range(12)]
    page.answer("tab-3", {"status": "prevent_update"})
    assert sent(page) == ["o12.children"]


def test_the_load_fires_persistent_callbacks_which_leave_the_page_idle():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="out")]),
        on(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True),
        persistent,
    )
    (request,) = page.turn()
    assert request.persistent
    assert page.idle


def test_after_a_reconnect_only_callbacks_without_output_and_input_are_sent_again():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="out")]),
        on(Output("out", "children"), Input("go", "n_clicks")),
        persistent,
    )
    first = page.turn()
    page.disconnected(unsent=set())
    assert page.running == {}
    page.reconnected(unsent=set())
    (again,) = page.turn()
    assert len(first) == 2
    assert again.persistent


def test_running_props_are_on_while_the_request_is_and_off_after_any_answer():
    for answer in ({"status": "prevent_update"}, {"status": "error"}, ok({})):
        page = make_page(
            html.Div([html.Button(id="go"), html.Div(id="out")]),
            on(
                Output("out", "children"),
                Input("go", "n_clicks"),
                running=[(Output("go", "disabled"), True, False)],
                prevent_initial_call=True,
            ),
        )
        page.edit("go", {"n_clicks": 1})
        page.turn()
        assert page.layout["go"]["props"]["disabled"] is True
        page.answer("tab-1", answer)
        assert page.history("go", "disabled") == [True, False]


def test_running_with_match_concerns_the_row_that_triggered():
    page = make_page(
        html.Div(rows(1, 2)),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
            running=[(Output({"type": "in", "n": MATCH}, "disabled"), True, False)],
            prevent_initial_call=True,
        ),
    )
    page.edit({"type": "in", "n": 2}, {"value": "x"})
    page.turn()
    assert page.history({"type": "in", "n": 2}, "disabled") == [True]
    assert page.history({"type": "in", "n": 1}, "disabled") == []


def test_the_websocket_is_taken_for_all_callbacks_or_for_those_that_ask_for_it():
    layout = html.Div([html.Button(id="go"), html.Div(id="ws"), html.Div(id="http")])
    callbacks = (
        on(Output("ws", "children"), Input("go", "n_clicks"), websocket=True),
        on(Output("http", "children"), Input("go", "n_clicks")),
    )
    entry = {"url": "/ws", "worker_url": "/w"}

    def ways(config):
        page = make_page(layout, *callbacks, config=config)
        return {r.spec.output: r.over_websocket for r in page.turn()}

    assert ways({"websocket": {"enabled": True, **entry}}) == {
        "ws.children": True,
        "http.children": True,
    }
    assert ways({"websocket": {"enabled": False, **entry}}) == {
        "ws.children": True,
        "http.children": False,
    }
    assert ways({"websocket": None}) == {"ws.children": False, "http.children": False}


# Layout that comes and goes


def test_new_components_fire_their_initial_callbacks_when_an_output_brings_them():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="box")]),
        on(Output("box", "children"), Input("go", "n_clicks"), prevent_initial_call=True),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
        ),
    )
    assert sent(page) == []
    page.edit("go", {"n_clicks": 1})
    page.turn()
    page.answer("tab-1", ok({"box": {"children": wire(rows(7))}}))
    (request,) = page.turn()
    assert request.payload["outputs"]["id"] == {"type": "out", "n": 7}
    assert request.payload["inputs"][0]["value"] == 70


def test_new_components_that_set_props_brings_are_in_the_page_but_fire_nothing():
    page = make_page(
        html.Div([html.Div(id="box")]),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
        ),
    )
    page.set_props({"componentId": "box", "props": {"children": wire(rows(7))}})
    assert sent(page) == []
    assert page.get_props({"componentId": {"type": "in", "n": 7}, "properties": ["value"]}) == {
        "value": 70
    }


def test_new_components_prevent_the_callbacks_among_themselves_and_fire_those_that_lead_out():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="box"), html.Div(id="sum")]),
        on(Output("box", "children"), Input("go", "n_clicks"), prevent_initial_call=True),
        on(
            Output({"type": "out", "n": MATCH}, "children"),
            Input({"type": "in", "n": MATCH}, "value"),
            prevent_initial_call=True,
        ),
        on(
            Output("sum", "children"),
            Input({"type": "in", "n": ALL}, "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit("go", {"n_clicks": 1})
    page.turn()
    page.answer("tab-1", ok({"box": {"children": wire(rows(7))}}))
    assert sent(page) == ["sum.children"]


def test_an_all_input_fires_when_components_go():
    page = make_page(
        html.Div(
            [html.Button(id="go"), html.Div(rows(1, 2), id="box"), html.Div(id="sum")],
        ),
        on(Output("box", "children"), Input("go", "n_clicks"), prevent_initial_call=True),
        on(
            Output("sum", "children"),
            Input({"type": "in", "n": ALL}, "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit("go", {"n_clicks": 1})
    page.turn()
    page.answer("tab-1", ok({"box": {"children": []}}))
    (request,) = page.turn()
    assert request.payload["inputs"] == [[]]


def test_a_callback_with_an_input_that_is_not_in_the_page_is_an_error_only_if_others_are():
    page = make_page(
        html.Div([dcc.Input(id="a"), html.Div(id="out"), html.Div(id="out2")]),
        on(Output("out", "children"), Input("nowhere", "value")),
        on(
            Output("out2", "children"),
            Input("a", "value"),
            Input("nowhere", "value"),
            prevent_initial_call=True,
        ),
    )
    page.edit("a", {"value": 1})
    assert sent(page) == []
    (error,) = page.errors
    assert "nonexistent object" in str(error)
    assert error.output == "out2.children"


# What the server asks and tells


def test_get_props_answers_what_is_there():
    page = make_page(html.Div([dcc.Store(id="s", data={"rows": [{"x": 1}]}), dcc.Input(id="i")]))

    def ask(component_id, *names, **more):
        return page.get_props({"componentId": component_id, "properties": list(names), **more})

    assert ask("s", "data") == {"data": {"rows": [{"x": 1}]}}
    assert ask("i", "value") == {}
    assert ask("nowhere", "value") == {}
    assert ask("s", "data", path=["rows", 0, "x"]) == {"data": 1}


def test_set_props_applies_a_patch_and_an_impossible_one_is_an_error_of_the_page():
    page = make_page(html.Div([dcc.Store(id="s", data=[1]), dcc.Store(id="empty")]))
    patch = Patch()
    patch.append(2)
    page.set_props({"componentId": "s", "props": {"data": wire(patch)}})
    assert page.history("s", "data") == [[1, 2]]
    page.set_props({"componentId": "empty", "props": {"data": wire(patch)}})
    assert [str(error) for error in page.errors] == ["Cannot patch undefined"]


def test_every_frame_of_a_streamed_answer_is_applied_and_done_ends_it():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="out")]),
        on(Output("out", "children"), Input("go", "n_clicks")),
    )
    (request,) = page.turn()
    for value in ("a", "b"):
        page.answer(request.id, {**ok({"out": {"children": value}}), "stream": True})
    assert page.running
    page.answer(request.id, {"status": "ok", "stream": True, "done": True})
    assert page.history("out", "children") == ["a", "b"]
    assert not page.running


def test_the_side_update_of_a_response_fires_what_watches_it():
    page = make_page(
        html.Div([html.Button(id="go"), html.Div(id="out"), html.Div(id="x"), html.Div(id="y")]),
        on(Output("out", "children"), Input("go", "n_clicks")),
        on(Output("y", "children"), Input("x", "children"), prevent_initial_call=True),
    )
    (request,) = page.turn()
    page.answer(request.id, ok({}, sideUpdate={"x": {"children": "side"}}))
    assert page.history("x", "children") == ["side"]
    assert sent(page) == ["y.children"]


def test_a_location_learns_the_address_when_the_page_is_loaded_and_when_it_changes():
    page = make_page(
        html.Div([dcc.Location(id="url"), html.Div(id="out")]),
        on(Output("out", "children"), Input("url", "pathname"), prevent_initial_call=True),
        load=False,
    )
    page.load(Url("http://dash.test/a?x=1#h", "/a", "?x=1", "#h"))
    (request,) = page.turn()
    assert request.payload["inputs"][0]["value"] == "/a"
    assert page.layout["url"]["props"]["search"] == "?x=1"
    page.answer(request.id, ok({}))
    page.navigate(Url("http://dash.test/b", "/b"))
    (request,) = page.turn()
    assert request.payload["inputs"][0]["value"] == "/b"


def test_histories_are_bounded_and_values_are_still_counted():
    page = PageState("tab", {}, wire(html.Div(id="a")), [], history_limit=3)
    for n in range(10):
        page.set_props({"componentId": "a", "props": {"children": n}})
    assert page.history("a", "children") == [7, 8, 9]
    assert page.values_seen("a", "children") == 10


NEXT_DASH = not dash.__version__.startswith("4.4")


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(
            "data.csv",
            marks=pytest.mark.skipif(NEXT_DASH, reason="Dash 4.5 writes it so that one can"),
        ),
        1.5,
    ],
)
def test_an_output_that_no_browser_can_read_is_told_of(index):
    def declare(app):
        app.callback(Output({"index": index}, "children"), Input("go", "n_clicks"))(print)

    with pytest.raises(ValueError, match="no browser can load a page with this"):
        make_page(html.Div(id="go"), declare)
