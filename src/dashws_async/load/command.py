"""What ``dashws load`` prints: the pages as they come, then figures and a verdict.

Knows: `Load`, rich. Refuses to know: the command line (`dashws_async.__main__`).
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .pages import Load, Tally

__all__ = ["Limits", "run"]

COME_TIMEOUT = 30.0
"""Seconds that the last handshakes and first updates may take, after the ramp."""
REFRESH = 0.25
"""Seconds between two changes of what the screen shows."""
LATEST = 10_000
"""Measurements that the figures on the way are of: to sort them all would take time from the
pages, and they would seem late."""
BUSY = 80
"""Per cent of a core; if this process used more, it may have been the one that was late."""


@dataclass(frozen=True)
class Limits:
    """What is a failure.

    Args:
        p99: milliseconds; the 99th percentile of the updates' delays where they hold
            stamps, otherwise of the heartbeats' answers.
        lost: per cent of the pages that may fail: refused, lost, or without an update.
    """

    p99: float | None
    lost: float

    def crossed(self, tally: Tally, pages: int, wants_updates: bool) -> list[str]:
        """Each limit that was not kept, in words."""
        found = []
        good = tally.live if wants_updates else tally.open
        lost = 100 * (pages - good) / pages
        if lost > self.lost:
            found.append(f"{pages - good} of {pages} pages failed ({lost:.3g} %)")
        if tally.errors:
            found.append(f"{tally.errors.total()} callbacks answered with an error")
        measured = tally.delays or tally.heartbeats
        if self.p99 is not None:
            p99 = percentile(measured, 0.99) if measured else None
            if p99 is None:
                found.append("nothing was measured: neither stamps nor heartbeats came")
            elif p99 > self.p99:
                found.append(f"p99 is {p99:.1f} ms, and may be {self.p99:g} ms")
        return found


def run(load: Load, ramp: float, duration: float, limits: Limits, console: Console) -> bool:
    """Load the app and say what came of it; whether the limits were kept.

    Args:
        ramp: seconds in which the pages come.
        duration: seconds that they stay, from then on.
    """
    wants_updates = bool(load.requests)
    begun = time.monotonic(), time.process_time()
    try:
        with Live(console=console, refresh_per_second=1 / REFRESH, transient=True) as screen:
            _come(load, ramp, wants_updates, screen)
            load.tally.reset()
            stayed = _stay(load, duration, screen)
    finally:
        load.client.close()
    console.print(_figures(load.tally, stayed, latest=None))
    if (failures := _failures(load.tally)).row_count:
        console.print(failures)
    busy = 100 * (time.process_time() - begun[1]) / (time.monotonic() - begun[0])
    if busy > BUSY:
        console.print(f"The load generator used {busy:.0f} % of a core: it may be what was late")
    crossed = limits.crossed(load.tally, load.wanted, wants_updates)
    for each in crossed:
        console.print(f"[bold red]Failed:[/] {each}")
    if not crossed:
        console.print("[bold green]Passed[/]")
    return not crossed


def _come(load: Load, ramp: float, wants_updates: bool, screen: Live) -> None:
    tally = load.tally

    def all_there() -> bool:
        return load.everyone_came and (not wants_updates or tally.live == tally.open)

    progress = _progress("pages come", load.wanted)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < ramp + COME_TIMEOUT:
        if load.run(REFRESH, until=all_there):
            return
        progress.update(progress.task_ids[0], completed=len(load.pages))
        screen.update(Group(progress, _figures(tally, passed + REFRESH)))


def _stay(load: Load, duration: float, screen: Live) -> float:
    """The seconds it took."""
    progress = _progress("seconds", round(duration))
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < duration:
        progress.update(progress.task_ids[0], completed=int(passed))
        screen.update(Group(progress, _figures(load.tally, passed)))
        load.run(min(REFRESH, duration - passed))
    return passed


def _progress(what: str, total: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn())
    progress.add_task(what, total=total)
    return progress


def _figures(tally: Tally, seconds: float, latest: int | None = LATEST) -> RenderableType:
    counts = (
        f"{tally.open} open, {tally.live} live, {tally.updates} updates "
        f"({tally.updates / seconds:.0f}/s, {tally.bytes / seconds / 1e6:.2f} MB/s)"
    )
    table = Table("milliseconds", "p50", "p99", "max", "count")
    for name, nanoseconds in [
        ("handshake", tally.handshakes),
        ("first update", tally.first_updates),
        ("heartbeat's answer", tally.heartbeats),
        ("delay of stamped updates", tally.delays),
    ]:
        if nanoseconds:
            measured = nanoseconds if latest is None else nanoseconds[-latest:]
            figures = [f"{percentile(measured, share):.1f}" for share in (0.5, 0.99, 1)]
            table.add_row(name, *figures, str(len(nanoseconds)))
    return Group(counts, table)


def percentile(nanoseconds: array[int], share: float) -> float:
    """Milliseconds that this share of the measurements does not exceed."""
    ordered = sorted(nanoseconds)
    return ordered[round(share * (len(ordered) - 1))] / 1e6


def _failures(tally: Tally) -> Table:
    table = Table("what failed", "why", "count")
    kinds: dict[str, Counter[str]] = {
        "handshake refused": tally.refused,
        "connection lost": tally.lost,
        "callback's error": tally.errors,
    }
    for kind, reasons in kinds.items():
        for reason, count in reasons.most_common():
            table.add_row(kind, reason, str(count))
    return table
