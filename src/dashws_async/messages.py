"""The wire format: what Dash's browser code sends, and what it understands.

This module knows the JSON text of single messages. It does not know sockets,
event loops, Dash's Python side, or how messages are packed into frames
(``outbox`` does that). The browser code is Dash's own and fixed; its words
(``rendererId``) stay on the wire, inside we say *tab*.

Decoding is typed (msgspec), and refuses whatever Dash's Python side would
stumble over. Encoding splices: values arrive here as JSON text that was made
exactly once, and are pasted into their envelope.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

MAX_NESTING = 250
"""Arrays and objects in each other, in one payload: Dash itself encodes no more (orjson's 254)."""
MAX_BRACKETS = 500_000
"""Arrays and objects in one message, and brackets in its texts. Decoding more of them would
hold the event loop for long, and fill 20 times the message's own size."""
MAX_HALVES = 10_000
"""Surrogates in one message, as escapes: browsers write only those that lack the other half."""
MAX_PROPERTIES = 20_000
"""Components that a pattern-matching input or output may stand for, and changed properties in
a request. Dash takes some 0.3 s of the event loop for so many."""
MAX_REASON = 200
"""Characters of what a message may quote of a client's text."""

MAX_NAME = 256
"""Characters of what a client calls its tabs and requests; Dash's browser code takes some 40."""

Name = Annotated[str, Meta(max_length=MAX_NAME)]
"""A ``rendererId`` or ``requestId``."""


class BadMessage(Exception):
    """A client's message that is refused; the text is for the page.

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


class _CallbackRequest(_ClientMessage, frozen=True, tag="callback_request"):
    renderer_id: Name
    request_id: Name
    payload: dict[str, Any]


class CallbackRequest(NamedTuple):
    """The page asks for a callback to run."""

    renderer_id: str
    """The tab: a fresh UUID per page load."""
    request_id: str
    """``<rendererId>-<n>``; the answer repeats it."""
    payload: dict[str, Any]
    """What HTTP callbacks post: the fields of `_Payload`, without whatever else was in it."""
    size: int
    """Bytes of the message."""


class GetPropsResponse(_ClientMessage, frozen=True, tag="get_props_response"):
    """The page answers a ``get_props_request``."""

    renderer_id: Name
    request_id: Name
    """The id that the server gave the request."""
    payload: dict[str, Any] | None = None
    """``{prop: value}``; ``{}`` where the component is not in the layout."""


class Heartbeat(_ClientMessage, frozen=True, tag="heartbeat"):
    """The browser's worker asks for a sign of life; it waits 10 s for the answer."""


class TabWatched(_ClientMessage, frozen=True, tag="tab_watched"):
    """Our worker script: it will tell when this tab has gone. (Dash's own does not.)"""

    renderer_id: Name


class TabGone(_ClientMessage, frozen=True, tag="tab_gone"):
    """Our worker script: this tab was closed, reloaded, left, or has crashed."""

    renderer_id: Name


class TabVisible(_ClientMessage, frozen=True, tag="tab_visible"):
    """Our worker script: somebody looks at this tab again, which counts as activity."""

    renderer_id: Name


ClientMessage = CallbackRequest | GetPropsResponse | Heartbeat | TabWatched | TabGone | TabVisible

_WireMessage = _CallbackRequest | GetPropsResponse | Heartbeat | TabWatched | TabGone | TabVisible


class _Addressee(msgspec.Struct, rename="camel"):
    """As much of a broken message as is needed to answer it."""

    renderer_id: msgspec.Raw = msgspec.Raw(b"null")
    request_id: msgspec.Raw = msgspec.Raw(b"null")


_WITH_PAYLOAD = _CallbackRequest, GetPropsResponse

_decoder: msgspec.json.Decoder[_WireMessage] = msgspec.json.Decoder(_WireMessage)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_addressee_decoder = msgspec.json.Decoder(_Addressee)
_name_decoder = msgspec.json.Decoder(Name)


class _Property(msgspec.Struct):
    """A component's property, with its value where it is an input or a state."""

    id: str | dict[str, Any]
    property: str


_Properties = Annotated[list[_Property], Meta(max_length=MAX_PROPERTIES)]
"""What a pattern-matching input, state or output stands for."""


class _Payload(msgspec.Struct, rename="camel"):
    """What Dash's Python side reads of a callback request, and trusts to be of this shape."""

    output: str
    """Which callback."""
    outputs: (
        _Property | Annotated[list[_Property | _Properties], Meta(max_length=MAX_PROPERTIES)] | None
    ) = None
    """One, or a list: of several outputs, or of what a single pattern-matching one stands for."""
    inputs: list[_Property | _Properties] = []
    state: list[_Property | _Properties] = []
    changed_prop_ids: Annotated[list[str], Meta(max_length=MAX_PROPERTIES)] = []
    """``id.property`` of each input that has changed."""


_PAYLOAD_FIELDS = tuple(field.encode_name for field in msgspec.structs.fields(_Payload))

_pattern_id_decoder = msgspec.json.Decoder(dict[str, str | bool | float])


def decode(message: str | bytes, max_bytes: int) -> ClientMessage:
    """Decode one client message.

    Args:
        message: one WebSocket message, as text or as its UTF-8.
        max_bytes: longer ones are not decoded.

    Raises:
        BadMessage: not JSON, not an object, an unknown type, a wrong shape, too long,
            nested too deeply, or of too many arrays and objects.
    """
    data = _utf8(message)
    if len(data) > max_bytes:
        raise _bad(f"{len(data)} bytes, at most {max_bytes} are allowed", *addressee(data))
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > MAX_BRACKETS:
        text = f"{brackets} arrays and objects, at most {MAX_BRACKETS} are allowed"
        raise _bad(text, *addressee(data))
    decoded = _decode(_decoder, _mended(data))
    if not isinstance(decoded, _WITH_PAYLOAD):
        return decoded
    # No message is deeper than it has brackets.
    if brackets > MAX_NESTING and _is_deep(decoded.payload):
        text = f"more than {MAX_NESTING} arrays and objects in each other"
        raise _bad(text, decoded.renderer_id, decoded.request_id)
    if isinstance(decoded, GetPropsResponse):
        return decoded
    _check_payload(decoded)
    # A request is kept for as long as its callback runs; what nobody reads is not.
    found = decoded.payload
    payload = {name: found[name] for name in _PAYLOAD_FIELDS if name in found}
    return CallbackRequest(decoded.renderer_id, decoded.request_id, payload, len(data))


def as_object(message: str | bytes) -> dict[str, Any]:
    """A client message as the JSON object it is, every field of it.

    Raises:
        BadMessage: a field that `decode` passed over is not JSON.
    """
    return _decode(_object_decoder, _mended(_utf8(message)))


def _utf8(message: str | bytes) -> bytes:
    try:
        return message.encode() if isinstance(message, str) else message
    except UnicodeEncodeError as error:
        raise _bad(str(error), None, None) from None


_SURROGATES = re.compile(
    rb"\\(?<!\\\\)((?:\\\\)*+)u[dD]"  # after an odd number of backslashes
    rb"(?:([89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|[89a-fA-F][0-9a-fA-F]{2})"
)
"""A pair of them, the second group, or a half; the first group is what stands before them."""


def _mended(data: bytes) -> bytes:
    """Without halves of surrogate pairs, say of a text that was cut in an emoji.

    Browsers write these, and only these, as escapes; msgspec takes none.
    """
    if not 0 < data.count(rb"\ud") <= MAX_HALVES:
        return data
    return _SURROGATES.sub(lambda found: found[0] if found[2] else found[1] + b"?", data)


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _bad(str(error), *addressee(data)) from None


def _check_payload(request: _CallbackRequest) -> None:
    try:
        payload = msgspec.convert(request.payload, _Payload)
        for prop_id in payload.changed_prop_ids:
            if prop_id.startswith("{"):  # of a pattern-matching id, which ctx decodes
                _pattern_id_decoder.decode(prop_id.rpartition(".")[0])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _bad(f"payload: {error}", request.renderer_id, request.request_id) from None


def _is_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)  # millions may be numbers
        ]
        if not level:
            return False
    return True


def _bad(reason: str, renderer_id: str | None, request_id: str | None) -> BadMessage:
    return BadMessage(f"Bad message: {in_short(reason)}", renderer_id, request_id)


def in_short(text: str) -> str:
    """What a client wrote, fit for a log and an answer: one line, not too long."""
    return "".join(each if each.isprintable() else "?" for each in text[:MAX_REASON])


def addressee(message: str | bytes) -> tuple[str | None, str | None]:
    """The tab and the request that a message names, as far as it does."""
    try:
        found = _addressee_decoder.decode(message)
        return _name(found.renderer_id), _name(found.request_id)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, None


def _name(value: msgspec.Raw) -> str | None:
    try:
        return _name_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


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
