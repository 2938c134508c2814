"""What the kernel holds now, of ours and of others; nothing is changed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..model import PolicyRoute, Table
from .backend import Part
from .diagnose import explained
from .refusal import KernelRefused
from .routing import Routes
from .workers import Worker, side_by_side


@dataclass(frozen=True)
class Present:
    """One family's tables, those that this namespace has, and its policy routes of our form."""

    tables: tuple[Table, ...]
    policy_routes: tuple[PolicyRoute, ...]


def present(parts: Sequence[Part]) -> list[Present]:
    """Read the parts, side by side. Raises ApplyFailed or NodeCannot."""
    with ExitStack() as stack:
        workers: list[Worker[Present]] = [
            stack.enter_context(Worker(part.title, partial(_read, part))) for part in parts
        ]
        return side_by_side(workers)


def _read(part: Part) -> Iterator[Present]:
    family = part.ruleset.family
    tables = part.tables()
    try:
        yield Present(
            tuple(tables.read(name) for name in tables.instantiated()),
            Routes(family).policy_routes(),
        )
    except KernelRefused as refused:
        raise explained(refused, part) from refused
