"""Origins: which pages may open a WebSocket.

A browser names the origin of the page in the handshake, and the host that it connects
to; a page of another site can change neither. The rule is RFC 6454's, with one
exception: a server that is reached by plain http takes pages of https too, because a
proxy in front of it may speak TLS to the browser.

Text in, verdict out: knows no framework, no app and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address
from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}

# Only what browsers write; `re.ASCII` also keeps letters out that are the lower case of others.
_HOST = r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
_HOST_HEADER = re.compile(_HOST, re.ASCII | re.IGNORECASE)
_ORIGIN_HEADER = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{_HOST}", re.ASCII | re.IGNORECASE)

_SHOWN = 200
"""Characters of a header that a message repeats."""


class Origin(NamedTuple):
    """An origin as one compares it."""

    scheme: str
    host: str
    port: int | None
    """None where the scheme has no port of its own and none was given."""


def parse_origin(text: str) -> Origin:
    """The origin that a text names: ``scheme://host`` or ``scheme://host:port``.

    Raises:
        ValueError: it names none.
    """
    found = _ORIGIN_HEADER.fullmatch(text)
    if found is None:
        raise ValueError("not scheme://host[:port]")
    scheme = found["scheme"].lower()
    return Origin(scheme, _host(found), _port(found, scheme))


def parse_allowed_origins(entries: object) -> frozenset[Origin]:
    """``Dash(websocket_allowed_origins=...)``, checked.

    Raises:
        TypeError: it is not a list of strings.
        ValueError: an entry is not an origin; the text names it, and says what is wrong.
    """
    if isinstance(entries, str) or not isinstance(entries, Collection):
        raise TypeError(
            f"Dash(websocket_allowed_origins={entries!r}): must be a list of origins, "
            'say ["https://dashboards.example.com"]'
        )
    return frozenset(_parse_entry(entry) for entry in entries)


def _parse_entry(entry: object) -> Origin:
    refused = f"Dash(websocket_allowed_origins=[{entry!r}]): "
    if not isinstance(entry, str):
        raise TypeError(refused + "an origin is a string")
    if entry == "*":
        raise ValueError(refused + "there is no wildcard; list each origin")
    if entry.lower() == "null":
        raise ValueError(refused + "a page of any site can have the origin null")
    if not entry.isascii():
        raise ValueError(refused + "write the host as browsers send it, in ASCII (xn--...)")
    try:
        origin = parse_origin(entry.removesuffix("/"))
    except ValueError as error:
        raise ValueError(
            f"{refused}{error}; an origin has no path, no user and no wildcard, "
            'say "https://dashboards.example.com"'
        ) from None
    if origin.scheme in ("ws", "wss"):
        raise ValueError(refused + "an origin is the page's: it begins with http or https")
    return origin


def find_fault(
    origins: Sequence[str], hosts: Sequence[str], secure: bool, allowed: Collection[Origin]
) -> str | None:
    """What is wrong with where a handshake comes from, or None.

    Args:
        origins: the values of its ``Origin`` headers.
        hosts: the values of its ``Host`` headers (in HTTP/2, ``:authority``).
        secure: whether the browser is known to have connected by TLS.
        allowed: origins that may connect, whatever the host.
    """
    if not any(origins):
        return "Origin header required"
    if len(origins) > 1:
        return "Several Origin headers"
    try:
        origin = parse_origin(origins[0])
    except ValueError as error:
        return f"Origin {origins[0][:_SHOWN]!r}: {error}"
    if origin in allowed or _is_same(origin, hosts, secure):
        return None
    shown = ", ".join(hosts)[:_SHOWN]
    return (
        f"Origin {origins[0][:_SHOWN]!r} is not this host, {shown!r}"
        f"{' (by https)' if secure else ''}; "
        "allow it with Dash(websocket_allowed_origins=[...])"
    )


def _is_same(origin: Origin, hosts: Sequence[str], secure: bool) -> bool:
    if origin.scheme not in (("https",) if secure else ("http", "https")) or len(hosts) != 1:
        return False
    found = _HOST_HEADER.fullmatch(hosts[0])
    if found is None:
        return False
    try:
        # A browser leaves the port out that is the default one of the page's scheme.
        return (_host(found), _port(found, origin.scheme)) == (origin.host, origin.port)
    except ValueError:
        return False


def _host(found: re.Match[str]) -> str:
    host = found["host"].lower()
    return f"[{IPv6Address(host[1:-1]).compressed}]" if host.startswith("[") else host


def _port(found: re.Match[str], scheme: str) -> int | None:
    if found["port"] is None:
        return DEFAULT_PORTS.get(scheme)
    port = int(found["port"])
    if port > 65535:
        raise ValueError("a port above 65535")
    return port
