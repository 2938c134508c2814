"""Reads what the kernel holds, our rules and those of others. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ..analysis.kernel_rules import KernelTable, TableKind
from ..rules.inet_tables import PRIORITIES
from ..rules.model import PolicyRoute, Ruleset
from .backend import Backend, Task
from .diagnose import explained
from .routing.policy_routes import Routes
from .system.refusal import KernelRefused
from .system.workers import Worker


@dataclass(frozen=True)
class Present:
    """One family's tables, those that this namespace has, and its policy routes of our form. The
    title of a table of ours is its name."""

    tables: tuple[KernelTable, ...]
    policy_routes: tuple[PolicyRoute, ...]


def present(ruleset: Ruleset, backend: Backend) -> Present:
    """Read one family's tables. Raises ApplyFailed or NodeCannot."""
    with Worker(ruleset.family.title, partial(_read, ruleset, backend)) as worker:
        worker.ask()
        return worker.answer()


def _read(ruleset: Ruleset, backend: Backend) -> Iterator[Present]:
    try:
        yield Present(_tables(ruleset, backend), Routes(ruleset.family).policy_routes())
    except KernelRefused as refused:
        raise explained(refused, Task((ruleset,), backend)) from refused


def _tables(ruleset: Ruleset, backend: Backend) -> tuple[KernelTable, ...]:
    family = ruleset.family
    if backend is Backend.NFT:
        from .nftables import tables as nf_tables
        from .nftables.snapshot import walkable

        return tuple(walkable(nf_tables.read(everything=True), family))
    from .legacy.libiptc import Tables

    tables = Tables(family)
    return tuple(
        KernelTable(
            PRIORITIES[name], name, tables.read(name), tables.counts(name), TableKind.LEGACY
        )
        for name in tables.instantiated()
    )
