"""The same rules as nf_tables take them natively, where those decide otherwise than x_tables.

- A packet without a socket that has an owner (the kernel's own connections): `! --uid-owner` of
  x_tables takes it, `meta skuid !=` does not. So here rules take an owner's packets out first, and
  what is left needs no negation.
- TPROXY of x_tables drops what finds no listener; `tproxy` lets the next rule have it. So here a
  rule behind it drops.
- There is one spelling of connection tracking's states.
Pure. Sources: net/netfilter/xt_owner.c, nft_meta.c (nft_meta_get_eval_skugid), xt_TPROXY.c and
nft_tproxy.c.
"""

from __future__ import annotations

from ..frozen import replace
from ..rules.matches import Comment, ConntrackState, Match, OwnerGid, OwnerUid, State
from ..rules.model import Chain, Rule, Ruleset, Table
from ..rules.targets import DROP, RETURN, Goto, Tproxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

OWNER_GROUPS = "ISTIO_OWNER_GROUPS"
"""Where packets go on whose owners a list of captured ones names."""
LONGEST_COMMENT = 127
"""In bytes; the program nft takes no longer one (libnftnl, NFTNL_UDATA_COMMENT_MAXLEN)."""


def for_nf_tables(ruleset: Ruleset) -> Ruleset:
    """A family's rules for nf_tables, which decide as those given do in x_tables."""
    tables = (Table(table.name, tuple(_chains(table.chains))) for table in ruleset.tables)
    return replace(ruleset, tables=tuple(tables))


def _chains(chains: Sequence[Chain]) -> Iterator[Chain]:
    for chain in chains:
        rules, behind = _owners_first(tuple(_with_drops(map(_respelled, chain.rules))))
        yield replace(chain, rules=rules)
        yield from (Chain(name, further) for name, further in behind.items())


def _respelled(rule: Rule) -> Rule:
    return Rule(map(_spelled, rule.matches), rule.target, rule.why)


def _spelled(match: Match) -> Match:
    if isinstance(match, State):
        return ConntrackState(match.states)
    if isinstance(match, Comment):
        data = match.text.encode("utf-8", "surrogateescape")
        return Comment(data[:LONGEST_COMMENT].decode("utf-8", "ignore"))
    return match


def _with_drops(rules: Iterable[Rule]) -> Iterator[Rule]:
    for rule in rules:
        yield rule
        if isinstance(rule.target, Tproxy):
            yield Rule(rule.matches, DROP, "captured, but nobody listens there: dropped")


def _owners_first(
    rules: tuple[Rule, ...],
) -> tuple[tuple[Rule, ...], Mapping[str, tuple[Rule, ...]]]:
    """The rules of one chain without `! --uid-owner` and `! --gid-owner` where they return, and
    the chains that this takes besides."""
    kept: list[Rule] = []
    left = list(rules)
    while left:
        rule = left.pop(0)
        others = [
            m for m in rule.matches if not _is_negated_owner(m) and not isinstance(m, Comment)
        ]
        if rule.target != RETURN or len(others) == len(_asked(rule)):
            kept.append(rule)
        elif left and left[0].target == RETURN and _asked(rule) == (*others, *_negated(left[0])):
            # Their owner's packets return in the next rule anyway: so let it come first.
            kept += [left.pop(0), Rule(_without_owners(rule), RETURN, rule.why)]
        elif others or not left:
            kept.append(rule)
        else:
            kept += _of_groups(rule)
            behind, chains = _owners_first(tuple(left))
            return tuple(kept), {OWNER_GROUPS: behind, **chains}
    return tuple(kept), {}


def _asked(rule: Rule) -> tuple[Match, ...]:
    return tuple(match for match in rule.matches if not isinstance(match, Comment))


def _is_negated_owner(match: Match) -> bool:
    return isinstance(match, OwnerUid | OwnerGid) and match.negated


def _without_owners(rule: Rule) -> tuple[Match, ...]:
    return tuple(match for match in rule.matches if not _is_negated_owner(match))


def _negated(rule: Rule) -> Iterator[Match]:
    """The opposite of all that a rule asks for, where it asks for an owner alone."""
    for match in _asked(rule):
        if isinstance(match, OwnerUid | OwnerGid):
            yield replace(match, negated=not match.negated)


def _of_groups(rule: Rule) -> Iterator[Rule]:
    """For a rule that returns unless the owner is in a list: those of the list go on elsewhere."""
    comments = [match for match in rule.matches if isinstance(match, Comment)]
    for match in rule.matches:
        if isinstance(match, OwnerUid | OwnerGid):
            owner = replace(match, negated=False)
            yield Rule((owner, *comments), Goto(OWNER_GROUPS), rule.why)
    yield Rule(comments, RETURN, rule.why)
