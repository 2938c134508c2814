"""Bringing the kernel's tables to what the rule sets want, both families or none."""

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import unified_diff
from functools import partial

from ..errors import ApplyFailed, ProxyInitError
from ..model import BUILT_IN, Family, PolicyRoute, Ruleset, Table
from ..ownership import Ours, ours_in
from ..reconcile import TableEdit, arrange, edit, edited
from ..text import table_text
from .diagnose import explained
from .libiptc import Tables
from .refusal import KernelRefused
from .routing import Routes, Step
from .workers import Worker, side_by_side

MOST_TRIES = 100
"""How often a table is read again because a writer without the lock changed it in between."""

_NO_SUCH_TABLE = (errno.ENOENT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Orders:
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


@dataclass(frozen=True)
class Finding:
    """What one family's part of the kernel has to do with what is wanted."""

    before: Mapping[str, Ours]
    """What is ours in each table that was read, by its name."""
    edits: tuple[TableEdit, ...]
    added: tuple[Step, ...]
    """Routing that the rules rely on, put in place before them."""
    deleted: tuple[Step, ...]
    """Routing that no rule relies on any more, taken away after them."""
    difference: tuple[str, ...]
    """A unified diff, kernel against wanted, of iptables-save text and routing; where nothing of
    ours is there, only if orders were thorough."""

    @property
    def differs(self) -> bool:
        """Whether anything has to change."""
        return bool(self.edits or self.added or self.deleted)

    @property
    def holds_ours(self) -> bool:
        """Whether anything of ours is there."""
        return any(self.before.values()) or bool(self.deleted)


def apply(
    rulesets: Sequence[Ruleset],
    decide: Callable[[Mapping[Family, Finding]], None],
    orders: Orders,
) -> bool:
    """Read both families, show `decide` what was found, and write; gives whether anything was.

    Every family takes each step before any takes the next: routes that rules rely on, the tables,
    routes that none relies on any more. Whatever `decide` raises ends it before anything changes.
    Raises ApplyFailed or NodeCannot; then the kernel is as it was found.
    """
    with ExitStack() as stack:

        def workers(*steps: Callable[[Ruleset], Iterator[Finding]]) -> list[Worker[Finding]]:
            return [
                stack.enter_context(Worker(ruleset.family.title, partial(work, ruleset)))
                for ruleset, work in zip(rulesets, steps, strict=True)
            ]

        working = workers(*[partial(_steps, orders=orders)] * len(rulesets))
        found = side_by_side(working)
        decide(dict(zip((ruleset.family for ruleset in rulesets), found, strict=True)))
        if not orders.write or not any(finding.differs for finding in found):
            return False
        try:
            for _ in ("routing that rules rely on", "tables", "routing that none relies on"):
                side_by_side(working)
        except BaseException:
            # In new processes: one that failed may be gone, with a part of its work done.
            _take_back_all(workers(*(partial(_take_back, finding=finding) for finding in found)))
            raise
        return True


def _take_back_all(workers: Sequence[Worker[Finding]]) -> None:
    try:
        side_by_side(workers)
        logger.info("what was written has been taken back")
    except (ProxyInitError, RuntimeError) as error:
        logger.error("not all that was written could be taken back: %s", error)


def _steps(ruleset: Ruleset, orders: Orders) -> Iterator[Finding]:
    """One family's work: look; then write."""
    tables, routes = Tables(ruleset.family), Routes(ruleset.family)
    try:
        present = list(present_tables(tables, ruleset, orders.write))
        finding = _compare(present, routes, ruleset, orders)
        yield finding
        for step in finding.added:
            routes.take(step)
        yield finding
        # What libxtables objects to, it objects to here, before anything is committed.
        for change in finding.edits:
            tables.stage(change)
        for change in finding.edits:
            _commit(tables, change.table, partial(_edit_for, ruleset, orders))
        yield finding
        for step in finding.deleted:
            routes.take(step)
        yield finding
    except KernelRefused as refused:
        raise explained(refused, ruleset) from refused


def _take_back(ruleset: Ruleset, finding: Finding) -> Iterator[Finding]:
    """Put back what was found, wherever something else is there now; the last step first."""
    tables, routes = Tables(ruleset.family), Routes(ruleset.family)
    try:
        for step in reversed(finding.deleted):
            routes.take_back(step)
        for change in reversed(finding.edits):
            _restore(tables, ruleset, change.table, finding.before[change.table])
        for step in reversed(finding.added):
            routes.take_back(step)
    except KernelRefused as refused:
        raise explained(refused, ruleset) from refused
    yield finding


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
                if name in needed or refused.number not in _NO_SUCH_TABLE:
                    raise
        elif name in needed:
            yield Table.empty(name)


def _compare(present: Sequence[Table], routes: Routes, ruleset: Ruleset, orders: Orders) -> Finding:
    found = {table: _edit_for(ruleset, orders, table) for table in present}
    edits = {table: change for table, change in found.items() if change is not None}
    # Whatever made a policy route of our kind used the table mangle in this namespace.
    look = orders.thorough or any(table.name == "mangle" for table in present)
    added, deleted = routes.plan(ruleset.routing, orders.policy_route, look)
    before = {table.name: ours_in(table, ruleset.table(table.name)) for table in present}
    ours = any(before.values()) or bool(deleted)
    return Finding(
        before,
        tuple(sorted(edits.values(), key=partial(_turn, ruleset))),
        added,
        deleted,
        tuple(_difference(ruleset.family, edits, added, deleted))
        if ours or orders.thorough
        else (),
    )


def _turn(ruleset: Ruleset, change: TableEdit) -> int:
    """When a table's turn comes: first what captures more, then what captures less.

    So on the way from REDIRECT to TPROXY, mangle captures inbound connections before nat lets go of
    them, and on the way back nat does before mangle lets go. A packet that meets both goes to the
    same listener by either. Raw and filter guard what nat does: they come first and leave last.
    """
    wanted = ruleset.table(change.table)
    if change.table == "nat":
        return 1
    captures = wanted.chain("ISTIO_TPROXY") if change.table == "mangle" else wanted.chains
    return 0 if captures else 2


def _difference(
    family: Family,
    edits: Mapping[Table, TableEdit],
    added: Sequence[Step],
    deleted: Sequence[Step],
) -> Iterator[str]:
    for table, change in edits.items():
        label = f"{family.title} {table.name}"
        yield from unified_diff(
            table_text(table).splitlines(),
            table_text(edited(table, change)).splitlines(),
            f"{label}, in the kernel",
            f"{label}, wanted",
            lineterm="",
        )
    yield from (f"-{family.title} {step.undo}" for step in deleted)
    yield from (f"+{family.title} {step}" for step in added)


def _edit_for(ruleset: Ruleset, orders: Orders, present: Table) -> TableEdit | None:
    wanted = ruleset.table(present.name)
    return edit(present, arrange(wanted, present), wanted, orders.force)


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
