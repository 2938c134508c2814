"""How a run goes about its work, and what it finds the kernel to differ in from what is wanted."""

from __future__ import annotations

from ..frozen import Frozen
from ..light import contextmanager
from ..rules.iptables_save import table_text
from ..rules.model import Family, PolicyRoute, Table
from .system.refusal import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .backend import Task
    from .routing.policy_routes import RoutingPlan


class ApplyOptions(Frozen):
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


class Finding(Frozen):
    """What has to be done for one family."""

    family: Family
    holds_ours: bool
    """Whether anything of ours is there."""
    differs: bool
    """Whether anything has to change."""
    difference: tuple[str, ...]
    """A unified diff, kernel against wanted, of iptables-save text and routing; where nothing of
    ours is there, only if options were thorough."""


def difference(label: str, present: Table, wanted: Table) -> Iterator[str]:
    """A unified diff of a table's text, kernel against wanted."""
    from difflib import unified_diff

    return unified_diff(
        table_text(present).splitlines(),
        table_text(wanted).splitlines(),
        f"{label}, in the kernel",
        f"{label}, wanted",
        lineterm="",
    )


def routing_difference(label: str, plan: RoutingPlan) -> Iterator[str]:
    """The same of routing, a line for each step."""
    yield from (f"-{label} {step.undo}" for step in plan.deleted)
    yield from (f"+{label} {step}" for step in plan.added)


def turn(name: str, wanted: Iterable[Table]) -> int:
    """When the turn of a table comes, which is wanted like this: first what captures more, then
    what captures less.

    So on the way from REDIRECT to TPROXY, mangle captures inbound connections before nat lets go of
    them, and on the way back nat does before mangle lets go. A packet that meets both goes to the
    same listener by either. Raw and filter guard what nat does: they come first and leave last.
    """
    if name == "nat":
        return 1
    captures = (
        table.chain("ISTIO_TPROXY") if name == "mangle" else table.chains for table in wanted
    )
    return 0 if any(captures) else 2


@contextmanager
def explaining(task: Task) -> Iterator[None]:
    """Turn KernelRefused into the error to show for it, with what is missing."""
    try:
        yield
    except KernelRefused as refused:
        from .diagnose import explained

        raise explained(refused, task) from refused
