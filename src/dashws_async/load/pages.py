"""Pages of a Dash app, as much of each as makes load: they ask, take updates, and answer.

A `Load` opens the pages one after the other and lets each request the app's persistent
callbacks, as a page does when it is loaded; a `Tally` says what came of it.

How late an update comes, only the app can say: where a value holds a `stamp`, the
delay since then is measured. Without one there are the heartbeats, which a server answers
as soon as it gets round to them.

Knows: Dash's messages. Refuses to know: their JSON, where a search for bytes will do.
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.request
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .sockets import Address, Client, Ended, Socket, frame

__all__ = ["STAMP", "App", "Load", "NotAnApp", "Page", "Tally", "stamp"]

STAMP = re.compile(rb"@(\d{10,20})@")
"""What `stamp` looks like in a message."""
HEARTBEAT = frame('{"type":"heartbeat"}')
HTTP_TIMEOUT = 30.0
"""Seconds for one HTTP request."""
LONGEST_TURN = 0.1
"""Seconds that `Load.run` waits for something to happen before it looks at the time."""
CONNECTS_AT_ONCE = 100
"""Sockets that are begun before those that are there get their turn again."""


def stamp(when: int | None = None) -> str:
    """A value that says when it was made, for callbacks whose updates are to be measured.

    Args:
        when: `time.monotonic_ns`; by default now. That clock is the machine's: it means
            nothing to a load client on another one.
    """
    return f"@{time.monotonic_ns() if when is None else when}@"


class NotAnApp(Exception):
    """There is no Dash app at this URL, or none that could be loaded."""


@dataclass(frozen=True)
class App:
    """What a page learns of its app.

    Args:
        url: of the index page.
        path: of the WebSocket.
        callbacks: as ``/_dash-dependencies`` lists them.
        layout: as ``/_dash-layout`` has it.
    """

    url: str
    path: str
    callbacks: tuple[Mapping[str, Any], ...]
    layout: Any

    @classmethod
    def at(cls, url: str) -> App:
        """Ask the server, as a page does.

        Raises:
            NotAnApp: it does not answer as a Dash app does.
        """
        url = url if url.endswith("/") else f"{url}/"
        callbacks = _get_json(f"{url}_dash-dependencies")
        layout = _get_json(f"{url}_dash-layout")
        return cls(url, cls.websocket_path(url), tuple(callbacks), layout)

    @staticmethod
    def websocket_path(url: str) -> str:
        """Where the app whose index page is at ``url`` has its WebSocket."""
        return f"{urlsplit(url).path.rstrip('/')}/_dash-ws-callback"

    @property
    def persistent(self) -> tuple[Mapping[str, Any], ...]:
        """The callbacks that every page starts and keeps."""
        return tuple(callback for callback in self.callbacks if callback.get("persistent"))

    def payload(self, callback: Mapping[str, Any], *inputs: Any) -> dict[str, Any]:
        """What a page asks for this callback with.

        Args:
            inputs: values of the inputs; those left out are the layout's.
        """
        entries = [self._entry(declared) for declared in callback["inputs"]]
        for entry, value in zip(entries, inputs, strict=False):
            entry["value"] = value
        changed = [f"{entry['id']}.{entry['property']}" for entry in entries]
        payload: dict[str, Any] = {
            "output": callback["output"],
            "inputs": entries,
            "state": [self._entry(declared) for declared in callback.get("state") or ()],
            "changedPropIds": changed,
            "parsedChangedPropsIds": changed,
        }
        if not callback.get("no_output") and not callback["output"].startswith(".."):
            component_id, _, prop = callback["output"].rpartition(".")
            payload["outputs"] = {"id": component_id, "property": prop}
        return payload

    def read(self, component_id: str, prop: str) -> Any:
        """A property's value in the layout, ``None`` where it has none."""
        props = _find(self.layout, component_id)
        return None if props is None else props.get(prop)

    def _entry(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        component_id, prop = declared["id"], declared["property"]
        entry = {"id": component_id, "property": prop}
        value = self.read(component_id, prop)
        return entry if value is None else {**entry, "value": value}


@dataclass
class Tally:
    """What all pages of a load have seen."""

    opening: int = 0
    """Handshakes that are under way."""
    open: int = 0
    """Pages with an open WebSocket."""
    live: int = 0
    """Of these, pages that have had an update."""
    frames: int = 0
    """Messages that came since `reset`."""
    updates: int = 0
    """``set_props`` that came since `reset`."""
    bytes: int = 0
    """Of these messages, uncompressed."""
    delays: array[int] = field(default_factory=lambda: array("q"))
    """Nanoseconds from each `stamp` to its arrival, since `reset`."""
    heartbeats: array[int] = field(default_factory=lambda: array("q"))
    """Nanoseconds to the answer of each heartbeat, since `reset`."""
    handshakes: array[int] = field(default_factory=lambda: array("q"))
    """Nanoseconds from the first packet to the open WebSocket, for each page."""
    first_updates: array[int] = field(default_factory=lambda: array("q"))
    """Nanoseconds from the open WebSocket to the first update, for each page."""
    refused: Counter[str] = field(default_factory=Counter)
    """Handshakes that failed, by reason."""
    lost: Counter[str] = field(default_factory=Counter)
    """Open WebSockets that ended, by reason."""
    errors: Counter[str] = field(default_factory=Counter)
    """Answers that were errors, by message."""

    def reset(self) -> None:
        """Count messages afresh from here on."""
        self.frames = self.updates = self.bytes = 0
        self.delays, self.heartbeats = array("q"), array("q")


class Page:
    """One page on a WebSocket of its own."""

    __slots__ = ("_asked", "_begun", "_is_live", "_load", "_opened", "renderer_id", "socket")

    def __init__(self, load: Load) -> None:
        self.renderer_id = str(uuid.uuid4())
        self._load = load
        self._is_live = False
        self._asked = 0
        self._opened = 0
        self._begun = time.monotonic_ns()
        self.socket = load.client.connect(self)

    def beat(self) -> None:
        """Send a heartbeat, unless one is still waiting for its answer."""
        if self.socket.is_open and not self._asked:
            self._asked = time.monotonic_ns()
            self.socket.send(HEARTBEAT)

    def opened(self, socket: Socket) -> None:
        self._opened = time.monotonic_ns()
        tally = self._load.tally
        tally.opening -= 1
        tally.open += 1
        tally.handshakes.append(self._opened - self._begun)
        for number, payload in enumerate(self._load.requests, 1):
            socket.send(
                frame(
                    f'{{"type":"callback_request","rendererId":"{self.renderer_id}",'
                    f'"requestId":"{self.renderer_id}-{number}","payload":{payload}}}'
                )
            )

    def received(self, socket: Socket, message: bytes, now: int) -> None:
        tally = self._load.tally
        tally.frames += 1
        tally.bytes += len(message)
        updates = message.count(b'"set_props"')
        if updates:
            tally.updates += updates
            for when in STAMP.findall(message):
                tally.delays.append(now - int(when))
            if not self._is_live:
                self._is_live = True
                tally.live += 1
                tally.first_updates.append(now - self._opened)
        if self._asked and b'"heartbeat_ack"' in message:
            tally.heartbeats.append(now - self._asked)
            self._asked = 0
        if b'"get_props_request"' in message or b'"callback_response"' in message:
            found = json.loads(message)
            for each in found if isinstance(found, list) else [found]:
                self._answer(each)

    def ended(self, socket: Socket, how: Ended) -> None:
        tally = self._load.tally
        if self._opened:
            tally.open -= 1
            tally.live -= self._is_live
            tally.lost[_in_words(how)] += 1
        else:
            tally.opening -= 1
            tally.refused[_in_words(how)] += 1

    def _answer(self, message: Mapping[str, Any]) -> None:
        payload = message.get("payload", {})
        if message["type"] == "get_props_request":
            read = self._load.app.read
            values = {name: read(payload["componentId"], name) for name in payload["properties"]}
            answer = {**message, "type": "get_props_response", "payload": values}
            self.socket.send(frame(json.dumps(answer)))
        elif message["type"] == "callback_response" and payload["status"] == "error":
            self._load.tally.errors[str(payload.get("message"))] += 1


class Load:
    """Pages that come at a pace, and stay.

    Args:
        app: theirs.
        pages: how many.
        rate: pages that come per second.
        at_once: handshakes under way at the same time; more wait for these.
        heartbeat: seconds from one heartbeat of a page to its next.
        client: their sockets. By default without deflate.
        requests: what each asks for when it has connected; by default the app's
            persistent callbacks.
    """

    def __init__(
        self,
        app: App,
        pages: int,
        *,
        rate: float = math.inf,
        at_once: float = math.inf,
        heartbeat: float = 30.0,
        client: Client | None = None,
        requests: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self.app = app
        self.client = client or Client(Address.of(app.url, app.path))
        self.tally = Tally()
        self.wanted = pages
        if requests is None:
            requests = [app.payload(callback) for callback in app.persistent]
        self.requests = [json.dumps(payload, separators=(",", ":")) for payload in requests]
        self.pages: list[Page] = []
        self._pace = 1 / rate
        self._at_once = at_once
        self._heartbeat = heartbeat
        self._beats: deque[tuple[float, Page]] = deque()
        self._begun: float | None = None
        # Without a pace the next page waits for a handshake, which ends a turn.
        self._longest_turn = min(LONGEST_TURN, self._pace or LONGEST_TURN)

    @property
    def everyone_came(self) -> bool:
        """Whether every page has its WebSocket, or has been refused it, or has lost it."""
        return len(self.pages) == self.wanted and self.tally.opening == 0

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for so long, or until something holds; whether it does.

        Raises:
            OSError: there are no more ports or file descriptors.
        """
        deadline = time.monotonic() + seconds
        if self._begun is None:
            self._begun = time.monotonic()
        while not until():
            now = time.monotonic()
            if now >= deadline:
                return False
            came = self._open_pages(now)
            self._send_heartbeats(now)
            self.client.turn(0 if came else min(deadline - now, self._longest_turn))
        return True

    def leave(self) -> None:
        """All pages go, without a word."""
        for page in self.pages:
            page.socket.leave()
        self.tally.open = self.tally.live = self.tally.opening = 0

    def _open_pages(self, now: float) -> bool:
        """Begin those whose time has come; whether there was one."""
        assert self._begun is not None
        came = 0
        while (
            len(self.pages) < self.wanted
            and self._begun + len(self.pages) * self._pace <= now
            and self.tally.opening < self._at_once
            and came < CONNECTS_AT_ONCE
        ):
            page = Page(self)
            self.pages.append(page)
            self.tally.opening += 1
            self._beats.append((now + self._heartbeat, page))
            came += 1
        return came > 0

    def _send_heartbeats(self, now: float) -> None:
        # All wait equally long: the one that was asked first is the next.
        while self._beats and self._beats[0][0] <= now:
            _, page = self._beats.popleft()
            page.beat()
            self._beats.append((now + self._heartbeat, page))


def _in_words(how: Ended) -> str:
    return how.reason if how.code is None else f"{how.code} {how.reason}".strip()


def _get_json(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise NotAnApp(f"{url}: {error}") from error


def _find(layout: Any, component_id: str) -> Mapping[str, Any] | None:
    """The properties of a component, wherever in the layout it is."""
    if isinstance(layout, list):
        found = (_find(item, component_id) for item in layout)
        return next((props for props in found if props is not None), None)
    if not isinstance(layout, dict):
        return None
    props = layout.get("props")
    if isinstance(props, dict) and props.get("id") == component_id:
        return props
    return _find(list(layout.values()), component_id)
