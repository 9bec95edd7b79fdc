"""What is measured: each scenario loads a fresh server and returns figures by name.

A figure's name ends in its unit. Lateness and delay are from the moment that the callback
meant, by the machine's one monotonic clock, to the moment that the client has read.
"""

import json
import time
from array import array
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dashws_async.load import STAMP, Address, App, Client, Ended, Load, Socket, frame

from .server import Server

Figures = dict[str, float]

PATIENCE = 4.0
"""Seconds without a further live page, after which those that are live count as all."""
PATIENCE_IN_A_STORM = 10.0
"""The same where all come at once: what the system dropped it sends again after 1, 3, 7 s."""
COME_TIMEOUT = 90.0
"""Seconds for all pages to come."""
ANSWER_TIMEOUT = 60.0
"""Seconds for one callback to answer."""
HANDSHAKES_AT_ONCE = 64
"""When pages come gently. A storm knows no limit."""
SLOW_BUFFER = 16 * 1024
"""Bytes that the system keeps for a client that does not read."""


class Failed(Exception):
    """A contender did not do what the scenario asks for."""


class Window:
    """Wall time, and the CPU time of server and client, from its making to `close`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._begun = time.monotonic(), server.cpu(), time.process_time()

    def close(self) -> None:
        wall, server_cpu, client_cpu = self._begun
        self.seconds = time.monotonic() - wall
        self.server_cpu = self._server.cpu() - server_cpu
        self.client_cpu_percent = 100 * (time.process_time() - client_cpu) / self.seconds

    def figures(self, per: int, of: str) -> Figures:
        """CPU figures.

        Args:
            per: how many of them there were in the window,
            of: and of what.
        """
        found = {
            "server_cpu_percent": 100 * self.server_cpu / self.seconds,
            "client_cpu_percent": self.client_cpu_percent,
        }
        return {**found, f"cpu_per_{of}_us": 1e6 * self.server_cpu / per} if per else found


def spread(nanoseconds: "array[int]", name: str) -> Figures:
    """Median, 99th percentile and maximum, in milliseconds; nothing where there is nothing."""
    if not nanoseconds:
        return {}
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        f"{name}_{word}_ms": ordered[round(share * last)] / 1e6 for word, share in shares.items()
    }


class Asker:
    """A page that asks for one callback at a time, of its own accord.

    Args:
        callback: its output.
        answered: called with each answer's message.
    """

    def __init__(
        self,
        client: Client,
        app: App,
        callback: str,
        answered: Callable[["Asker"], None] = lambda asker: None,
        receive_buffer: int | None = None,
    ) -> None:
        (self._callback,) = (each for each in app.callbacks if each["output"] == callback)
        self._app = app
        self._answered = answered
        self.answer = b""
        self.asked = self.answered_at = 0
        self.arrivals, self.delays = array("q"), array("q")
        self.socket = client.connect(self, receive_buffer=receive_buffer)
        until(client, lambda: self.socket.is_open, ANSWER_TIMEOUT)

    def ask(self, value: Any) -> None:
        payload = self._app.payload(self._callback, value)
        message = {"type": "callback_request", "rendererId": "tab", "requestId": "tab-1"}
        self.answer = b""
        self.asked = time.monotonic_ns()
        self.socket.send(frame(json.dumps({**message, "payload": payload})))

    @property
    def result(self) -> Any:
        """What the callback returned."""
        found = json.loads(self.answer)
        (message,) = (
            each
            for each in (found if isinstance(found, list) else [found])
            if each["type"] == "callback_response"
        )
        (props,) = message["payload"]["data"]["response"].values()
        return props["title"]

    def opened(self, socket: Socket) -> None:
        pass

    def received(self, socket: Socket, message: bytes, now: int) -> None:
        for when in STAMP.findall(message):
            self.arrivals.append(now)
            self.delays.append(now - int(when))
        if b'"get_props_request"' in message:
            request = json.loads(message)
            (request,) = request if isinstance(request, list) else [request]
            answer = {**request, "type": "get_props_response", "payload": {"title": "typed"}}
            socket.send(frame(json.dumps(answer)))
        if b'"callback_response"' in message:
            if b'"ok"' not in message:
                raise Failed(message.decode()[:200])
            self.answer, self.answered_at = message, now
            self._answered(self)

    def ended(self, socket: Socket, how: Ended) -> None:
        raise Failed(f"the server ended the connection: {how.code} {how.reason}")


def until(client: Client, holds: Callable[[], bool], timeout: float) -> bool:
    """Turn until something holds; whether it does."""
    deadline = time.monotonic() + timeout
    while not holds():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        client.turn(min(left, 0.1))
    return True


def ask(client: Client, asker: Asker, value: Any) -> Any:
    """Ask once, and wait for the result."""
    asker.ask(value)
    if not until(client, lambda: bool(asker.answer), ANSWER_TIMEOUT):
        raise Failed(f"no answer within {ANSWER_TIMEOUT:g} s")
    return asker.result


def a_client(server: Server, *, deflate: bool = False) -> tuple[App, Client]:
    app = App.at(server.url)  # also the first request, at which Dash finishes its set-up
    return app, Client(Address.of(app.url, app.path), deflate=deflate)


def come(load: Load, patience: float = PATIENCE) -> Figures:
    """Wait until all pages are live, or no more become it."""
    begun = latest = time.monotonic()
    most = 0

    def settled() -> bool:
        nonlocal most, latest
        tally = load.tally
        if tally.live + tally.open > most:
            most, latest = tally.live + tally.open, time.monotonic()
        return all_live() or time.monotonic() > latest + patience

    def all_live() -> bool:
        return load.everyone_came and load.tally.live == (load.wanted if load.requests else 0)

    load.run(COME_TIMEOUT, until=settled)
    return {"all_live_after_s": latest - begun} if all_live() else {}


# The scenarios. `size` is what the scenario's table says, `seconds` how long to measure.


def live(server: Server, size: float, seconds: float, *, deflate: bool = False) -> Figures:
    app, client = a_client(server, deflate=deflate)
    with closing(client):
        before = server.memory()
        load = Load(app, int(size), at_once=HANDSHAKES_AT_ONCE, client=client)
        came = come(load)
        load.run(1.0)  # what the coming cost is over
        load.tally.reset()
        window = Window(server)
        load.run(seconds)
        window.close()
        tally = load.tally
        return {
            "served_percent": 100 * tally.live / size,
            "delivered_percent": 100 * tally.updates / (size * window.seconds),
            **spread(tally.delays, "lateness"),
            **window.figures(tally.updates, "update"),
            "memory_per_connection_kib": (server.memory() - before) / 1024 / max(1, tally.open),
            "threads": server.threads(),
            **came,
        }


def live_deflate(server: Server, size: float, seconds: float) -> Figures:
    return live(server, size, seconds, deflate=True)


def idle(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        window = Window(server)
        time.sleep(seconds)
        window.close()
        alone, before = window.server_cpu, server.memory()
        load = Load(app, int(size), at_once=HANDSHAKES_AT_ONCE, client=client, requests=[])
        come(load)
        load.run(1.0)
        window = Window(server)
        load.run(seconds)
        window.close()
        return {
            "served_percent": 100 * load.tally.open / size,
            "memory_per_connection_kib": (server.memory() - before) / 1024 / size,
            "idle_cpu_percent": max(0.0, 100 * (window.server_cpu - alone) / window.seconds),
            "threads": server.threads(),
        }


def echo(server: Server, size: float, seconds: float, callback: str = "echo.title") -> Figures:
    app, client = a_client(server)
    with closing(client):
        taken = array("q")

        def again(asker: Asker) -> None:
            taken.append(asker.answered_at - asker.asked)
            asker.ask(1)

        askers = [Asker(client, app, callback, again) for _ in range(int(size))]
        for asker in askers:
            asker.ask(1)
        until(client, lambda: False, 0.3)  # the first ones pay for what is made once
        del taken[:]
        window = Window(server)
        until(client, lambda: False, seconds)
        window.close()
        return {
            "requests_per_second": len(taken) / window.seconds,
            **spread(taken, "round_trip"),
            **window.figures(len(taken), "request"),
            "threads": server.threads(),
        }


def echo_plain(server: Server, size: float, seconds: float) -> Figures:
    return echo(server, size, seconds, "plain.title")


def stream(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        cadence = size / 1000
        asker = Asker(client, app, "stream.title")
        count = int(seconds / cadence)
        ask(client, asker, [cadence, count])
        return {
            **spread(asker.delays, "delay"),
            "delivered_percent": 100 * len(asker.delays) / count,
        }


def get_prop(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        asker = Asker(client, app, "read.title")
        ask(client, asker, 20)
        return spread(array("q", ask(client, asker, int(size))), "round_trip")


def burst(server: Server, size: float, seconds: float, callback: str = "burst.title") -> Figures:
    app, client = a_client(server)
    with closing(client):
        asker = Asker(client, app, callback)
        ask(client, asker, 1)
        del asker.arrivals[:]
        ask(client, asker, int(size))
        return {
            "total_ms": (asker.answered_at - asker.asked) / 1e6,
            "first_update_ms": (asker.arrivals[0] - asker.asked) / 1e6,
            "delivered_percent": 100 * len(asker.arrivals) / size,
        }


def burst_figures(server: Server, size: float, seconds: float) -> Figures:
    return burst(server, size, seconds, "figures.title")


def come_back(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        load = Load(app, int(size), client=client)
        window = Window(server)
        came = come(load, PATIENCE_IN_A_STORM)
        window.close()
        return {
            **came,
            "served_percent": 100 * load.tally.live / size,
            "client_cpu_percent": window.client_cpu_percent,
        }


def break_off(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        witness, counter = (Asker(client, app, name) for name in ("stream.title", "alive.title"))
        witness.ask([0.01, int(ANSWER_TIMEOUT / 0.01)])
        _break_off_once(app, client, int(size), counter)  # what is kept once is kept now
        before = server.memory()
        del witness.delays[:]
        ended = _break_off_once(app, client, int(size), counter)
        return {
            "all_ended_after_s": ended,
            **spread(witness.delays, "neighbour_delay"),
            "memory_kept_per_connection_kib": (server.memory() - before) / 1024 / size,
        }


def _break_off_once(app: App, client: Client, connections: int, counter: Asker) -> float:
    """Seconds from the first broken connection to the end of the last callback."""
    load = Load(app, connections, at_once=HANDSHAKES_AT_ONCE, client=client)
    come(load)
    load.run(1.0)
    begun = time.monotonic()
    for number, page in enumerate(load.pages):
        page.socket.leave()
        if number % 50 == 0:
            client.turn(0)  # the witness is not to wait for us
    while ask(client, counter, 0) > 0 and time.monotonic() < begun + ANSWER_TIMEOUT:
        until(client, lambda: False, 0.05)
    ended = time.monotonic() - begun
    until(client, lambda: False, 0.5)
    return ended


def slow_reader(server: Server, size: float, seconds: float) -> Figures:
    app, client = a_client(server)
    with closing(client):
        asker = Asker(client, app, "flood.title", receive_buffer=SLOW_BUFFER)
        until(client, lambda: False, 0.3)
        before = most = server.memory()
        asker.ask([int(size), 0.001, int(seconds / 0.001)])
        asker.socket.pause()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.1)
            most = max(most, server.memory())
        asker.socket.leave()
        return {"growth_mib": (most - before) / 2**20}


@dataclass(frozen=True)
class Scenario:
    """One thing to measure, and at which sizes."""

    name: str
    what: str
    """For the report."""
    unit: str
    """Of the sizes."""
    run: Callable[[Server, float, float], Figures]
    shown: tuple[str, ...]
    """The figures in the report's table."""
    sizes: tuple[float, ...]
    quick_sizes: tuple[float, ...]
    seconds: float = 0
    """How long to measure, where that is not a matter of the size."""
    quick_seconds: float = 0
    rounds: int = 1


CPU_AND_MEMORY = ("cpu_per_update_us", "memory_per_connection_kib")
ROUND_TRIP = ("round_trip_p50_ms", "round_trip_p99_ms")
LATENESS = ("lateness_p50_ms", "lateness_p99_ms")
REQUESTS = ("requests_per_second", *ROUND_TRIP, "cpu_per_request_us")
BURST = ("total_ms", "first_update_ms", "delivered_percent")

SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        Scenario(
            "live",
            "Live dashboards: each page has a persistent callback that sends once a second.",
            "connections",
            live,
            ("served_percent", "delivered_percent", *LATENESS, *CPU_AND_MEMORY, "threads"),
            sizes=(100, 1000, 4000, 10_000),
            quick_sizes=(1000,),
            seconds=6,
            quick_seconds=3,
            rounds=2,
        ),
        Scenario(
            "live-deflate",
            "The same, with clients that offer deflate, as browsers do.",
            "connections",
            live_deflate,
            ("served_percent", *LATENESS, *CPU_AND_MEMORY),
            sizes=(500,),
            quick_sizes=(200,),
            seconds=4,
            quick_seconds=2,
        ),
        Scenario(
            "idle",
            "Open connections with nothing to do. The CPU time without them is left out.",
            "connections",
            idle,
            ("served_percent", "memory_per_connection_kib", "idle_cpu_percent"),
            sizes=(1000,),
            quick_sizes=(500,),
            seconds=5,
            quick_seconds=2,
        ),
        Scenario(
            "echo",
            "Events: an `async def` callback returns its input, and the page asks again at once.",
            "connections",
            echo,
            REQUESTS,
            sizes=(1, 50),
            quick_sizes=(50,),
            seconds=1.5,
            quick_seconds=1,
            rounds=5,
        ),
        Scenario(
            "echo-plain",
            "The same with a plain `def`, which Dash and `hybrid` run in a thread.",
            "connections",
            echo_plain,
            (*REQUESTS, "threads"),
            sizes=(50,),
            quick_sizes=(),
            seconds=1.5,
        ),
        Scenario(
            "stream",
            "One callback sends at a cadence.",
            "ms between updates",
            stream,
            ("delay_p50_ms", "delay_p99_ms", "delay_max_ms", "delivered_percent"),
            sizes=(1, 10, 50),
            quick_sizes=(1, 10),
            seconds=2,
            quick_seconds=1,
            rounds=2,
        ),
        Scenario(
            "get_prop",
            "One callback reads a property of the page, again and again.",
            "reads",
            get_prop,
            ROUND_TRIP,
            sizes=(500,),
            quick_sizes=(200,),
            rounds=3,
        ),
        Scenario(
            "burst",
            "One callback sends updates as fast as it can, with `sleep(0)` after each.",
            "updates",
            burst,
            BURST,
            sizes=(10_000,),
            quick_sizes=(10_000,),
            rounds=5,
        ),
        Scenario(
            "burst-figures",
            "The same with heatmaps of 32 by 32.",
            "updates",
            burst_figures,
            BURST,
            sizes=(200,),
            quick_sizes=(200,),
            rounds=3,
        ),
        Scenario(
            "come-back",
            "All pages connect at once, as after a restart, until each has had an update.",
            "connections",
            come_back,
            ("all_live_after_s", "served_percent"),
            sizes=(1000, 10_000),
            quick_sizes=(1000,),
        ),
        Scenario(
            "break-off",
            "The connections of live dashboards break all at once, while a neighbour streams, for "
            "the second time. Dash cancels their callbacks; here each ends when it looks next, "
            "within its second.",
            "connections",
            break_off,
            (
                "all_ended_after_s",
                "neighbour_delay_p99_ms",
                "neighbour_delay_max_ms",
                "memory_kept_per_connection_kib",
            ),
            sizes=(1000,),
            quick_sizes=(),
        ),
        Scenario(
            "slow-reader",
            "A page that reads nothing, while a callback sends every millisecond: the "
            "server's growth meanwhile.",
            "bytes per update",
            slow_reader,
            ("growth_mib",),
            sizes=(20_000,),
            quick_sizes=(20_000,),
            seconds=5,
            quick_seconds=2,
        ),
    ]
}
