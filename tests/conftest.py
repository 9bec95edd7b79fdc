"""What all tests share: both event loops, and pages that stay within a test."""

import dash
import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Tests marked ``anyio`` run once on each loop."""
    return request.param


@pytest.fixture
def own_pages():
    """Dash's registry of pages, which all apps of a process share, for one test alone."""
    registry = dict(dash.page_registry)
    dash.page_registry.clear()
    yield
    dash.page_registry.clear()
    dash.page_registry.update(registry)
