"""Who takes part, and the virtual environment of each.

Environments are made below ``bench/.venvs`` when they are first needed, and again when
their packages change. What the versions are that pip found, the report says.
"""

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENVS = ROOT / "bench" / ".venvs"

HYPERCORN = "hypercorn==0.18.0"
QUART = "quart==0.22.0"
ORJSON = "orjson==3.13.0"
"""Dash encodes with it where it is there; the runtime always has it."""

ENVIRONMENTS = {
    "runtime": [
        "--editable", str(ROOT), "dash[quart]==4.4.1", QUART, HYPERCORN, ORJSON,
        "quart-trio==0.12.0", "uvloop==0.23.0",
    ],
    "dash-4.4-quart": ["dash[quart]==4.4.1", QUART, HYPERCORN, ORJSON],
    "dash-4.2-quart": ["dash[quart]==4.2.0", QUART, HYPERCORN, ORJSON],
    "dash-4.4-fastapi": ["dash[fastapi]==4.4.1", "fastapi==0.165.0", "uvicorn==0.54.0", ORJSON],
    "floor": [HYPERCORN],
}  # fmt: skip
"""The packages of each environment, as pip takes them. The runtime's five ways to run are
one package: they share theirs, which is this working tree."""

VERSIONS = [
    "dashws-async", "dash", "quart", "quart-trio", "hypercorn", "fastapi", "uvicorn", "uvloop",
    "anyio", "trio", "msgspec", "orjson", "wsproto", "websockets",
]  # fmt: skip
"""The packages whose versions the report names."""


@dataclass(frozen=True)
class Contender:
    """One way to serve the app."""

    name: str
    what: str
    """In words, for the report."""
    environment: str
    options: tuple[str, ...]
    """For ``apps/serve.py``."""
    most: float = 1000
    """Connections that it gets at most, so that all of it ends within half an hour."""

    @property
    def python(self) -> Path:
        return VENVS / self.environment / "bin" / "python"


def _runtime(name: str, what: str, mode: str, loop: str, most: float = 1000) -> Contender:
    options = ("--app", "runtime", "--mode", mode, "--loop", loop)
    return Contender(name, f"dashws-async, {what}", "runtime", options, most)


CONTENDERS = {
    contender.name: contender
    for contender in [
        _runtime("async", "Quart on Hypercorn, asyncio", "async", "asyncio", 10_000),
        _runtime("hybrid", 'mode="hybrid", Quart on Hypercorn, asyncio', "hybrid", "asyncio"),
        _runtime("threads", 'mode="threads", Quart on Hypercorn, asyncio', "threads", "asyncio"),
        _runtime("uvloop", "Quart on Hypercorn, uvloop", "async", "uvloop", 4000),
        _runtime("trio", "Quart-Trio on Hypercorn, trio", "async", "trio"),
        Contender(
            "dash-quart",
            "Dash 4.4.1, Quart on Hypercorn, asyncio",
            "dash-4.4-quart",
            ("--app", "quart", "--loop", "asyncio"),
            10_000,
        ),
        Contender(
            "dash-4.2",
            "Dash 4.2.0, Quart on Hypercorn, asyncio",
            "dash-4.2-quart",
            ("--app", "quart", "--loop", "asyncio"),
        ),
        Contender(
            "dash-fastapi",
            "Dash 4.4.1, FastAPI on uvicorn, as `pip install dash[fastapi]` has it",
            "dash-4.4-fastapi",
            ("--app", "fastapi", "--loop", "uvicorn"),
        ),
        Contender(
            "floor",
            "no Dash: a bare ASGI app on Hypercorn, asyncio",
            "floor",
            ("--app", "floor", "--loop", "asyncio"),
            10_000,
        ),
    ]
}
OURS, DASH, FLOOR = "async", "dash-quart", "floor"
"""Those whose ratios the goals are about."""


def prepare(contenders: list[Contender]) -> None:
    """Make the environments that are missing or old."""
    for name in sorted({contender.environment for contender in contenders}):
        home, packages = VENVS / name, ENVIRONMENTS[name]
        stamp, wanted = home / "packages", "\n".join(packages)
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"making the environment {name}", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--quiet", *packages], check=True)
        stamp.write_text(wanted)


def versions(contender: Contender) -> dict[str, str]:
    """What is installed for it, Python included."""
    source = (
        "import importlib.metadata as m, json, platform\n"
        "found = {d.name.lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    found = json.loads(subprocess.check_output([contender.python, "-c", source], text=True))
    return {name: found[name] for name in ["python", *VERSIONS] if name in found}
