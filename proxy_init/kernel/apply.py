"""Bringing the kernel's tables to what the rule sets want, both families or none."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from ..errors import ApplyFailed, ProxyInitError
from ..frozen import frozen
from ..log import logger
from ..rules.iptables_save import table_text
from ..rules.model import BUILT_IN, Family, PolicyRoute, Ruleset, Table
from ..rules.ownership import Ours, ours_in
from ..rules.reconcile import TableEdit, arrange, edit, edited
from .backend import Backend, Task, tables_there
from .routing.policy_routes import Routes, Step, has_passthrough_address
from .system.refusal import NO_SUCH_TABLE, KernelRefused
from .system.workers import InProcess, Worker, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from .backend import Tables

    T = TypeVar("T")

MOST_TRIES = 100
"""How often a table is read again because a writer without the lock changed it in between."""


@frozen
class ApplyOptions:
    """How to go about it.

    `policy_route` is what the flags name, whether it is wanted or not. `force` writes what is in
    place already. `thorough` looks for policy routes of ours even where no table hints at them, and
    always shows the difference. Without `write`, nothing is written, and no table is brought into
    being by reading it.
    """

    policy_route: PolicyRoute
    force: bool = False
    thorough: bool = False
    write: bool = True


@frozen
class Finding:
    """What one task of the kernel has to do with what is wanted."""

    holds_ours: bool
    """Whether anything of ours is there."""
    before: Mapping[str, Ours]
    """What is ours in each table that has to change, by its name, in the order of their turns."""
    added: tuple[Step, ...]
    """Routing that the rules rely on, put in place before them."""
    deleted: tuple[Step, ...]
    """Routing that no rule relies on any more, taken away after them."""
    difference: tuple[str, ...]
    """A unified diff, kernel against wanted, of iptables-save text and routing; where nothing of
    ours is there, only if options were thorough."""

    @property
    def differs(self) -> bool:
        """Whether anything has to change."""
        return bool(self.before or self.added or self.deleted)


def apply(
    tasks: Sequence[Task],
    decide: Callable[[Sequence[Finding]], None],
    options: ApplyOptions,
) -> bool:
    """Read all tasks, show `decide` what was found, and write; gives whether anything was.

    Every task takes each step before any takes the next: routes that rules rely on, the tables,
    those in which nothing of ours stays, routes that none relies on any more. Whatever `decide`
    raises ends it before anything changes.
    Raises ApplyFailed or NodeCannot; then the kernel is as it was found.
    """
    tasks = [task for task in tasks if _may_concern(task, options)]
    if options.thorough or any(task.ruleset.routing.policy_route for task in tasks):
        from .routing.rtnetlink import load

        load()  # before the children, which share it
    with ExitStack() as stack:

        def workers(*steps: Callable[[Task], Iterator[T]]) -> list[Worker[T]]:
            return [
                stack.enter_context(Worker(task.title, partial(work, task)))
                for task, work in zip(tasks, steps, strict=True)
            ]

        working: Sequence[Worker[Finding | None] | InProcess[Finding | None]]
        if len(tasks) == 1:
            working = [InProcess(partial(_steps, tasks[0], options))]
        else:
            working = workers(*[partial(_steps, options=options)] * len(tasks))
        found = [finding for finding in side_by_side(working) if finding]
        decide(found)
        if not options.write or not any(finding.differs for finding in found):
            return False
        try:
            for _ in ("routing that rules rely on", "tables", "tables to leave", "other routing"):
                side_by_side(working)
        except BaseException:
            # In new processes: one that failed may be gone, with a task of its work done.
            _take_back_all(workers(*(partial(_take_back, finding=finding) for finding in found)))
            raise
        return True


def _may_concern(task: Task, options: ApplyOptions) -> bool:
    """Whether a task may have anything to do; a child that finds nothing takes 3 ms."""
    ruleset = task.ruleset
    return (
        ruleset != Ruleset(ruleset.family)
        or options.thorough
        or bool(tables_there(task.backend, ruleset.family))
        or (ruleset.family is Family.V6 and has_passthrough_address())
    )


def _take_back_all(workers: Sequence[Worker[None]]) -> None:
    try:
        side_by_side(workers)
        logger.info("what was written has been taken back")
    except (ProxyInitError, RuntimeError) as error:
        logger.error("not all that was written could be taken back: %s", error)


def _steps(task: Task, options: ApplyOptions) -> Iterator[Finding | None]:
    """One task's work: look, and give what was found; then write."""
    ruleset = task.ruleset
    tables, routes = task.tables(), Routes(ruleset.family)
    try:
        present = list(present_tables(tables, ruleset, options.write))
        edits = list(_edits(present, ruleset, options))
        finding = _finding(present, edits, routes, task, options)
        yield finding
        # What libxtables objects to, it objects to here, before anything is changed.
        for _, change in edits:
            tables.stage(change)
        for step in finding.added:
            routes.take(step)
        yield None
        # Tables in which nothing of ours stays have their turn after all others.
        turns = (finding.before, ()) if ruleset.tables else ((), finding.before)
        for names in turns:
            for name in names:
                _commit(tables, name, partial(_edit_for, ruleset, options))
            yield None
        for step in finding.deleted:
            routes.take(step)
        yield None
    except KernelRefused as refused:
        from .diagnose import explained

        raise explained(refused, task) from refused


def _take_back(task: Task, finding: Finding) -> Iterator[None]:
    """Put back what was found, wherever something else is there now; the last step first."""
    ruleset = task.ruleset
    tables, routes = task.tables(), Routes(ruleset.family)
    try:
        for step in reversed(finding.deleted):
            routes.take_back(step)
        for name, before in reversed([*finding.before.items()]):
            _restore(tables, ruleset, name, before)
        for step in reversed(finding.added):
            routes.take_back(step)
    except KernelRefused as refused:
        from .diagnose import explained

        raise explained(refused, task) from refused
    yield None


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


def _finding(
    present: Sequence[Table],
    edits: Sequence[tuple[Table, TableEdit]],
    routes: Routes,
    task: Task,
    options: ApplyOptions,
) -> Finding:
    ruleset = task.ruleset
    # Whatever made a policy route of our kind used the table mangle in this namespace.
    look = (
        options.thorough
        or any(table.name == "mangle" for table in present)
        or any("mangle" in tables_there(backend, ruleset.family) for backend in Backend)
    )
    added: tuple[Step, ...] = ()
    deleted: tuple[Step, ...] = ()
    if task.with_routing:
        added, deleted = routes.plan(ruleset.routing, options.policy_route, look)
    ours = {table.name: ours_in(table, ruleset.table(table.name)) for table in present}
    holds_ours = any(ours.values()) or bool(deleted)
    changing = [table.name for table, _ in edits]
    return Finding(
        holds_ours,
        {name: ours[name] for name in sorted(changing, key=partial(_turn, ruleset))},
        added,
        deleted,
        tuple(_difference(task, edits, added, deleted)) if holds_ours or options.thorough else (),
    )


def _turn(ruleset: Ruleset, name: str) -> int:
    """When a table's turn comes: first what captures more, then what captures less.

    So on the way from REDIRECT to TPROXY, mangle captures inbound connections before nat lets go of
    them, and on the way back nat does before mangle lets go. A packet that meets both goes to the
    same listener by either. Raw and filter guard what nat does: they come first and leave last.
    """
    wanted = ruleset.table(name)
    if name == "nat":
        return 1
    captures = wanted.chain("ISTIO_TPROXY") if name == "mangle" else wanted.chains
    return 0 if captures else 2


def _difference(
    task: Task,
    edits: Sequence[tuple[Table, TableEdit]],
    added: Sequence[Step],
    deleted: Sequence[Step],
) -> Iterator[str]:
    for table, change in edits:
        from difflib import unified_diff

        label = f"{task.title} {table.name}"
        yield from unified_diff(
            table_text(table).splitlines(),
            table_text(edited(table, change)).splitlines(),
            f"{label}, in the kernel",
            f"{label}, wanted",
            lineterm="",
        )
    yield from (f"-{task.title} {step.undo}" for step in deleted)
    yield from (f"+{task.title} {step}" for step in added)


def _edit_for(ruleset: Ruleset, options: ApplyOptions, present: Table) -> TableEdit | None:
    wanted = ruleset.table(present.name)
    return edit(present, arrange(wanted, present), wanted, options.force)


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
