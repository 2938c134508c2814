"""Compares the rules of both families: are they the same except for loopback addresses?"""

from functools import partial

from ..rules.matches import Destination, Match, Source
from ..rules.model import BUILT_IN, Family, Rule, Ruleset
from ..rules.networks import Network
from ..rules.targets import Tproxy


def alike(one: Ruleset, other: Ruleset) -> bool:
    """Whether one picture can show both rulesets."""
    if one.routing.policy_route != other.routing.policy_route:
        return False
    return _shape(one) == _shape(other)


def _shape(ruleset: Ruleset) -> list[object]:
    return [
        (name, chain.name, [_rule_shape(ruleset.family, rule) for rule in chain.rules])
        for name in BUILT_IN
        for chain in ruleset.table(name).chains
    ]


def _rule_shape(family: Family, rule: Rule) -> object:
    target = rule.target
    shape: object = (target.port, target.mark) if isinstance(target, Tproxy) else target
    return [*map(partial(_match_shape, family), rule.matches)], shape, rule.why


def _match_shape(family: Family, match: Match) -> object:
    if isinstance(match, Source | Destination):
        return type(match), _network_shape(family, match.network), match.negated
    return match


def _network_shape(family: Family, network: Network) -> object:
    if network == family.passthrough:
        return "passthrough"
    return "loopback" if network.is_loopback else network
