"""Coverage-guided fuzzing of the decoder, with what Dash does to a request that it lets through.

    make fuzz

Options are libFuzzer's: ``-max_total_time=60`` stops after a minute.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import atheris

with atheris.instrument_imports(include=["dashws_async.messages", "dash._utils", "dash._grouping"]):
    from dash._callback_context import CallbackContext, context_value
    from dash._grouping import update_args_group
    from dash._utils import convert_to_AttributeDict, inputs_to_dict, inputs_to_vals

    from dashws_async import messages

MAX_BYTES = 4096

PAYLOAD = {
    "output": '..out.children...{"n":["ALL"]}.value..',
    "outputs": [{"id": "out", "property": "children"}, [{"id": {"n": 1}, "property": "value"}]],
    "inputs": [
        {"id": "in", "property": "value", "value": 1e3},
        [{"id": {"n": 1, "type": "x"}, "property": "value", "value": "\ud83d\\"}],
    ],
    "state": [{"id": {"n": {"wild": "MATCH"}}, "property": "value", "value": None}],
    "changedPropIds": ["in.value", '{"n":1,"type":"x"}.value'],
    "parsedChangedPropsIds": ["in.value", {"n": 1, "type": "x"}],
}
TAB = {"rendererId": "tab"}
SEEDS = [
    {"type": "callback_request", **TAB, "requestId": "tab-1", "payload": PAYLOAD},
    {"type": "get_props_response", **TAB, "requestId": "read-1", "payload": {"value": [{}]}},
    {"type": "heartbeat"},
    {"type": "tab_watched", **TAB},
    {"type": "tab_gone", **TAB},
    {"type": "tab_visible", **TAB},
]

TOKENS = [
    r"\"payload\":", r"\"inputs\":", r"\"state\":", r"\"outputs\":", r"\"changedPropIds\":",
    r"\"id\":", r"\"property\":", r"\"value\":", r"{\\\"n\\\":1}.value", r"\\ud800", r"\\u0000",
    "null", "true", "{}", "[]", "[[", "{", "NaN", "1e999", "1e-9", "99999999999999999999",
]  # fmt: skip


def fuzz(data: bytes) -> None:
    """One message: decoded, or refused with a short text; nothing else."""
    message = decoded(data)
    if isinstance(message, messages.BadMessage):
        assert len(str(message)) < 300, "an answer would be long"
        assert str(message).isprintable(), "a log line would be several"
        for name in (message.renderer_id, message.request_id):
            assert name is None or len(name) <= messages.MAX_NAME, "a name is too long"
    elif isinstance(message, messages.CallbackRequest):
        what_dash_does(message.payload)


def decoded(data: bytes) -> messages.ClientMessage | messages.BadMessage:
    try:
        messages.as_object(data)
        return messages.decode(data, MAX_BYTES)
    except messages.BadMessage as bad:
        return bad


def what_dash_does(payload: dict) -> None:
    """Before the callback is called, and in ``ctx``."""
    inputs, changed = payload.get("inputs", []), payload.get("changedPropIds", [])
    values = inputs_to_dict(inputs)
    inputs_to_vals(inputs + payload.get("state", []))
    for entry in convert_to_AttributeDict(inputs + payload.get("state", [])):
        for each in entry if isinstance(entry, list) else [entry]:
            update_args_group(each, changed)
    triggered = [{"prop_id": name, "value": values.get(name)} for name in changed]
    context_value.set(SimpleNamespace(triggered_inputs=triggered))
    assert CallbackContext().triggered_id is None or triggered
    json.dumps(payload)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        corpus, tokens = Path(folder, "corpus"), Path(folder, "tokens")
        corpus.mkdir()
        for number, seed in enumerate(SEEDS):
            (corpus / str(number)).write_text(json.dumps(seed))
        tokens.write_text("\n".join(f'"{token}"' for token in TOKENS))
        options = f"-max_len={2 * MAX_BYTES}", f"-dict={tokens}"
        atheris.Setup([*sys.argv, *options, str(corpus)], fuzz)
        atheris.Fuzz()
