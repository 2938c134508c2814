"""What the kernel holds now, of ours and of others; nothing is changed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..rules.model import PolicyRoute, Table
from .backend import Task
from .diagnose import explained
from .routing.policy_routes import Routes
from .system.refusal import KernelRefused
from .system.workers import Worker, side_by_side


@dataclass(frozen=True)
class Present:
    """One family's tables, those that this namespace has, and its policy routes of our form."""

    tables: tuple[Table, ...]
    policy_routes: tuple[PolicyRoute, ...]


def present(tasks: Sequence[Task]) -> list[Present]:
    """Read the tasks, side by side. Raises ApplyFailed or NodeCannot."""
    with ExitStack() as stack:
        workers: list[Worker[Present]] = [
            stack.enter_context(Worker(task.title, partial(_read, task))) for task in tasks
        ]
        return side_by_side(workers)


def _read(task: Task) -> Iterator[Present]:
    family = task.ruleset.family
    tables = task.tables()
    try:
        yield Present(
            tuple(tables.read(name) for name in tables.instantiated()),
            Routes(family).policy_routes(),
        )
    except KernelRefused as refused:
        raise explained(refused, task) from refused
