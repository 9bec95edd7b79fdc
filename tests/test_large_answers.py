"""Large answers: they wait for their client, and one that reads is not closed for them."""

import contextlib
import json
import textwrap
import time
import urllib.request

import anyio
import pytest
from dash import Input, Output

from apps import add_neighbour, make_app, neighbour_goes_on
from dashws_async import WebSocketRuntime
from dashws_async.outbox import Outgoing
from dashws_async.testing import open_browser
from raw_socket import RawSocket
from serving import Server, server_class
from until import eventually

TABS, EACH = 10, 6
COUNT = TABS * EACH
"""Answers; a page of Dash awaits at most 12."""

# In memory: up to 16 frames are on their way to a client.

SIZE, MAX_OUTBOX = 300_000, 2_000_000
"""Bytes. A frame holds one of these answers, the outbox six."""
UPDATE = json.dumps(
    {
        "type": "set_props",
        "rendererId": "of nobody",
        "payload": {"componentId": "live", "props": {"title": "x" * (MAX_OUTBOX // 10)}},
    }
)
"""A few of these leave no room."""


class Stage:
    """A page with `EACH` callbacks, all of which answer a click at length."""

    def __init__(self, loop):
        self.runtime = WebSocketRuntime(max_outbox_bytes=MAX_OUTBOX)
        self.outputs = [f"out{number}" for number in range(EACH)]
        self.app = make_app(loop, "go", "live", *self.outputs, runtime=self.runtime)
        self.begun = 0
        self.work = anyio.Event()
        """Set once the callbacks may answer."""
        for output in self.outputs:
            self.app.callback(
                Output(output, "children"), Input("go", "n_clicks"), prevent_initial_call=True
            )(self.answer)

    async def answer(self, clicks):
        self.begun += 1
        await self.work.wait()
        return "x" * SIZE

    @contextlib.asynccontextmanager
    async def full(self):
        """A browser with clicks in all tabs, that reads nothing: answers wait in callbacks."""
        async with open_browser(self.app) as browser:
            pages = [await browser.open_page() for _ in range(TABS)]
            browser.pause_reading()
            for page in pages:
                await page.click("go")
            await eventually(lambda: self.begun == COUNT)
            self.work.set()
            await eventually(lambda: self.runtime.statistics().event_callbacks < COUNT)
            await anyio.wait_all_tasks_blocked()
            (connection,) = self.runtime._runtime._connections
            while connection.has_room(0):
                connection.post(Outgoing('"tab"', UPDATE))
            yield browser, pages


@pytest.mark.anyio
async def test_a_client_that_reads_gets_all_answers_however_many_wait(anyio_backend):
    stage = Stage(anyio_backend)
    async with stage.full() as (browser, pages):
        (connection,) = stage.runtime.connections
        assert connection.waiting_bytes <= MAX_OUTBOX / 2 + SIZE + len(UPDATE)
        waiting = [each.where for each in connection.callbacks]
        assert len(waiting) > COUNT / 3
        assert all(where.startswith("the wait for its client") for where in waiting)
        browser.resume_reading()
        for page in pages:
            for output in stage.outputs:
                await page.wait_for(output, "children", "x" * SIZE)
            assert not page.errors
    assert stage.runtime.statistics().closed["slow"] == 0


@pytest.mark.anyio
async def test_a_callback_starts_once_there_is_room_for_its_answer(anyio_backend):
    stage = Stage(anyio_backend)
    async with stage.full() as (browser, pages):
        callbacks = stage.runtime.statistics().callbacks
        for page in pages:
            await page.click("go")
        await eventually(lambda: stage.runtime.statistics().callbacks > callbacks + COUNT / 2)
        await anyio.wait_all_tasks_blocked()
        assert stage.begun == COUNT
        browser.resume_reading()
        await eventually(lambda: stage.begun == 2 * COUNT)
        for page in pages:
            await page.wait_idle()
    assert stage.runtime.statistics().closed["slow"] == 0


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["left", "restart"])
async def test_what_waits_for_its_client_ends_with_the_connection(anyio_backend, end):
    stage = Stage(anyio_backend)
    async with stage.full() as (browser, pages):
        for page in pages:
            await page.click("go")  # these wait for their start
        with anyio.fail_after(5):
            if end == "left":
                await browser.drop()
            else:
                await stage.runtime._runtime.drain()
            await eventually(lambda: not stage.runtime.statistics().callbacks)
        # One may have found room when the last frame left.
        assert stage.begun <= COUNT + 1
        assert stage.runtime.statistics().closed[end] == 1
        browser.resume_reading()


@pytest.mark.anyio
async def test_an_answer_of_more_than_half_the_outbox_finds_room_beside_a_stream(anyio_backend):
    stage = Stage(anyio_backend)
    add_neighbour(stage.app)

    @stage.app.callback(Output("go", "title"), Input("out0", "n_clicks"), prevent_initial_call=True)
    async def huge(clicks):
        return "y" * (MAX_OUTBOX * 3 // 4)

    async with stage.full() as (browser, pages):
        page = pages[0]
        await page.click("out0")
        browser.resume_reading()
        await page.wait_for("go", "title", "y" * (MAX_OUTBOX * 3 // 4))
        await neighbour_goes_on(page)
    assert stage.runtime.statistics().closed["slow"] == 0


# Over the network

APP = """
    import json

    import anyio
    from dash import Dash, Input, Output, html
    from {package} import {server}

    from dashws_async import WebSocketRuntime

    server = {server}(__name__)
    runtime = WebSocketRuntime()
    app = Dash(__name__, server=server, websocket_callbacks=True, plugins=[runtime])
    outputs = [f"out{{number}}" for number in range({count})]
    app.layout = html.Div([html.Div(id=each) for each in ["go", *outputs]])

    async def answer(clicks):
        await anyio.sleep(0.5)
        return "x" * 1_000_000

    for output in outputs:
        app.callback(Output(output, "children"), Input("go", "n_clicks"))(answer)

    @server.get("/closed")
    async def closed():
        return runtime.statistics().closed
"""


@pytest.mark.process
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_60_answers_of_1_mb_reach_a_client_at_2_mb_a_second(loop, tmp_path):
    package, name = server_class(loop)
    source = textwrap.dedent(APP).format(package=package, server=name, count=COUNT)
    server = Server(source, loop, tmp_path, workers=0)
    server.start()
    try:
        client = RawSocket(server.url, receive_buffer=64 * 1024)
        for number in range(COUNT):
            output = f"out{number}"
            payload = {
                "output": f"{output}.children",
                "outputs": {"id": output, "property": "children"},
                "inputs": [{"id": "go", "property": "n_clicks", "value": 1}],
                "changedPropIds": ["go.n_clicks"],
            }
            request = {
                "type": "callback_request",
                "rendererId": "tab",
                "requestId": f"tab-{number}",
                "payload": payload,
            }
            client.send(json.dumps(request))
        received, begun = set(), time.monotonic()
        while len(received) < COUNT:
            found = json.loads(client.receive())
            for message in found if isinstance(found, list) else [found]:
                assert message["payload"]["status"] == "ok"
                received.add(message["requestId"])
            time.sleep(max(0, begun + len(received) / 2 - time.monotonic()))
        print(f"{len(received)} answers of 1 MB in {time.monotonic() - begun:.1f} s")
        with urllib.request.urlopen(server.url + "/closed", timeout=30) as answer:
            assert not any(json.loads(answer.read()).values())
        client.close()
    finally:
        server.stop()
