"""The benchmarks: ``python -m bench.suite``, from the root of the project.

Every contender serves the same app in a process of its own, and this process makes the
load. Contenders take turns within a round; tables show medians over the rounds. What
decides is a ratio within one run: figures of different runs are of different weather.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dashws_async.load import allow_sockets

from . import report, tables
from .contenders import CONTENDERS, DASH, FLOOR, OURS, ROOT, Contender, prepare
from .goals import GOALS, judge
from .results import Result, Run, medians, stolen_since_boot
from .scenarios import SCENARIOS, Failed, Scenario
from .server import Server

QUICK = OURS, DASH, FLOOR
"""The goals are about these."""
ONCE_FROM = 4000
"""Connections; from here on one round must do."""


def names(text: str) -> list[str]:
    return text.split(",")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, the goals' contenders")
    parser.add_argument("--only", type=names, help=f"scenarios: {','.join(SCENARIOS)}")
    parser.add_argument("--contenders", type=names, help=f"of {','.join(CONTENDERS)}")
    parser.add_argument("-n", type=float, nargs="+", help="sizes, in place of each scenario's")
    parser.add_argument("--seconds", type=float, help="how long to measure each")
    parser.add_argument("--rounds", type=int, help="in place of each scenario's, for everyone")
    parser.add_argument("--write", nargs="?", type=Path, const=ROOT / "docs", metavar="FOLDER",
                        help="write the report, to docs/ if no folder is named")  # fmt: skip
    options = parser.parse_args()
    for chosen, known in [(options.only, SCENARIOS), (options.contenders, CONTENDERS)]:
        unknown = set(chosen or ()) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def connections(scenario: Scenario, size: float) -> int:
    """How many it opens."""
    return int(size) if scenario.unit == "connections" else 1


def rounds_of(
    options: argparse.Namespace, scenario: Scenario, size: float, contender: Contender
) -> int:
    """How many it takes part in: those that goals are about in all, for a median."""
    many = connections(scenario, size)
    if options.contenders is None and many > contender.most:
        return 0
    if options.rounds:
        return int(options.rounds)
    against = {goal.against for goal in GOALS if goal.scenario == scenario.name}
    if contender.name in {OURS, DASH} | against:
        return 1 if many >= ONCE_FROM else scenario.rounds
    return 0 if options.quick and options.contenders is None else 1


def turns(
    options: argparse.Namespace, contenders: list[Contender]
) -> Iterator[tuple[Scenario, float, int, Contender]]:
    """Who is measured at what, in order."""
    for name in options.only or SCENARIOS:
        scenario = SCENARIOS[name]
        sizes = scenario.quick_sizes if options.quick else scenario.sizes
        for size in options.n or sizes:
            rounds = {each: rounds_of(options, scenario, size, each) for each in contenders}
            for round_number in range(1, 1 + max(rounds.values())):
                first = (round_number - 1) % len(contenders)  # not always the same one
                for contender in contenders[first:] + contenders[:first]:
                    if round_number <= rounds[contender]:
                        yield scenario, size, round_number, contender


def measure(options: argparse.Namespace, contenders: list[Contender]) -> list[Result]:
    results = []
    planned = list(turns(options, contenders))
    try:
        allow_sockets(max(connections(scenario, size) for scenario, size, *_ in planned))
    except OSError as too_many:
        sys.exit(str(too_many))
    for number, (scenario, size, round_number, contender) in enumerate(planned, 1):
        seconds = scenario.quick_seconds if options.quick else scenario.seconds
        begun, stolen = time.monotonic(), stolen_since_boot()
        figures, failure = {}, ""
        try:
            with Server(contender) as server:
                figures = scenario.run(server, size, options.seconds or seconds)
        except (Failed, OSError) as failed:
            failure = str(failed) or repr(failed)
        result = Result(
            scenario.name,
            size,
            contender.name,
            round_number,
            figures,
            failure,
            seconds=time.monotonic() - begun,
            stolen=stolen_since_boot() - stolen,
        )
        results.append(result)
        head = f"[{number}/{len(planned)}] {result.seconds:5.1f} s"
        print(f"{head}  {tables.in_a_line(scenario, result)}", file=sys.stderr, flush=True)
    return results


def main() -> None:
    options = arguments()
    begun = time.time()
    default = QUICK if options.quick else CONTENDERS
    contenders = [CONTENDERS[name] for name in options.contenders or CONTENDERS]
    contenders = [each for each in contenders if options.contenders or each.name in default]
    prepare(contenders)
    results = measure(options, contenders)
    run = Run.of(results, contenders, begun)
    found = medians(results)
    for name in dict.fromkeys(result.scenario for result in results):
        print(f"\n{SCENARIOS[name].what}\n\n{tables.of_scenario(SCENARIOS[name], found)}")
    verdicts = list(judge(found))
    if verdicts:
        print(f"\nGoals\n\n{tables.of_goals(verdicts)}")
    print(f"\n{run.seconds / 60:.1f} minutes; {run.client_in_words}\nAnd {run.stolen_in_words}")
    if options.write:
        report.write(run, options.write)


if __name__ == "__main__":
    main()
