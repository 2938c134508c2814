"""What a run does with nf_tables, both families at once."""

from __future__ import annotations

from ..errors import NodeCannot
from ..frozen import Frozen
from ..rules.model import BUILT_IN, Family, Ruleset, Table
from .backend import Task
from .findings import ApplyOptions, Finding, difference, explaining, routing_difference, turn
from .nftables import tables as nf_tables
from .nftables.batches import Aim, differing, has_unasked_sets
from .nftables.snapshot import Snapshot, left_view, our_view
from .routing.policy_routes import Routes, RoutingPlan
from .system.proc import legacy_tables, unmapped_owners
from .system.refusal import NO_SUCH_TABLE, KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Undo(Frozen):
    """What a run finds and changes, for whoever takes it back."""

    before: Snapshot
    routing: tuple[RoutingPlan, ...]


def steps(task: Task, options: ApplyOptions) -> Iterator[tuple[list[Finding], Undo] | None]:
    """Look, and give what was found; then write, step by step as `apply.apply` says."""
    with explaining(task):
        work = _Work(task, options)
        undo = Undo(work.before, work.routing)
        yield [work.finding(ruleset) for ruleset in task.rulesets], undo
        # nf_tables would take the rules, and never see a packet of such an owner.
        if unmapped := unmapped_owners(task.rulesets):
            raise NodeCannot(unmapped)
        for routing in work.routing:
            routing.add()
        yield None
        if task.bridge:
            from .nftables.bridge import nat_with_bridge

            nf_tables.reach([Aim({"nat": nat_with_bridge(task.bridge)})])
            yield None
            nf_tables.reach([] if work.wants else [Aim({"mangle": {}}, kept=work.kept)])
            yield None
        nf_tables.reach([*work.to_wanted()])
        yield None
        nf_tables.reach([*work.to_left()])
        yield None
        for routing in work.routing:
            routing.delete()
        if work.kept:
            nf_tables.reach([Aim({"mangle": work.wanted("mangle")})])
        yield None


def take_back(task: Task, undo: Undo) -> Iterator[None]:
    """Put back what was found; the last step first."""
    with explaining(task):
        for routing in undo.routing:
            routing.take_back_deleted()
        if undo.before.tables or any(ruleset.tables for ruleset in task.rulesets):
            nf_tables.put_back(undo.before)
        for routing in undo.routing:
            routing.take_back_added()
    yield None


def _found(wants: bool) -> Snapshot:
    try:
        return nf_tables.read()
    except KernelRefused as refused:
        # A kernel without nf_tables holds nothing of ours, which is no fault if nothing is wanted.
        if wants or refused.number not in NO_SUCH_TABLE:
            raise
        return Snapshot(0)


class _Work:
    """What was found, and what is to be done about it."""

    def __init__(self, task: Task, options: ApplyOptions) -> None:
        self._task = task
        self._options = options
        self._rulesets = task.rulesets
        self.wants = any(ruleset.tables for ruleset in task.rulesets)
        self.before = _found(self.wants)
        self._left = nf_tables.left_ours(self.before, self._rulesets)
        self.routing = tuple(
            Routes(ruleset.family).plan(
                ruleset.routing, options.policy_route, self._hints_at_routes(ruleset.family)
            )
            for ruleset in (self._rulesets if task.with_routing else ())
        )

    def _hints_at_routes(self, family: Family) -> bool:
        """Whatever made a policy route of our kind used the table mangle in this namespace."""
        return (
            self._options.thorough
            or self.before.ours("mangle") is not None
            or self.before.left(family, "mangle") is not None
            or "mangle" in legacy_tables(family)
        )

    def finding(self, ruleset: Ruleset) -> Finding:
        family = ruleset.family
        label = family.title if self._task.with_routing else f"{family.title} (nft)"
        plans = (plan for plan in self.routing if plan.family is family)
        routing = next(plans, RoutingPlan(family))
        holds_ours = (
            self._is_there or any(key[0] is family for key in self._left) or bool(routing.deleted)
        )
        lines: list[str] = []
        if holds_ours or self._options.thorough:
            lines += self._table_lines(ruleset, label)
            lines += routing_difference(label, routing)
        differs = bool(lines or routing) or self._differs(ruleset)
        return Finding(family, holds_ours, differs, tuple(lines))

    @property
    def kept(self) -> tuple[str, ...]:
        """The tables that stay until the routing has gone: without mangle, a run after one that was
        killed would not look for it."""
        going = not self.wants or any(routing.deleted for routing in self.routing)
        return ("mangle",) if going and self.before.ours("mangle") else ()

    @property
    def _is_there(self) -> bool:
        """Whether any table of ours is."""
        return any(map(self.before.ours, BUILT_IN))

    def _differs(self, ruleset: Ruleset) -> bool:
        """Whether something has to be done to our tables, which the text of rules may not show."""
        if not self.wants or not self._is_there:
            return self.wants or self._is_there
        unwanted = (
            name for name in BUILT_IN if not any(t.chains for t in self.wanted(name).values())
        )
        return (
            self._options.force
            or any(map(self.before.ours, unwanted))
            or any(has_unasked_sets(self.before, name, self.wanted(name)) for name in BUILT_IN)
            or any(
                differing(
                    self.before, name, {ruleset.family: ruleset.table(name)}, (ruleset.family,)
                )
                for name in BUILT_IN
            )
        )

    def _table_lines(self, ruleset: Ruleset, label: str) -> Iterator[str]:
        family = ruleset.family
        for name in BUILT_IN:
            wanted, view = ruleset.table(name), our_view(self.before, name, family)
            if differing(self.before, name, {family: wanted}, (family,)):
                yield from difference(f"{label} {name}", view.table, wanted)
            left = left_view(self.before, name, family)
            if not left:
                continue
            from ..rules.ownership import Ours
            from ..rules.reconcile import edit, edited

            change = edit(left.table, Ours(), wanted)
            if change:
                title = f"{label} {name} of iptables-nft"
                yield from difference(title, left.table, edited(left.table, change))

    # What is brought about.

    def wanted(self, name: str) -> dict[Family, Table]:
        return {ruleset.family: ruleset.table(name) for ruleset in self._rulesets}

    def _cleared(self, *names: str) -> tuple[tuple[Family, str], ...]:
        return tuple(key for key in self._left if key[1] in names)

    def to_wanted(self) -> Iterator[Aim]:
        """To the wanted tables: first what captures more, then what captures less."""
        if not self.wants:
            return
        tables = {name: self.wanted(name) for name in BUILT_IN}
        bridge = self._task.bridge
        if bridge or self._bridges_itself:
            from .nftables.bridge import nat_with_bridge
        if self._bridges_itself:
            # iptables-nft's rules do the same as ours: no packet may meet TPROXY twice.
            bridge = self._rulesets
            yield Aim({"nat": nat_with_bridge(bridge)})
            yield Aim({}, self._cleared("mangle"))
        if bridge:
            tables["nat"] = nat_with_bridge(bridge)  # type: ignore[assignment]
        force = self._options.force
        if not self._is_there:
            # Who meets no table of ours yet cannot meet half of them.
            yield Aim(tables, force=force)
            return
        turns = {name: turn(name, self.wanted(name).values()) for name in tables}
        for now in range(3):
            content = {name: each for name, each in tables.items() if turns[name] == now}
            yield Aim(content, force=force, kept=self.kept)

    def to_left(self) -> Iterator[Aim]:
        """Away with what is not wanted: iptables-nft's rules, the bridge, or all of it."""
        if not (self._left or self._task.bridge if self.wants else self.before.tables):
            return
        yield Aim({"nat": self.wanted("nat")}, self._cleared("nat"))
        others = [name for name in BUILT_IN if name != "nat"]
        tables = {} if self.wants else {name: self.wanted(name) for name in others}
        yield Aim(tables, self._cleared(*others), kept=self.kept)

    @property
    def _bridges_itself(self) -> bool:
        """Whether both iptables-nft's tables and ours have TPROXY for a while."""
        if not self._left or self._task.bridge:
            return False
        from .nftables.bridge import is_transparent

        return any(map(is_transparent, self._rulesets))
