"""The rules that a packet walks through: those of the flags, of the kernel, or of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.packet_walk import PodNetwork
from ..config import values
from ..config.config import Config
from ..config.flags import Flag, FlagKind
from ..errors import BadCall, Mistake, ProxyInitError
from ..frozen import replace
from ..kernel.enforce import chosen, wanted_rulesets
from ..log import logger
from ..rules.matches import Comment
from ..rules.model import BUILT_IN, Family, Rule, Ruleset, Table
from ..rules.networks import Address
from ..rules.saved_text import NotSaved, read_saved
from ..rulesets.native import for_nf_tables

if TYPE_CHECKING:
    from ..analysis.description import Found
    from ..kernel.backend import Backend
    from ..kernel.snapshot import Present

LIVE = Flag(
    "live",
    "--live",
    "",
    "off",
    "",
    "Use the rules in the kernel, not those that the flags ask for.",
    FlagKind.SWITCH,
)
SAVED = Flag(
    "saved",
    "--saved",
    "",
    "",
    "FILE",
    "Use the rules in a file, as --dry-run, iptables-save or nft prints them.",
    may_be_empty=True,  # not the flags, if a script has lost the name of the file
)


def is_live(config: Config) -> bool:
    """Whether the kernel's rules are to be used."""
    return LIVE.name in config.own and values.switch(config.own[LIVE.name].text)


def live_rules(
    config: Config, found: Found | None = None
) -> tuple[tuple[Backend, ...], list[Ruleset]]:
    """The backends whose tables may hold something, if the kernel's rules are to be walked: a
    packet meets them all. The first is that of our rules; and what each family must hold there.

    `found` are the rules whose flags `config` has, if these were read off them. Raises NodeCannot.
    """
    from ..kernel.backend import Backend, tables_there

    choice, rulesets = chosen(config, wanted_rulesets(config), write=False)
    if found and found.is_of_others:
        rulesets = found.rulesets
    choice.backend.load()
    there = [Backend.NFT]  # where anybody may have tables of any name
    if any(tables_there(Backend.LEGACY, each.family) for each in rulesets):
        there.append(Backend.LEGACY)
    others = (backend for backend in there if backend is not choice.backend)
    return (choice.backend, *others), rulesets


def pod_network_of(wanted: Ruleset, own: frozenset[Address], *live: Backend) -> PodNetwork:
    """What the flags want of a family, or what the kernel holds, in a pod with these addresses.

    Of the kernel's rules, those that the flags ask for too have their reasons. Raises ApplyFailed
    or NodeCannot.
    """
    if not live:
        tables = {table.name: table for table in wanted.tables}
        return PodNetwork(tables, own, wanted.routing.policy_route)
    return kernel_pod_network(kernel_rules(wanted, *live), own)


def kernel_pod_network(found: Present, own: frozenset[Address]) -> PodNetwork:
    """What the kernel holds, in a pod with these addresses."""
    by_title = {each.title: each.table for each in found.tables}
    return PodNetwork(by_title, own, next(iter(found.policy_routes), None))


def kernel_rules(wanted: Ruleset, *live: Backend) -> Present:
    """What the kernel holds of a family, in the order in which packets meet it, our own tables
    being those of the first backend. Rules that the flags ask for too have their reasons.

    Raises ApplyFailed or NodeCannot.
    """
    from ..kernel.backend import Backend
    from ..kernel.snapshot import Present, present

    first, *others = live
    found = present(wanted, first)
    here = [replace(each, table=_with_reasons(each.table, wanted)) for each in found.tables]
    for other in others:
        try:
            other.load()
            more = present(wanted, other).tables
        except ProxyInitError as error:
            if other is Backend.LEGACY:  # a kernel need not have nf_tables
                _warn_of_unknown([f"{other.tables_in_words} ({error})"])
        else:
            words = f" of {other.tables_in_words}"
            here += (
                replace(each, title=f"{each.title}{words}") if each.title in BUILT_IN else each
                for each in more
            )
    here.sort(key=lambda each: each.priority)  # of equal priority, ours first
    return Present(tuple(here), found.policy_routes)


def _warn_of_unknown(places: Iterable[str]) -> None:
    names = ", ".join(sorted(places)).replace("\n", "; ")
    if names:
        logger.warning("packets also pass rules that can't be read here: %s", names)


def _with_reasons(table: Table, *wanted: Ruleset) -> Table:
    """The same rules. Those that are in `wanted`, with or without a comment, get its reason."""
    reasons = {
        (chain.name, _uncommented(rule)): rule.why
        for ruleset in wanted
        for chain in ruleset.table(table.name).chains
        for rule in chain.rules
    }

    def with_reason(chain: str, rule: Rule) -> Rule:
        return Rule(rule.matches, rule.target, reasons.get((chain, _uncommented(rule)), ""))

    return replace(
        table,
        chains=tuple(
            replace(chain, rules=tuple(with_reason(chain.name, rule) for rule in chain.rules))
            for chain in table.chains
        ),
    )


def _uncommented(rule: Rule) -> Rule:
    return Rule((m for m in rule.matches if not isinstance(m, Comment)), rule.target, rule.why)


def saved_pod_networks(
    path: str, rulesets: Sequence[Ruleset], own: frozenset[Address]
) -> Mapping[Family, PodNetwork]:
    """The rules in a file, in a pod with these addresses, for the families that the file is about.
    Raises BadCall.

    Rules that are also in `rulesets`, as they are or in the form for nf_tables, get their reasons.
    """
    try:
        saved = read_saved(Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise BadCall([Mistake("--saved", path, f"cannot be read: {error.strerror}")]) from error
    except NotSaved as error:
        expected = f"expected what --dry-run, iptables-save or `nft list ruleset` prints: {error}"
        raise BadCall([Mistake("--saved", path, expected)]) from error
    forms = [*rulesets, *map(for_nf_tables, rulesets)]
    return {
        family: PodNetwork(
            {
                title: _with_reasons(table, *(each for each in forms if each.family is family))
                for title, table in there.tables.items()
            },
            own,
            there.policy_route,
        )
        for family, there in saved.items()
    }
