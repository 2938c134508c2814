"""The table nat: outbound traffic in both modes, inbound traffic in mode REDIRECT."""

from __future__ import annotations

from ...config.config import DNS_PORT, EVERYTHING, Config, Mode
from ...rules.matches import (
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    InInterface,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Source,
)
from ...rules.model import Family, Rule, Table
from ...rules.targets import RETURN, Redirect
from ..cidr_tree import Tree
from ..common import (
    IN_REDIRECT,
    OUTPUT,
    OUTPUT_DNS,
    REDIRECT,
    TCP,
    TO_INBOUND,
    TO_LOOPBACK,
    UDP,
    by_destination,
    captured_servers,
    destinations,
    inbound_exclusions,
    nat_redirect,
    table_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def table(config: Config, family: Family) -> Table:
    """The table nat: outbound traffic in both modes, inbound traffic in mode REDIRECT."""
    top = tuple(prerouting_top(config, family))
    outbound = istio_output(config, family)
    return table_of(
        "nat",
        outbound.chains,
        top=len(top),
        PREROUTING=(*top, *prerouting(config)),
        OUTPUT=output(config),
        ISTIO_INBOUND=inbound(config),
        ISTIO_IN_REDIRECT=nat_redirect(config.inbound_port, "inbound"),
        ISTIO_OUTPUT=outbound.rules,
        ISTIO_OUTPUT_DNS=output_dns(config, family),
        ISTIO_REDIRECT=nat_redirect(config.outbound_port, "outbound"),
    )


def prerouting_top(config: Config, family: Family) -> Iterator[Rule]:
    """nat PREROUTING, above all foreign rules: the -k interfaces, in reverse order."""
    interfaces = config.virtual_interfaces[::-1]
    if config.outbound_networks is EVERYTHING:
        for name in interfaces:
            yield Rule(
                (InInterface(name),),
                REDIRECT,
                f"traffic from {name} is captured as outbound (-k, -i)",
            )
    else:
        networks = config.networks(config.outbound_networks, family)[::-1]
        single = ((Destination(network), str(network)) for network in networks)
        for match, what in (
            destinations("captured", networks) if config.backend == "nft" else single
        ):
            for name in interfaces:
                arriving = InInterface(name)
                # A set is an extension, which follows the matches of the header.
                is_set = isinstance(match, DestinationSet)
                yield Rule(
                    (arriving, match) if is_set else (match, arriving),
                    REDIRECT,
                    f"traffic from {name} to {what} is captured as outbound (-k, -i)",
                )
    for name in interfaces:
        yield Rule(
            (InInterface(name),),
            RETURN,
            f"traffic from {name} counts as outbound (-k), so it is not captured as inbound",
        )


def prerouting(config: Config) -> Iterator[Rule]:
    """nat PREROUTING, below foreign rules."""
    for name in config.excluded_interfaces:
        yield Rule((InInterface(name),), RETURN, f"traffic arriving on {name} is excluded (-c)")
    if config.inbound_ports and config.mode is Mode.REDIRECT:
        yield TO_INBOUND


def inbound(config: Config) -> Iterator[Rule]:
    """nat ISTIO_INBOUND: which inbound connections go to the proxy."""
    yield Rule(
        (TCP, DestinationPort("tcp", config.tunnel_port)),
        RETURN,
        f"port {config.tunnel_port} is the tunnel port of the proxy, reached directly",
    )
    if config.mode is not Mode.REDIRECT:
        return
    if config.inbound_ports is EVERYTHING:
        yield from inbound_exclusions(config)
        yield Rule((TCP,), IN_REDIRECT, "every other inbound TCP port is captured (-b)")
    else:
        for port in config.inbound_ports:
            yield Rule(
                (TCP, DestinationPort("tcp", port)),
                IN_REDIRECT,
                f"inbound port {port} is captured (-b)",
            )


def output(config: Config) -> Iterator[Rule]:
    """nat OUTPUT."""
    for name in config.excluded_interfaces:
        yield Rule((OutInterface(name),), RETURN, f"traffic leaving on {name} is excluded (-c)")
    yield Rule((), OUTPUT, "outbound traffic: the chain ISTIO_OUTPUT decides")


def istio_output(config: Config, family: Family) -> Tree:
    """nat ISTIO_OUTPUT: which outbound connections go to the proxy."""
    return by_destination(
        config, family, first=exemptions(config, family), ports=outbound_ports(config)
    )


def exemptions(config: Config, family: Family) -> Iterator[Rule]:
    """The rules that do not depend on destinations outside the pod."""
    for port in config.outbound_excluded_ports:
        for protocol in (TCP, UDP):
            yield Rule(
                (protocol, DestinationPort(protocol.name, port)),
                RETURN,
                f"outbound port {port} is excluded (-o)",
            )
    yield Rule(
        (Source(family.passthrough), TO_LOOPBACK),
        RETURN,
        "the proxy forwards an inbound connection to the application",
    )
    loopback = config.loopback(family)
    for uid in config.proxy_uids:
        yield from _from_the_proxy(config, loopback, f"uid {uid}", OwnerUid, uid)
    for gid in config.proxy_gids:
        yield from _from_the_proxy(config, loopback, f"gid {gid}", OwnerGid, gid)
    yield from _owner_groups(config)
    if captured_servers(config, family) and config.captures_dns:
        yield Rule((), OUTPUT_DNS, "DNS queries: the chain ISTIO_OUTPUT_DNS decides")
    yield Rule((loopback,), RETURN, "loopback traffic stays inside the pod")


def _from_the_proxy(
    config: Config,
    loopback: Destination,
    who: str,
    owner: Callable[[int, bool], OwnerUid | OwnerGid],
    number: int,
) -> Iterator[Rule]:
    """The rules for one uid or gid of the proxy."""
    by_proxy, not_by_proxy = owner(number, False), owner(number, True)
    own_port: Match = DestinationPort("tcp", config.tunnel_port, negated=True)
    if config.captures_dns and isinstance(by_proxy, OwnerUid):
        own_port = DestinationPorts((53, config.tunnel_port), negated=True)
    yield Rule(
        (Destination(loopback.network, negated=True), TO_LOOPBACK, TCP, own_port, by_proxy),
        IN_REDIRECT,
        f"the proxy ({who}) connects to its pod by a pod or service address: counts as inbound",
    )
    if not config.captures_loopback:
        # A DNS server may listen on the loopback interface; queries to it are captured.
        not_dns = (TCP, DestinationPort("tcp", 53, negated=True)) if config.captures_dns else ()
        yield Rule(
            (TO_LOOPBACK, *not_dns, not_by_proxy),
            RETURN,
            f"the application (not {who}) connects to itself over the loopback interface",
        )
    yield Rule((by_proxy,), RETURN, f"sent by the proxy itself ({who})")


def _owner_groups(config: Config) -> Iterator[Rule]:
    for gid in config.owner_groups_excluded:
        yield Rule((OwnerGid(gid),), RETURN, f"processes of group {gid} are not captured")
    if config.owner_groups is not EVERYTHING:
        listed = ", ".join(map(str, config.owner_groups))
        yield Rule(
            tuple(OwnerGid(gid, negated=True) for gid in config.owner_groups),
            RETURN,
            shortened(f"only processes of these groups are captured: {listed}"),
        )


def outbound_ports(config: Config) -> Iterator[Rule]:
    """The -q ports."""
    for port in config.outbound_ports:
        yield Rule(
            (TCP, DestinationPort("tcp", port)),
            REDIRECT,
            f"outbound port {port} is captured for every address (-q)",
        )


def output_dns(config: Config, family: Family) -> Iterator[Rule]:
    """nat ISTIO_OUTPUT_DNS: redirects queries to the agent."""
    if not config.captures_dns:
        return
    for protocol in (TCP, UDP):
        for server in captured_servers(config, family):
            yield Rule(
                (*server, protocol, DestinationPort(protocol.name, 53)),
                Redirect(DNS_PORT),
                f"DNS query: redirected to the agent on port {DNS_PORT}",
            )


def shortened(why: str, limit: int = 255) -> str:
    """`why`, cut to the size of the comment match: 256 bytes with the final zero."""
    return why if len(why) <= limit else why[: limit - 3] + "..."
