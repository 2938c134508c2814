"""The rule set `current`: what today's sidecars expect.

Read a chain's function from top to bottom: it yields the rules in the order in which the kernel
tries them. Every rule says why it is there.
"""

from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType

from ..config import DNS_PORT, EVERYTHING, TPROXY_OUTBOUND_MARK, Config, Mode
from ..matches import (
    ACCEPT,
    DROP,
    RETURN,
    ConnectionMark,
    ConntrackState,
    ConntrackZone,
    Destination,
    DestinationPort,
    DestinationPorts,
    Goto,
    InInterface,
    Jump,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    SaveMark,
    SetMark,
    Source,
    SourcePort,
    Tproxy,
)
from ..model import Chain, Family, Routing, Rule, Ruleset, Table
from .cidr_tree import Chains, Tree, listed

TCP, UDP = Protocol("tcp"), Protocol("udp")
TO_DNS = DestinationPort("udp", 53)
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

# Connection tracking zones: an application's query to the agent, and the agent's own to a server.
AGENT_ZONE, SERVER_ZONE = ConntrackZone(2), ConntrackZone(1)


def build(config: Config, family: Family) -> Ruleset:
    """All that `family` must hold of ours under `config`; nothing where it is left alone."""
    if family is Family.V6 and not config.ipv6:
        return Ruleset(family)
    tables = (raw(config, family), mangle(config, family), nat(config, family))
    transparent = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    route = config.policy_route if transparent else None
    return Ruleset(
        family,
        tuple(table for table in tables if table.chains),
        Routing(route, passthrough_address=family is Family.V6),
    )


def raw(config: Config, family: Family) -> Table:
    """DNS capture only: two conntrack zones, so that a query to the agent and the agent's own query
    never share an entry."""
    if not config.captures_dns:
        return Table("raw", ())
    return table_of(
        "raw",
        PREROUTING=raw_prerouting(config, family),
        OUTPUT=[Rule((), OUTPUT_DNS, "DNS queries: the chain ISTIO_OUTPUT_DNS picks their zone")],
        ISTIO_INBOUND=raw_inbound(config, family),
        ISTIO_OUTPUT_DNS=raw_output_dns(config, family),
    )


def mangle(config: Config, family: Family) -> Table:
    """Mode TPROXY, and --drop-invalid."""
    transparent = config.mode is Mode.TPROXY
    marking = transparent and config.inbound_ports
    return table_of(
        "mangle",
        PREROUTING=mangle_prerouting(config),
        OUTPUT=mangle_output(config, family) if transparent else (),
        ISTIO_DIVERT=mangle_divert(config) if marking else (),
        ISTIO_DROP=mangle_drop() if config.drop_invalid else (),
        ISTIO_INBOUND=mangle_inbound(config, family) if transparent else (),
        ISTIO_TPROXY=mangle_tproxy(config, family, config.inbound_port) if marking else (),
    )


def nat(config: Config, family: Family) -> Table:
    """Outbound traffic in both modes, inbound in mode REDIRECT."""
    top = tuple(nat_prerouting_top(config, family))
    output = istio_output(config, family)
    return table_of(
        "nat",
        output.chains,
        top=len(top),
        PREROUTING=(*top, *nat_prerouting(config)),
        OUTPUT=nat_output(config),
        ISTIO_INBOUND=nat_inbound(config),
        ISTIO_IN_REDIRECT=nat_redirect(config.inbound_port, "inbound"),
        ISTIO_OUTPUT=output.rules,
        ISTIO_OUTPUT_DNS=nat_output_dns(config, family),
        ISTIO_REDIRECT=nat_redirect(config.outbound_port, "outbound"),
    )


def table_of(
    name: str, further: Chains = MappingProxyType({}), *, top: int = 0, **chains: Iterable[Rule]
) -> Table:
    """A table of the chains that hold a rule; `top` rules of PREROUTING go above foreign ones."""
    held = ((chain, tuple(rules)) for chain, rules in (*chains.items(), *further.items()))
    return Table(
        name,
        tuple(
            Chain(chain, rules, top if chain == "PREROUTING" else 0)
            for chain, rules in held
            if rules
        ),
    )


def raw_output_dns(config: Config, family: Family) -> Iterator[Rule]:
    """raw ISTIO_OUTPUT_DNS: which zone a query of this pod belongs to."""
    owners: list[Match] = [*map(OwnerUid, config.proxy_uids), *map(OwnerGid, config.proxy_gids)]
    for owner in owners:
        yield Rule((UDP, TO_DNS, owner), SERVER_ZONE, "the agent asks a DNS server")
        yield Rule(
            (UDP, SourcePort("udp", DNS_PORT), owner), AGENT_ZONE, "the agent answers a query"
        )
    for server in _servers(config, family):
        yield Rule((*server, UDP, TO_DNS), AGENT_ZONE, "a query that the agent will get")


def raw_prerouting(config: Config, family: Family) -> Iterator[Rule]:
    """raw PREROUTING."""
    if _servers(config, family):
        yield Rule((), INBOUND, "DNS answers: the chain ISTIO_INBOUND picks their zone")


def raw_inbound(config: Config, family: Family) -> Iterator[Rule]:
    """raw ISTIO_INBOUND: answers to the agent's own queries."""
    for server in _servers(config, family):
        yield Rule(
            (*(Source(match.network) for match in server), UDP, SourcePort("udp", 53)),
            SERVER_ZONE,
            "a DNS server answers the agent",
        )


def _servers(config: Config, family: Family) -> list[tuple[Destination, ...]]:
    """What a captured query's destination matches: one of the servers, or anything."""
    if config.capture_all_dns:
        return [()]
    return [(Destination(server),) for server in config.networks(config.dns_servers, family)]


def mangle_prerouting(config: Config) -> Iterator[Rule]:
    """mangle PREROUTING."""
    transparent = config.mode is Mode.TPROXY
    if transparent:
        for name in config.excluded_interfaces:
            yield Rule((InInterface(name),), RETURN, f"what arrives on {name} is left alone (-c)")
    if config.drop_invalid:
        yield Rule(
            (ConntrackState(("INVALID",)),),
            DROP_INVALID,
            "packets that connection tracking calls INVALID would bypass nat, and so the proxy",
        )
    if transparent and config.inbound_ports:
        yield TO_INBOUND
    if transparent:
        yield Rule(
            (TCP, Mark(config.tproxy_mark)),
            SaveMark(),
            "the connection remembers the mark that the proxy gave it",
        )


def mangle_output(config: Config, family: Family) -> Iterator[Rule]:
    """mangle OUTPUT, mode TPROXY."""
    for name in config.excluded_interfaces:
        yield Rule((OutInterface(name),), RETURN, f"what leaves by {name} is left alone (-c)")
    yield Rule(
        (TO_LOOPBACK, TCP, Mark(config.tproxy_mark)),
        RETURN,
        "the proxy calls the application with the client's address: it is marked already",
    )
    for kind, numbers, owner in (
        ("uid", config.proxy_uids, OwnerUid),
        ("gid", config.proxy_gids, OwnerGid),
    ):
        for number in numbers:
            yield Rule(
                (
                    Destination(config.loopback(family).network, negated=True),
                    TO_LOOPBACK,
                    TCP,
                    owner(number),
                ),
                SetMark(TPROXY_OUTBOUND_MARK),
                f"the proxy ({kind} {number}) calls its own pod by the pod's address: inbound",
            )
    yield Rule(
        (TCP, ConnectionMark(config.tproxy_mark)),
        RestoreMark(),
        "the application answers the proxy: marked, so that the policy route brings it back",
    )


def mangle_inbound(config: Config, family: Family) -> Iterator[Rule]:
    """mangle ISTIO_INBOUND, mode TPROXY: which inbound packets the proxy gets."""
    yield Rule((TCP, Mark(config.tproxy_mark)), RETURN, "from the proxy to the application")
    yield Rule(
        (Source(family.passthrough), FROM_LOOPBACK, TCP),
        RETURN,
        "the proxy hands an inbound connection to the application",
    )
    yield Rule(
        (FROM_LOOPBACK, TCP, Mark(TPROXY_OUTBOUND_MARK, negated=True)),
        RETURN,
        "stays inside the pod, and is not the proxy calling it",
    )
    if config.inbound_ports is EVERYTHING:
        yield from inbound_exclusions(config)
        yield from _transparently((), "every other inbound TCP port")
    else:
        for port in config.inbound_ports:
            yield from _transparently((DestinationPort("tcp", port),), f"inbound port {port}")


def _transparently(port: tuple[Match, ...], what: str) -> Iterator[Rule]:
    yield Rule(
        (TCP, *port, ConntrackState(("RELATED", "ESTABLISHED"))),
        DIVERT,
        f"{what}: more of a connection that the proxy has",
    )
    yield Rule((TCP, *port), TPROXY, f"{what} is captured (-b)")


def mangle_divert(config: Config) -> Iterator[Rule]:
    """mangle ISTIO_DIVERT."""
    yield Rule(
        (),
        SetMark(config.tproxy_mark),
        f"marked, so that the policy route of table {config.tproxy_route_table} keeps it here",
    )
    yield Rule((), ACCEPT, "its socket is known, nothing else may touch it")


def mangle_tproxy(config: Config, family: Family, port: int) -> Iterator[Rule]:
    """mangle ISTIO_TPROXY; `port` is where the proxy listens transparently."""
    yield Rule(
        (Destination(config.loopback(family).network, negated=True), TCP),
        Tproxy(port, config.tproxy_mark, family.any_address),
        f"captured: to the transparent listener of the proxy on port {port}",
    )


def mangle_drop() -> Iterator[Rule]:
    """mangle ISTIO_DROP."""
    yield Rule((), DROP, "connection tracking cannot place this packet")


def nat_prerouting_top(config: Config, family: Family) -> Iterator[Rule]:
    """nat PREROUTING, above all foreign rules: -k interfaces, the latest placed uppermost."""
    interfaces = config.virtual_interfaces[::-1]
    if config.outbound_networks is EVERYTHING:
        for name in interfaces:
            yield Rule(
                (InInterface(name),),
                REDIRECT,
                f"traffic from {name} counts as outbound (-k), and all of that is captured (-i)",
            )
    else:
        for network in config.networks(config.outbound_networks, family)[::-1]:
            for name in interfaces:
                yield Rule(
                    (Destination(network), InInterface(name)),
                    REDIRECT,
                    f"traffic from {name} counts as outbound (-k), and to {network} it is "
                    "captured (-i)",
                )
    for name in interfaces:
        yield Rule(
            (InInterface(name),),
            RETURN,
            f"traffic from {name} counts as outbound (-k), so it is not captured as inbound",
        )


def nat_prerouting(config: Config) -> Iterator[Rule]:
    """nat PREROUTING, below foreign rules."""
    for name in config.excluded_interfaces:
        yield Rule((InInterface(name),), RETURN, f"what arrives on {name} is left alone (-c)")
    if config.inbound_ports and config.mode is Mode.REDIRECT:
        yield TO_INBOUND


def nat_inbound(config: Config) -> Iterator[Rule]:
    """nat ISTIO_INBOUND: which inbound connections the proxy gets."""
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


def nat_output(config: Config) -> Iterator[Rule]:
    """nat OUTPUT."""
    for name in config.excluded_interfaces:
        yield Rule((OutInterface(name),), RETURN, f"what leaves by {name} is left alone (-c)")
    yield Rule((), OUTPUT, "outbound traffic: the chain ISTIO_OUTPUT decides")


def istio_output(config: Config, family: Family) -> Tree:
    """nat ISTIO_OUTPUT: which outbound connections the proxy gets."""
    return by_destination(
        config, family, first=exemptions(config, family), ports=outbound_ports(config)
    )


def exemptions(config: Config, family: Family) -> Iterator[Rule]:
    """What is decided whatever the destination outside."""
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
        "the proxy hands an inbound connection to the application",
    )
    loopback = config.loopback(family)
    for uid in config.proxy_uids:
        yield from _from_the_proxy(config, loopback, f"uid {uid}", OwnerUid, uid)
    for gid in config.proxy_gids:
        yield from _from_the_proxy(config, loopback, f"gid {gid}", OwnerGid, gid)
    yield from _owner_groups(config)
    if _servers(config, family) and config.captures_dns:
        yield Rule((), OUTPUT_DNS, "DNS queries: the chain ISTIO_OUTPUT_DNS decides")
    yield Rule((loopback,), RETURN, "stays inside the pod")


def outbound_ports(config: Config) -> Iterator[Rule]:
    """The -q ports."""
    for port in config.outbound_ports:
        yield Rule(
            (TCP, DestinationPort("tcp", port)),
            REDIRECT,
            f"outbound port {port} is captured whatever the address (-q)",
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

    Where the excluded CIDRs are a tree, what comes behind them is a chain of its own, since each
    chain of the tree goes on there.
    """
    networks = config.outbound_networks
    captured = listed(
        config.cidr_tree,
        () if networks is EVERYTHING else config.networks(networks, family),
        "ISTIO_CAPTURED",
        lambda network: Rule(
            (Destination(network),), REDIRECT, f"outbound to {network} is captured (-i)"
        ),
    )
    all_else = [Rule((), REDIRECT, "everything else outbound is captured (-i)")]
    rest = (*ports, *captured.rules, *(all_else if networks is EVERYTHING else ()), *last)
    go_on = [Rule((), NOT_EXCLUDED, "the destination is not excluded")] if rest else []
    excluded = listed(
        config.cidr_tree,
        config.networks(config.outbound_excluded_networks, family),
        "ISTIO_EXCLUDED",
        lambda network: Rule(
            (Destination(network),), RETURN, f"outbound to {network} is excluded (-x)"
        ),
        go_on,
    )
    if not excluded.chains:
        return Tree((*first, *excluded.rules, *rest), captured.chains)
    return Tree(
        (*first, *excluded.rules, *go_on),
        {"ISTIO_NOT_EXCLUDED": rest, **excluded.chains, **captured.chains},
    )


def _from_the_proxy(
    config: Config,
    loopback: Destination,
    who: str,
    owner: Callable[[int, bool], OwnerUid | OwnerGid],
    number: int,
) -> Iterator[Rule]:
    """The three rules of one uid or gid of the proxy."""
    by_proxy, not_by_proxy = owner(number, False), owner(number, True)
    own_port: Match = DestinationPort("tcp", config.tunnel_port, negated=True)
    if config.captures_dns and isinstance(by_proxy, OwnerUid):
        own_port = DestinationPorts((53, config.tunnel_port), negated=True)
    yield Rule(
        (Destination(loopback.network, negated=True), TO_LOOPBACK, TCP, own_port, by_proxy),
        IN_REDIRECT,
        f"the proxy ({who}) calls its own pod by a pod or service address: that is inbound",
    )
    if not config.captures_loopback:
        # A DNS server may listen on the loopback interface, and queries to it are captured.
        not_dns = (TCP, DestinationPort("tcp", 53, negated=True)) if config.captures_dns else ()
        yield Rule(
            (TO_LOOPBACK, *not_dns, not_by_proxy),
            RETURN,
            f"the application (not {who}) calls itself over the loopback interface",
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


def nat_output_dns(config: Config, family: Family) -> Iterator[Rule]:
    """nat ISTIO_OUTPUT_DNS: queries to the agent."""
    if not config.captures_dns:
        return
    for protocol in (TCP, UDP):
        for server in _servers(config, family):
            yield Rule(
                (*server, protocol, DestinationPort(protocol.name, 53)),
                Redirect(DNS_PORT),
                f"a DNS query: to the agent on port {DNS_PORT}",
            )


def inbound_exclusions(config: Config) -> Iterator[Rule]:
    """ISTIO_INBOUND, in nat or in mangle: the -d ports."""
    for port in config.inbound_excluded_ports:
        yield Rule(
            (TCP, DestinationPort("tcp", port)), RETURN, f"inbound port {port} is excluded (-d)"
        )


def nat_redirect(port: int, direction: str) -> Iterator[Rule]:
    """nat ISTIO_REDIRECT and ISTIO_IN_REDIRECT."""
    yield Rule(
        (TCP,),
        Redirect(port),
        f"captured: to port {port}, where the proxy takes {direction} TCP",
    )


def shortened(why: str, limit: int = 255) -> str:
    """`why`, cut to what the kernel's comment match holds: 256 bytes with the final zero."""
    return why if len(why) <= limit else why[: limit - 3] + "..."
