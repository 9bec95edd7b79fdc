"""What is run is what is printed: the modules differ from the guide only as `extract` says."""

import hashlib
import re

import pytest

from guide.extract import CLEANUP, FIRST_PRINTED, LAST_PRINTED, LOOPS, Loop, extract, printed

EXAMPLES = sorted(printed())

#: SHA-256 of the guide's code blocks: no editor, formatter or hand has changed a letter.
AS_PRINTED = "423562a5ba6da4424cbce4c0dd6a45e46f5c9ab67e69efd8c86f408f51a7d888"

# The printed words that may differ, and what stands in their place.
SUBSTITUTIONS = {
    "asyncio": [
        ('backend="quart", plugins=[WebSocketRuntime()]', 'backend="fastapi"'),
    ],
    "trio": [
        ("server=QuartTrio(__name__), plugins=[WebSocketRuntime()]", 'backend="fastapi"'),
        ("from websockets.trio import client as websockets", "import websockets"),
        ("trio.Cancelled", "asyncio.CancelledError"),
        ("trio.sleep", "asyncio.sleep"),
        ("import trio", "import asyncio"),
        (" raise\n", " pass\n"),
    ],
}


def test_the_examples_are_the_guides_word_for_word() -> None:
    text = "\n".join(printed().values())
    assert hashlib.sha256(text.encode()).hexdigest() == AS_PRINTED


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_printed_but_for_the_named_substitutions(name: str, loop: Loop) -> None:
    module = extract(name, loop)
    indent, example = re.search(
        rf"^( *){FIRST_PRINTED}\n(.*)^ *{LAST_PRINTED}", module, flags=re.M | re.S
    ).groups()
    example = re.sub(rf'^ *print\("{CLEANUP}", flush=True\)\n', "", example, flags=re.M)
    for ours, theirs in SUBSTITUTIONS[loop]:
        example = example.replace(ours, theirs)
    if name == "interval_before":
        example = example.replace('Dash(backend="fastapi")', "Dash()")
    assert re.sub(rf"^{indent}", "", example, flags=re.M).strip() == printed()[name]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_module_with_the_plugins_line(name: str, loop: Loop) -> None:
    module = extract(name, loop)
    compile(module, name, "exec")
    assert module.count("plugins=[WebSocketRuntime()]") == 1
    assert "fastapi" not in module
    assert loop == "asyncio" or "asyncio" not in module


def test_the_address_of_the_outside_service_can_be_replaced() -> None:
    module = extract("stream_from_service", feed="ws://127.0.0.1:1")
    assert 'websockets.connect("ws://127.0.0.1:1")' in module
