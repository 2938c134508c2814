"""What a run does with one family's legacy tables."""

from __future__ import annotations

import errno

from ..errors import ApplyFailed
from ..frozen import Frozen
from ..light import partial
from ..rules.model import BUILT_IN, Ruleset, Table
from ..rules.ownership import Ours, ours_in
from ..rules.reconcile import TableEdit, arrange, edit, edited
from .backend import Backend, Task, tables_there
from .findings import ApplyOptions, Finding, difference, explaining, routing_difference, turn
from .routing.policy_routes import Routes, RoutingPlan
from .system.refusal import NO_SUCH_TABLE, KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .legacy.libiptc import Tables

MOST_TRIES = 100
"""How often a table is read again because a writer without the lock changed it in between."""


class Undo(Frozen):
    """What a run changes, for whoever takes it back."""

    before: Mapping[str, Ours]
    """What is ours in each table that has to change, by its name, in the order of their turns."""
    routing: RoutingPlan


def steps(task: Task, options: ApplyOptions) -> Iterator[tuple[list[Finding], Undo] | None]:
    """Look, and give what was found; then write, step by step as `apply.apply` says."""
    (ruleset,) = task.rulesets
    tables = _tables(ruleset)
    with explaining(task):
        present = list(present_tables(tables, ruleset, options.write))
        edits = list(_edits(present, ruleset, options))
        undo = _undo(present, edits, task, options)
        yield [_finding(present, edits, undo, task, options)], undo
        # What libxtables objects to, it objects to here, before anything is changed.
        for _, change in edits:
            tables.stage(change)
        undo.routing.add()
        yield None
        # Tables in which nothing of ours stays have their turn after all others.
        left = () if ruleset.tables else tuple(undo.before)
        if task.bridge:
            yield None
            _commit_all(tables, (name for name in left if name == "mangle"), ruleset, options)
            left = tuple(name for name in left if name != "mangle")
            yield None
        _commit_all(tables, undo.before if ruleset.tables else (), ruleset, options)
        yield None
        _commit_all(tables, left, ruleset, options)
        yield None
        undo.routing.delete()
        yield None


def take_back(task: Task, undo: Undo) -> Iterator[None]:
    """Put back what was found, wherever something else is there now; the last step first."""
    (ruleset,) = task.rulesets
    tables = _tables(ruleset)
    with explaining(task):
        undo.routing.take_back_deleted()
        for name, before in reversed([*undo.before.items()]):
            _restore(tables, ruleset, name, before)
        undo.routing.take_back_added()
    yield None


def _tables(ruleset: Ruleset) -> Tables:
    from .legacy.libiptc import Tables

    return Tables(ruleset.family)


def present_tables(tables: Tables, ruleset: Ruleset, write: bool) -> Iterator[Table]:
    """What the tables hold in which something of ours is or belongs. Raises KernelRefused.

    Unless we are to `write`, no table is brought into being by reading it.
    """
    needed = {table.name for table in ruleset.tables}
    there = tables.instantiated()
    for name in BUILT_IN:
        if name in there or (name in needed and write):
            try:
                yield tables.read(name)
            except KernelRefused as refused:
                # Who may not know which tables there are looks at all of them; one that the kernel
                # lacks holds nothing of ours.
                if name in needed or refused.number not in NO_SUCH_TABLE:
                    raise
        elif name in needed:
            yield Table.empty(name)


def _edits(
    present: Sequence[Table], ruleset: Ruleset, options: ApplyOptions
) -> Iterator[tuple[Table, TableEdit]]:
    """The tables that have to change, each with how."""
    for table in present:
        change = _edit_for(ruleset, options, table)
        if change is not None:
            yield table, change


def _undo(
    present: Sequence[Table],
    edits: Sequence[tuple[Table, TableEdit]],
    task: Task,
    options: ApplyOptions,
) -> Undo:
    (ruleset,) = task.rulesets
    # Whatever made a policy route of our kind used the table mangle in this namespace.
    look = (
        options.thorough
        or any(table.name == "mangle" for table in present)
        or any("mangle" in tables_there(backend, ruleset.family) for backend in Backend)
    )
    routing = RoutingPlan(ruleset.family)
    if task.with_routing:
        routing = Routes(ruleset.family).plan(ruleset.routing, options.policy_route, look)
    changing = {table.name: table for table, _ in edits}
    in_turn = sorted(changing, key=lambda name: turn(name, [ruleset.table(name)]))
    return Undo({name: ours_in(changing[name], ruleset.table(name)) for name in in_turn}, routing)


def _finding(
    present: Sequence[Table],
    edits: Sequence[tuple[Table, TableEdit]],
    undo: Undo,
    task: Task,
    options: ApplyOptions,
) -> Finding:
    (ruleset,) = task.rulesets
    ours = (ours_in(table, ruleset.table(table.name)) for table in present)
    holds_ours = any(ours) or bool(undo.routing.deleted)
    differs = bool(undo.before or undo.routing)
    lines: list[str] = []
    if holds_ours or options.thorough:
        for table, change in edits:
            lines += difference(f"{task.title} {table.name}", table, edited(table, change))
        lines += routing_difference(task.title, undo.routing)
    return Finding(ruleset.family, holds_ours, differs, tuple(lines))


def _edit_for(ruleset: Ruleset, options: ApplyOptions, present: Table) -> TableEdit | None:
    wanted = ruleset.table(present.name)
    return edit(present, arrange(wanted, present), wanted, options.force)


def _commit_all(
    tables: Tables, names: Iterable[str], ruleset: Ruleset, options: ApplyOptions
) -> None:
    for name in names:
        _commit(tables, name, partial(_edit_for, ruleset, options))


def _commit(tables: Tables, name: str, edit_for: Callable[[Table], TableEdit | None]) -> None:
    """Commit what is staged for a table; if it has changed since it was read, a new edit of it."""
    for _ in range(MOST_TRIES):
        try:
            tables.commit(name)
            return
        except KernelRefused as refused:
            if refused.number not in (errno.EAGAIN, errno.EINVAL):
                raise
            again = edit_for(tables.read(name))
            if again is None:
                # EINVAL: libiptc had written the table, and then could not add the old counts to
                # the new rules, since another program had changed them.
                return
            if refused.number == errno.EINVAL:
                raise
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
