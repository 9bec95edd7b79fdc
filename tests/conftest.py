"""What all tests share: both event loops, and pages that stay within a test."""

import dash
import pytest

import virtual_time


def pytest_configure(config):
    config.addinivalue_line("markers", "virtual_time: runs on a clock that jumps (virtual_time.py)")


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
