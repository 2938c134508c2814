"""Chains and rules that both rule sets share."""

from __future__ import annotations

from ..config.config import EVERYTHING, Config
from ..rules.matches import (
    Destination,
    DestinationPort,
    DestinationSet,
    InInterface,
    OutInterface,
    Protocol,
)
from ..rules.model import Chain, Family, Rule, Table
from ..rules.networks import Network
from ..rules.targets import ACCEPT, RETURN, Goto, Jump, Redirect, SetMark, Tproxy
from .cidr_tree import Tree, list_or_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .cidr_tree import Chains

TCP, UDP = Protocol("tcp"), Protocol("udp")
FROM_LOOPBACK, TO_LOOPBACK = InInterface("lo"), OutInterface("lo")

REDIRECT = Jump("ISTIO_REDIRECT")
IN_REDIRECT = Jump("ISTIO_IN_REDIRECT")
INBOUND = Jump("ISTIO_INBOUND")
OUTPUT = Jump("ISTIO_OUTPUT")
OUTPUT_DNS = Jump("ISTIO_OUTPUT_DNS")
NOT_EXCLUDED = Goto("ISTIO_NOT_EXCLUDED")
TPROXY = Jump("ISTIO_TPROXY")
DIVERT = Jump("ISTIO_DIVERT")
DROP_INVALID = Jump("ISTIO_DROP")
TO_INBOUND = Rule((TCP,), INBOUND, "inbound TCP: the chain ISTIO_INBOUND decides")


def table_of(
    name: str, further: Chains | None = None, *, top: int = 0, **chains: Iterable[Rule]
) -> Table:
    """A table of the chains with rules. The `top` rules of PREROUTING go above foreign ones."""
    held = ((chain, tuple(rules)) for chain, rules in {**chains, **(further or {})}.items())
    return Table(
        name,
        tuple(
            Chain(chain, rules, top if chain == "PREROUTING" else 0)
            for chain, rules in held
            if rules
        ),
    )


def captured_servers(config: Config, family: Family) -> list[tuple[Destination, ...]]:
    """The destination matches of captured DNS queries: one for each server, or none for all."""
    if config.capture_all_dns:
        return [()]
    return [(Destination(server),) for server in config.networks(config.dns_servers, family)]


def inbound_exclusions(config: Config) -> Iterator[Rule]:
    """ISTIO_INBOUND, in nat or mangle: the -d ports."""
    for port in config.inbound_excluded_ports:
        yield Rule(
            (TCP, DestinationPort("tcp", port)), RETURN, f"inbound port {port} is excluded (-d)"
        )


def mangle_divert(config: Config) -> Iterator[Rule]:
    """mangle ISTIO_DIVERT."""
    yield Rule(
        (),
        SetMark(config.tproxy_mark),
        f"marked, so that the policy route in table {config.tproxy_route_table} keeps it local",
    )
    yield Rule((), ACCEPT, "part of a known connection: no further rule of this table applies")


def mangle_tproxy(config: Config, family: Family, port: int) -> Iterator[Rule]:
    """mangle ISTIO_TPROXY; `port` is where the proxy listens transparently."""
    yield Rule(
        (Destination(config.loopback(family).network, negated=True), TCP),
        Tproxy(port, config.tproxy_mark, family.any_address),
        f"captured: to the transparent listener of the proxy on port {port}",
    )


def nat_redirect(port: int, direction: str) -> Iterator[Rule]:
    """nat ISTIO_REDIRECT and ISTIO_IN_REDIRECT."""
    yield Rule(
        (TCP,),
        Redirect(port),
        f"captured: to port {port}, where the proxy accepts {direction} TCP",
    )


def by_destination(
    config: Config,
    family: Family,
    *,
    first: Iterable[Rule],
    ports: Iterable[Rule] = (),
    last: Iterable[Rule] = (),
) -> Tree:
    """ISTIO_OUTPUT: the rules `first`, the excluded CIDRs, `ports`, the captured CIDRs, and `last`.

    If the excluded CIDRs are a tree, the rules after them are in a chain of their own, because each
    chain of the tree continues there.
    """
    networks = config.outbound_networks
    captured = _listed(
        config,
        "captured",
        () if networks is EVERYTHING else config.networks(networks, family),
        lambda match, what: Rule((match,), REDIRECT, f"outbound to {what} is captured (-i)"),
    )
    all_else = [Rule((), REDIRECT, "all other outbound traffic is captured (-i)")]
    rest = (*ports, *captured.rules, *(all_else if networks is EVERYTHING else ()), *last)
    continuation = [Rule((), NOT_EXCLUDED, "the destination is not excluded")] if rest else []
    excluded = _listed(
        config,
        "excluded",
        config.networks(config.outbound_excluded_networks, family),
        lambda match, what: Rule((match,), RETURN, f"outbound to {what} is excluded (-x)"),
        continuation,
    )
    if not excluded.chains:
        return Tree((*first, *excluded.rules, *rest), captured.chains)
    return Tree(
        (*first, *excluded.rules, *continuation),
        {"ISTIO_NOT_EXCLUDED": rest, **excluded.chains, **captured.chains},
    )


def _listed(
    config: Config,
    word: str,
    networks: Sequence[Network],
    rule_for: Callable[[Destination | DestinationSet, str], Rule],
    last: Sequence[Rule] = (),
) -> Tree:
    """The rules for a list of networks of one family. `rule_for` gets the match of one rule, and
    its destination in words."""
    if config.backend == "nft":
        return Tree(tuple(rule_for(*each) for each in destinations(word, networks)), {})
    return list_or_tree(
        config.cidr_tree,
        networks,
        f"ISTIO_{word.upper()}",
        lambda network: rule_for(Destination(network), str(network)),
        last,
    )


MAX_SINGLE_NETWORKS = 32
"""For more networks, nf_tables has a set: one lookup, while every rule of a list would cost each
new connection about 50 ns."""


def destinations(
    word: str, networks: Sequence[Network]
) -> Iterator[tuple[Destination | DestinationSet, str]]:
    """The destination matches for networks of one family in nf_tables, each with its words."""
    if len(networks) > MAX_SINGLE_NETWORKS:
        title = f"istio-{word}-ipv{networks[0].version}"
        merged = DestinationSet.of(title, networks)
        if len(merged.ranges) > MAX_SINGLE_NETWORKS:
            yield merged, f"one of {len(merged.ranges):,} networks"
            return
        networks = tuple(merged.networks())
    yield from ((Destination(network), str(network)) for network in networks)
