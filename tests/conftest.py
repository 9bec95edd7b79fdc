"""What all tests share: both event loops, and pages that stay within a test."""

import dash
import pytest

import virtual_time


def pytest_configure(config):
    config.addinivalue_line("markers", "virtual_time: runs on a clock that jumps (virtual_time.py)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Make what a test printed fit for pytest-xdist, which sends it on as UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode(errors="replace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Tests marked ``anyio`` run once on each loop."""
    if request.node.get_closest_marker("virtual_time"):
        return virtual_time.backend(request.param)
    return request.param


@pytest.fixture
def own_pages():
    """Dash's registry of pages, which all apps of a process share, for one test alone."""
    registry = dict(dash.page_registry)
    dash.page_registry.clear()
    yield
    dash.page_registry.clear()
    dash.page_registry.update(registry)


@pytest.fixture
def hooks():
    """Dash's hooks, emptied of the WebSocket ones afterwards."""
    yield dash.hooks
    dash.hooks._ns["websocket_connect"].clear()
    dash.hooks._ns["websocket_message"].clear()
