"""What the kernel holds now, of ours and of others; nothing is changed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..model import Family, PolicyRoute, Ruleset, Table
from .diagnose import explained
from .libiptc import Tables, load
from .refusal import KernelRefused
from .routing import Routes
from .workers import Worker, side_by_side


@dataclass(frozen=True)
class Present:
    """One family's tables, those that this namespace has, and its policy routes of our form."""

    tables: tuple[Table, ...]
    policy_routes: tuple[PolicyRoute, ...]


def present(families: Sequence[Family]) -> Mapping[Family, Present]:
    """Read the families. Raises ApplyFailed or NodeCannot."""
    load()
    with ExitStack() as stack:
        workers: list[Worker[Present]] = [
            stack.enter_context(Worker(family.title, partial(_read, family))) for family in families
        ]
        return dict(zip(families, side_by_side(workers), strict=True))


def _read(family: Family) -> Iterator[Present]:
    tables = Tables(family)
    try:
        yield Present(
            tuple(tables.read(name) for name in tables.instantiated()),
            Routes(family).policy_routes(),
        )
    except KernelRefused as refused:
        raise explained(refused, Ruleset(family)) from refused
