"""What the flags promise for a connection, derived from the meaning of the flags.

It shares no code with the modules that build the rules, so it can judge them: `prove` does so for
all packets, the demo for real connections. It inspects a packet only by testing matches, as rules
do. If the prescribed rules are known to break a promise, `known_weakness` gives the reason.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

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
from ..rules.matches import (
    Destination,
    DestinationPort,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
)
from ..rules.model import Family
from .packet_walk import Direction, Outcome, Packet, Walk, asks_for

SSH_PORT = 22

Ask: TypeAlias = Callable[[Match], bool | None]
"""Whether a match holds for the packet at its first hook."""


@dataclass(frozen=True, slots=True)
class Journey:
    """The family and direction of a packet; `local` if its destination is the pod itself."""

    family: Family
    direction: Direction
    local: bool

    @property
    def first_hook(self) -> str:
        """The hook at which the packet reaches the rules first."""
        return "OUTPUT" if self.direction is Direction.OUT else "PREROUTING"


@dataclass(frozen=True, slots=True)
class Promise:
    """The ports of the proxy that may capture a connection; None means that none captures it."""

    sentence: str
    ends: frozenset[int | None]

    def is_kept(self, walk: Walk) -> bool:
        """Whether the result of a walk is one that the promise allows."""
        return walk.outcome is not Outcome.DROPPED and walk.port in self.ends


_NOT_CAPTURED = Promise("traffic that the flags do not select is not captured", frozenset({None}))


def promised(config: Config, journey: Journey, ask: Ask) -> Promise | None:
    """The promise for the first packet of a connection; None if the flags make none.

    They make none for packets that another program has marked, nor for inbound IPv6, which the rule
    set 1.0 rejects.
    """
    out = journey.direction is Direction.OUT
    old = config.ruleset == OLD_RULES
    if config.mode is Mode.NONE:
        return _NOT_CAPTURED
    if journey.family is Family.V6 and (old or not config.ipv6):
        return None if old and not out else _NOT_CAPTURED
    if out and _is_from_the_proxy(config, ask):
        # The proxy may connect to its own pod like any client: through its inbound port.
        inbound = journey.local and not old and ask(Protocol("tcp"))
        inbound = inbound and not ask(config.loopback(journey.family))
        ends = {None, config.inbound_port} if inbound else {None}
        return Promise("traffic from the proxy is not redirected back to it", frozenset(ends))
    if ask(Mark(0, negated=True)):
        return None
    port = _outbound(config, journey, ask) if out else _inbound(config, journey, ask)
    if port is None:
        return _NOT_CAPTURED
    return Promise("every connection that the flags select is captured", frozenset({port}))


def known_weakness(config: Config, journey: Journey, packet: Packet) -> str | None:
    """Why the prescribed rules break a promise for this packet, if they are known to."""
    out = journey.direction is Direction.OUT
    old = config.ruleset == OLD_RULES
    if old and out and packet.mark == config.tproxy_mark and config.mode is Mode.TPROXY:
        return "the 1.0 rules redirect packets that the proxy sends with the TPROXY mark back to it"
    if old and out and journey.local:
        if journey.family is Family.V6:
            return "the 1.0 rules reject every new IPv6 connection, even from the pod to itself"
        return (
            "the 1.0 rules capture all traffic from the pod to itself, except to 127.0.0.1, "
            "whatever its sender and the exclusions"
        )

    if out and journey.local and config.captures_dns and packet.destination_port == 53:
        return "with DNS capture, TCP to port 53 of the pod itself counts as outbound"

    def ask(match: Match) -> bool | None:
        return asks_for(match, packet, journey.first_hook)

    if not out and _on(ask, InInterface, config.virtual_interfaces):
        if config.mode is Mode.TPROXY:
            return "in mode TPROXY, traffic from a -k interface is treated as inbound first"
        return "for traffic from a -k interface only -i decides; -x, -o, -q and -c are ignored"
    return None


def _is_from_the_proxy(config: Config, ask: Ask) -> bool:
    return any(ask(OwnerUid(uid)) for uid in config.proxy_uids) or any(
        ask(OwnerGid(gid)) for gid in config.proxy_gids
    )


def _outbound(config: Config, journey: Journey, ask: Ask) -> int | None:
    """The port of the proxy to which a packet from the application goes."""
    if _on(ask, OutInterface, config.excluded_interfaces) or _is_exempt(config, ask):
        return None
    if _to_any(ask, config.outbound_excluded_ports):
        return None
    if journey.local and ask(Source(journey.family.passthrough)):
        return None
    if config.captures_dns and _to_any(ask, (53,)):
        servers = config.networks(config.dns_servers, journey.family)
        if config.capture_all_dns or _within(ask, servers):
            return DNS_PORT
    if not ask(Protocol("tcp")) or ask(config.loopback(journey.family)):
        return None
    if journey.local and not config.captures_loopback:
        return None
    return _by_address(config, journey, ask)


def _by_address(config: Config, journey: Journey, ask: Ask) -> int | None:
    if _within(ask, config.networks(config.outbound_excluded_networks, journey.family)):
        return None
    captured: Networks | Everything = config.outbound_networks
    if captured is not EVERYTHING:
        captured = config.networks(captured, journey.family)
    if _to_any(ask, config.outbound_ports) or _within(ask, captured):
        return config.outbound_port
    return None


def _inbound(config: Config, journey: Journey, ask: Ask) -> int | None:
    """The port of the proxy to which a packet from outside goes."""
    if not ask(Protocol("tcp")) or _on(ask, InInterface, config.excluded_interfaces):
        return None
    if _on(ask, InInterface, config.virtual_interfaces):
        # It leads to a virtual machine, whose traffic counts as outbound traffic of the pod.
        excluded = _to_any(ask, config.outbound_excluded_ports)
        return None if excluded else _by_address(config, journey, ask)
    old = config.ruleset == OLD_RULES
    never = (SSH_PORT,) if old else ()
    if not old and config.mode is Mode.REDIRECT:
        never = (config.tunnel_port,)
    if config.inbound_ports is EVERYTHING:
        captured = not _to_any(ask, (*never, *config.inbound_excluded_ports))
    else:
        captured = _to_any(ask, config.inbound_ports) and (old or not _to_any(ask, never))
    if not captured:
        return None
    return config.outbound_port if old and config.mode is Mode.TPROXY else config.inbound_port


def _is_exempt(config: Config, ask: Ask) -> bool:
    listed = config.owner_groups
    if listed is not EVERYTHING and not any(ask(OwnerGid(gid)) for gid in listed):
        return True
    return any(ask(OwnerGid(gid)) for gid in config.owner_groups_excluded)


def _to_any(ask: Ask, ports: Ports) -> bool:
    protocol = "tcp" if ask(Protocol("tcp")) else "udp"
    return any(ask(DestinationPort(protocol, port)) for port in ports)


def _within(ask: Ask, networks: Networks | Everything) -> bool:
    return networks is EVERYTHING or any(ask(Destination(network)) for network in networks)


def _on(ask: Ask, way: type[InInterface] | type[OutInterface], names: Iterable[str]) -> bool:
    return any(ask(way(name)) for name in names)
