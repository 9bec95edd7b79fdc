"""What was measured, where and with what, and its medians."""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .contenders import Contender, versions

BUSY_CLIENT = 80.0
"""Per cent of a core; a load generator that used more may have been the limit."""
MUCH_STOLEN = 10.0
"""Per cent of the processors' time: where other guests took more, a figure says little."""


@dataclass(frozen=True)
class Result:
    """One run of one scenario against one contender."""

    scenario: str
    size: float
    contender: str
    round: int
    figures: dict[str, float]
    failure: str = ""
    """Why there are no figures."""
    seconds: float = 0
    """The wall time of all of it, start and end of the server included."""
    stolen: float = 0
    """Seconds in which a processor was ready to run for us, and the host ran another guest."""

    @property
    def client_was_busy(self) -> bool:
        return self.figures.get("client_cpu_percent", 0) > BUSY_CLIENT

    @property
    def much_was_stolen(self) -> bool:
        return stolen_percent([self]) > MUCH_STOLEN


@dataclass(frozen=True)
class Run:
    """All that one command measured."""

    results: list[Result]
    date: str
    seconds: float
    machine: str
    versions: dict[str, dict[str, str]]
    """By contender: the version of each package that matters."""

    @classmethod
    def of(cls, results: list[Result], contenders: list[Contender], begun: float) -> "Run":
        """The results and what they were measured with; ``begun`` is by `time.time`."""
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begun))
        found = {contender.name: versions(contender) for contender in contenders}
        return cls(results, date, time.time() - begun, machine(), found)

    @property
    def client_in_words(self) -> str:
        """Whether the load generator was the limit."""
        shares = [result.figures.get("client_cpu_percent", 0) for result in self.results]
        busy = [result for result in self.results if result.client_was_busy]
        text = f"the load generator used at most {max(shares):.0f} % of a core"
        if not busy:
            return f"{text} and was not the limit."
        return f"{text}, and may have been the limit in: {_listed(busy)}."

    @property
    def stolen_in_words(self) -> str:
        """How much of the machine others had."""
        text = (
            f"other guests of the host took {stolen_percent(self.results):.1f} % of the "
            "processors' time"
        )
        much = [result for result in self.results if result.much_was_stolen]
        if not much:
            return f"{text}."
        return f"{text}, and more than {MUCH_STOLEN:g} % during: {_listed(much)}."


def _listed(results: Iterable[Result]) -> str:
    return ", ".join(
        dict.fromkeys(f"{each.scenario} {each.size:g} of {each.contender}" for each in results)
    )


def stolen_percent(results: Iterable[Result]) -> float:
    """How much of the processors' time the host gave to other guests during these."""
    found = list(results)
    there_was = sum(result.seconds for result in found) * (os.cpu_count() or 1)
    return 100 * sum(result.stolen for result in found) / there_was if there_was else 0.0


def stolen_since_boot() -> float:
    """Seconds of all processors, as Linux counts them (proc_stat(5)); 0.0 on a machine of one's
    own."""
    ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return ticks / os.sysconf("SC_CLK_TCK")


Medians = dict[tuple[str, float, str], dict[str, float]]
"""By scenario, size and contender: each figure's median over the rounds."""


def medians(results: Iterable[Result]) -> Medians:
    runs: dict[tuple[str, float, str], list[dict[str, float]]] = {}
    for result in results:
        key = result.scenario, result.size, result.contender
        runs.setdefault(key, []).append(result.figures)
    return {
        key: {
            name: median(run[name] for run in found if name in run)
            for name in dict.fromkeys(name for run in found for name in run)
        }
        for key, found in runs.items()
    }


def machine() -> str:
    """This one, in words; what it is called is nobody's business."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), "
        f"{memory:.0f} GiB of memory, {platform.system()} {platform.release().partition('-')[0]}"
    )
