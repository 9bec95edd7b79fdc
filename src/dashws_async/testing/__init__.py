"""A page without a browser: what Dash's own browser code does, for tests.

`open_browser` opens an app in memory (asyncio or trio, no sockets) or behind a URL,
`Browser.open_page` loads it as a tab, and a `Page` holds the properties a real one
would hold: callbacks fire, over the WebSocket or over HTTP, updates arrive,
``get_prop`` is answered. The browser code that it follows is Dash 4.4's
``dash-renderer`` and ``dash-ws-worker.js``.

What is simpler than in a browser:

- Components do nothing by themselves, except that ``dcc.Location`` learns the
  address at load: a ``dcc.Interval`` does not tick, a ``dcc.Store`` forgets.
- Clientside callbacks are not run and not waited for; background callbacks are
  reported in `Page.errors`.
- Callbacks that could start together start in the order they were asked for, not
  in Dash's order of priority. (What waits for what is as in the page, and so is the
  limit of 12 at once.)
- After its socket is lost, the browser does not reconnect by a timer: call
  `Browser.reconnect`, or fire a callback.

Knows: the public names. Refuses to know: anything of the runtime in this package;
it talks to any Dash app.
"""

try:
    import httpx as _httpx  # noqa: F401
    import websockets as _websockets  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"dashws_async.testing needs {error.name}: pip install 'dashws-async[testing]'"
    ) from error

from ._browser import SAME_ORIGIN, Browser, Page, open_browser
from ._page import PageError
from ._patch import PatchError, apply_patch

__all__ = [
    "SAME_ORIGIN",
    "Browser",
    "Page",
    "PageError",
    "PatchError",
    "apply_patch",
    "open_browser",
]
