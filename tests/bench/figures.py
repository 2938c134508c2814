"""What was measured, in figures: for the terminal, and for docs/performance.md."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .cases import EMPTY, Case
from .timer import Cost

Costs = Mapping[Case, Sequence[Cost]]

HEADINGS = (
    "times Python",
    "median ms",
    "least ms",
    "CPU ms",
    "faults",
    "peak MiB",
    "of the script's",
)


def rows(costs: Costs) -> Iterator[tuple[Case, tuple[str, ...]]]:
    """Each case with its figures, in the order of HEADINGS.

    The first is a multiple of what its interpreter takes that has nothing to do, the last a share
    of what the script of 1.0.0 takes for the same.
    """
    scripts = {case.job: median(found) for case, found in costs.items() if "script" in case.by}
    empty = {case.by: median(found) for case, found in costs.items() if case.job == EMPTY}
    for case, found in costs.items():
        python, script = empty.get(case.python), scripts.get(case.job)
        yield (
            case,
            (
                f"{median(found) / python:.2f}" if python else "",
                f"{median(found):.1f}",
                f"{min(cost['milliseconds'] for cost in found):.1f}",
                f"{statistics.median(cost['cpu_milliseconds'] for cost in found):.1f}",
                f"{statistics.median(cost['faults'] for cost in found):.0f}",
                f"{max(cost['peak_mib'] for cost in found):.1f}",
                f"{median(found) / script:.2f}" if script else "",
            ),
        )


def median(costs: Sequence[Cost]) -> float:
    """The median of the milliseconds."""
    return statistics.median(cost["milliseconds"] for cost in costs)


BEGIN, END = "<!-- figures: tests/bench/run --plots docs -->\n", "<!-- end of figures -->\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. Columns of numbers have a heading, and stand to the right."""
    lines = [headings, ["---:" if heading else "---" for heading in headings], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace_figures(text: str, figures: str) -> str:
    """The page with other figures. Raises ValueError if it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no place for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def write_figures(
    page: Path, costs: Costs, beside: Costs, counts: Mapping[str, float], machine: str
) -> None:
    """Write the figures of a run of the benchmark into a page, between the two marks in it.

    `beside` are the costs beside busy loops, `counts` millions of instructions.
    """
    busy = dict(rows(beside))
    taken = (0, 1, 3, 4, 5)  # of HEADINGS
    headings = [HEADINGS[column] for column in taken]
    of_processes = table(
        ("", "", *headings, "busy: times Python", "median ms"),
        (
            (case.job, case.by, *(figures[column] for column in taken), *busy[case][:2])
            for case, figures in rows(costs)
            if case in busy
        ),
    )
    of_lists = table(
        ("", "", *headings),
        (
            (case.job, case.by, *(figures[column] for column in taken))
            for case, figures in rows(costs)
            if case.python and case not in busy
        ),
    )
    of_instructions = table(
        ("", "times Python", "million instructions"),
        ((job, f"{n / counts[EMPTY]:.2f}", f"{n:.0f}") for job, n in counts.items()),
    )
    figures = "\n".join((of_processes, of_lists, of_instructions, f"Measured on {machine}."))
    page.write_text(replace_figures(page.read_text(), figures))
