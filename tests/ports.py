"""Ports that servers of tests may listen on: outside of the ephemeral range."""

import random
import socket


def free_port() -> int:
    """A port of this host, from 20000 to 29999, that nobody listens on now."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port between 20000 and 30000")
