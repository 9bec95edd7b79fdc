"""Dash WebSocket callbacks as tasks, on asyncio and on trio.

The public names: everything else in this package may change.
"""

from .handle import WebSocketHandle
from .plugin import WebSocketRuntime
from .runtime import RuntimeStats
from .threads import offload

__all__ = ["RuntimeStats", "WebSocketHandle", "WebSocketRuntime", "offload"]

__version__ = "0.1.0"
