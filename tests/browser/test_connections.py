"""The life of a page's connection in a real browser: shared, lost and found again."""

import pytest

from browser.conftest import OpenPage, Serve
from guide.extract import CLEANUP
from serving import By


def test_two_tabs_share_one_socket_and_the_second_outlives_the_first(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("background_loop")
    first = open_page(server, "#live-display")
    first.wait("#live-display", lambda seen: len(seen) > 1)
    second = open_page(server, "#live-display")
    second.wait("#live-display", lambda seen: len(seen) > 1)
    already = len(first.seen("#live-display"))
    first.wait("#live-display", lambda seen: len(seen) > already + 1)
    assert not set(first.seen("#live-display")) & set(second.seen("#live-display"))

    first.close()
    already = len(second.seen("#live-display"))
    second.wait("#live-display", lambda seen: len(seen) > already + 2)
    assert server.sockets == 1


def test_a_reloaded_page_is_served_anew(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve("background_loop"), "#live-display")
    before = page.wait("#live-display", lambda seen: len(seen) > 1)
    page.reload()
    after = page.wait("#live-display", lambda seen: len(seen) > 1)
    assert not set(before) & set(after)


def test_a_persistent_callback_resumes_by_itself_after_a_crash(
    serve: Serve, open_page: OpenPage
) -> None:
    server = serve("background_loop")
    page = open_page(server, "#live-display")
    old = page.wait("#live-display", lambda seen: len(seen) > 1)[0].split(": ")[0]
    server.kill()
    server.start()
    # Each process names itself, and counts its readings from 1.
    seen = page.wait("#live-display", lambda seen: not seen[-1].startswith(old), timeout=30)
    new = [text for text in seen if not text.startswith(old)]
    assert new[0].endswith(": reading 1")
    # Not one HTTP request had reached the new process.
    assert server.requests == ["/_dash-ws-callback"]
    assert page.posted == []


@pytest.mark.parametrize("by", ["python", "hypercorn"])
def test_a_deploy_says_goodbye_to_the_page_and_the_page_comes_back(
    serve: Serve, open_page: OpenPage, by: By
) -> None:
    server = serve("cleanup_persistent", by)
    page = open_page(server, "#output")
    page.wait("#output", lambda seen: len(seen) > 1)
    server.stop()
    assert CLEANUP in server.log
    server.start()
    # The numbers begin anew.
    page.wait("#output", lambda seen: "1" in seen[1:], timeout=30)
    assert server.requests == (["/_dash-ws-callback"] if by == "hypercorn" else [])
    # Dash's worker says this where the server gave no reason.
    assert page.lost[0] != "Connection closed"
