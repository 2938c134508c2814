"""The rules that a packet is walked through: those that the flags ask for, or the kernel's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config import Config
from ..explain import Address, Scene
from ..flags import Flag, Takes
from ..frozen import replace
from ..model import Rule, Ruleset, Table

if TYPE_CHECKING:
    from ..kernel.backend import Choice

LIVE = Flag(
    "live",
    "--live",
    "",
    "off",
    "",
    "Walk the rules that are in the kernel, not those that the flags ask for.",
    Takes.SWITCH,
)


def live_choice(config: Config, rulesets: Sequence[Ruleset], live: bool) -> Choice | None:
    """The backend whose rules are to be walked, if the kernel's are. Raises NodeCannot."""
    if not live:
        return None
    from ..kernel.backend import choose

    choice = choose(config.backend, rulesets, write=False)
    choice.load()
    return choice


def scene_of(wanted: Ruleset, own: frozenset[Address], live: Choice | None = None) -> Scene:
    """What the flags want of a family, or what the kernel holds, in a pod with these addresses.

    Of the kernel's rules, those that the flags ask for too have their reasons. Raises ApplyFailed
    or NodeCannot.
    """
    if live is None:
        tables = {table.name: table for table in wanted.tables}
        return Scene(tables, own, wanted.routing.policy_route)
    from ..kernel.backend import Part
    from ..kernel.present import present

    (found,) = present([Part(wanted, live.backend)])
    tables = {table.name: _with_reasons(table, wanted) for table in found.tables}
    return Scene(tables, own, next(iter(found.policy_routes), None))


def _with_reasons(table: Table, wanted: Ruleset) -> Table:
    reasons = {
        (chain.name, rule): rule.why
        for chain in wanted.table(table.name).chains
        for rule in chain.rules
    }

    def with_reason(chain: str, rule: Rule) -> Rule:
        return Rule(rule.matches, rule.target, reasons.get((chain, rule), ""))

    return replace(
        table,
        chains=tuple(
            replace(chain, rules=tuple(with_reason(chain.name, rule) for rule in chain.rules))
            for chain in table.chains
        ),
    )
