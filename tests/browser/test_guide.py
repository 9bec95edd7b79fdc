"""The guide's examples in a real browser: what their readers see, step by step."""

import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from browser.conftest import OpenPage, Serve
from browser.page import Page
from guide.extract import CLEANUP, Loop
from ports import free_port
from until import until

Picture = Callable[[Page, str], None]


@pytest.fixture
def picture(loop: Loop) -> Picture:
    """Take a picture of a page, named after the example and the loop."""
    return lambda page, name: page.screenshot(f"{name}-{loop}")


class Feed:
    """An outside service, some way off: answers each symbol with a numbered quote."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self._server = serve_websocket(
            self._quote, "127.0.0.1", free_port(), process_request=lambda *_: time.sleep(0.2)
        )
        self.url = "ws://{}:{}".format(*self._server.socket.getsockname())

    def __enter__(self) -> "Feed":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _quote(self, connection: ServerConnection) -> None:
        try:
            for number, symbol in enumerate(connection, start=1):
                connection.send(f"{symbol} quote {number}")
        except ConnectionClosed:
            pass
        finally:
            self.left.set()


@pytest.fixture
def feed() -> Iterator[Feed]:
    with Feed() as feed:
        yield feed


def test_streaming_updates_with_set_props(
    serve: Serve, open_page: OpenPage, picture: Picture
) -> None:
    page = open_page(serve("countdown"), "#countdown-display", "title")
    page.click("#start-btn")
    page.wait("#countdown-display", lambda seen: len(seen) > 3)
    picture(page, "countdown")
    seen = page.wait_for("#countdown-display", "Done!", timeout=20)
    assert seen == ["Ready", *(f"Countdown: {i}" for i in range(10, 0, -1)), "Done!"]
    assert page.seen("title")[-2:] == ["Updating...", "Dash"]
    assert page.posted == []


def test_reading_props_with_get_prop(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    page = open_page(serve("greeting"), "#greeting-output")
    page.type("#name-input", "Ada")
    page.click("#greet-btn")
    seen = page.wait_for("#greeting-output", "Hello, Ada!")
    assert seen == ["Processing for Ada...", "Hello, Ada!"]
    picture(page, "greeting")


def test_per_callback_websocket(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    page = open_page(serve("per_callback"), "#stream-output", "#dropdown-output")
    page.wait_for("#dropdown-output", "Selected: Option A")
    page.click("#stream-btn")
    page.wait_for("#stream-output", "Update 2 of 5...")
    page.choose("#my-dropdown", "Option B")
    page.wait_for("#dropdown-output", "Selected: Option B")
    assert page.seen("#stream-output")[-1] != "All updates complete!"
    picture(page, "per_callback")
    seen = page.wait_for("#stream-output", "All updates complete!")
    assert seen == [
        "Waiting...",
        *(f"Update {i} of 5..." for i in range(1, 6)),
        "All updates complete!",
    ]
    assert page.posted == ["dropdown-output.children"] * 2


def test_persistent_callback(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    page = open_page(serve("background_loop"), "#live-display", "title")
    seen = page.wait("#live-display", lambda seen: len(seen) > 4)
    assert [text.split(": ")[1] for text in seen] == [f"reading {i + 1}" for i in range(len(seen))]
    assert "Updating..." not in page.seen("title")
    assert page.posted == []
    picture(page, "background_loop")


def test_real_time_data_streaming(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    server = serve("stream_prices")
    page = open_page(server, "#live-price", "#status")
    page.click("#connect-btn")
    page.wait("#live-price", lambda seen: len(seen) > 1)
    assert page.seen("#status") == ["Disconnected", "Connected"]
    page.choose("#symbol-select", "MSFT")
    prices = page.wait("#live-price", lambda seen: seen[-2].startswith("MSFT"))
    picture(page, "stream_prices")
    assert all(re.fullmatch(r"(AAPL|MSFT): \$1\d\d(\.\d+)?", price) for price in prices)
    symbols = [price[:4] for price in prices]
    assert symbols == sorted(symbols)
    assert CLEANUP not in server.log
    page.close()
    server.wait_for_log(CLEANUP)


def test_external_websocket_integration(
    serve: Serve, open_page: OpenPage, feed: Feed, picture: Picture
) -> None:
    server = serve("stream_from_service", feed=feed.url)
    page = open_page(server, "#live-output", "#status")
    page.click("#connect-btn")
    page.wait_for("#live-output", "AAPL quote 2")
    assert page.seen("#status") == ["Disconnected", "Connecting...", "Connected"]
    page.choose("#symbol-select", "MSFT")
    quotes = page.wait("#live-output", lambda seen: seen[-1].startswith("MSFT"))
    assert [quote.split()[-1] for quote in quotes] == [str(i + 1) for i in range(len(quotes))]
    picture(page, "stream_from_service")
    page.close()
    server.wait_for_log(CLEANUP)
    assert feed.left.wait(10), "the callback left its upstream connection open"


def test_before_the_migration_dcc_interval_polls_by_http_and_there_is_no_websocket(
    serve: Serve, open_page: OpenPage, picture: Picture
) -> None:
    server = serve("interval_before")
    page = open_page(server, "#price-display")
    seen = page.wait("#price-display", lambda seen: len(seen) > 2)
    assert seen == [f"AAPL: ${100 + i}" for i in range(len(seen))]
    assert len(page.posted) >= 3
    assert "websocket" not in page.config
    assert page.opened == []
    assert server.sockets == 0
    picture(page, "interval_before")


def test_after_the_migration_the_server_pushes(
    serve: Serve, open_page: OpenPage, picture: Picture
) -> None:
    server = serve("interval_after")
    page = open_page(server, "#price-display")
    seen = page.wait("#price-display", lambda seen: len(seen) > 2)
    assert seen == [f"AAPL: ${100 + i}" for i in range(len(seen))]
    assert page.posted == []
    assert "websocket" in page.config
    assert [each.split()[0] for each in page.opened] == ["SharedWorker"]
    assert server.sockets == 1
    picture(page, "interval_after")


def test_game_of_life(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    page = open_page(serve("game_of_life"), "#gen")
    page.find("#board .heatmaplayer")
    assert page.rests("#gen", seconds=0.6) == "Generation: 0"
    page.click("#start")
    page.wait("#gen", lambda seen: len(seen) > 10)
    picture(page, "game_of_life")
    page.click("#stop")
    until(lambda: page.rests("#gen", seconds=0.6), "the game stops")
    seen = page.seen("#gen")
    assert seen == [f"Generation: {i}" for i in range(len(seen))]
    page.click("#start")
    page.wait("#gen", lambda shown: f"Generation: {len(seen) + 2}" in shown)  # and goes on


def test_streaming_into_ag_grid(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    cell = '.ag-row[row-index="0"] [col-id="price"]'
    change = '.ag-row[row-index="0"] [col-id="change"]'
    page = open_page(serve("ag_grid"), cell, change)
    page.wait(change, lambda seen: seen == ["+0.00%"])
    page.click("#start")
    prices = page.wait(cell, lambda seen: len(seen) > 4)
    picture(page, "ag_grid")
    assert all(re.fullmatch(r"\$\d+\.\d\d", price) for price in prices)
    assert all(re.fullmatch(r"[+\u2212-]\d\.\d\d%", each) for each in page.seen(change))
    page.click("#start")
    until(lambda: page.rests(cell, seconds=1.2), "the stream stops")


def test_origin_validation(serve: Serve) -> None:
    server = serve("allowed_origins")
    endpoint = f"{server.url}/_dash-ws-callback".replace("http:", "ws:")

    def answers(origin: str) -> bool:
        try:
            with connect(endpoint, origin=origin) as socket:
                socket.send('{"type": "heartbeat"}')
                return "heartbeat_ack" in socket.recv(timeout=10)
        except (InvalidStatus, ConnectionClosed):
            return False

    assert answers(server.url)
    assert answers("https://embedding-site.example.com")
    assert not answers("https://other-site.example.com")


def test_a_persistent_callback_runs_to_its_end_when_the_tab_closes(
    serve: Serve, open_page: OpenPage, picture: Picture
) -> None:
    server = serve("cleanup_persistent")
    page = open_page(server, "#output")
    page.wait("#output", lambda seen: len(seen) > 1)
    picture(page, "cleanup_persistent")
    assert CLEANUP not in server.log
    page.close()
    server.wait_for_log(CLEANUP)


def test_an_event_triggered_callback_is_cancelled_when_the_tab_closes(
    serve: Serve, open_page: OpenPage, picture: Picture
) -> None:
    server = serve("cleanup_triggered")
    page = open_page(server, "#progress", "#status")
    page.click("#btn")
    page.wait_for("#progress", "Working...")
    picture(page, "cleanup_triggered")
    assert CLEANUP not in server.log
    page.close()
    server.wait_for_log(CLEANUP)


def test_server_initiated_disconnect(serve: Serve, open_page: OpenPage, picture: Picture) -> None:
    server = serve("server_close")
    page = open_page(server, "#status", "#ticks")
    page.wait("#ticks", lambda seen: len(seen) > 2)
    page.click("#btn")
    server.wait_for_log(CLEANUP)
    last = page.seen("#ticks")[-1]
    # A page that reconnects does so within two seconds.
    assert page.rests("#ticks", seconds=3) == last
    assert server.sockets == 1
    assert page.lost == ["Policy violation"]
    assert page.seen("#status") == ["Trusted"]
    picture(page, "server_close")
