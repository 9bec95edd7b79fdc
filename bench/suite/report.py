"""The report: ``docs/benchmarks.md`` and ``.html``, and their charts. All of it is generated."""

from pathlib import Path

from . import charts, tables
from .contenders import CONTENDERS
from .goals import judge
from .results import Medians, Run, medians
from .scenarios import SCENARIOS

CHARTS = [
    ("live", "cpu_per_update_us", "CPU time per delivered update"),
    ("live", "memory_per_connection_kib", "Memory per live connection"),
    ("live", "lateness_p99_ms", "Lateness of live updates, 99th percentile"),
    ("stream", "delay_p50_ms", "Delay of a stream, median"),
]
"""Scenario, figure and title; across stand the scenario's sizes."""

HEAD = """<!doctype html>
<meta charset="utf-8">
<title>Benchmarks</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
td, th { border-bottom: 1px solid #dee2e6; padding: .2rem .6rem; text-align: right; }
td:first-child, th:first-child, .words td, .words th { text-align: left; }
img { max-width: 40rem; display: block; }
</style>"""

HOW = (
    "Every contender serves the same app in a process of its own, on one loopback; another "
    "process makes the load. For each measurement the server is a fresh one. Contenders take "
    "turns, and figures are medians over the rounds. Only ratios within one run mean much: "
    "another machine, or another hour, has other figures.",
    "`make bench` makes this page. `make bench-quick` prints the goals in three minutes, and "
    "`python -m bench.suite --only live --contenders async,dash-quart,floor -n 1000` measures "
    "one thing.",
    "Lateness is how long after the time that the callback meant an update was read by the "
    "client. CPU time and memory are those of the server's process, the latter divided by "
    "connections, without what it has before them. `served` is the share of pages that get "
    "updates, `delivered` the share of updates that came, of those that were due.",
)

Block = tuple[str, str | tables.Table]
"""What it is (``h1``, ``h2``, ``p``, ``table``, ``img``), and what is in it."""


def write(run: Run, folder: Path) -> None:
    """Write the report, its charts below ``images/``."""
    found = medians(run.results)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    blocks = list(_blocks(run, found, folder / "images"))
    (folder / "benchmarks.md").write_text(_markdown(blocks), encoding="utf-8")
    (folder / "benchmarks.html").write_text(_html(blocks), encoding="utf-8")


def _blocks(run: Run, found: Medians, images: Path) -> list[Block]:
    blocks: list[Block] = [
        ("h1", "Benchmarks"),
        ("p", f"{run.date}, in {run.seconds / 60:.0f} minutes. {run.machine}."),
        ("p", f"In this run {run.client_in_words} And {run.stolen_in_words}"),
        *(("p", text) for text in HOW),
        ("h2", "Goals"),
        ("table", tables.of_goals(judge(found))),
        ("h2", "Contenders"),
        ("table", _contenders(run)),
    ]
    for scenario in SCENARIOS.values():
        table = tables.of_scenario(scenario, found)
        if not table.rows:
            continue
        blocks += [("h2", scenario.name), ("p", scenario.what)]
        for name, figure, title in CHARTS:
            if name == scenario.name and any(
                figure in found[key] for key in found if key[0] == name
            ):
                file = f"benchmark-{name}-{figure.replace('_', '-')}.svg"
                _draw(title, name, figure, found, images / file)
                blocks.append(("img", f"images/{file}"))
        blocks.append(("table", table))
    failures = tables.of_failures(run.results)
    if failures.rows:
        blocks += [("h2", "Failures"), ("table", failures)]
    return blocks


def _contenders(run: Run) -> tables.Table:
    rows = [
        [name, CONTENDERS[name].what, ", ".join(f"{each} {v}" for each, v in versions.items())]
        for name, versions in run.versions.items()
    ]
    return tables.Table(["contender", "what", "versions"], rows, of_words=True)


def _draw(title: str, scenario: str, figure: str, found: Medians, file: Path) -> None:
    series = {
        name: sorted(
            (size, figures[figure])
            for (where, size, contender), figures in found.items()
            if (where, contender) == (scenario, name) and figure in figures
        )
        for name in CONTENDERS
    }
    svg = charts.lines(title, SCENARIOS[scenario].unit, tables.words(figure), series)
    file.write_text(svg, encoding="utf-8")


def _markdown(blocks: list[Block]) -> str:
    marks = {"h1": "# ", "h2": "## ", "img": "![]("}
    parts = [
        f"{marks.get(kind, '')}{content}" + (")" if kind == "img" else "")
        for kind, content in blocks
    ]
    return "\n\n".join(parts) + "\n"


def _html(blocks: list[Block]) -> str:
    parts = []
    for kind, content in blocks:
        if isinstance(content, tables.Table):
            parts.append(content.html())
        elif kind == "img":
            parts.append(f'<img src="{content}" alt="">')
        else:
            parts.append(f"<{kind}>{tables.to_html(content)}</{kind}>")
    return "\n".join([HEAD, *parts, ""])
