"""What the flags promise for a connection, derived from the meaning of the flags.

It shares no code with the modules that build the rules, so it can judge them: `prove` does so for
all packets, the demo for real connections. If the prescribed rules are known to break a promise,
`weaknesses` gives the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..config.config import (
    DNS_PORT,
    EVERYTHING,
    OLD_RULES,
    Config,
    Everything,
    Mode,
    Networks,
    Ports,
)
from ..frozen import Frozen
from ..rules.model import Family
from ..rules.networks import Network
from .number_sets import Numbers, from_networks, union
from .packet_sets import (
    DESTINATION,
    DESTINATION_PORT,
    GID,
    INTERFACE,
    MARK,
    PROTOCOL,
    SOURCE,
    UID,
    Condition,
    Journey,
    interfaces,
    meets,
    protocol,
    where,
)
from .packet_walk import Decision, Direction, Outcome, Packet

SSH_PORT = 22


class Promise(Frozen):
    """A statement that holds for all packets, and its exact meaning."""

    name: str
    sentence: str
    meaning: str


PROXY = Promise(
    "proxy",
    "traffic from the proxy is not redirected back to it",
    "-u and -g name the proxy. Only its TCP connections to its own pod may be captured, as "
    "inbound, unless they go to a loopback address.",
)
CAPTURED = Promise(
    "captured",
    "every connection that the flags select is captured, by the right port, in both families",
    "Outbound connections by -i, -q and -k, inbound ones by -b, DNS by --redirect-dns; IPv6 if it "
    "is captured at all.",
)
EXCLUDED = Promise(
    "excluded",
    "traffic that the flags exclude or do not select is not captured",
    "-x, -o, -d, -c, the tunnel port and the owner groups exclude traffic. It is not dropped "
    "either.",
)
INSIDE = Promise(
    "inside",
    "traffic inside the pod stays inside",
    "Connections of the application to a loopback address are not captured, nor are those to any "
    "other address of its own pod, unless -i names a loopback address.",
)
SKIPPED = Promise(
    "skipped",
    "no foreign rule bypasses our rules",
    "With --live or --saved: a packet is treated as it would be without the rules of other "
    "programs, or it is dropped.",
)
PROMISES = (PROXY, CAPTURED, EXCLUDED, INSIDE, SKIPPED)

NOT_PROVEN = (
    "Packets other than TCP and UDP. No rule captures them.",
    "Packets that another program has marked, unless the proxy sends them.",
    "Packets after the first one of a connection. conntrack treats them like the first.",
    "Inbound IPv6 with --ruleset 1.0, which rejects it.",
    "What acts outside the tables of IPv4 and IPv6: netdev and bridge tables, tc, XDP, eBPF, and "
    "routes other than the one of mode TPROXY.",
    "That the kernel executes its rules correctly, that a process listens on the ports of the "
    "proxy, and what the proxy does with a connection. `validate` sends real packets.",
)
"""What is not proven, one sentence each."""


class Clause(Frozen):
    """The promise for packets that meet some conditions: the ports of the proxy that may capture
    them; None means that none captures them."""

    promise: Promise | None
    """None if the flags make no promise."""
    ends: frozenset[int | None]
    conditions: tuple[Condition, ...] = ()

    def is_kept(self, decision: Decision) -> bool:
        """Whether a result is one that the clause allows."""
        outcome, _, port = decision
        return self.promise is None or (outcome is not Outcome.DROPPED and port in self.ends)


_DIRECT: frozenset[int | None] = frozenset({None})
_TCP = where(PROTOCOL, protocol("tcp"))
_NOT_TCP = where(PROTOCOL, protocol("tcp"), negated=True)


def _excluded(*conditions: Condition) -> Clause:
    return Clause(EXCLUDED, _DIRECT, conditions)


def _inside(*conditions: Condition) -> Clause:
    return Clause(INSIDE, _DIRECT, conditions)


def _captured(port: int, *conditions: Condition) -> Clause:
    return Clause(CAPTURED, frozenset({port}), conditions)


def promised(config: Config, journey: Journey, packet: Packet) -> Clause:
    """The clause for the first packet of a connection."""
    return next(each for each in clauses(config, journey) if meets(packet, each.conditions))


def clauses(config: Config, journey: Journey) -> Iterator[Clause]:
    """The promises for the first packets of connections on a journey. The first clause whose
    conditions a packet meets decides; every packet meets those of the last one."""
    out = journey.direction is Direction.OUT
    old = config.ruleset == OLD_RULES
    if config.mode is Mode.NONE:
        yield _excluded()
        return
    if journey.family is Family.V6 and (old or not config.ipv6):
        yield Clause(None, _DIRECT) if old and not out else _excluded()
        return
    if out:
        yield from _of_the_proxy(config, journey, may_be_inbound=journey.local and not old)
    yield Clause(None, _DIRECT, where(MARK, Numbers.of(0), negated=True))
    yield from _outbound(config, journey) if out else _inbound(config, journey)


def weaknesses(config: Config, journey: Journey) -> Iterator[tuple[str, tuple[Condition, ...]]]:
    """Why the prescribed rules break promises, if they are known to, and for which packets."""
    out = journey.direction is Direction.OUT
    old = config.ruleset == OLD_RULES
    if old and out and config.mode is Mode.TPROXY and journey.family is Family.V4:
        yield (
            "the 1.0 rules redirect packets that the proxy sends with the TPROXY mark back to it",
            where(MARK, Numbers.of(config.tproxy_mark)),
        )
    if old and out and journey.local:
        if journey.family is Family.V6:
            why = "the 1.0 rules reject every new IPv6 connection, even from the pod to itself"
        else:
            why = (
                "the 1.0 rules capture all traffic from the pod to itself, except to 127.0.0.1, "
                "whatever its sender and the exclusions"
            )
        yield why, ()
    if out and journey.local and config.captures_dns:
        yield (
            "with DNS capture, TCP to port 53 of the pod itself counts as outbound",
            _to_any((53,)),
        )
    if not out:
        why = "for traffic from a -k interface only -i decides; -x, -o, -q and -c are ignored"
        if config.mode is Mode.TPROXY:
            why = "in mode TPROXY, traffic from a -k interface is treated as inbound first"
        yield why, _on(config.virtual_interfaces)


def known_weakness(config: Config, journey: Journey, packet: Packet) -> str | None:
    """Why the prescribed rules break a promise for this packet, if they are known to."""
    known = weaknesses(config, journey)
    return next((why for why, conditions in known if meets(packet, conditions)), None)


def _of_the_proxy(config: Config, journey: Journey, *, may_be_inbound: bool) -> Iterator[Clause]:
    uids = where(UID, Numbers.of(*config.proxy_uids))
    gids = where(GID, Numbers.of(*config.proxy_gids))
    for owner in (uids, gids):
        if may_be_inbound:
            # The proxy may connect to its own pod like any client: through its inbound port.
            elsewhere = _to(_loopback(config, journey), negated=True)
            ends = frozenset({None, config.inbound_port})
            yield Clause(PROXY, ends, (*owner, *_TCP, *elsewhere))
        yield Clause(PROXY, _DIRECT, owner)


def _outbound(config: Config, journey: Journey) -> Iterator[Clause]:
    """The clauses for packets from the application."""
    yield _excluded(*_on(config.excluded_interfaces))
    if config.owner_groups is not EVERYTHING:
        yield _excluded(*where(GID, Numbers.of(*config.owner_groups), negated=True))
    yield _excluded(*where(GID, Numbers.of(*config.owner_groups_excluded)))
    yield _excluded(*_to_any(config.outbound_excluded_ports))
    if journey.local:
        yield _inside(*where(SOURCE, from_networks([journey.family.passthrough])))
    if config.captures_dns:
        servers = config.networks(config.dns_servers, journey.family)
        to_server = () if config.capture_all_dns else _to(servers)
        yield _captured(DNS_PORT, *_to_any((53,)), *to_server)
    yield _excluded(*_NOT_TCP)
    yield _inside(*_to(_loopback(config, journey)))
    if journey.local and not config.captures_loopback:
        yield _inside()
    else:
        yield from _by_address(config, journey)


def _by_address(
    config: Config, journey: Journey, which: Sequence[Condition] = ()
) -> Iterator[Clause]:
    excluded = config.networks(config.outbound_excluded_networks, journey.family)
    yield _excluded(*which, *_to(excluded))
    yield _captured(config.outbound_port, *which, *_to_any(config.outbound_ports))
    listed: Networks | Everything = config.outbound_networks
    if listed is EVERYTHING:
        yield _captured(config.outbound_port, *which)
    else:
        to_listed = _to(config.networks(listed, journey.family))
        yield _captured(config.outbound_port, *which, *to_listed)
        yield _excluded(*which)


def _inbound(config: Config, journey: Journey) -> Iterator[Clause]:
    """The clauses for packets from outside."""
    yield _excluded(*_NOT_TCP)
    yield _excluded(*_on(config.excluded_interfaces))
    # They lead to virtual machines, whose traffic counts as outbound traffic of the pod.
    virtual = _on(config.virtual_interfaces)
    yield _excluded(*virtual, *_to_any(config.outbound_excluded_ports))
    yield from _by_address(config, journey, virtual)
    old = config.ruleset == OLD_RULES
    port = config.outbound_port if old and config.mode is Mode.TPROXY else config.inbound_port
    never = (SSH_PORT,) if old else ()
    if not old and config.mode is Mode.REDIRECT:
        never = (config.tunnel_port,)
    if config.inbound_ports is EVERYTHING:
        yield _excluded(*_to_any((*never, *config.inbound_excluded_ports)))
        yield _captured(port)
    else:
        yield _excluded(*_to_any(() if old else never))
        yield _captured(port, *_to_any(config.inbound_ports))
        yield _excluded()


def _loopback(config: Config, journey: Journey) -> Sequence[Network]:
    return [config.loopback(journey.family).network]


def _to(networks: Sequence[Network], negated: bool = False) -> tuple[Condition, ...]:
    return where(DESTINATION, from_networks(networks), negated)


def _to_any(ports: Ports) -> tuple[Condition, ...]:
    return where(DESTINATION_PORT, Numbers.of(*ports))


def _on(names: Sequence[str]) -> tuple[Condition, ...]:
    return where(INTERFACE, union(map(interfaces, names)))
