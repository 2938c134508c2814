"""The kernel's rules as packets meet them: all tables of a family, with counters and drift."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ..rules.counts import Count
from ..rules.model import BUILT_IN, Chain, Family, Rule, Table
from .counters import Counted, Counts, Standing, counted


class TableKind(Enum):
    """What made a table, which decides whose rules it may hold."""

    LEGACY = "a legacy table"
    IPTABLES_NFT = "a table of nf_tables that iptables-nft makes"
    NATIVE = "one of our own tables of nf_tables, where every rule is ours"
    OTHERS = "a table of another program, where no rule is ours"


@dataclass(frozen=True)
class KernelTable:
    """A table of the kernel, with its `priority` in the order in which packets meet the tables.

    `title` is the name that is shown. `counts` has each chain of the table.
    """

    priority: int
    title: str
    table: Table
    counts: Counts
    kind: TableKind


@dataclass(frozen=True)
class Line:
    """A rule, its number in its chain, from 1, and what it has counted; a missing one has neither.

    `standing` is None for a rule of another program, and if there is nothing to compare with.
    """

    rule: Rule
    number: int | None
    count: Count | None = None
    standing: Standing | None = None


def lines(family: Family, held: KernelTable, wanted: Table) -> Mapping[str, tuple[Line, ...]]:
    """By chain, the rules of a table and those of `wanted` that are missing, each at its place."""
    own: dict[str, list[Counted]] = {}
    if held.kind is not TableKind.OTHERS:
        full = whole(held.table)
        counts = {chain.name: held.counts.get(chain.name, ()) for chain in full.chains}
        for each in counted(family, wanted, full, counts, held.kind is TableKind.NATIVE):
            own.setdefault(each.chain, []).append(each)
    names = dict.fromkeys([*(chain.name for chain in held.table.chains), *own])
    return {
        name: tuple(_merged(held.table.chain(name), held.counts, own.get(name, [])))
        for name in names
    }


def whole(table: Table) -> Table:
    """The table with all its built-in chains: nf_tables has only those that somebody made."""
    there = {chain.name for chain in table.chains}
    absent = (Chain(name, ()) for name in BUILT_IN[table.name] if name not in there)
    return Table(table.name, (*table.chains, *absent))


def _merged(chain: Chain | None, counts: Counts, own: list[Counted]) -> Iterator[Line]:
    """The rules of a chain in its order; a missing one follows the one that it belongs behind."""
    behind: dict[int, list[Line]] = {}
    ours: dict[int, Counted] = {}
    last = 0
    for each in own:
        if each.number is None:
            behind.setdefault(last, []).append(_line(each))
        else:
            ours[each.number] = each
            last = each.number
    yield from behind.get(0, ())
    for number, rule in enumerate(chain.rules if chain else (), start=1):
        if number in ours:
            yield _line(ours[number])
        else:
            assert chain
            yield Line(rule, number, counts[chain.name][number - 1])
        yield from behind.get(number, ())


def _line(each: Counted) -> Line:
    rule = Rule(each.rule.matches, each.rule.target, each.why)
    return Line(rule, each.number, each.count, each.standing)
