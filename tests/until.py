"""Waiting for something to become true, never longer than stated."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio

Value = TypeVar("Value")


def until(
    condition: Callable[[], Value], what: Callable[[], object] | str, timeout: float = 10
) -> Value:
    """Wait up to `timeout` seconds for `condition` to be truthy, and return what it gave.

    `what` is what was waited for, or a function that tells it when the time is up.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(0.05)
    return value


async def eventually(condition: Callable[[], object], timeout: float = 10) -> None:
    """`until` for a test that runs on an event loop."""
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.001)
