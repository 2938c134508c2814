"""The rule set `1.0`: the rules of the image of Istio 1.0.0.

IPv4 only, except for the IPv6 chain INPUT, which rejects connections that would bypass the proxy.
"""

from __future__ import annotations

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SSH_PORT = 22


def build(config: Config, family: Family) -> Ruleset:
    """The ruleset that `config` asks for in `family`."""
    if family is Family.V6:
        inbound = () if config.ipv6 else (filter_input(),)
        return Ruleset(family, inbound)
    transparent = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    route = config.policy_route if transparent else None
    tables = (mangle(config), nat(config))
    return Ruleset(family, tuple(table for table in tables if table.chains), Routing(route))


def filter_input() -> Table:
    """IPv6 filter INPUT: at the top of the chain, because 1.0 flushed it."""
    rules = (
        Rule((State(("ESTABLISHED",)),), ACCEPT, "replies on IPv6 connections that the pod opened"),
        Rule((), Reject("icmp6-port-unreachable"), "inbound IPv6 would bypass the proxy"),
    )
    return Table("filter", (Chain("INPUT", rules, top=len(rules)),))


def mangle(config: Config) -> Table:
    """The table mangle: mode TPROXY."""
    inbound = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    return table_of(
        "mangle",
        PREROUTING=[TO_INBOUND] if inbound else (),
        ISTIO_DIVERT=mangle_divert(config) if inbound else (),
        ISTIO_INBOUND=inbound_ports(config) if inbound else (),
        ISTIO_TPROXY=mangle_tproxy(config, Family.V4, config.outbound_port) if inbound else (),
    )


def nat(config: Config) -> Table:
    """The table nat: outbound traffic in both modes, inbound traffic in mode REDIRECT."""
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
    """ISTIO_INBOUND, in nat or mangle: which inbound connections go to the proxy."""
    if config.inbound_ports is not EVERYTHING:
        for port in config.inbound_ports:
            yield from _captured(config, (DestinationPort("tcp", port),), f"inbound port {port}")
        return
    yield Rule((TCP, DestinationPort("tcp", SSH_PORT)), RETURN, "SSH is never captured")
    yield from inbound_exclusions(config)
    yield from _captured(config, (), "every other inbound TCP port")


def _captured(config: Config, port: tuple[Match, ...], what: str) -> Iterator[Rule]:
    if config.mode is Mode.REDIRECT:
        yield Rule((TCP, *port), IN_REDIRECT, f"{what} is captured (-b)")
        return
    # With a list of ports, 1.0.0 had this rule twice.
    for _ in range(2 if port else 1):
        yield Rule((TCP, *port, Socket()), DIVERT, f"{what}: part of an open connection")
    yield Rule((TCP, *port), TPROXY, f"{what} is captured (-b)")


def istio_output(config: Config) -> Tree:
    """nat ISTIO_OUTPUT: which outbound connections go to the proxy."""
    listed = config.outbound_networks not in (EVERYTHING, ())
    not_captured = Rule((), RETURN, "no other outbound traffic is captured (-i)")
    return by_destination(
        config, Family.V4, first=exemptions(config), last=[not_captured] if listed else []
    )


def exemptions(config: Config) -> Iterator[Rule]:
    """The rules that do not depend on destinations outside the pod."""
    yield Rule(
        (Destination(config.ipv4_loopback, negated=True), TO_LOOPBACK),
        REDIRECT,
        "the pod connects to itself by a pod or service address",
    )
    for uid in config.proxy_uids:
        yield Rule((OwnerUid(uid),), RETURN, f"sent by the proxy itself (uid {uid})")
    for gid in config.proxy_gids:
        yield Rule((OwnerGid(gid),), RETURN, f"sent by the proxy itself (gid {gid})")
    loopback = Destination(config.ipv4_loopback)
    yield Rule((loopback,), RETURN, "loopback traffic stays inside the pod")
