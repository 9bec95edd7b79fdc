"""What the operating system knows of a TCP connection."""

from __future__ import annotations

import socket
import sys
from typing import Any

_BYTES_ACKED = slice(120, 128)
"""``tcpi_bytes_acked`` in Linux's ``struct tcp_info``; before 4.1 it is not there, and reads 0."""


def bytes_acknowledged(tcp: Any) -> int | None:
    """What the peer's system has acknowledged so far, amid a large message too.

    Args:
        tcp: the socket.

    Returns:
        None where ours does not say: it is not Linux, or the connection has ended, or is no TCP.
    """
    if sys.platform != "linux":
        return None
    try:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    except OSError:
        return None
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
