"""What a picture is about: the rules that flags ask for, those of a file, or the kernel's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..analysis.kernel_rules import KernelTable, Line, TableKind, lines
from ..analysis.packet_walk import PodNetwork
from ..frozen import replace
from ..rules.inet_tables import PRIORITIES
from ..rules.model import BUILT_IN, Chain, Family, PolicyRoute, Rule, Ruleset, Table
from ..rules.targets import Verdict

Lines = Mapping[str, tuple[Line, ...]]
"""By chain, its rules."""


@dataclass(frozen=True)
class Subject:
    """The rules of one family that a picture shows.

    `tables` has the chains of each table by the title that is shown, in the order in which packets
    meet the tables. `compared` says whether a rule without a standing is another program's.
    """

    family: Family
    tables: Mapping[str, Lines]
    policy_route: PolicyRoute | None = None
    compared: bool = False
    notes: tuple[str, ...] = ()


def of_ruleset(ruleset: Ruleset) -> Subject:
    """The rules that flags ask for."""
    tables = {name: _as_they_are(ruleset.table(name)) for name in BUILT_IN}
    address = ruleset.family.passthrough
    notes = (f"{ruleset.family.title} also has the address {address} on lo",)
    return Subject(
        ruleset.family,
        _with_rules(tables),
        ruleset.routing.policy_route,
        notes=notes if ruleset.routing.passthrough_address else (),
    )


def of_pod_network(family: Family, pod_network: PodNetwork) -> Subject:
    """The rules of a file."""
    tables = {title: _as_they_are(table) for title, table in pod_network.tables.items()}
    return Subject(family, _with_rules(tables), pod_network.policy_route)


def of_kernel(
    wanted: Ruleset,
    tables: Sequence[KernelTable],
    policy_routes: Sequence[PolicyRoute],
    kind: TableKind | None = None,
) -> Subject:
    """The kernel's rules with their counters, beside those that the flags ask for.

    `kind` is that of the tables in which they are wanted, if these are not the ones that this
    program would choose.
    """
    if kind is TableKind.IPTABLES_NFT:
        tables = [_entitled(each, kind) for each in tables]
    # The title of a table that the flags are about is its name.
    there = {each.title for each in tables}
    absent = [
        KernelTable(PRIORITIES[name], name, Table(name, ()), {}, TableKind.NATIVE)
        for name in BUILT_IN
        if name not in there and wanted.table(name).chains
    ]
    drawn: dict[str, Lines] = {}
    for held in sorted((*tables, *absent), key=lambda each: each.priority):
        expected = (
            wanted.table(held.title) if held.title in BUILT_IN else Table(held.table.name, ())
        )
        chains = lines(wanted.family, held, expected)
        drawn[held.title] = {
            name: (*rules, *_policy(held.table.chain(name))) for name, rules in chains.items()
        }
    route = next(iter(policy_routes), None)
    return Subject(
        wanted.family,
        _with_rules(drawn),
        route,
        compared=True,
        notes=tuple(_of_the_route(wanted.routing.policy_route, policy_routes)),
    )


def _entitled(held: KernelTable, kind: TableKind) -> KernelTable:
    """The table with its name as its title, if it is of the kind, and else with another one."""
    if held.kind is kind:
        return replace(held, title=held.table.name)
    return replace(held, title=f"{held.title} ({held.kind.name.lower()})")


def _of_the_route(wanted: PolicyRoute | None, present: Sequence[PolicyRoute]) -> Iterator[str]:
    if wanted and wanted not in present:
        yield (
            f"the policy route is missing: packets marked {wanted.mark:#x} are not kept local by "
            f"routing table {wanted.table}"
        )
    for route in present:
        if route != wanted:
            yield (
                f"a policy route that these flags do not ask for: mark {route.mark:#x}, "
                f"routing table {route.table}"
            )


def _as_they_are(table: Table) -> Lines:
    # Of two chains with one name, the first counts.
    chains = {chain.name: table.chain(chain.name) for chain in table.chains}
    return {
        name: (
            *(Line(rule, number) for number, rule in enumerate(chain.rules, start=1)),
            *_policy(chain),
        )
        for name, chain in chains.items()
        if chain
    }


def _policy(chain: Chain | None) -> Iterator[Line]:
    if chain and chain.policy == "DROP":
        yield Line(Rule((), Verdict("DROP"), "the policy of the chain"), None)


def _with_rules(tables: Mapping[str, Lines]) -> dict[str, Lines]:
    """The chains with rules, and the tables with such chains."""
    full = {
        title: {name: held for name, held in chains.items() if held}
        for title, chains in tables.items()
    }
    return {title: chains for title, chains in full.items() if chains}
