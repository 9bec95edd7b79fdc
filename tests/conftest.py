"""What all tests share: both event loops, and nothing else."""

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Tests marked ``anyio`` run once on each loop."""
    return request.param
