"""The rules that a packet is walked through: those that the flags ask for, or the kernel's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..analysis.packet_walk import PodNetwork
from ..config.config import Config
from ..config.flags import Flag, FlagKind
from ..errors import ProxyInitError
from ..frozen import replace
from ..log import logger
from ..rules.model import Rule, Ruleset, Table
from ..rules.networks import Address

if TYPE_CHECKING:
    from ..kernel.backend import Backend

LIVE = Flag(
    "live",
    "--live",
    "",
    "off",
    "",
    "Use the rules in the kernel, not those that the flags ask for.",
    FlagKind.SWITCH,
)


def live_backends(config: Config, rulesets: Sequence[Ruleset]) -> tuple[Backend, ...]:
    """The backends whose tables hold something, if the kernel's rules are to be walked: a packet
    meets them all. The first is that of our rules. Raises NodeCannot.

    The log says what is there that cannot be walked.
    """
    from ..kernel.backend import Backend, tables_there
    from ..kernel.choice import choose
    from ..kernel.nftables.nfnetlink import chains_of_others

    chosen = choose(config.backend, rulesets, write=False).backend
    chosen.load()
    with suppress(OSError):  # a kernel without nf_tables
        _warn_of_unknown({chain for each in rulesets for chain in chains_of_others(each.family)})
    there = (b for b in Backend if any(tables_there(b, each.family) for each in rulesets))
    return (chosen, *(backend for backend in there if backend is not chosen))


def pod_network_of(wanted: Ruleset, own: frozenset[Address], *live: Backend) -> PodNetwork:
    """What the flags want of a family, or what the kernel holds, in a pod with these addresses.

    Of the kernel's rules, those that the flags ask for too have their reasons. Raises ApplyFailed
    or NodeCannot.
    """
    if not live:
        tables = {table.name: table for table in wanted.tables}
        return PodNetwork(tables, own, wanted.routing.policy_route)
    from ..kernel.backend import Task
    from ..kernel.snapshot import present

    first, *others = live
    (found,) = present([Task(wanted, first)])
    tables = {table.name: _with_reasons(table, wanted) for table in found.tables}
    for other in others:
        try:
            other.load()
            (more,) = present([Task(wanted, other)])
        except ProxyInitError as error:
            _warn_of_unknown([f"{other.tables_in_words} ({error})"])
        else:
            tables |= {f"{table.name} of {other.tables_in_words}": table for table in more.tables}
    return PodNetwork(tables, own, next(iter(found.policy_routes), None))


def _warn_of_unknown(places: Iterable[str]) -> None:
    names = ", ".join(sorted(places)).replace("\n", "; ")
    if names:
        logger.warning("packets also meet rules of which nothing is known here: %s", names)


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
