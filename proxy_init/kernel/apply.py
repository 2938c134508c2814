"""Bringing the kernel's tables to what the rule sets want, both families or none."""

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..errors import ApplyFailed, ProxyInitError
from ..model import BUILT_IN, Family, Ruleset, Table
from ..ownership import Ours, ours_in
from ..reconcile import TableEdit, arrange, edit
from .diagnose import explained
from .libiptc import KernelRefused, Tables, load
from .workers import Worker

logger = logging.getLogger(__name__)

MOST_TRIES = 10
"""How often a table is read again because a writer without the lock changed it in between."""

_NO_SUCH_TABLE = (errno.ENOENT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class Finding:
    """What one family's tables hold of ours, and what they should, by the table's name."""

    present: Mapping[str, Ours]
    wanted: Mapping[str, Ours]
    edits: tuple[TableEdit, ...]


def apply(
    rulesets: Sequence[Ruleset],
    decide: Callable[[Mapping[Family, Finding]], bool],
    force: bool = False,
) -> bool:
    """Read both families, ask `decide` whether to go on, and write; gives whether anything was.

    Raises ApplyFailed or NodeCannot; then every table is as it was found.
    """
    load()  # once, before the children are made
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(ruleset.family.title, partial(_steps, ruleset, force)))
            for ruleset in rulesets
        ]
        found, failures = _side_by_side(workers)
        if failures:
            raise failures[0]
        findings = {
            ruleset.family: finding
            for ruleset, finding in zip(rulesets, found.values(), strict=True)
        }
        if not decide(findings) or not any(finding.edits for finding in findings.values()):
            return False
        _, failures = _side_by_side(workers)
        if failures:
            # In new processes: one that failed may be gone, with some of its tables written.
            undoing = [
                stack.enter_context(
                    Worker(ruleset.family.title, partial(_take_back, ruleset, finding))
                )
                for ruleset, finding in zip(rulesets, found.values(), strict=True)
            ]
            _, remaining = _side_by_side(undoing)
            for error in remaining:
                logger.error("not all that was written could be taken back: %s", error)
            raise failures[0]
        return True


def _side_by_side(
    workers: Sequence["Worker[Finding]"],
) -> tuple[dict["Worker[Finding]", Finding], list[Exception]]:
    """One step of every worker at the same time: the answers, and the failures."""
    for worker in workers:
        worker.ask()
    answers: dict[Worker[Finding], Finding] = {}
    failures: list[Exception] = []
    for worker in workers:
        try:
            answers[worker] = worker.answer()
        except (ProxyInitError, RuntimeError) as error:
            failures.append(error)
    return answers, failures


def _steps(ruleset: Ruleset, force: bool) -> Iterator[Finding]:
    """One family's work: look; then write."""
    tables = Tables(ruleset.family)
    try:
        finding = _look(tables, ruleset, force)
        yield finding
        for change in finding.edits:
            _write(tables, change, partial(_edit_for, ruleset, force))
        yield finding
    except KernelRefused as refused:
        raise explained(refused, ruleset) from refused


def _take_back(ruleset: Ruleset, finding: Finding) -> Iterator[Finding]:
    """Put back what was found, wherever something else is there now."""
    tables = Tables(ruleset.family)
    try:
        _restore(tables, ruleset, [change.table for change in finding.edits], finding)
    except KernelRefused as refused:
        raise explained(refused, ruleset) from refused
    yield finding


def _look(tables: Tables, ruleset: Ruleset, force: bool) -> Finding:
    needed = {table.name for table in ruleset.tables}
    there = tables.instantiated()
    names = [name for name in BUILT_IN if name in needed or name in there]
    present = list(_present(tables, names, needed))
    edits = [_edit_for(ruleset, force, table) for table in present]
    return Finding(
        {table.name: ours_in(table, ruleset.table(table.name)) for table in present},
        {table.name: arrange(ruleset.table(table.name), table) for table in present},
        tuple(change for change in edits if change is not None),
    )


def _present(tables: Tables, names: Sequence[str], needed: Set[str]) -> Iterator[Table]:
    for name in names:
        try:
            yield tables.read(name)
        except KernelRefused as refused:
            # Who may not know which tables there are looks at all of them; one that the kernel
            # lacks holds nothing of ours.
            if name in needed or refused.number not in _NO_SUCH_TABLE:
                raise


def _edit_for(ruleset: Ruleset, force: bool, present: Table) -> TableEdit | None:
    wanted = ruleset.table(present.name)
    return edit(present, arrange(wanted, present), wanted, force)


def _write(
    tables: Tables, change: TableEdit, edit_for: Callable[[Table], TableEdit | None]
) -> None:
    """Carry out a change of a table; if the table has changed since it was read, a new one."""
    for _ in range(MOST_TRIES):
        try:
            tables.write(change)
            return
        except KernelRefused as refused:
            if refused.number != errno.EAGAIN:
                raise
        again = edit_for(tables.read(change.table))
        if again is None:
            return
        change = again
    raise ApplyFailed(
        f"table {change.table} was changed by another program {MOST_TRIES} times while we read "
        "it; end that program, or make it take the xtables lock"
    )


def _restore(tables: Tables, ruleset: Ruleset, names: Sequence[str], before: Finding) -> None:
    for name in reversed(names):

        def edit_back(present: Table) -> TableEdit | None:
            return edit(present, before.present[present.name], ruleset.table(present.name))

        change = edit_back(tables.read(name))
        if change is not None:
            _write(tables, change, edit_back)
