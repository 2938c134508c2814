"""Bringing the kernel's tables to what the rule sets want, both families or none."""

import errno
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..errors import ApplyFailed
from ..model import BUILT_IN, Family, Ruleset, Table
from ..ownership import Ours, ours_in
from ..reconcile import TableEdit, arrange, edit
from .diagnose import explained
from .libiptc import Tables, load
from .refusal import KernelRefused
from .routing import Routes, Step
from .workers import Worker, side_by_side

MOST_TRIES = 10
"""How often a table is read again because a writer without the lock changed it in between."""


@dataclass(frozen=True)
class Finding:
    """What one family's tables hold of ours, and what they should, by the table's name."""

    present: Mapping[str, Ours]
    wanted: Mapping[str, Ours]
    edits: tuple[TableEdit, ...]
    added: tuple[Step, ...]
    """Routing that the rules rely on, put in place before them."""
    deleted: tuple[Step, ...]
    """Routing that no rule relies on any more, taken away after them."""

    @property
    def differs(self) -> bool:
        """Whether anything has to change."""
        return bool(self.edits or self.added or self.deleted)

    @property
    def holds_ours(self) -> bool:
        """Whether anything of ours is there."""
        return any(self.present.values()) or bool(self.deleted)


def apply(
    rulesets: Sequence[Ruleset],
    decide: Callable[[Mapping[Family, Finding]], None],
    *,
    force: bool = False,
    thorough: bool = False,
) -> bool:
    """Read both families, show `decide` what was found, and write; gives whether anything was.

    Every family takes each step before any takes the next: routes that rules rely on, the tables,
    routes that none relies on any more. Whatever `decide` raises ends it before anything changes.
    With `force` rules are written even where nothing differs; with `thorough` policy routes of ours
    are looked for even where no table hints at them. Raises ApplyFailed or NodeCannot; then the
    kernel is as it was found.
    """
    load()  # once, before the children are made
    with ExitStack() as stack:
        workers: list[Worker[Finding]] = [
            stack.enter_context(
                Worker(ruleset.family.title, partial(_steps, ruleset, force, thorough))
            )
            for ruleset in rulesets
        ]
        found = side_by_side(workers)
        findings = dict(zip((ruleset.family for ruleset in rulesets), found, strict=True))
        decide(findings)
        if not any(finding.differs for finding in found):
            return False
        for _ in ("routing that rules rely on", "tables", "routing that none relies on", "the end"):
            side_by_side(workers)
        return True


def _steps(ruleset: Ruleset, force: bool, thorough: bool) -> Generator[Finding, None, None]:
    """One family's work. When it ends before its last step, it takes back what it did."""
    tables, routes = Tables(ruleset.family), Routes(ruleset.family)
    try:
        finding = _look(tables, routes, ruleset, force, thorough)
        yield finding
        with ExitStack() as undo:
            _take(routes, finding.added, undo)
            yield finding
            _write_tables(tables, ruleset, finding, force, undo)
            yield finding
            _take(routes, finding.deleted, undo)
            yield finding
            undo.pop_all()  # every family got this far
            yield finding
    except KernelRefused as refused:
        raise explained(refused, ruleset) from refused


def _look(tables: Tables, routes: Routes, ruleset: Ruleset, force: bool, thorough: bool) -> Finding:
    needed = {table.name for table in ruleset.tables}
    there = tables.instantiated()
    names = [name for name in BUILT_IN if name in needed or name in there]
    present = [tables.read(name) for name in names]
    edits = [_edit_for(ruleset, force, table) for table in present]
    # Whatever made a policy route of our kind used the table mangle in this namespace.
    added, deleted = routes.plan(ruleset.routing, look=thorough or "mangle" in there)
    return Finding(
        {table.name: ours_in(table, ruleset.table(table.name)) for table in present},
        {table.name: arrange(ruleset.table(table.name), table) for table in present},
        tuple(change for change in edits if change is not None),
        added,
        deleted,
    )


def _take(routes: Routes, steps: Sequence[Step], undo: ExitStack) -> None:
    for step in steps:
        routes.take(step)
        undo.callback(routes.take, step.undo)


def _write_tables(
    tables: Tables, ruleset: Ruleset, finding: Finding, force: bool, undo: ExitStack
) -> None:
    # What libxtables objects to, it objects to here, before anything is committed.
    for change in finding.edits:
        tables.stage(change)
    for change in finding.edits:
        _commit(tables, change.table, partial(_edit_for, ruleset, force))
        undo.callback(_restore, tables, ruleset, change.table, finding.present[change.table])


def _edit_for(ruleset: Ruleset, force: bool, present: Table) -> TableEdit | None:
    wanted = ruleset.table(present.name)
    return edit(present, arrange(wanted, present), wanted, force)


def _commit(tables: Tables, name: str, edit_for: Callable[[Table], TableEdit | None]) -> None:
    """Commit what is staged for a table; if it has changed since it was read, a new edit of it."""
    for _ in range(MOST_TRIES):
        try:
            tables.commit(name)
            return
        except KernelRefused as refused:
            if refused.number != errno.EAGAIN:
                raise
        again = edit_for(tables.read(name))
        if again is None:
            return
        tables.stage(again)
    raise ApplyFailed(
        f"table {name} was changed by another program {MOST_TRIES} times while we read it; "
        "end that program, or make it take the xtables lock"
    )


def _restore(tables: Tables, ruleset: Ruleset, name: str, before: Ours) -> None:
    """Put back what was ours in a table."""

    def edit_back(present: Table) -> TableEdit | None:
        return edit(present, before, ruleset.table(name))

    change = edit_back(tables.read(name))
    if change is not None:
        tables.stage(change)
        _commit(tables, name, edit_back)
