"""The floor: the same answers from a bare ASGI app, by hand, with nothing in between.

No Dash and no framework. Whoever sends waits for the socket; there is no order, no limit,
and no end of callbacks but their cancellation. No runtime is cheaper than this on the
same server.
"""

import asyncio
import itertools
import json
import time

from data import Ticks, heatmap, stamp


class Page:
    """A connection, its one page, and the callbacks by name."""

    count = 0
    """Live callbacks of all connections."""
    interval = 1.0

    def __init__(self, send):
        self._send = send
        self._tab = ""
        self._reads = {}
        self._read_ids = itertools.count(1)

    async def serve(self, receive):
        async with asyncio.TaskGroup() as tasks:
            running = []
            while (event := await receive())["type"] != "websocket.disconnect":
                message = json.loads(event["text"])
                if message["type"] == "callback_request":
                    self._tab = message["rendererId"]
                    running.append(tasks.create_task(self._run(message)))
                elif message["type"] == "get_props_response":
                    self._reads.pop(message["requestId"]).set_result(message["payload"])
            for task in running:
                task.cancel()

    async def _run(self, request):
        payload = request["payload"]
        name, _, _ = payload["output"].partition(".")
        inputs = [entry.get("value") for entry in payload["inputs"]]
        answer = await getattr(self, name)(*inputs)
        data = {"multi": True, "response": {name: {"title": answer}}}
        await self._say(
            {
                "type": "callback_response",
                "rendererId": self._tab,
                "requestId": request["requestId"],
                "payload": {"status": "ok", "data": data},
            }
        )

    async def _say(self, message):
        await self._send({"type": "websocket.send", "text": json.dumps(message)})

    async def _set_props(self, props):
        payload = {"componentId": "live", "props": props}
        await self._say({"type": "set_props", "rendererId": self._tab, "payload": payload})

    # The callbacks of dash_app.py.

    async def live(self):
        Page.count += 1
        await self._set_props({"children": stamp()})
        ticks = Ticks(self.interval)
        try:
            while True:
                await asyncio.sleep(ticks.until_next())
                await self._set_props({"children": stamp(ticks.due)})
        finally:
            Page.count -= 1

    async def alive(self, _):
        return Page.count

    async def echo(self, value):
        return value

    plain = echo

    async def stream(self, value):
        cadence, count = value
        for _ in range(count):
            await self._set_props({"children": stamp()})
            await asyncio.sleep(cadence)
        return "done"

    async def burst(self, count):
        for _ in range(count):
            await self._set_props({"children": stamp()})
            await asyncio.sleep(0)
        return "done"

    async def figures(self, count):
        for _ in range(count):
            await self._set_props({"figure": heatmap()})
            await asyncio.sleep(0)
        return "done"

    async def read(self, count):
        taken = []
        for _ in range(count):
            begun = time.monotonic_ns()
            await self._get_prop("text", "title")
            taken.append(time.monotonic_ns() - begun)
        return taken

    async def _get_prop(self, component_id, prop):
        number = str(next(self._read_ids))
        self._reads[number] = asyncio.get_running_loop().create_future()
        payload = {"componentId": component_id, "properties": [prop]}
        message = {"type": "get_props_request", "rendererId": self._tab}
        await self._say({**message, "requestId": number, "payload": payload})
        return (await self._reads[number]).get(prop)

    async def flood(self, value):
        size, cadence, count = value
        text = "x" * size
        for _ in range(count):
            await self._set_props({"children": text})
            await asyncio.sleep(cadence)
        return "done"


EVENT_CALLBACKS = ["alive", "echo", "plain", "stream", "burst", "figures", "read", "flood"]


def dependencies():
    """As a Dash app lists its callbacks."""
    trigger = [{"id": "n", "property": "title"}]
    events = [{"output": f"{name}.title", "inputs": trigger} for name in EVENT_CALLBACKS]
    return [{"output": "live", "no_output": True, "inputs": [], "persistent": True}, *events]


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await Page(send).serve(receive)
    elif scope["type"] == "http":
        known = {"/_dash-dependencies": dependencies(), "/_dash-layout": {}}
        body = json.dumps(known[scope["path"]]).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})
    else:
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
