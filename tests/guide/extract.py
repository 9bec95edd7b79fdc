"""The guide's examples as modules that run.

`examples.md` holds the examples word for word, `surroundings.md` what fragments
need around them. What is done to a printed text is the tables below and nothing
else: the plugin's line, the loop's names, and a line printed where an example
says that it cleans up, so that a test can see it happen. This module knows
neither Dash nor the runtime: it makes text.
"""

import re
import textwrap
from pathlib import Path
from typing import Literal

Loop = Literal["asyncio", "trio"]

LOOPS: tuple[Loop, ...] = ("asyncio", "trio")

#: What an example's server prints where the example's clean-up code would be.
CLEANUP = "cleanup ran"

#: The address that the guide leaves to the reader.
FEED = "wss://example.com/feed"

FIRST_PRINTED = "# ---- printed in the guide ----"
LAST_PRINTED = "# ---- end of the printed text ----"

Rules = list[tuple[str, str]]

# One line turns an app of the guide into one of this project. Flask, the default
# of the guide's `Dash()`, has no WebSockets.
PLUGIN: dict[Loop, Rules] = {
    "asyncio": [
        (r"\bDash\(\)", 'Dash(backend="fastapi")'),
        (r'backend="fastapi"', 'backend="quart", plugins=[WebSocketRuntime()]'),
    ],
    "trio": [
        (r"\bDash\(\)", 'Dash(backend="fastapi")'),
        (r'backend="fastapi"', "server=QuartTrio(__name__), plugins=[WebSocketRuntime()]"),
    ],
}

IMPORTS: dict[Loop, str] = {
    "asyncio": "from dashws_async import WebSocketRuntime\n",
    "trio": "from dashws_async import WebSocketRuntime\nfrom quart_trio import QuartTrio\n",
}

# Where an example cleans up, its server's log says so.
WITNESS: Rules = [
    (
        r"^( +)(# (?:Connection closed|Client disconnected) -- clean up resources here)$",
        rf'\1\2\n\1print("{CLEANUP}", flush=True)',
    ),
    (
        r"^( +)(# exception is optional but lets you run cleanup logic\.)$",
        rf'\1\2\n\1print("{CLEANUP}", flush=True)',
    ),
    (
        r"^( +)(except asyncio\.CancelledError:)\n( +)pass$",
        rf'\1\2\n\3print("{CLEANUP}", flush=True)\n\3pass',
    ),
]

# Trio's names, and its one rule: a task that was cancelled lets trio.Cancelled go.
NAMES: dict[Loop, Rules] = {
    "asyncio": [],
    "trio": [
        (r"^( +except asyncio\.CancelledError:\n(?: +(?:#|print).*\n)*)( +)pass$", r"\1\2raise"),
        (r"asyncio\.CancelledError", "trio.Cancelled"),
        (r"\basyncio\b", "trio"),
        (r"^import websockets$", "from websockets.trio import client as websockets"),
    ],
}


def printed() -> dict[str, str]:
    """The guide's examples by name, word for word."""
    return _blocks("examples.md")


def extract(name: str, loop: Loop = "asyncio", *, feed: str = FEED) -> str:
    """The example `name` as the text of a module that runs on `loop`.

    `feed` is the address of the outside service of "External WebSocket Integration".
    """
    example = f"{FIRST_PRINTED}\n{printed()[name]}\n{LAST_PRINTED}"
    around = _blocks("surroundings.md").get(name, "PRINTED")
    text = re.sub(
        r"^( *)PRINTED$", lambda place: textwrap.indent(example, place[1]), around, flags=re.M
    )
    for pattern, replacement in [*PLUGIN[loop], *WITNESS, *NAMES[loop], (re.escape(FEED), feed)]:
        text = re.sub(pattern, replacement, text, flags=re.M)
    return f"{IMPORTS[loop]}\n{text}\n"


def _blocks(file: str) -> dict[str, str]:
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\w+)\n.*?^```python\n(.*?)\n```$", text, flags=re.M | re.S))
