"""Reading what the kernel's rules have counted, both families side by side; writes nothing."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from ..analysis.counters import Counted, counted
from .apply import present_tables
from .backend import Task
from .diagnose import explained
from .system.refusal import KernelRefused
from .system.workers import Worker, side_by_side


class Readings:
    """Children that read one family's tables each, whenever asked."""

    def __init__(self, workers: Sequence[Worker[tuple[Counted, ...]]]) -> None:
        self._workers = workers

    def now(self) -> tuple[Counted, ...]:
        """Our rules with their counts, and those missing. Raises ApplyFailed or NodeCannot."""
        return tuple(line for lines in side_by_side(self._workers) for line in lines)


@contextmanager
def readings(tasks: Sequence[Task]) -> Iterator[Readings]:
    """Readings of the kernel beside what the tasks want, for as long as the block lasts."""
    with ExitStack() as stack:
        yield Readings(
            [stack.enter_context(Worker(task.title, partial(_read, task))) for task in tasks]
        )


def _read(task: Task) -> Iterator[tuple[Counted, ...]]:
    ruleset = task.ruleset
    tables = task.tables()
    try:
        while True:
            # Each table is read as a whole, so there is no need for the lock.
            yield tuple(
                line
                for table in present_tables(tables, ruleset, write=False)
                for line in counted(
                    ruleset.family,
                    ruleset.table(table.name),
                    table,
                    tables.counts(table.name),
                )
            )
    except KernelRefused as refused:
        raise explained(refused, task) from refused
