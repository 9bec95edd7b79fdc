"""A contender's server as a process: started, measured from outside, ended. Linux only."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .contenders import Contender

APPS = Path(__file__).parent / "apps"
START_TIMEOUT = 30.0
"""Seconds until it must accept."""
TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds; CPU time comes in multiples of it."""


def free_port() -> int:
    """From 20000 to 29999, outside of the range that clients' ports come from."""
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 30000")


class Server:
    """``with Server(contender) as server:`` serves the app until the end of the block.

    Args:
        interval: seconds between the updates of a live dashboard.
    """

    def __init__(self, contender: Contender, *, interval: float = 1.0) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the server
        command = [contender.python, APPS / "serve.py", str(self.port), *contender.options]
        self._process = subprocess.Popen(
            [*command, "--interval", str(interval)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DASH_DISABLE_VERSION_CHECK": "true"},
        )

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + START_TIMEOUT
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"the server did not start:\n{self.log()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        # Dash's own does not end by SIGTERM while it has connections.
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def cpu(self) -> float:
        """Seconds of CPU time used so far, by all its threads."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def memory(self) -> int:
        """Resident bytes."""
        return 1024 * self._number("smaps_rollup", "Rss:")  # what statm says lags behind

    def threads(self) -> int:
        return self._number("status", "Threads:")

    def _number(self, file: str, name: str) -> int:
        (line,) = (each for each in self._proc(file).splitlines() if each.startswith(name))
        return int(line.split()[1])

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
