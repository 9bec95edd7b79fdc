"""The scripts that run in the browser beside Dash's own, and the names they are served under.

They tell the server when one of a browser's tabs has gone: `page.js` runs in each page,
`worker.js` in the shared worker, around Dash's. This module knows their text; it knows
neither Dash nor a server.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

FOLDER = "_dashws-async/"
"""Where they are served, below the app's prefix. `page.js` knows its worker by the folder."""


class Script(NamedTuple):
    """One script."""

    kind: str
    """``page`` or ``worker``."""
    text: str

    @property
    def path(self) -> str:
        """Where it is served, below the app's prefix; changes with the text."""
        return f"{FOLDER}{self.kind}.{sha256(self.text.encode()).hexdigest()[:16]}.js"


@cache
def page_script() -> Script:
    """What each page runs before Dash's renderer."""
    return Script("page", _text("page.js"))


@cache
def worker_script(dash_worker_url: str) -> Script:
    """What the shared worker runs.

    Args:
        dash_worker_url: where the browser finds Dash's worker.
    """
    first_line = f"const DASH_WORKER = {json.dumps(dash_worker_url)};\n"
    return Script("worker", first_line + _text("worker.js"))


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
