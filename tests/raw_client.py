"""A WebSocket client in memory that sends what it is told, and keeps all that comes."""

import json
from contextlib import asynccontextmanager

import anyio

from dashws_async.testing._wire import SocketClosed, serve_in_memory
from until import eventually

HOST = "dash.test"


@asynccontextmanager
async def open_client(app):
    """A client of an app that this process serves."""
    async with (
        serve_in_memory(app.server, public_prefix="/", app_prefix="/", shutdown_timeout=2) as site,
        anyio.create_task_group() as tasks,
    ):
        socket = await site.connect(
            f"ws://{HOST}/_dash-ws-callback", [("Host", HOST), ("Origin", f"http://{HOST}")]
        )
        client = RawClient(socket)
        tasks.start_soon(client.listen)
        yield client
        await socket.abort()


class RawClient:
    """The client's end."""

    def __init__(self, socket):
        self._socket = socket
        self.received = []
        """The server's messages, but for ``live``."""
        self.live = -1
        """The newest value of ``live``, by which a neighbour shows that it goes on."""
        self.closed = None
        """The close code, once there is one."""

    async def listen(self):
        try:
            while True:
                found = json.loads(await self._socket.receive())
                for message in found if isinstance(found, list) else [found]:
                    if (
                        message["type"] == "set_props"
                        and message["payload"]["componentId"] == "live"
                    ):
                        self.live = message["payload"]["props"]["children"]
                    else:
                        self.received.append(message)
        except SocketClosed as closed:
            self.closed = closed.code

    async def send(self, message):
        """Send text, bytes in a binary message, or an object as JSON."""
        if isinstance(message, bytes):
            self._socket._to_app.send_nowait({"type": "websocket.receive", "bytes": message})
        else:
            await self._socket.send(message if isinstance(message, str) else json.dumps(message))

    def answers(self, request_id, tab="tab"):
        """The payloads of what has been answered to a request."""
        return [
            message["payload"]
            for message in self.received
            if message["type"] == "callback_response"
            and (message["rendererId"], message["requestId"]) == (tab, request_id)
        ]

    async def answer(self, request_id, tab="tab"):
        """The payload of a request's answer, once it is there."""
        await eventually(lambda: self.answers(request_id, tab))
        return self.answers(request_id, tab)[0]

    async def asked(self, count=1):
        """The ``get_props_request`` messages, once there are so many."""

        def found():
            return [each for each in self.received if each["type"] == "get_props_request"]

        await eventually(lambda: len(found()) >= count)
        return found()

    async def goes_on(self):
        """Wait until the neighbour has counted on."""
        reached = self.live
        await eventually(lambda: self.live > reached + 1)


def request(payload, request_id="r", tab="tab", **fields):
    """A callback request."""
    return {
        "type": "callback_request",
        "rendererId": tab,
        "requestId": request_id,
        "payload": payload,
        **fields,
    }


def payload_of(output, *inputs, **fields):
    """The payload that asks for a callback with one output.

    Args:
        inputs: ``id.property`` and value, each.
        fields: take the place of what there is.
    """
    name, prop = output.split(".")
    entries = [
        dict(zip(("id", "property"), where.split("."), strict=True), value=value)
        for where, value in inputs
    ]
    return {
        "output": output,
        "outputs": {"id": name, "property": prop},
        "inputs": entries,
        "changedPropIds": [where for where, _ in inputs[:1]],
        **fields,
    }
