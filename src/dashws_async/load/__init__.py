"""Load for a Dash app: thousands of pages from one process, and what they saw.

``dashws load URL`` is the command; the project's benchmarks use the same pages.
"""

from .pages import STAMP, App, Load, NotAnApp, Page, Tally, stamp
from .sockets import Address, Client, Ended, Listener, Socket, allow_sockets, frame

__all__ = [
    "STAMP",
    "Address",
    "App",
    "Client",
    "Ended",
    "Listener",
    "Load",
    "NotAnApp",
    "Page",
    "Socket",
    "Tally",
    "allow_sockets",
    "frame",
    "stamp",
]
