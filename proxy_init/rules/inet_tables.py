"""The layout of our rules in nf_tables: Istio's names of tables and chains, hooks, priorities, and
the rules of both families in one table.

A rule that is the same in both families is there once. A rule of one family has a match for that
family, so if IPv6 is not captured, no rule applies to its packets. Pure. The names and priorities
are those of istio/istio, tools/istio-nftables.
"""

from __future__ import annotations

from ..frozen import Frozen
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
"""The names of our tables in the kernel."""
HOOKS = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
"""Those of the tables of iptables; for nat, that before routing."""

LONGEST_COMMENT = 127
"""In bytes: what the program nft reads back, libnftnl's NFTNL_UDATA_COMMENT_MAXLEN and a zero."""


class Hook(Frozen):
    """The hook of a base chain: its number, the priority and the type of the chain."""

    number: int
    priority: int
    kind: str


class Placed(Frozen):
    """A rule in a table of both families, and the families to which it applies."""

    families: Families
    rule: Rule


def hook_of(table: str, chain: str) -> Hook | None:
    """The hook of one of our chains; None if it is not a base chain."""
    if chain not in HOOKS:
        return None
    route = (table, chain) == ("mangle", "OUTPUT")  # a change of the mark reroutes the packet
    kind = "nat" if table == "nat" else "route" if route else "filter"
    return Hook(HOOKS[chain], PRIORITIES[table], kind)


def name_in_kernel(chain: str) -> str:
    """The name in nf_tables of one of our chains: OUTPUT is output, ISTIO_OUTPUT istio-output."""
    if chain in HOOKS or chain.startswith(PREFIX):
        return chain.lower().replace("_", "-")
    return chain


def name_in_model(chain: str) -> str:
    """The reverse of `name_in_kernel`; other names are kept."""
    name = chain.upper().replace("-", "_")
    return name if name_in_kernel(name) == chain else chain


def merged(tables: Mapping[Family, Table]) -> dict[str, list[Placed]]:
    """By chain, the merged rules of both families; the rules of each family keep their order."""
    names = dict.fromkeys(chain.name for table in tables.values() for chain in table.chains)
    return {
        name: list(_merged_rules(_rules(tables, Family.V4, name), _rules(tables, Family.V6, name)))
        for name in names
    }


def sets_of(chains: Mapping[str, Sequence[Placed]]) -> dict[str, DestinationSet]:
    """By title, the sets that merged rules ask for."""
    rules = (each.rule for rules in chains.values() for each in rules)
    sets = (m for rule in rules for m in rule.matches if isinstance(m, DestinationSet))
    return {each.title: each for each in sets}


def _rules(tables: Mapping[Family, Table], family: Family, name: str) -> Sequence[Rule]:
    chain = tables[family].chain(name) if family in tables else None
    return chain.rules if chain else ()


def _merged_rules(ipv4: Sequence[Rule], ipv6: Sequence[Rule]) -> Iterator[Placed]:
    """Common rules come once; between them come those of one family, in turns."""
    positions: dict[object, list[int]] = {}
    for position, rule in reversed([*enumerate(ipv6)]):
        positions.setdefault(_shared(rule), []).append(position)
    begin = 0
    for rule in ipv4:
        shared = _shared(rule)
        there = positions.get(shared, []) if shared else []
        while there and there[-1] < begin:
            there.pop()
        if not there:
            yield Placed((Family.V4,), rule)
            continue
        yield from (Placed((Family.V6,), other) for other in ipv6[begin : there[-1]])
        yield Placed(BOTH, rule)
        begin = there[-1] + 1
    yield from (Placed((Family.V6,), rule) for rule in ipv6[begin:])


def _shared(rule: Rule) -> object:
    """What two rules must share to be one rule of both families; None if that is impossible."""
    if isinstance(rule.target, Reject) or any(
        isinstance(m, Source | Destination | DestinationSet) for m in rule.matches
    ):
        return None
    return rule.matches, _of_any_family(rule.target)


def _of_any_family(target: Target) -> object:
    """A target without what depends on the family: the address of TPROXY."""
    return (target.port, target.mark) if isinstance(target, Tproxy) else target


def split(chains: Mapping[str, Sequence[Placed]], name: str, family: Family) -> Table:
    """The table of one family: the rules that apply to it.

    A chain whose rules all apply to the other family only is left out.
    """
    return Table(
        name,
        tuple(
            Chain(chain, rules_of(rules, family))
            for chain, rules in chains.items()
            if not rules or any(family in each.families for each in rules)
        ),
    )


def rules_of(placed: Sequence[Placed], family: Family) -> tuple[Rule, ...]:
    """The rules that apply to a family."""
    return tuple(_for(family, each.rule) for each in placed if family in each.families)


def _for(family: Family, rule: Rule) -> Rule:
    if isinstance(rule.target, Tproxy):
        target = Tproxy(rule.target.port, rule.target.mark, family.any_address)
        return Rule(rule.matches, target, rule.why)
    return rule
