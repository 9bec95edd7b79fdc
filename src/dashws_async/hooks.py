"""The app's word in who may connect: Dash's two WebSocket hooks, and ``identify``.

They may be plain functions or async ones. What fails, does not answer in time or says
what cannot be understood rejects: nobody is let in by a mistake.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import anyio

from .connection import Close
from .dash_bridge import hooks
from .handle import check_close
from .loops import is_cancelled

logger = logging.getLogger("dashws_async")

REJECTED = {
    "websocket_connect": Close(4001, "Connection rejected", "hook"),
    "websocket_message": Close(4001, "Message rejected", "hook"),
}
"""What ``False`` means, as Dash has it: the browser stays away."""
FAILED = Close(4001, "Authentication error", "hook")
NO_ANSWER = Close(1013, "No answer in time", "hook")
"""What it waits for may be there later: the browser comes back."""


class Rejected(Exception):
    """A client that is not to be served."""

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


def has_hooks(name: str) -> bool:
    """Whether there is any hook of a kind."""
    return bool(hooks.get_hooks(name))


async def ask_hooks(name: str, timeout: float, *arguments: object) -> None:
    """Ask Dash's hooks of one kind; the first that objects decides how to close.

    Args:
        name: ``"websocket_connect"`` or ``"websocket_message"``.
        timeout: seconds that each may take.
        arguments: what the hook is given.

    Raises:
        Rejected: one objects.
    """
    for hook in hooks.get_hooks(name):
        verdict = await _call(f"The {name} hook", timeout, hook, *arguments)
        if (close := _close_for(verdict, name)) is not None:
            raise Rejected(close)


async def ask_identity(
    identify: Callable[[Any], object], timeout: float, websocket: object
) -> object:
    """Ask ``WebSocketRuntime(identify=...)`` who a connection belongs to.

    Args:
        timeout: seconds that it may take.
        websocket: the framework's own object.

    Raises:
        Rejected: it failed, or has not answered in time.
    """
    return await _call("identify", timeout, identify, websocket)


async def _call(
    what: str, timeout: float, function: Callable[..., object], *arguments: object
) -> object:
    with anyio.move_on_after(timeout):
        try:
            answer = function(*arguments)
            return await answer if inspect.isawaitable(answer) else answer
        except (Exception, anyio.get_cancelled_exc_class()) as error:
            # Unless it is ours, the function has awaited what was cancelled by somebody else.
            if not isinstance(error, Exception) and is_cancelled():
                raise
            logger.exception("%s failed, which rejects", what)
            raise Rejected(FAILED) from error
    logger.error("%s has not answered within %g s, which rejects", what, timeout)
    raise Rejected(NO_ANSWER)


def _close_for(verdict: object, name: str) -> Close | None:
    """How a hook wants the connection closed; None, and everything true, admits."""
    try:
        match verdict:
            case None | True:
                return None
            case False:
                return REJECTED[name]
            case tuple() | list():
                code, reason = verdict
                check_close(code, reason)
                return Close(code, reason, "hook")
            case _ if verdict:
                return None
        raise TypeError("it is false, but not False")
    except Exception as error:  # whatever a verdict's own bool() raises
        logger.error(
            "The %s hook returned %r, which rejects; True, False and (code, reason) are "
            "understood: %s",
            name,
            verdict,
            error,
        )
        return REJECTED[name]
