"""Figures as tables of text, and those as Markdown and HTML."""

import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from .contenders import CONTENDERS, OURS
from .goals import Verdict
from .results import Medians, Result
from .scenarios import Scenario

UNITS = {
    "percent": "%",
    "us": "µs",
    "kib": "KiB",
    "mib": "MiB",
    "ms": "ms",
    "s": "s",
    "per_second": "1/s",
}


class Table(NamedTuple):
    """A head and rows of as many cells."""

    head: list[str]
    rows: list[list[str]]
    of_words: bool = False
    """All columns stand to the left; otherwise the first one does, and numbers to the right."""

    def __str__(self) -> str:
        """As Markdown, which also reads well in a terminal."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        right = [column > 0 and not self.of_words for column in range(len(self.head))]
        rule = [
            "-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)
        ]
        cells = [
            [
                cell.rjust(width) if r else cell.ljust(width)
                for cell, width, r in zip(line, widths, right, strict=True)
            ]
            for line in lines
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], rule, *cells[1:]])

    def html(self) -> str:
        head = "".join(f"<th>{to_html(cell)}</th>" for cell in self.head)
        rows = (
            "<tr>" + "".join(f"<td>{to_html(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        kind = ' class="words"' if self.of_words else ""
        return f"<table{kind}>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>"


def to_html(text: str) -> str:
    """A text of Markdown's, which knows no more of it than code between backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def number(value: float | None) -> str:
    """Three digits that mean something; nothing for nothing."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def words(figure: str) -> str:
    """A figure's name for readers: the unit, which ends it, in brackets."""
    for ending, unit in UNITS.items():
        if figure.endswith(f"_{ending}"):
            return f"{figure.removesuffix(f'_{ending}').replace('_', ' ')} ({unit})"
    return figure.replace("_", " ")


def in_a_line(scenario: Scenario, result: Result) -> str:
    """One result, for whoever waits."""
    shown = [
        f"{words(figure)} {number(result.figures.get(figure))}"
        for figure in scenario.shown
        if figure in result.figures
    ]
    if result.client_was_busy:
        shown.append("the load generator may be the limit")
    if result.much_was_stolen:
        shown.append("other guests of the host were in the way")
    if result.failure:
        shown.append(f"FAILED: {result.failure}")
    return f"{result.scenario} {result.size:g} {result.contender:12}  {', '.join(shown)}"


def of_scenario(scenario: Scenario, found: Medians) -> Table:
    """Sizes and contenders against figures."""
    order = list(CONTENDERS)
    measured = sorted(
        (key for key in found if key[0] == scenario.name),
        key=lambda key: (key[1], order.index(key[2])),
    )
    rows = [
        [key[2], number(key[1]), *(number(found[key].get(figure)) for figure in scenario.shown)]
        for key in measured
    ]
    return Table(["contender", scenario.unit, *map(words, scenario.shown)], rows)


def of_goals(verdicts: Iterable[Verdict]) -> Table:
    """Each goal, what was measured, and whether it was met."""
    rows = []
    for verdict in verdicts:
        goal = verdict.goal
        sign, times = "≥" if goal.at_least else "≤", " times" if goal.against else ""
        rows.append(
            [
                f"{goal.scenario} {number(verdict.size)}: {words(goal.figure)}",
                number(verdict.ours),
                f"{goal.against} {number(verdict.other)}" if goal.against else "",
                f"{verdict.value:.2f}" if goal.against and verdict.value is not None else "",
                f"{sign} {goal.limit:g}{times}",
                "met" if verdict.met else "NOT MET",
            ]
        )
    return Table(["goal", OURS, "against", "ratio", "limit", ""], rows)


def of_failures(results: Iterable[Result]) -> Table:
    rows = [
        [each.contender, f"{each.scenario} {each.size:g}", each.failure]
        for each in results
        if each.failure
    ]
    return Table(["contender", "scenario", "failure"], rows, of_words=True)
