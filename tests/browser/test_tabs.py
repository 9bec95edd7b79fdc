"""A tab that goes ends its own callbacks, whatever way it goes, and no other tab's."""

from collections.abc import Callable

import pytest

from browser.conftest import INSECURE_HOST, OpenPage, Serve
from browser.page import Page
from guide.extract import CLEANUP
from serving import Server
from until import until

WAYS: dict[str, Callable[[Page], None]] = {
    "close": Page.close,
    "reload": Page.reload,
    "navigation": lambda page: page.leave("about:blank"),
    "crash": Page.crash,
}

#: The longest that a page without Web Locks is silent before it counts as gone, in seconds.
SILENCE = 20


#: What the two scripts do among themselves; the server sees messages that other tests send too.
browsers_side = pytest.mark.parametrize("loop", ["asyncio"], indirect=True)


def running(page: Page) -> None:
    """Wait until the page shows something new."""
    already = len(page.seen("#output"))
    page.wait("#output", lambda seen: len(seen) > already + 1)


def cleanups(server: Server, count: int, timeout: float = 5) -> None:
    """Wait until so many callbacks have cleaned up."""
    until(
        lambda: server.log.count(CLEANUP) >= count,
        lambda: f"{count} callbacks have cleaned up: {server.log}",
        timeout,
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_callbacks_of_a_tab_that_goes_end_and_another_tabs_go_on(
    serve: Serve, open_page: OpenPage, way: str
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    stays, goes = open_page(server, "#output"), open_page(server, "#output")
    running(stays)
    running(goes)
    WAYS[way](goes)
    cleanups(server, 1)
    running(stays)
    assert server.log.count(CLEANUP) == 1
    assert server.sockets == 1
    assert stays.lost == []


def test_reloads_of_one_of_two_tabs_leave_two_running_callbacks(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    stays, reloaded = open_page(server, "#output"), open_page(server, "#output")
    for count in range(1, 6):
        running(reloaded)
        reloaded.reload()
        cleanups(server, count)
    running(stays)
    running(reloaded)
    assert server.log.count(CLEANUP) == 5
    assert server.sockets == 1
    server.stop()  # ends those that are still running
    assert server.log.count(CLEANUP) == 7


def test_reloads_of_the_only_tab_neither_pile_up_nor_disturb_the_new_page(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    page = open_page(server, "#output")
    for count in range(1, 6):
        running(page)
        assert page.lost == []
        page.reload()
        cleanups(server, count)
    running(page)
    server.stop()
    assert server.log.count(CLEANUP) == 6


def test_a_page_that_the_browser_kept_is_alive_again_after_the_way_back(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    stays, page = open_page(server, "#output"), open_page(server, "#output")
    for count in (1, 2):
        running(page)
        page.run("window.kept = true")
        page.leave(f"{server.url}/_dash-layout")
        cleanups(server, count)
        page.back()
        running(page)
        assert page.run("return window.kept"), "the browser has loaded the page anew"
        assert page.lost == ["The page was away"] * count
    running(stays)
    assert stays.lost == []
    assert server.sockets == 1
    server.stop()
    assert server.log.count(CLEANUP) == 4


@browsers_side
def test_a_page_that_was_alone_and_kept_by_the_browser_is_alive_again_too(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    page = open_page(server, "#output")
    running(page)
    page.run("window.kept = true")
    page.leave(f"{server.url}/_dash-layout")
    cleanups(server, 1)
    page.back()
    running(page)
    assert page.run("return window.kept"), "the browser has loaded the page anew"
    server.stop()
    assert server.log.count(CLEANUP) == 2


#: Leaves the page as soon as it asks to be connected, and comes back, as from the browser's cache.
LEAVE_AND_RETURN = """
const post = MessagePort.prototype.postMessage;
MessagePort.prototype.postMessage = function (message, ...rest) {
  post.call(this, message, ...rest);
  if (message.watch) {
    MessagePort.prototype.postMessage = post;
    dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
    dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
  }
};
"""


@browsers_side
def test_a_page_that_was_away_before_it_was_connected_starts_its_callbacks_once(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    page = open_page(server, "#output", script=LEAVE_AND_RETURN)
    running(page)
    assert page.lost == []
    server.stop()
    assert server.log.count(CLEANUP) == 1


@browsers_side
def test_the_other_tabs_survive_a_crash_of_the_tab_whose_process_ran_the_worker(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    first, second, third = (open_page(server, "#output") for _ in range(3))
    for page in (first, second, third):
        running(page)
    first.crash()
    cleanups(server, 3)  # the worker's socket has gone with it
    for page in (second, third):
        running(page)
        assert page.lost == ["The worker has ended"]
    assert server.sockets == 2
    third.close()
    cleanups(server, 4)
    running(second)
    server.stop()
    assert server.log.count(CLEANUP) == 5


@browsers_side
def test_a_reload_while_the_worker_waits_to_reconnect_opens_one_socket_for_all(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_persistent", "hypercorn")
    waits, reloaded = open_page(server, "#output"), open_page(server, "#output")
    running(waits)
    running(reloaded)
    server.kill()
    until(lambda: waits.lost, "the worker to lose its socket, and to wait")
    until(lambda: len(waits.lost) > 2, "two more tries: now it waits for four seconds")
    server.start()
    reloaded.reload()
    running(reloaded)
    running(waits)
    assert waits.rests("#output", 6) is None  # longer than it would have waited
    assert server.sockets == 1
    server.stop()
    assert server.log.count(CLEANUP) == 2


def test_a_request_that_waited_for_the_server_longer_than_its_tab_lived_does_not_run_on(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("cleanup_triggered", "hypercorn")
    stays, goes = open_page(server, "#progress"), open_page(server, "#progress")
    server.kill()
    until(lambda: goes.lost and stays.lost, "both to lose their connection")
    goes.click("#btn")
    goes.close()
    server.start()
    until(lambda: server.sockets, "the worker to come back", 30)
    stays.click("#btn")
    stays.wait_for("#progress", "Working...")
    ended = server.log.count(CLEANUP)  # none where it was cancelled before its first step
    server.stop()
    assert server.log.count(CLEANUP) == ended + 1


@browsers_side
class TestWithoutWebLocks:
    """Plain http from another host than localhost is no secure context."""

    @pytest.mark.parametrize("way", WAYS)
    def test_the_callbacks_of_a_tab_that_goes_end_and_another_tabs_go_on(
        self, serve: Serve, open_page: OpenPage, way: str
    ) -> None:
        server = serve("cleanup_persistent", "hypercorn")
        stays, goes = (open_page(server, "#output", host=INSECURE_HOST) for _ in range(2))
        assert stays.run("return isSecureContext || 'locks' in navigator") is False
        running(stays)
        running(goes)
        WAYS[way](goes)
        cleanups(server, 1, SILENCE if way == "crash" else 5)
        running(stays)
        assert server.log.count(CLEANUP) == 1
        assert stays.lost == []

    def test_the_other_tabs_survive_a_crash_of_the_tab_whose_process_ran_the_worker(
        self, serve: Serve, open_page: OpenPage
    ) -> None:
        server = serve("cleanup_persistent", "hypercorn")
        first, second = (open_page(server, "#output", host=INSECURE_HOST) for _ in range(2))
        running(first)
        running(second)
        first.crash()
        cleanups(server, 2)
        until(lambda: second.lost == ["The worker does not answer"], "a new worker", SILENCE)
        running(second)
        server.stop()
        assert server.log.count(CLEANUP) == 3

    def test_a_page_that_did_not_answer_for_long_is_alive_again_when_it_does(
        self, serve: Serve, open_page: OpenPage
    ) -> None:
        server = serve("cleanup_persistent", "hypercorn")
        stays, busy = (open_page(server, "#output", host=INSECURE_HOST) for _ in range(2))
        running(stays)
        running(busy)
        busy.run(
            "const end = Date.now() + 1000 * arguments[0];"
            "setTimeout(() => { while (Date.now() < end); });",
            SILENCE + 3,
        )
        cleanups(server, 1, SILENCE)
        running(stays)
        running(busy)
        server.stop()
        assert server.log.count(CLEANUP) == 3
