"""A real Chromium, examples in real server processes, and tabs that record what they show."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from browser.page import Page
from guide.extract import LOOPS, Loop, extract
from serving import By, Server

#: Leads to this machine. Pages from it by plain http are no secure context, unlike 127.0.0.1's.
INSECURE_HOST = "dash.test"

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1, MAP * ~NOTFOUND,"
    " EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--window-size=900,700",
)

Serve = Callable[..., Server]
OpenPage = Callable[..., Page]


def _program(*names: str) -> str:
    """The first of `names` on the path; without one the test skips, but in CI it fails."""
    for name in names:
        if path := shutil.which(name):
            return path
    give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    return give_up(f"no browser test without one of: {', '.join(names)}")


def _options() -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    return options


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


def pytest_setup_options() -> ChromeOptions:
    """How `dash.testing` is to start its browser."""
    return _options()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for the session; each test opens its own windows in it."""
    options = _options()
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    driver = Chrome(service=Service(_program("chromedriver")), options=options)
    driver.set_page_load_timeout(30)
    driver.set_script_timeout(10)
    yield driver
    driver.quit()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    """The event loop that the example's server runs."""
    return request.param


@pytest.fixture
def serve(loop: Loop, tmp_path: Path) -> Iterator[Serve]:
    """Serve an example of the guide; at the end its log must be free of tracebacks."""
    servers: list[Server] = []

    def serve(name: str, by: By | None = None, **replace: str) -> Server:
        folder = tmp_path / name
        folder.mkdir()
        server = Server(extract(name, loop, **replace), loop, folder, by)
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def open_page(driver: Chrome, serve: Serve) -> Iterator[OpenPage]:
    """Open a page in a window of its own; all of them close before the servers stop.

    At the end the browser's console must be free of errors.
    """
    driver.get_log("browser")
    pages: list[Page] = []

    def open_page(server: Server, *watch: str, host: str = "127.0.0.1", script: str = "") -> Page:
        page = Page(driver, server.url.replace("127.0.0.1", host), watch, script)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        if page.open:
            page.close()
    assert [entry["message"] for entry in driver.get_log("browser")] == []
