"""A module with a Dash app, served by processes of its own. Knows no browser."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

from guide.extract import Loop
from ports import free_port
from until import until

#: A server must be gone this many seconds after SIGTERM, whatever its callbacks do.
EXIT_TIMEOUT = 20

#: What Hypercorn logs of a request, and of a WebSocket when it is accepted.
ACCESS = "%(m)s asked for %(U)s: %(s)s"

By = Literal["python", "hypercorn"]


class Server:
    """The app of `source`, at `url`.

    By default a module that calls `app.run()` is run as it is, `python example.py`, and any
    other served as `hypercorn example:app.server` does it; `by` says which. With no `workers`
    Hypercorn serves in the process that was started, `pid`.
    """

    def __init__(
        self, source: str, loop: Loop, folder: Path, by: By | None = None, workers: int = 1
    ) -> None:
        (folder / "example.py").write_text(source, encoding="utf-8")
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        if (by or ("python" if "app.run(" in source else "hypercorn")) == "python":
            self._command = ["example.py"]
        else:
            bind = f"127.0.0.1:{self._port}"
            options = f"-w {workers} -k {loop} -b {bind} --access-logfile - --access-logformat"
            self._command = ["-m", "hypercorn", *options.split(), ACCESS, "example:app.server"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return "127.0.0.1", self._port

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the process printed since its latest start."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def requests(self) -> list[str]:
        """The paths that were asked for, in order, WebSockets too (Hypercorn only)."""
        return re.findall(r"asked for (\S+):", self.log)

    @property
    def sockets(self) -> int:
        """How many WebSockets were opened since the latest start (Hypercorn only)."""
        return sum(path.endswith("_dash-ws-callback") for path in self.requests)

    def start(self) -> None:
        """Start the process and wait until it accepts; no request is made."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=self._folder,
                env={
                    **os.environ,
                    "HOST": "127.0.0.1",
                    "PORT": str(self._port),
                    "DASH_DISABLE_VERSION_CHECK": "true",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._accepts, lambda: f"the server accepts; its log:\n{self.log}", 30)

    def wait_for_log(self, text: str, timeout: float = 10) -> None:
        until(lambda: text in self.log, lambda: f"{text!r} in the log:\n{self.log}", timeout)

    def kill(self) -> None:
        """End the process as a crash does: nobody is told."""
        if self._process is not None:
            # Hypercorn serves in a child; the session is the server's own.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(EXIT_TIMEOUT)
            self._process = None

    def stop(self) -> None:
        """End the process as a deploy does, and check that it went in time and in peace."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"still there {EXIT_TIMEOUT} s after SIGTERM:\n{self.log}"
            ) from None
        self._process = None
        assert "Traceback" not in self.log, self.log

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended at once:\n{self.log}"
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0


def server_class(loop: Loop) -> tuple[str, str]:
    """The package and the name of the server class that runs on a loop."""
    return ("quart_trio", "QuartTrio") if loop == "trio" else ("quart", "Quart")


def allow_open_files(least: int) -> None:
    """Let this process, and the servers that it starts from now on, have so many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(least, hard), hard))
