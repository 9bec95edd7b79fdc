"""The wire format: what Dash's browser code sends, and what it understands.

This module knows the JSON text of single messages. It does not know sockets,
event loops, Dash's Python side, or how messages are packed into frames
(``outbox`` does that). The browser code is Dash's own and fixed; its words
(``rendererId``) stay on the wire, inside we say *tab*.

Decoding is typed (msgspec). Encoding splices: values arrive here as JSON text
that was made exactly once, and are pasted into their envelope.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import msgspec

T = TypeVar("T")


class BadMessage(Exception):
    """A client's message that cannot be understood.

    Attributes:
        renderer_id: the tab it names, if it names one.
        request_id: the request it names, if it names one; an answer can then reach the page.
    """

    def __init__(self, reason: str, renderer_id: str | None, request_id: str | None) -> None:
        super().__init__(reason)
        self.renderer_id = renderer_id
        self.request_id = request_id


class _ClientMessage(msgspec.Struct, frozen=True, tag_field="type", rename="camel"):
    """What all client messages have in common."""


class CallbackRequest(_ClientMessage, frozen=True, tag="callback_request"):
    """The page asks for a callback to run."""

    renderer_id: str
    """The tab: a fresh UUID per page load."""
    request_id: str
    """``<rendererId>-<n>``; the answer repeats it."""
    payload: dict[str, Any]
    """What HTTP callbacks post: ``output``, ``outputs``, ``inputs``, ``state``, ..."""


class GetPropsResponse(_ClientMessage, frozen=True, tag="get_props_response"):
    """The page answers a ``get_props_request``."""

    renderer_id: str
    request_id: str
    """The id that the server gave the request."""
    payload: dict[str, Any] | None = None
    """``{prop: value}``; ``{}`` where the component is not in the layout."""


class Heartbeat(_ClientMessage, frozen=True, tag="heartbeat"):
    """The browser's worker asks for a sign of life; it waits 10 s for the answer."""


class TabWatched(_ClientMessage, frozen=True, tag="tab_watched"):
    """Our worker script: it will tell when this tab has gone. (Dash's own does not.)"""

    renderer_id: str


class TabGone(_ClientMessage, frozen=True, tag="tab_gone"):
    """Our worker script: this tab was closed, reloaded, left, or has crashed."""

    renderer_id: str


class TabVisible(_ClientMessage, frozen=True, tag="tab_visible"):
    """Our worker script: somebody looks at this tab again, which counts as activity."""

    renderer_id: str


ClientMessage = CallbackRequest | GetPropsResponse | Heartbeat | TabWatched | TabGone | TabVisible

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_object_decoder = msgspec.json.Decoder(dict[str, Any])


class _Addressee(msgspec.Struct, rename="camel"):
    """As much of a broken message as is needed to answer it."""

    renderer_id: Any = None
    request_id: Any = None

    _decoder: ClassVar[msgspec.json.Decoder[_Addressee]]


_Addressee._decoder = msgspec.json.Decoder(_Addressee)


def decode(text: str | bytes) -> ClientMessage:
    """Decode one client message.

    Args:
        text: one WebSocket frame's payload.

    Raises:
        BadMessage: not JSON, not an object, an unknown type, or a wrong shape.
    """
    return _decode(_decoder, text)


def as_object(text: str | bytes) -> dict[str, Any]:
    """A client message as the JSON object it is, every field of it.

    Raises:
        BadMessage: a field that `decode` passed over is not JSON.
    """
    return _decode(_object_decoder, text)


def _decode(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadMessage(str(error), *_addressee(text)) from None


def _addressee(text: str | bytes) -> tuple[str | None, str | None]:
    try:
        found = _Addressee._decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, None
    renderer_id, request_id = found.renderer_id, found.request_id
    return (
        renderer_id if isinstance(renderer_id, str) else None,
        request_id if isinstance(request_id, str) else None,
    )


def quote(text: str) -> str:
    """The JSON string literal for ``text``; what has no UTF-8 becomes ``?``."""
    try:
        return msgspec.json.encode(text).decode()
    except UnicodeEncodeError:  # a lone surrogate
        return msgspec.json.encode(text.encode(errors="replace").decode()).decode()


# The functions below take the tab as the JSON literal of its rendererId, made
# once per tab with `quote`: it stands in every message.

HEARTBEAT_ACK = '{"type":"heartbeat_ack"}'

PREVENT_UPDATE = '{"status":"prevent_update"}'
STREAM_DONE = '{"status":"ok","stream":true,"done":true}'


def set_props(tab: str, component_id: str, prop_name: str, value: str) -> str:
    """New value of one property; ``value`` is JSON text, the id is plain or stringified."""
    return (
        f'{{"type":"set_props","rendererId":{tab},"payload":'
        f'{{"componentId":{quote(component_id)},"props":{{{quote(prop_name)}:{value}}}}}}}'
    )


def get_props_request(
    tab: str, request_id: str, component_id: str, prop_name: str, path: list[str | int] | None
) -> str:
    """Ask the page for a property's value; ``path`` (Dash 4.5) asks for a part of it."""
    payload: dict[str, Any] = {"componentId": component_id, "properties": [prop_name]}
    if path is not None:
        payload["path"] = path
    return (
        f'{{"type":"get_props_request","rendererId":{tab},"requestId":{quote(request_id)},'
        f'"payload":{msgspec.json.encode(payload).decode()}}}'
    )


def callback_response(tab: str, request_id: str, payload: str) -> str:
    """Answer a request; ``payload`` is one of the JSON texts made below and above."""
    return (
        f'{{"type":"callback_response","rendererId":{tab},'
        f'"requestId":{quote(request_id)},"payload":{payload}}}'
    )


def ok(data: str) -> str:
    """The payload of a callback that returned: ``data`` is the JSON text that Dash made."""
    return f'{{"status":"ok","data":{data}}}'


def stream(data: str) -> str:
    """The payload of one value that a generator callback yielded (Dash 4.5)."""
    return f'{{"status":"ok","stream":true,"data":{data}}}'


def error(message: str) -> str:
    """The payload of a callback that failed; the page shows ``message``."""
    return f'{{"status":"error","message":{quote(message)}}}'


def page_error(tab: str, message: str, code: str) -> str:
    """An error that belongs to no request; the page's console shows it."""
    return (
        f'{{"type":"error","rendererId":{tab},"payload":'
        f'{{"message":{quote(message)},"code":{quote(code)}}}}}'
    )
