"""Nothing stays behind: objects, tasks, file descriptors; whatever order things end in."""

import gc
import json
import os
import random
from pathlib import Path

import anyio
import pytest
from dash import Input, Output, ctx, set_props

from apps import make_app
from dashws_async import WebSocketRuntime
from dashws_async.callbacks import CallbackTask
from dashws_async.connection import Connection
from dashws_async.handle import Reply, WebSocketHandle
from dashws_async.testing import open_browser
from serving import Server
from test_serving import COUNTDOWN, LIVE, source
from until import eventually

pytestmark = pytest.mark.anyio

CYCLES = 200


def parts_of_connections():
    """The objects alive that a connection is made of."""
    gc.collect()
    kinds = (Connection, CallbackTask, WebSocketHandle, Reply)
    # By its type, not isinstance: a weak proxy that somebody else keeps would answer that.
    return [each for each in gc.get_objects() if type(each) in kinds]


@pytest.fixture
def left_over():
    """Says which of them this test has made; earlier ones left threads behind that still run."""
    before = {id(each): each for each in parts_of_connections()}
    return lambda: [
        type(each).__name__ for each in parts_of_connections() if id(each) not in before
    ]


async def test_connections_that_end_at_any_moment_leave_nothing(anyio_backend, left_over):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend, "go", "out", "live", runtime=runtime)
    chance = random.Random(1)

    @app.callback(persistent=True)
    async def live():
        while not ctx.websocket.is_shutdown:
            set_props("live", {"children": 1})
            await anyio.sleep(0)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def ask(_):
        while True:
            await ctx.websocket.get_prop("live", "children")

    async with open_browser(app) as first:  # its lifespan is everybody's
        for _ in range(CYCLES):
            async with open_browser(app) as browser:
                page = await browser.open_page()
                await page.click("go")
                for _ in range(chance.randrange(10)):
                    await anyio.sleep(0)
                await (browser.drop() if chance.random() < 0.5 else browser.close())
        await eventually(lambda: not runtime.statistics().connections)
        assert runtime.statistics().connections_total == CYCLES
        assert runtime.statistics().callbacks == 0
        assert not first.connected
    del browser, page
    assert left_over() == []


@pytest.mark.virtual_time
async def test_what_looks_after_the_connections_holds_none_that_has_ended(
    anyio_backend_name, left_over
):
    runtime = WebSocketRuntime()
    app = make_app(anyio_backend_name, "go", "out", runtime=runtime)
    async with open_browser(app):  # its lifespan is everybody's
        async with open_browser(app) as browser:
            page = await browser.open_page()
            await anyio.sleep(60)
        assert runtime.statistics().connections == 0
        del browser, page
        assert left_over() == []


async def test_rubbish_from_a_client_harms_nothing(anyio_backend):
    runtime = WebSocketRuntime(max_bad_messages=1000, max_messages_per_second=10_000)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    chance = random.Random(2)

    @app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)
    async def answer(clicks):
        return clicks

    def rubbish(depth=3):
        kinds = [
            lambda: None,
            lambda: chance.randrange(-(10**30), 10**30),
            lambda: chance.choice(["", "out.children", "go", "\x00", "é" * 100, "{}", "__class__"]),
        ]
        if depth:
            kinds.append(lambda: [rubbish(depth - 1) for _ in range(chance.randrange(4))])
            kinds.append(lambda: {name: rubbish(depth - 1) for name in chance.sample(NAMES, 3)})
        return chance.choice(kinds)()

    async with open_browser(app) as browser:
        page = await browser.open_page()
        for number in range(500):
            message = {name: rubbish() for name in NAMES}
            message["type"] = chance.choice(TYPES)
            message["rendererId"] = "other"
            message["requestId"] = f"other-{number}"
            if chance.random() < 0.7:
                message["payload"] = {name: rubbish() for name in NAMES} | {
                    "output": chance.choice(["out.children", "x", 1])
                }
            text = json.dumps(message)
            if chance.random() < 0.2:
                text = text[: chance.randrange(len(text))]
            await browser.send_text(text)
        await page.click("go")
        await page.wait_for("out", "children", 1)
        await page.wait_idle()
    assert runtime.statistics().bad_messages > 50
    assert runtime.statistics().callbacks == 0


NAMES = ["type", "payload", "output", "outputs", "inputs", "state", "changedPropIds", "id", "value"]
TYPES = ["callback_request", "get_props_response", "heartbeat", "dance", "callback_request"]


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
async def test_a_server_gives_back_its_file_descriptors(anyio_backend, tmp_path):
    text = source(anyio_backend, COUNTDOWN, LIVE.format(interval=0.01))
    server = Server(text, anyio_backend, tmp_path, workers=0)
    await anyio.to_thread.run_sync(server.start)

    def descriptors():
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    try:
        seen = []
        for number in range(60):
            async with open_browser(server.url) as browser:
                page = await browser.open_page()
                await page.wait_for("live", "children", lambda value: value is not None)
                await (browser.drop() if number % 2 else browser.close())
            seen.append(descriptors())
        await eventually(lambda: descriptors() <= seen[0])
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)
