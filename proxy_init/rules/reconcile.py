"""From what a table holds and what it must hold to the one commit that leads there.

Pure: values in, values out. kernel/apply.py carries it out, in an order that lets nothing slip.
"""

from ..frozen import frozen, replace
from .model import BUILT_IN, Chain, Rule, Table
from .ownership import (
    Ours,
    Placed,
    in_sight,
    numbers_for_virtual_interfaces,
    numbers_of_ours,
    ours_in,
)


@frozen
class Removal:
    """Take out the rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int


@frozen
class Insertion:
    """Put a rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int
    rule: Rule


@frozen
class TableEdit:
    """What one commit changes in one table.

    In this order: chains are created, the filled and the deleted ones emptied, rules in foreign
    chains removed (from the last to the first) and inserted (from the first to the last), chains
    filled, chains deleted.
    """

    table: str
    created: tuple[str, ...]
    removals: tuple[Removal, ...]
    insertions: tuple[Insertion, ...]
    filled: tuple[Chain, ...]
    deleted: tuple[str, ...]


def arrange(wanted: Table, present: Table) -> Ours:
    """Where the wanted rules belong among the foreign ones that the table holds.

    Rules for the top go above all foreign ones. The others stay where ours stand already, else go
    below the foreign ones, so that these keep what they had; but never below one that takes all
    that they are for.
    """
    placed: dict[str, tuple[Placed, ...]] = {}
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
        top = tuple(Placed(0, rule) for rule in chain.rules[: chain.top])
        rest = chain.rules[chain.top :]
        lowest = in_sight(foreign, wanted.name)
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


def _in_place(rules: tuple[Rule, ...], here: tuple[Placed, ...], lowest: int) -> tuple[Placed, ...]:
    """The rules where they stand already, else where ours begin, or at `lowest`."""
    already = here[len(here) - len(rules) :]
    reached = all(placed.behind <= lowest for placed in already)
    if reached and tuple(placed.rule for placed in already) == rules:
        return already
    behind = min(here[-1].behind, lowest) if here else lowest
    return tuple(Placed(behind, rule) for rule in rules)


def edit(
    present: Table, wanted: Ours, expected: Table | None = None, force: bool = False
) -> TableEdit | None:
    """The one commit that turns what is ours in `present` into `wanted`; None where it is that.

    `expected` is the wanted table, see `ownership.numbers_of_ours`. With `force`, everything of
    ours is written anew.
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
    """What the table will hold once `change` is carried out."""
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
