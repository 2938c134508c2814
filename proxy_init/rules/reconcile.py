"""Computes the one commit that changes a table from what it holds to what it must hold.

Pure: values in, values out. kernel/apply.py makes the commits, in an order in which no connection
gets past the rules.
"""

from ..frozen import Frozen, replace
from .model import BUILT_IN, Chain, Rule, Table
from .ownership import (
    Ours,
    Positioned,
    number_reachable,
    numbers_for_virtual_interfaces,
    numbers_of_ours,
    ours_in,
)


class Removal(Frozen):
    """Delete the rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int


class Insertion(Frozen):
    """Insert a rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int
    rule: Rule


class TableEdit(Frozen):
    """The changes that one commit makes to one table.

    The order: create chains; flush the chains to fill and to delete; in chains that are not ours,
    delete rules from the last to the first and insert rules from the first to the last; fill
    chains; delete chains.
    """

    table: str
    created: tuple[str, ...]
    removals: tuple[Removal, ...]
    insertions: tuple[Insertion, ...]
    filled: tuple[Chain, ...]
    deleted: tuple[str, ...]


def arrange(wanted: Table, present: Table) -> Ours:
    """The positions of the wanted rules among the foreign rules that the table holds.

    Rules for the top go above all foreign rules. The others stay where our rules are already, or
    else go below the foreign rules, so that these still get their packets. They never go below a
    foreign rule that takes all packets that they are for.
    """
    placed: dict[str, tuple[Positioned, ...]] = {}
    numbers = numbers_of_ours(present, wanted)
    here = ours_in(present, wanted).placed
    virtual = numbers_for_virtual_interfaces(present, wanted)
    for chain in wanted.chains:
        if chain.name not in BUILT_IN[wanted.name]:
            continue
        held = present.chain(chain.name)
        own = numbers.get(chain.name, frozenset())
        rules = enumerate(held.rules if held else ())
        foreign = [rule for number, rule in rules if number not in own]
        top = tuple(Positioned(0, rule) for rule in chain.rules[: chain.top])
        rest = chain.rules[chain.top :]
        lowest = number_reachable(foreign, wanted.name)
        above = virtual if chain.name == "PREROUTING" else frozenset[int]()
        below = tuple(
            place
            for number, place in zip(sorted(own), here.get(chain.name, ()), strict=True)
            if number not in above
        )
        placed[chain.name] = top + _in_place(rest, below, lowest)
    chains = {
        chain.name: chain.rules
        for chain in wanted.chains
        if chain.name not in BUILT_IN[wanted.name]
    }
    return Ours(chains, placed)


def _in_place(
    rules: tuple[Rule, ...], here: tuple[Positioned, ...], lowest: int
) -> tuple[Positioned, ...]:
    """The rules where they are already; if any is not, all together, at most at `lowest`."""
    already = here[len(here) - len(rules) :]
    reached = all(placed.behind <= lowest for placed in already)
    if reached and tuple(placed.rule for placed in already) == rules:
        return already
    behind = min(here[-1].behind, lowest) if here else lowest
    return tuple(Positioned(behind, rule) for rule in rules)


def edit(
    present: Table, wanted: Ours, expected: Table | None = None, force: bool = False
) -> TableEdit | None:
    """The one commit that turns our part of `present` into `wanted`; None if they are equal.

    `expected` is the wanted table, see `ownership.numbers_of_ours`. With `force`, all our rules are
    written again.
    """
    here = ours_in(present, expected)
    if here == wanted and not (force and wanted):
        return None
    moved = [
        name
        for name in {**here.placed, **wanted.placed}
        if force or here.placed.get(name, ()) != wanted.placed.get(name, ())
    ]
    numbers = numbers_of_ours(present, expected)
    return TableEdit(
        present.name,
        created=tuple(name for name in wanted.chains if name not in here.chains),
        removals=tuple(
            Removal(name, number)
            for name in moved
            for number in sorted(numbers.get(name, ()), reverse=True)
        ),
        insertions=tuple(
            Insertion(name, placed.behind + number, placed.rule)
            for name in moved
            for number, placed in enumerate(wanted.placed.get(name, ()))
        ),
        filled=tuple(
            Chain(name, rules)
            for name, rules in wanted.chains.items()
            if force or here.chains.get(name) != rules
        ),
        deleted=tuple(name for name in here.chains if name not in wanted.chains),
    )


def edited(present: Table, change: TableEdit) -> Table:
    """The table after `change` has been made."""
    chains = {chain.name: chain for chain in present.chains}
    for name in change.created:
        chains[name] = Chain(name, ())
    touched = [removal.chain for removal in change.removals]
    touched += [insertion.chain for insertion in change.insertions]
    for name in dict.fromkeys(touched):
        rules = list(chains[name].rules)
        for removal in change.removals:
            if removal.chain == name:
                del rules[removal.position]
        for insertion in change.insertions:
            if insertion.chain == name:
                rules.insert(insertion.position, insertion.rule)
        chains[name] = replace(chains[name], rules=tuple(rules))
    for chain in change.filled:
        chains[chain.name] = chain
    for name in change.deleted:
        del chains[name]
    return Table(present.name, tuple(chains.values()))
