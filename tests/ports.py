"""Ports that servers of tests may listen on: outside of the ephemeral range."""

import os
import random
import socket

#: pytest-xdist runs tests in several processes, each with ports of its own: gw0, gw1, ...
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(20_000 + _WORKER % 10 * 1000, 21_000 + _WORKER % 10 * 1000)


def free_port() -> int:
    """A port of this host, from 20000 to 29999, that nobody listens on now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port of a hundred between 20000 and 30000")
