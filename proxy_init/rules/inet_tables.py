"""Where rules stand in nf_tables: Istio's names for tables and chains, hooks and priorities, and
both families' rules in one table.

A rule that both families have stands once. One that only a family has asks for that family, so
where IPv6 is left alone, no rule is for its packets. Pure; source of the names and priorities:
istio/istio, tools/istio-nftables.
"""

from __future__ import annotations

from ..frozen import frozen
from .matches import Destination, DestinationSet, Source
from .model import BUILT_IN, PREFIX, Chain, Family, Rule, Table
from .targets import Reject, Target, Tproxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

Families: TypeAlias = tuple[Family, ...]
BOTH: Families = (Family.V4, Family.V6)
INET = 1  # NFPROTO_INET, linux/netfilter.h
TABLES = {name: f"istio-proxy-{name}" for name in BUILT_IN}
"""The names in the kernel of the tables that are ours."""
HOOKS = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
"""Of iptables' tables, where they are asked on the way out and in; of nat, before routing."""


@frozen
class Hook:
    """Where a base chain is called: the hook's number, the priority and the chain's type."""

    number: int
    priority: int
    kind: str


@frozen
class Placed:
    """A rule of a table that is for both families, and those that it is for."""

    families: Families
    rule: Rule


def hook_of(table: str, chain: str) -> Hook | None:
    """Where a chain of ours is called; None for one that is only jumped to."""
    if chain not in HOOKS:
        return None
    route = (table, chain) == ("mangle", "OUTPUT")  # after a change of the mark, look again
    kind = "nat" if table == "nat" else "route" if route else "filter"
    return Hook(HOOKS[chain], PRIORITIES[table], kind)


def name_in_kernel(chain: str) -> str:
    """The name in nf_tables of one of our chains: OUTPUT is output, ISTIO_OUTPUT istio-output."""
    if chain in HOOKS or chain.startswith(PREFIX):
        return chain.lower().replace("_", "-")
    return chain


def name_in_model(chain: str) -> str:
    """The other way round; a name that is none of ours stays."""
    name = chain.upper().replace("-", "_")
    return name if name_in_kernel(name) == chain else chain


def merged(tables: Mapping[Family, Table]) -> dict[str, list[Placed]]:
    """By chain, the rules of a table of both families; each family finds its own in their order."""
    names = dict.fromkeys(chain.name for table in tables.values() for chain in table.chains)
    return {
        name: list(_merged_rules(_rules(tables, Family.V4, name), _rules(tables, Family.V6, name)))
        for name in names
    }


def _rules(tables: Mapping[Family, Table], family: Family, name: str) -> Sequence[Rule]:
    chain = tables[family].chain(name) if family in tables else None
    return chain.rules if chain else ()


def _merged_rules(ours: Sequence[Rule], theirs: Sequence[Rule]) -> Iterator[Placed]:
    """IPv4's rules and IPv6's: what stands in both comes once, what is between by turns."""
    places: dict[object, list[int]] = {}
    for place, rule in reversed([*enumerate(theirs)]):
        places.setdefault(_shared(rule), []).append(place)
    begin = 0
    for rule in ours:
        shared = _shared(rule)
        there = places.get(shared, []) if shared else []
        while there and there[-1] < begin:
            there.pop()
        if not there:
            yield Placed((Family.V4,), rule)
            continue
        yield from (Placed((Family.V6,), other) for other in theirs[begin : there[-1]])
        yield Placed(BOTH, rule)
        begin = there[-1] + 1
    yield from (Placed((Family.V6,), rule) for rule in theirs[begin:])


def _shared(rule: Rule) -> object:
    """What one rule for both families would be, None where that cannot be."""
    if isinstance(rule.target, Reject) or any(
        isinstance(m, Source | Destination | DestinationSet) for m in rule.matches
    ):
        return None
    return rule.matches, _of_any_family(rule.target)


def _of_any_family(target: Target) -> object:
    """A target as both families have it: TPROXY names no address."""
    return (target.port, target.mark) if isinstance(target, Tproxy) else target


def split(chains: Mapping[str, Sequence[Placed]], name: str, family: Family) -> Table:
    """One family's table of the rules that are for it.

    A chain that holds rules, but none for this family, is not there for it.
    """
    return Table(
        name,
        tuple(
            Chain(
                chain, tuple(_for(family, each.rule) for each in rules if family in each.families)
            )
            for chain, rules in chains.items()
            if not rules or any(family in each.families for each in rules)
        ),
    )


def _for(family: Family, rule: Rule) -> Rule:
    if isinstance(rule.target, Tproxy):
        target = Tproxy(rule.target.port, rule.target.mark, family.any_address)
        return Rule(rule.matches, target, rule.why)
    return rule
