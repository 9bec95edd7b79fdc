"""Python source as Dash components with a class per kind of word; colours are the CSS's business.

The names of the WebSocket callback API are marked apart from the rest, because
they are what the reader came to see.
"""

from __future__ import annotations

import inspect
import io
import keyword
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

from dash import html

__all__ = ["highlight", "source_of"]

#: What the gallery teaches.
_API = {
    *("Interval", "Patch", "WebSocketRuntime", "callback", "ctx", "get_prop", "is_shutdown"),
    *("persistent", "plugins", "running", "set_props", "websocket", "websocket_callbacks"),
}
_KINDS = {tokenize.COMMENT: "comment", tokenize.NUMBER: "number", tokenize.STRING: "string"}


def source_of(function: Callable[..., Any]) -> str:
    """The source of a callback as it stands in its file, decorator included, unindented."""
    return textwrap.dedent(inspect.getsource(function)).rstrip() + "\n"


def highlight(source: str) -> html.Pre:
    """`source` as a `<pre>` in which keywords, strings, API names and so on are spans."""
    return html.Pre(html.Code(list(_spans(source))), className="code")


def _spans(source: str) -> Iterator[Any]:
    lines = source.splitlines(keepends=True)
    row, column = 1, 0  # where the part not yet given out begins
    before = ""

    def upto(end_row: int, end_column: int) -> str:
        nonlocal row, column
        if row == end_row:
            text = lines[row - 1][column:end_column]
        else:
            text = lines[row - 1][column:] + "".join(lines[row : end_row - 1])
            text += lines[end_row - 1][:end_column] if end_row <= len(lines) else ""
        row, column = end_row, end_column
        return text

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = _kind(token, before)
        if token.string.strip():
            before = token.string
        if kind is None:
            continue
        yield upto(*token.start)
        yield html.Span(upto(*token.end), className=f"code-{kind}")
    yield upto(len(lines) + 1, 0)


def _kind(token: tokenize.TokenInfo, before: str) -> str | None:
    if token.type != tokenize.NAME:
        # Python 3.12 and later cut an f-string into pieces: FSTRING_START and so on.
        name = tokenize.tok_name[token.type]
        return "string" if name.startswith("FSTRING") else _KINDS.get(token.type)
    if token.string in _API:
        return "api"
    if before == "def":
        return "name"
    if keyword.iskeyword(token.string):
        return "keyword"
    return None
