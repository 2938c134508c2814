"""The tables of nf_tables in the order in which packets meet them, ours and those of others."""

from __future__ import annotations

from ..frozen import Frozen, replace
from .inet_tables import (
    BOTH,
    HOOKS,
    PRIORITIES,
    TABLES,
    Families,
    Hook,
    Placed,
    hook_of,
    name_in_model,
    rules_of,
)
from .model import Chain, Family, Rule, Table
from .targets import Goto, Jump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class NativeChain(Frozen):
    """A chain by its name there; a base chain has a hook and a policy."""

    name: str
    hook: Hook | None
    policy: str | None
    rules: tuple[Placed, ...]


class NativeTable(Frozen):
    """A table of one family or of both."""

    families: Families
    name: str
    chains: tuple[NativeChain, ...]

    @property
    def title(self) -> str:
        """The name that the program nft gives it."""
        family = "inet" if self.families == BOTH else _FAMILIES[self.families[0]]
        return f"{family} {self.name}"


_FAMILIES = {Family.V4: "ip", Family.V6: "ip6"}
_OURS = {title: name for name, title in TABLES.items()}
_HOOK_NAMES = {number: name for name, number in HOOKS.items()}
_CONNTRACK, _DESTINATION_NAT = -200, -100  # linux/netfilter_ipv4.h, enum nf_ip_hook_priorities


class MetTable(Frozen):
    """A table of the model that packets of a family meet: a table of nf_tables, or a part of it."""

    priority: int
    title: str
    table: Table
    of: NativeTable
    native_names: Mapping[str, str]
    """The names of its chains there, by those in `table`."""

    @property
    def is_ours(self) -> bool:
        """Whether it is a table of ours, where ours are."""
        return self.title == self.table.name

    @property
    def is_of_iptables(self) -> bool:
        """Whether it has the name of a table of iptables-nft."""
        return self.of.families != BOTH and self.of.name == self.table.name


def met(tables: Sequence[NativeTable], family: Family) -> list[MetTable]:
    """The tables with rules that packets of a family meet, in the order in which they meet them.
    `tables` are in the kernel's order.

    Ours have the model's names as titles. A chain of others belongs to the table of the model that
    has its hook and priority; so a table of others may be several here.
    """
    found: list[MetTable] = []
    for table in reversed(tables):  # of equal priority, packets meet the newest first
        if family in table.families:
            found += [_ours(table, family)] if _is_ours(table) else _parts(table, family)
    return sorted(found, key=lambda each: each.priority)


def _is_ours(table: NativeTable) -> bool:
    """Whether it has the name of one of ours, and its base chains are where ours are."""
    name = _OURS.get(table.name)
    return (
        table.families == BOTH
        and name is not None
        and all(chain.hook == hook_of(name, name_in_model(chain.name)) for chain in table.chains)
    )


def _ours(table: NativeTable, family: Family) -> MetTable:
    name = _OURS[table.name]
    chains = (
        Chain(
            name_in_model(chain.name),
            tuple(map(_renamed, rules_of(chain.rules, family))),
            policy=chain.policy,
        )
        for chain in table.chains
    )
    names = {name_in_model(chain.name): chain.name for chain in table.chains}
    return MetTable(PRIORITIES[name], name, Table(name, tuple(chains)), table, names)


def _renamed(rule: Rule) -> Rule:
    if isinstance(rule.target, Jump | Goto):
        return Rule(
            rule.matches, replace(rule.target, name=name_in_model(rule.target.name)), rule.why
        )
    return rule


def _parts(table: NativeTable, family: Family) -> Iterator[MetTable]:
    """A table's parts."""
    others: dict[str, Chain] = {}
    slots: dict[tuple[str, int], list[tuple[str, Chain]]] = {}
    for chain in table.chains:
        rules = rules_of(chain.rules, family)
        if chain.hook is None:
            others[chain.name] = Chain(chain.name, rules)
        elif chain.hook.number in _HOOK_NAMES:
            base = Chain(_HOOK_NAMES[chain.hook.number], rules, policy=chain.policy)
            slot = (_slot(chain.hook), chain.hook.priority)
            slots.setdefault(slot, []).append((chain.name, base))
    for (name, priority), left in slots.items():
        while left:
            # Two chains at one place are met one after the other.
            now = {base.name: (native, base) for native, base in reversed(left)}
            left = [each for each in left if now[each[1].name] != each]
            if any(base.rules or base.policy == "DROP" for _, base in now.values()):
                title = table.title if len(slots) == 1 else f"{table.title} ({name} {priority})"
                chains = dict(now.values()) | others
                yield MetTable(
                    priority,
                    title + "'" * len(left),
                    Table(name, tuple(chains.values())),
                    table,
                    {chain.name: native for native, chain in chains.items()},
                )


def _slot(hook: Hook) -> str:
    """The table of the model whose chain of this hook packets meet at the same time."""
    if hook.kind == "nat":
        return "nat"
    if hook.priority <= _CONNTRACK:
        return "raw"
    return "mangle" if hook.priority < _DESTINATION_NAT else "filter"
