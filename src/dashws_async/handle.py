"""What user code holds as ``ctx.websocket``.

Knows the documented interface and which thread it is used from; what a
connection does with an update or a request is the connection's business
(`Line` is all that is asked of it).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token
from dash import Patch, no_update

from . import messages
from .dash_bridge import WebsocketDisconnected, stringify_id, to_json
from .loops import Steps, call_soon, run_on
from .outbox import Outgoing

T = TypeVar("T")

_NoUpdate = type(no_update)

_HANDOVER_TIMEOUT = 30.0
"""Seconds that a worker thread waits for the event loop to take an update, and that
`WebSocketHandle.close` waits for its frame to leave."""


class Reply:
    """The page's answer to one ``get_props_request``, awaited on the loop that made this."""

    def __init__(self) -> None:
        self._arrived = anyio.Event()
        self._token = current_token()
        self._thread_id = threading.get_ident()
        self._props: dict[str, Any] | None = None

    def set(self, props: dict[str, Any] | None) -> None:
        """Resolve it, on the connection's loop; ``None`` says that the connection ended."""
        self._props = props
        if threading.get_ident() == self._thread_id:
            self._arrived.set()
        else:
            try:
                call_soon(self._token, self._arrived.set)
            except RuntimeError:
                return  # the thread that waited has given up and ended its loop

    async def wait(self) -> dict[str, Any]:
        """The props.

        Raises:
            WebsocketDisconnected: the connection ended first.
        """
        await self._arrived.wait()
        if self._props is None:
            raise WebsocketDisconnected
        return self._props


class Line(Protocol):
    """What a handle asks of its page; all of it on the connection's loop."""

    @property
    def literal(self) -> str:
        """The page's name, as a JSON literal."""

    @property
    def ended(self) -> bool:
        """Whether the page has gone, or the connection. Any thread may look."""

    @property
    def token(self) -> EventLoopToken:
        """The loop."""

    @property
    def thread_id(self) -> int:
        """The loop's thread."""

    @property
    def steps(self) -> Steps:
        """What is sent in one step of a callback leaves together at its end."""

    def post(self, message: Outgoing) -> None:
        """Send a message to the page; does nothing after the end."""

    def has_room(self, size: int) -> bool:
        """Whether an answer of so many characters may be posted; after the end always."""

    def ask(
        self, component_id: str, prop_name: str, path: list[str | int] | None, reply: Reply
    ) -> str:
        """Send a ``get_props_request``; returns its id."""

    def forget(self, request_id: str) -> None:
        """Nobody waits for this request's answer any more."""

    def drain(self, drained: Reply) -> None:
        """Set ``drained`` once all that was sent so far is with the transport, or at the end."""

    def forget_drain(self, drained: Reply) -> None:
        """Nobody waits for this any more."""

    def close(self, code: int, reason: str, by: object, closed: Reply) -> None:
        """End the connection; ``closed`` is set once the close frame is out."""


class WebSocketHandle:
    """The WebSocket interface of a running callback: ``ctx.websocket``.

    Over HTTP ``ctx.websocket`` is ``None``. Every callback has a handle of its
    own, which speaks to the browser tab that called it.

    Source: the guide's "API Reference" of WebSocket callbacks.
    """

    __slots__ = ("_line", "_owner")

    def __init__(self, line: Line, owner: object) -> None:
        self._line = line
        self._owner = owner

    @property
    def is_shutdown(self) -> bool:
        """Whether the connection has ended: tab closed, network lost, or closed by the server.

        From then on `set_props` does nothing and `get_prop` raises
        ``WebsocketDisconnected``. (Guide: "Handling Disconnections".)
        """
        return self._line.ended

    def set_prop_sync(self, component_id: str | dict[str, Any], prop_name: str, value: Any) -> None:
        """Send one property's new value at once; ``dash.set_props`` calls this.

        The value is encoded now, so changing it afterwards does no harm. May be
        called from a worker thread. Does nothing once `is_shutdown`, or for
        ``no_update``. A client that does not keep up may get a newer value of the
        property in place of this one, unless it is a ``Patch``; see `drain`.

        Args:
            component_id: plain or dict id.
            prop_name: the property.
            value: anything Dash can encode, components and ``Patch`` included.

        Raises:
            TypeError: the value cannot be encoded as JSON.
            TimeoutError: in a thread, where the event loop was blocked for 30 s.
        """
        line = self._line
        if line.ended or isinstance(value, _NoUpdate):
            return
        tab, name = line.literal, stringify_id(component_id)
        text = messages.set_props(tab, name, prop_name, to_json(value))
        message = Outgoing(tab, text, (name, prop_name), isinstance(value, Patch))
        try:
            if threading.get_ident() == line.thread_id:
                line.post(message)
            else:
                run_on(line.token, lambda: line.post(message), _HANDOVER_TIMEOUT)
        except RuntimeError:
            if not line.ended:  # the loop may end under a thread's feet
                raise

    async def set_prop(
        self, component_id: str | dict[str, Any], prop_name: str, value: Any
    ) -> None:
        """`set_prop_sync` for those who await it; `drain` is what waits for the client."""
        self.set_prop_sync(component_id, prop_name, value)

    async def drain(self) -> None:
        """Wait until all that was sent so far has been handed to the network.

        For a producer that goes at its client's pace. A client that falls behind gets
        only the newest value of each property; where the producer drains before it sends
        the next value, every one arrives, and none pile up.

        It waits for the whole connection, other callbacks' updates included, and no
        longer than the connection lasts: it returns when the end comes, and at once
        after it. `is_shutdown` tells. May be awaited in a worker thread's own loop.
        """
        line, drained = self._line, Reply()
        self._on_loop(lambda: line.drain(drained))
        try:
            await drained.wait()
        finally:
            self._on_loop(lambda: line.forget_drain(drained))

    async def get_prop(
        self,
        component_id: str | dict[str, Any],
        prop_name: str,
        timeout: float = 30.0,
        *,
        path: list[str | int] | None = None,
    ) -> Any:
        """The current value of a component's property in the browser.

        The page has applied all earlier `set_props` of this connection when it answers.

        Args:
            component_id: plain or dict id.
            prop_name: the property.
            timeout: seconds to wait for the page.
            path: keys and indices of the part to read, with a Dash whose page
                knows it (4.5).

        Returns:
            The value; ``None`` where the component or property is not in the layout.

        Raises:
            TimeoutError: the page did not answer in time.
            WebsocketDisconnected: the connection has ended, or ended meanwhile.
            RuntimeError: ``max_reads`` answers are awaited from this browser already.
        """
        if self._line.ended:
            raise WebsocketDisconnected
        line, name = self._line, stringify_id(component_id)
        reply = Reply()
        request_id = self._on_loop(lambda: line.ask(name, prop_name, path, reply))
        try:
            with anyio.move_on_after(timeout):
                return (await reply.wait()).get(prop_name)
        finally:
            self._on_loop(lambda: line.forget(request_id))
        raise TimeoutError(
            f"get_prop({component_id!r}, {prop_name!r}): the page did not answer "
            f"within {timeout:g} seconds"
        )

    async def close(self, code: int = 1000, reason: str = "Connection closed") -> None:
        """End the connection; the calling callback may go on and clean up.

        What was sent before still reaches the page, nothing after does. All tabs
        of this browser share the connection. The browser stays away after 1000
        and 4001, and comes back after any other code.
        (Guide: "Handling Disconnections".)

        Args:
            code: 1000 to 1014 as RFC 6455 and IANA define them, or 3000 to 4999.
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: a code or reason that may not be sent.
        """
        check_close(code, reason)
        line, owner, closed = self._line, self._owner, Reply()
        self._on_loop(lambda: line.close(code, reason, owner, closed))
        with anyio.move_on_after(_HANDOVER_TIMEOUT):
            await closed.wait()

    def _on_loop(self, call: Callable[[], T]) -> T:
        return on_loop_of(self._line, call)


def on_loop_of(line: Line, call: Callable[[], T]) -> T:
    """Make a call on the loop of a page's connection, from any thread."""
    if threading.get_ident() == line.thread_id:
        return call()
    return run_on(line.token, call, _HANDOVER_TIMEOUT)


def check_close(code: int, reason: str) -> None:
    """Refuse what RFC 6455 (sections 5.5 and 7.4) does not allow in a close frame.

    Raises:
        ValueError: saying what is allowed.
        TypeError: the code is not a whole number, or the reason no string.
    """
    if not isinstance(code, int) or not isinstance(reason, str):
        raise TypeError(f"close(code={code!r}, reason={reason!r}): must be an int and a str")
    if code not in range(3000, 5000) and code not in {*range(1000, 1004), *range(1007, 1015)}:
        raise ValueError(
            f"close(code={code!r}): an endpoint may send 1000 to 1003, 1007 to 1014 "
            "and 3000 to 4999"
        )
    if (length := len(reason.encode())) > 123:
        raise ValueError(f"close(reason=...): {length} bytes of UTF-8, at most 123 fit")
