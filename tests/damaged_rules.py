"""Rules damaged on purpose: one lost, moved, negated, or with another number in it.

The kernel takes all of them.
"""

from collections.abc import Iterator

from proxy_init.frozen import replace
from proxy_init.rules.matches import (
    Destination,
    DestinationPort,
    DestinationPorts,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
    SourcePort,
)
from proxy_init.rules.model import Rule, Ruleset
from proxy_init.rules.networks import Address, Network
from proxy_init.rules.targets import Jump, Redirect, Target, Tproxy


def damaged(ruleset: Ruleset) -> Iterator[Ruleset]:
    """The rules with each single damage."""
    for table in ruleset.tables:
        for chain in table.chains:
            for rules in _damages(chain.rules):
                chains = tuple(
                    replace(each, rules=rules) if each is chain else each for each in table.chains
                )
                tables = tuple(
                    replace(table, chains=chains) if each is table else each
                    for each in ruleset.tables
                )
                yield replace(ruleset, tables=tables)


def _damages(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, ...]]:
    for n, rule in enumerate(rules):
        before, behind = rules[:n], rules[n + 1 :]
        yield before + behind
        if behind:
            yield (*before, behind[0], rule, *behind[1:])
        for other in (*_negated(rule), *_with_other_numbers(rule)):
            yield (*before, other, *behind)


def _negated(rule: Rule) -> Iterator[Rule]:
    """The rule with one of its matches negated."""
    has_ports = any(
        isinstance(match, DestinationPort | SourcePort | DestinationPorts) for match in rule.matches
    )
    for match in rule.matches:
        # Ports, REDIRECT and TPROXY take a protocol that is said.
        is_needed = isinstance(match, Protocol) and (has_ports or not isinstance(rule.target, Jump))
        if hasattr(match, "negated") and not is_needed:
            yield _with(rule, match, replace(match, negated=not match.negated))


def _with_other_numbers(rule: Rule) -> Iterator[Rule]:
    for match in rule.matches:
        other = _other(match)
        if other != match:
            yield _with(rule, match, other)
    target: Target | None = None
    match rule.target:
        case Redirect(port):
            target = Redirect(port % 65535 + 1)
        case Tproxy(port, mark, any_address):
            target = Tproxy(port % 65535 + 1, mark, any_address)
    if target:
        yield Rule(rule.matches, target, rule.why)


def _other(match: Match) -> Match:
    """A match that asks for the number beside."""
    match match:
        case Source(network) | Destination(network):
            return replace(match, network=_neighbour(network))
        case InInterface() | OutInterface():
            return replace(match, name="eth0" if match.name == "lo" else "lo")
        case DestinationPort(_, port) | SourcePort(_, port):
            return replace(match, port=port % 65535 + 1)
        case DestinationPorts(ports):
            return replace(match, ports=(ports[0] % 65535 + 1, *ports[1:]))
        case OwnerUid(uid):
            return replace(match, uid=uid ^ 1)
        case OwnerGid(gid):
            return replace(match, gid=gid ^ 1)
        case Mark(value):
            return Mark(value ^ 1, match.negated)
        case _:
            return match


def _neighbour(network: Network) -> Network:
    """The network that makes up the next larger one with it."""
    if not network.prefixlen:
        return network
    number = int(network.network_address) ^ network.num_addresses
    return Network(Address(number.to_bytes(network.max_prefixlen // 8)), network.prefixlen)


def _with(rule: Rule, match: Match, other: Match) -> Rule:
    matches = (other if each is match else each for each in rule.matches)
    return Rule(matches, rule.target, rule.why)
