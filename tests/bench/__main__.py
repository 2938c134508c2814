"""The benchmark; tests/bench/run installs what it needs and runs it."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .cases import EMPTY, Case, Cases
from .connections import Walked, connection_times
from .figures import HEADINGS, Costs, median, rows, write_figures
from .instructions import COUNTED, Command, Done, instructions
from .timer import Cost, Job

# How CIDRs are held. What is short is no tree and no set, even where one is asked for.
HOWS = {
    "list": ("--cidr-tree", "never"),
    "tree": ("--cidr-tree", "always"),
    "set of nf_tables": ("--backend", "nft"),
}

BUSY_LOOPS = 2


def main() -> None:
    """Measure, print tables, and draw."""
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument("--program", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed (15)")
    parser.add_argument("--plots", type=Path, help="the directory to draw plots into")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="append", default=[], help="another program to time")
    given = parser.parse_args()
    console = Console(highlight=False, width=120)
    console.print(machine())
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        work.chmod(0o755)
        cases = list(Cases(given.program, work, given.peer, given.image))
        costs = whole_process(cases, given.rounds)
        console.print(table_of_costs("A whole process, in a new network namespace", costs))
        with busy_loops(BUSY_LOOPS):
            few = [
                case for case in cases if case.python and not case.length and case.job != "prove"
            ]
            beside = whole_process(few, given.rounds)
        console.print(table_of_costs(f"The same, beside {BUSY_LOOPS} busy loops", beside))
        counts = counted(given.program)
        console.print(table_of_instructions(counts))
        times = connection_times(given.rounds, HOWS, work)
        console.print(table_of_connections(times))
    if given.plots:
        from .plots import draw

        draw(
            {case: median(found) for case, found in costs.items() if case.drawn},
            {walked: statistics.median(found) for walked, found in times.items()},
            machine(),
            given.plots,
        )
        write_figures(given.plots / "performance.md", costs, beside, counts, machine())


def machine() -> str:
    """What this is measured on, in a line."""
    model = next(
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    told = subprocess.run(["iptables-legacy", "--version"], capture_output=True, text=True)
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} processors {model}, {system}, {' '.join(told.stdout.split()[:2])}"


def whole_process(cases: Sequence[Case], rounds: int) -> Costs:
    """Each case `rounds` times, one after the other in turn, so that noise hits all alike.

    A round before the first warms up, and is not counted.
    """
    costs: dict[Case, list[Cost]] = {case: [] for case in cases}
    with timer() as (jobs, answers):
        for number in range(rounds + 1):
            for case in cases:
                job = Job(before=[*map(list, case.before)], command=[*case.command])
                print(json.dumps(job), file=jobs, flush=True)
                cost: Cost = json.loads(answers.readline())
                if cost["status"]:
                    raise SystemExit(f"{case.command} ended with {cost['status']}")
                if number:
                    costs[case].append(cost)
    return costs


@contextmanager
def timer() -> Iterator[tuple[IO[str], IO[str]]]:
    """A process that takes jobs and answers what they cost, see timer.py."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("timer.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        yield process.stdin, process.stdout
        process.stdin.close()


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Processes that take all the time they get, as the other pods of a node that starts many."""
    with ExitStack() as stack:
        for _ in range(number):
            loop = subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        yield


def table_of_costs(title: str, costs: Costs) -> Table:
    """A row a case, see `rows`."""
    table = Table("", "by", title=title, box=SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    job = ""
    for case, figures in rows(costs):
        table.add_row(case.job if case.job != job else "", case.by, *figures)
        job = case.job
    return table


def counted(program: Path) -> dict[str, float]:
    """Millions of instructions, by what is done; the first is an empty Python's."""
    python = (getattr(sys, "_base_executable", sys.executable), "-I", "-S")

    def run(command: Command) -> Done:
        inside = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-", *command)
        return subprocess.run(inside, capture_output=True, text=True)

    found = {EMPTY: instructions((*python, "-c", "pass"), run)}
    for case, flags in COUNTED.items():
        found[case] = instructions((*python, str(program / "start.py"), *flags), run)
    return found


def table_of_instructions(counts: Mapping[str, float]) -> Table:
    """A row a case."""
    table = Table("", title="Instructions, a first run", box=SIMPLE_HEAD)
    for heading in ("times Python", "millions"):
        table.add_column(heading, justify="right")
    for case, millions in counts.items():
        table.add_row(case, f"{millions / counts[EMPTY]:.2f}", f"{millions:.0f}")
    return table


def table_of_connections(times: Mapping[Walked, Sequence[float]]) -> Table:
    """A row a number of CIDRs, a column a way to hold them."""
    hows = list(dict.fromkeys(walked.how for walked in times))
    table = Table("CIDRs", title="To establish a connection, median µs", box=SIMPLE_HEAD)
    for how in hows:
        table.add_column(how, justify="right")
    for length in dict.fromkeys(walked.length for walked in times):
        medians = (statistics.median(times[Walked(how, length)]) for how in hows)
        table.add_row(f"{length:,}", *(f"{microseconds:.1f}" for microseconds in medians))
    return table


if __name__ == "__main__":
    main()
