"""Bringing the kernel's tables to what the rule sets want, both families or none."""

from __future__ import annotations

from ..errors import ProxyInitError
from ..light import ExitStack, partial
from ..log import logger
from ..rules.model import Family, Ruleset
from .backend import Backend, Task, tables_there
from .findings import ApplyOptions, Finding
from .routing.policy_routes import has_passthrough_address
from .system.workers import InProcess, Worker, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeAlias, TypeVar

    Step = TypeVar("Step")
    Taking: TypeAlias = Worker[Step] | InProcess[Step]

_STEPS = ("routing that rules rely on", "tables", "tables to leave", "other routing")
_WITH_BRIDGE = ("routing that rules rely on", "bridge", "old mangle", *_STEPS[1:])


def apply(
    tasks: Sequence[Task],
    decide: Callable[[Sequence[Finding]], None],
    options: ApplyOptions,
) -> bool:
    """Read all tasks, show `decide` what was found, and write; gives whether anything was.

    Every task takes each step before any takes the next: routes that rules rely on, the tables,
    those in which nothing of ours stays, routes that none relies on any more. Where TPROXY goes
    from one backend to another, a bridge and the old mangle come before the tables, see
    nftables/bridge.py. Whatever `decide` raises ends it before anything changes.
    Raises ApplyFailed or NodeCannot; then the kernel is as it was found.
    """
    tasks = [task for task in tasks if _may_concern(task, options)]
    with ExitStack() as stack:

        def taking(task: Task, work: Callable[[], Iterator[Any]], alone: bool) -> Taking[Any]:
            # libxtables may end the process, and knows one family in it.
            if task.backend is Backend.NFT or alone:
                return stack.enter_context(InProcess(work))
            return stack.enter_context(Worker(task.title, work))

        working = [
            taking(task, partial(_module(task).steps, task, options), len(tasks) == 1)
            for task in tasks
        ]
        found, undo = zip(*side_by_side(working), strict=True) if working else ((), ())
        findings = [finding for each in found for finding in each]
        decide(findings)
        if not options.write or not any(finding.differs for finding in findings):
            return False
        try:
            for _ in _WITH_BRIDGE if any(task.bridge for task in tasks) else _STEPS:
                side_by_side(working)
        except BaseException:
            # In new processes: one that failed may be gone, with a part of its work done.
            _take_back_all(
                [
                    taking(task, partial(_module(task).take_back, task, each), False)
                    for task, each in zip(tasks, undo, strict=True)
                ]
            )
            raise
        return True


def _module(task: Task) -> Any:
    """What has the steps of a task: its `steps` give a list of findings and what `take_back` has to
    know, and then one step after the other."""
    if task.backend is Backend.NFT:
        from . import nft_steps

        return nft_steps
    from . import legacy_steps

    return legacy_steps


def _may_concern(task: Task, options: ApplyOptions) -> bool:
    """Whether a task may have anything to do; a child that finds nothing takes 3 ms."""
    return options.thorough or any(
        ruleset != Ruleset(ruleset.family)
        or bool(tables_there(task.backend, ruleset.family))
        or (ruleset.family is Family.V6 and has_passthrough_address())
        for ruleset in task.rulesets
    )


def _take_back_all(working: Sequence[Taking[None]]) -> None:
    try:
        side_by_side(working)
        logger.info("the changes have been undone")
    except (ProxyInitError, RuntimeError) as error:
        logger.error("not all changes could be undone: %s", error)
