"""Bare client sockets: a thousand full pages would be the slower part of a test."""

import json

import anyio
import websockets


async def persistent_request(url):
    """The request that a page load sends for the app's persistent callback."""
    import httpx

    async with httpx.AsyncClient() as client:
        (callback,) = (await client.get(f"{url}/_dash-dependencies")).json()
    return request_for(callback)


def request_for(callback):
    """The same, for a callback as the page knows it."""
    payload = {"output": callback["output"], "inputs": [], "state": [], "changedPropIds": []}
    return json.dumps(
        {
            "type": "callback_request",
            "rendererId": "tab",
            "requestId": "tab-1",
            "payload": payload,
        }
    )


class Sockets:
    """Connects to a server with the library for one loop."""

    def __init__(self, loop):
        if loop == "trio":
            from websockets.trio.client import connect
        else:
            from websockets.asyncio.client import connect
        self._connect = connect
        # More handshakes than the system holds for Hypercorn (100) would be tried again after
        # 1, 3, 7 s and so on.
        self._at_once = anyio.CapacityLimiter(50)

    def open(self, url):
        path = "/_dash-ws-callback"
        connecting = self._connect(url.replace("http", "ws") + path, origin=url, open_timeout=60)
        return Socket(connecting, self._at_once)


class Socket:
    def __init__(self, connecting, at_once):
        self._connecting = connecting
        self._at_once = at_once
        self._values = []

    async def __aenter__(self):
        async with self._at_once:
            self._socket = await self._connecting.__aenter__()
        self.send = self._socket.send
        return self

    async def __aexit__(self, *error):
        await self._connecting.__aexit__(*error)

    async def receive_value(self):
        while not self._values:
            found = json.loads(await self._socket.recv())
            for message in found if isinstance(found, list) else [found]:
                if message["type"] == "set_props":
                    self._values += message["payload"]["props"].values()
        return self._values.pop(0)

    async def wait_closed(self):
        """The close code; what still comes before is thrown away."""
        try:
            while True:
                await self._socket.recv()
        except websockets.ConnectionClosed:
            return self._socket.close_code

    async def receive_values(self, count):
        return [await self.receive_value() for _ in range(count)]
