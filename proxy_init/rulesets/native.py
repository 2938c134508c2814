"""Changes rules where native nf_tables would decide differently from x_tables.

- A packet whose socket has no owner (a connection of the kernel itself) matches `! --uid-owner` in
  x_tables, but not `meta skuid !=`. So the packets of the owner return first, and the rule for the
  others needs no negation.
- TPROXY in x_tables drops a packet without a listener; `tproxy` passes it to the next rule. So a
  rule that drops follows it.
- There is only one spelling of conntrack states.
Pure. Sources: net/netfilter/xt_owner.c, nft_meta.c (nft_meta_get_eval_skugid), xt_TPROXY.c and
nft_tproxy.c.
"""

from __future__ import annotations

from ..frozen import replace
from ..rules.inet_tables import LONGEST_COMMENT
from ..rules.matches import Comment, ConntrackState, Match, OwnerGid, OwnerUid, State
from ..rules.model import Chain, Rule, Ruleset, Table
from ..rules.targets import DROP, RETURN, Goto, Tproxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

OWNER_GROUPS = "ISTIO_OWNER_GROUPS"
"""The chain in which packets continue whose owner is in the list of captured groups."""


def for_nf_tables(ruleset: Ruleset) -> Ruleset:
    """The rules of a family for nf_tables, with the same effect as those given have in x_tables."""
    tables = (Table(table.name, tuple(_chains(table.chains))) for table in ruleset.tables)
    return replace(ruleset, tables=tuple(tables))


def _chains(chains: Sequence[Chain]) -> Iterator[Chain]:
    for chain in chains:
        rules, continuations = _owners_first(tuple(_with_drops(map(_respelled, chain.rules))))
        yield replace(chain, rules=rules)
        yield from (Chain(name, further) for name, further in continuations.items())


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
            yield Rule(rule.matches, DROP, "captured, but the port has no listener: dropped")


def _owners_first(
    rules: tuple[Rule, ...],
) -> tuple[tuple[Rule, ...], Mapping[str, tuple[Rule, ...]]]:
    """The rules of one chain without RETURNs for `! --uid-owner` and `! --gid-owner`, and the
    further chains that this needs."""
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
            # The packets of this owner return in the next rule anyway, so that rule comes first.
            kept += [left.pop(0), Rule(_without_owners(rule), RETURN, rule.why)]
        elif others or not left:
            kept.append(rule)
        else:
            kept += _of_groups(rule)
            rest, chains = _owners_first(tuple(left))
            return tuple(kept), {OWNER_GROUPS: rest, **chains}
    return tuple(kept), {}


def _asked(rule: Rule) -> tuple[Match, ...]:
    return tuple(match for match in rule.matches if not isinstance(match, Comment))


def _is_negated_owner(match: Match) -> bool:
    return isinstance(match, OwnerUid | OwnerGid) and match.negated


def _without_owners(rule: Rule) -> tuple[Match, ...]:
    return tuple(match for match in rule.matches if not _is_negated_owner(match))


def _negated(rule: Rule) -> Iterator[Match]:
    """The negated owner matches of a rule."""
    for match in _asked(rule):
        if isinstance(match, OwnerUid | OwnerGid):
            yield replace(match, negated=not match.negated)


def _of_groups(rule: Rule) -> Iterator[Rule]:
    """Replaces a rule that returns unless the owner is in a list: the listed ones go to a chain."""
    comments = [match for match in rule.matches if isinstance(match, Comment)]
    for match in rule.matches:
        if isinstance(match, OwnerUid | OwnerGid):
            owner = replace(match, negated=False)
            yield Rule((owner, *comments), Goto(OWNER_GROUPS), rule.why)
    yield Rule(comments, RETURN, rule.why)
