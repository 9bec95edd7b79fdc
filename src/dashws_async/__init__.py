"""Dash WebSocket callbacks as tasks, on asyncio and on trio.

The public names: everything else in this package may change.
"""

from .handle import WebSocketHandle
from .plugin import WebSocketRuntime
from .registry import CallbackInfo, ConnectionInfo, Peer, Statistics
from .threads import offload

__all__ = [
    "CallbackInfo",
    "ConnectionInfo",
    "Peer",
    "Statistics",
    "WebSocketHandle",
    "WebSocketRuntime",
    "offload",
]

__version__ = "0.1.0"
