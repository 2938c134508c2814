"""The rule set `1.0`: what the image of Istio 1.0.0 did.

IPv4 only, but for the chain INPUT of IPv6, which lets nothing in that would bypass the proxy.
"""

from collections.abc import Iterator

from ..config.config import EVERYTHING, Config, Mode
from ..rules.matches import Destination, DestinationPort, Match, OwnerGid, OwnerUid, Socket, State
from ..rules.model import Chain, Family, Routing, Rule, Ruleset, Table
from ..rules.targets import ACCEPT, RETURN, Reject
from .cidr_tree import Tree
from .common import (
    DIVERT,
    IN_REDIRECT,
    OUTPUT,
    REDIRECT,
    TCP,
    TO_INBOUND,
    TO_LOOPBACK,
    TPROXY,
    by_destination,
    inbound_exclusions,
    mangle_divert,
    mangle_tproxy,
    nat_redirect,
    table_of,
)

SSH_PORT = 22


def build(config: Config, family: Family) -> Ruleset:
    """All that `family` must hold of ours under `config`."""
    if family is Family.V6:
        inbound = () if config.ipv6 else (filter_input(),)
        return Ruleset(family, inbound)
    transparent = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    route = config.policy_route if transparent else None
    tables = (mangle(config), nat(config))
    return Ruleset(family, tuple(table for table in tables if table.chains), Routing(route))


def filter_input() -> Table:
    """IPv6 filter INPUT: above all else that may stand there, since 1.0 emptied the chain."""
    rules = (
        Rule((State(("ESTABLISHED",)),), ACCEPT, "answers to what the pod asked over IPv6"),
        Rule((), Reject("icmp6-port-unreachable"), "inbound IPv6 would bypass the proxy"),
    )
    return Table("filter", (Chain("INPUT", rules, top=len(rules)),))


def mangle(config: Config) -> Table:
    """Mode TPROXY."""
    inbound = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    return table_of(
        "mangle",
        PREROUTING=[TO_INBOUND] if inbound else (),
        ISTIO_DIVERT=mangle_divert(config) if inbound else (),
        ISTIO_INBOUND=inbound_ports(config) if inbound else (),
        ISTIO_TPROXY=mangle_tproxy(config, Family.V4, config.outbound_port) if inbound else (),
    )


def nat(config: Config) -> Table:
    """Outbound traffic in both modes, inbound in mode REDIRECT."""
    inbound = config.mode is Mode.REDIRECT and bool(config.inbound_ports)
    output = istio_output(config)
    return table_of(
        "nat",
        output.chains,
        PREROUTING=[TO_INBOUND] if inbound else (),
        OUTPUT=[Rule((TCP,), OUTPUT, "outbound TCP: the chain ISTIO_OUTPUT decides")],
        ISTIO_INBOUND=inbound_ports(config) if inbound else (),
        ISTIO_IN_REDIRECT=nat_redirect(config.inbound_port, "inbound"),
        ISTIO_OUTPUT=output.rules,
        ISTIO_REDIRECT=nat_redirect(config.outbound_port, "outbound"),
    )


def inbound_ports(config: Config) -> Iterator[Rule]:
    """ISTIO_INBOUND, in nat or in mangle: which inbound connections the proxy gets."""
    if config.inbound_ports is not EVERYTHING:
        for port in config.inbound_ports:
            yield from _captured(config, (DestinationPort("tcp", port),), f"inbound port {port}")
        return
    yield Rule((TCP, DestinationPort("tcp", SSH_PORT)), RETURN, "ssh is never captured")
    yield from inbound_exclusions(config)
    yield from _captured(config, (), "every other inbound TCP port")


def _captured(config: Config, port: tuple[Match, ...], what: str) -> Iterator[Rule]:
    if config.mode is Mode.REDIRECT:
        yield Rule((TCP, *port), IN_REDIRECT, f"{what} is captured (-b)")
        return
    # With a list of ports, 1.0.0 had this rule twice.
    for _ in range(2 if port else 1):
        yield Rule((TCP, *port, Socket()), DIVERT, f"{what}: more of a connection that is here")
    yield Rule((TCP, *port), TPROXY, f"{what} is captured (-b)")


def istio_output(config: Config) -> Tree:
    """nat ISTIO_OUTPUT: which outbound connections the proxy gets."""
    listed = config.outbound_networks not in (EVERYTHING, ())
    left_alone = Rule((), RETURN, "everything else outbound is left alone (-i)")
    return by_destination(
        config, Family.V4, first=exemptions(config), last=[left_alone] if listed else []
    )


def exemptions(config: Config) -> Iterator[Rule]:
    """What is decided whatever the destination outside."""
    yield Rule(
        (Destination(config.ipv4_loopback, negated=True), TO_LOOPBACK),
        REDIRECT,
        "the pod calls itself by a pod or service address",
    )
    for uid in config.proxy_uids:
        yield Rule((OwnerUid(uid),), RETURN, f"sent by the proxy itself (uid {uid})")
    for gid in config.proxy_gids:
        yield Rule((OwnerGid(gid),), RETURN, f"sent by the proxy itself (gid {gid})")
    yield Rule((Destination(config.ipv4_loopback),), RETURN, "stays inside the pod")
