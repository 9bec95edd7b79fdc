"""The guide's examples, as printed, through a page without a browser.

On asyncio and on trio, in memory and behind Hypercorn's workers. All examples of
one such combination play at the same time, because they take the seconds that
the guide gives them; each failure is reported under its example's name.
"""

import random
import re
import sys
import types
from contextlib import asynccontextmanager

import anyio
import dash_ag_grid  # noqa: F401  # Dash refuses a component library that comes while callbacks run
import pytest

from dashws_async.testing import open_browser
from guide.extract import CLEANUP, extract
from ports import free_port
from serving import Server
from until import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.process]

SECONDS = 40
"""For one example; the longest takes ten by itself."""


def like(pattern):
    """Whether a text, once there is one, has the pattern in it."""
    return lambda text: text is not None and re.search(pattern, text)


async def countdown(page):
    await page.click("start-btn")
    await page.wait_for("countdown-display", "children", "Done!", timeout=SECONDS)
    steps = [f"Countdown: {number}" for number in range(10, 0, -1)]
    assert page.history("countdown-display", "children") == [*steps, "Done!"]


async def greeting(page):
    await page.set_props("name-input", value="Ada")
    await page.click("greet-btn")
    await page.wait_for("greeting-output", "children", "Processing for Ada...", timeout=SECONDS)
    await page.wait_for("greeting-output", "children", "Hello, Ada!", timeout=SECONDS)


async def per_callback(page):
    await page.wait_for("dropdown-output", "children", "Selected: Option A")
    await page.click("stream-btn")
    await page.set_props("my-dropdown", value="Option B")
    await page.wait_for("dropdown-output", "children", "Selected: Option B")
    await page.wait_for("stream-output", "children", "All updates complete!", timeout=SECONDS)
    steps = [f"Update {number} of 5..." for number in range(1, 6)]
    assert page.history("stream-output", "children")[:-1] == steps


async def background_loop(page):
    await page.wait_for("live-display", "children", like("reading 3$"))
    assert len(page.history("live-display", "children")) >= 3


async def stream_prices(page):
    await page.click("connect-btn")
    await page.wait_for("status", "children", "Connected")
    await page.wait_for("live-price", "children", like(r"AAPL: \$\d"))
    await page.set_props("symbol-select", value="MSFT")
    await page.wait_for("live-price", "children", like(r"MSFT: \$\d"))
    assert set(page.get("prices-store", "data")) == {"AAPL", "GOOGL", "MSFT"}
    return "drop"


async def stream_from_service(page):
    await page.click("connect-btn")
    await page.wait_for("status", "children", "Connected")
    await page.wait_for("live-output", "children", "AAPL quote 1")
    await page.set_props("symbol-select", value="MSFT")
    await page.wait_for("live-output", "children", like("MSFT quote"))
    return "drop"


async def interval_before(page):
    await page.wait_for("price-display", "children", like(r"AAPL: \$\d+"))
    await page.set_props("poll", n_intervals=1)
    await page.wait_for("price-display", "children", like(r"AAPL: \$\d+"))


async def interval_after(page):
    await page.wait_for("price-display", "children", like(r"AAPL: \$\d+"))
    first = int(page.get("price-display", "children").removeprefix("AAPL: $"))
    await page.wait_for("price-display", "children", f"AAPL: ${first + 2}")
    values = page.history("price-display", "children")
    assert values[-3:] == [f"AAPL: ${first + step}" for step in range(3)]


async def game_of_life(page):
    await page.click("start")
    await page.wait_for("gen", "children", "Generation: 3")
    await page.click("stop")
    await page.wait_for("running", "data", False)
    steps = [f"Generation: {number}" for number in range(1, 4)]
    assert page.history("gen", "children")[:3] == steps
    boards = [figure["data"][0]["z"] for figure in page.history("board", "figure")]
    assert boards[0] != boards[1]


async def ag_grid(page):
    await page.click("start")
    await page.wait_for("streaming", "data", True)
    first = page.get("grid", "rowData")
    await page.wait_for("grid", "rowData", lambda rows: rows != first)
    second = page.get("grid", "rowData")
    await page.wait_for("grid", "rowData", lambda rows: rows not in (first, second))
    assert [row["symbol"] for row in second] == ["AAPL", "GOOGL", "MSFT", "AMZN", "TSLA"]


async def cleanup_persistent(page):
    await page.wait_for("output", "children", lambda value: value is not None)
    return "drop"


async def cleanup_triggered(page):
    await page.click("btn")
    await page.wait_for("progress", "children", "Working...")
    return "drop"


async def server_close(page):
    await page.wait_for("ticks", "children", "Tick 1")
    await page.click("btn")
    return 4001


PLAYS = [
    countdown,
    greeting,
    per_callback,
    background_loop,
    stream_prices,
    stream_from_service,
    interval_before,
    interval_after,
    game_of_life,
    ag_grid,
    cleanup_persistent,
    cleanup_triggered,
    server_close,
]


class InMemory:
    """The example as a module of this process; what it prints is in the test's output."""

    def __init__(self, capfd):
        self._capfd = capfd
        self._printed = ""

    @asynccontextmanager
    async def open(self, name, source):
        module = types.ModuleType(f"guide_{name}")
        sys.modules[module.__name__] = module
        exec(compile(source, name, "exec"), module.__dict__)
        async with open_browser(module.app) as browser:
            yield browser, await browser.open_page()

    def log(self, name):
        self._printed += self._capfd.readouterr().out
        return self._printed


class BehindHypercorn:
    """The example in a server process of its own, on the worker of the loop."""

    def __init__(self, loop, folder):
        self._loop = loop
        self._folder = folder
        self._servers = {}

    @asynccontextmanager
    async def open(self, name, source):
        folder = self._folder / name
        folder.mkdir()
        server = self._servers[name] = Server(source, self._loop, folder)
        await anyio.to_thread.run_sync(server.start)
        try:
            async with open_browser(server.url) as browser:
                yield browser, await browser.open_page()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(server.stop)

    def log(self, name):
        return self._servers[name].log


@pytest.mark.parametrize("where", ["memory", "hypercorn"])
async def test_the_guides_examples(anyio_backend, where, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(random, "random", random.Random(1).random)  # a game that stays alive
    site = InMemory(capfd) if where == "memory" else BehindHypercorn(anyio_backend, tmp_path)
    failures = []

    async def play(script, source, *, task_status):
        try:
            async with site.open(script.__name__, source) as (browser, page):
                task_status.started()
                end = await script(page)
                assert not page.errors
                if end is not None:
                    if end == "drop":
                        await browser.drop()
                    else:
                        assert await browser.wait_closed() == end
                        assert page.history("status", "children") == []
                    await eventually(lambda: CLEANUP in site.log(script.__name__))
        except Exception as failure:
            failure.add_note(f"in the guide's example {script.__name__!r}")
            failures.append(failure)

    async with Feed() as feed, anyio.create_task_group() as plays:
        for script in PLAYS:
            # One after the other: an example's global callbacks go to the first app that asks.
            await plays.start(play, script, extract(script.__name__, anyio_backend, feed=feed.url))
    if failures:
        raise ExceptionGroup("examples of the guide failed", failures)


class Feed:
    """An outside service that answers each symbol with a numbered quote."""

    async def __aenter__(self):
        import threading

        from websockets.exceptions import ConnectionClosed
        from websockets.sync.server import serve

        def quote(connection):
            try:
                for number, symbol in enumerate(connection, start=1):
                    connection.send(f"{symbol} quote {number}")
            except ConnectionClosed:
                return

        self._server = serve(quote, "127.0.0.1", free_port())
        self.url = "ws://{}:{}".format(*self._server.socket.getsockname())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    async def __aexit__(self, *error):
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._server.shutdown)
            await anyio.to_thread.run_sync(self._thread.join)
