"""From what the kernel holds to what it must hold: a Plan, and carrying it out.

Pure but for the functions that are handed a table to work on: `plan` compares values.
"""

from dataclasses import dataclass

from .model import BUILT_IN, Chain, Rule, Table
from .ownership import Ours, Placed, numbers_of_ours, ours_in


@dataclass(frozen=True)
class Removal:
    """Take out the rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int


@dataclass(frozen=True)
class Insertion:
    """Put a rule at `position`, from 0, of a chain that is not ours."""

    chain: str
    position: int
    rule: Rule


@dataclass(frozen=True)
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

    Rules for the top go above all foreign ones; the others stay where ours stand already, else
    below the foreign ones, so that these keep what they had.
    """
    placed: dict[str, tuple[Placed, ...]] = {}
    here = ours_in(present, wanted).placed
    for chain in wanted.chains:
        if chain.name not in BUILT_IN[wanted.name]:
            continue
        held = present.chain(chain.name)
        foreign = (len(held.rules) if held else 0) - len(here.get(chain.name, ()))
        top = tuple(Placed(0, rule) for rule in chain.rules[: chain.top])
        rest = chain.rules[chain.top :]
        placed[chain.name] = top + _in_place(rest, here.get(chain.name, ()), foreign)
    chains = {
        chain.name: chain.rules
        for chain in wanted.chains
        if chain.name not in BUILT_IN[wanted.name]
    }
    return Ours(chains, placed)


def _in_place(
    rules: tuple[Rule, ...], here: tuple[Placed, ...], foreign: int
) -> tuple[Placed, ...]:
    already = here[len(here) - len(rules) :]
    if tuple(placed.rule for placed in already) == rules:
        return already
    behind = here[-1].behind if here else foreign
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


def as_table(name: str, ours: Ours) -> Table:
    """What is ours in a table, as if nothing else were in it."""
    placed = (
        Chain(chain, tuple(place.rule for place in places)) for chain, places in ours.placed.items()
    )
    return Table(name, (*placed, *(Chain(chain, rules) for chain, rules in ours.chains.items())))
