"""Generates one packet of every class of packets that rules and promises can distinguish.

Rules and promises only test whether single fields of a packet are in given sets. All packets with
the same results in every test on their way are treated alike, so one of them stands for its class.
The search tries one packet, removes its class, and continues with the rest until none is left. It
covers TCP and UDP, since nothing else is ever captured.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, count, product
from typing import Any, TypeVar

from netaddr import IPNetwork, IPSet

from ..config.config import EVERYTHING, Config
from ..frozen import replace
from ..rules.matches import (
    ConnectionMark,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Socket,
    Source,
    SourcePort,
    State,
)
from ..rules.model import Family
from ..rules.networks import Address, Network, read_address, read_network
from ..rules.targets import RestoreMark, SaveMark
from .packet_walk import Direction, Packet, PodNetwork, Walk, alternatives, asks_for, is_named, walk
from .promises import SSH_PORT, Journey

# The addresses in a counterexample, if its class allows them.
POD = {Family.V4: read_address("192.0.2.2"), Family.V6: read_address("2001:db8::2")}
CLIENT = {Family.V4: read_address("192.0.2.1"), Family.V6: read_address("2001:db8::1")}
SERVER = {Family.V4: read_address("198.51.100.7"), Family.V6: read_address("2001:db8:ffff::7")}
LOOPBACK = {Family.V4: read_network("127.0.0.0/8"), Family.V6: read_network("::1/128")}

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Sample:
    """A packet that represents its class."""

    journey: Journey
    packet: Packet

    def walks(self, pod_network: PodNetwork) -> list[Walk]:
        """The walk in such a pod, and one more for each rule on it that may or may not match."""
        own = frozenset([self.packet.destination] if self.journey.local else [])
        pod_network = PodNetwork(pod_network.tables, own, pod_network.policy_route)
        found = walk(pod_network, self.packet)
        if all(visit.matched is not None for visit in found.path):
            return [found]
        return [found, *(other for _, other in alternatives(pod_network, self.packet))]


def searches(
    configs: Sequence[Config], pod_networks: Sequence[PodNetwork], family: Family
) -> Iterator["Search"]:
    """One search for each journey in a family, for the classes that the flags and rules make."""
    asked = frozenset(
        chain(
            *(_asked_by_flags(config, family) for config in configs),
            *(rule.matches for pod_network in pod_networks for _, rule in pod_network.rules()),
        )
    )
    routes = (pod_network.policy_route for pod_network in pod_networks)
    always = [Mark(route.mark) for route in routes if route]
    for direction, local in product(Direction, (False, True)):
        journey = Journey(family, direction, local)
        yield Search(journey, _values(journey, {*asked, *always}), always)


class Search:
    """Yields samples on one journey, one for each class of packets.

    Each field of a packet has one value of every kind that matches may distinguish. The matches
    tested on a sample decide which other packets are in its class; these are removed before the
    next sample.
    """

    def __init__(
        self, journey: Journey, values: Mapping[str, Sequence[Any]], always: Sequence[Match]
    ) -> None:
        self._journey = journey
        self._values = values
        self._always = always
        self._packet = self._of(dict.fromkeys(values, 1))
        self._alike: dict[str, int] = {}
        self._masks: dict[tuple[Match, str, str, str], int] = {}

    def __iter__(self) -> Iterator[Sample]:
        # A set of values of a field is a bit mask; one mask for each field makes a cube.
        everything = {name: (1 << len(some)) - 1 for name, some in self._values.items()}
        new = 1 << self._values["state"].index("NEW")
        # A connection has no mark before its first packet has passed.
        unmarked = 1 << self._values["connection_mark"].index(0)
        first = {**everything, "state": new, "connection_mark": unmarked}
        later = {**everything, "state": everything["state"] & ~new}
        todo = [later, first]
        while todo:
            cube = todo.pop()
            self._packet = self._of(cube)
            self._alike = dict(cube)
            for match in (*self._always, ConntrackState((self._packet.state,))):
                self.ask(match)
            yield Sample(self._journey, self._packet)
            for name, alike in self._alike.items():
                others = cube[name] & ~alike
                if others:
                    todo.append({**cube, name: others})
                cube[name] = alike

    def ask(self, match: Match) -> bool | None:
        """Whether a match holds for the sample at its first hook."""
        return self._ask(match, self._packet, self._journey.first_hook)

    def follow(self, found: Walk) -> None:
        """Record the matches that the rules on the sample's way have tested."""
        copied = False
        for visit in found.path:
            for match in visit.rule.matches:
                if self._ask(match, visit.packet, visit.hook, copied) is False:
                    break
            copied |= bool(visit.matched) and isinstance(visit.rule.target, SaveMark | RestoreMark)

    def _ask(self, match: Match, packet: Packet, hook: str, copied: bool = False) -> bool | None:
        """`copied`: the mark may have been copied between the packet and its connection."""
        answer = asks_for(match, packet, hook)
        if copied and isinstance(match, Mark | ConnectionMark):
            for name, like in (("mark", Mark), ("connection_mark", ConnectionMark)):
                same = like(match.value)
                self._narrow(name, same, self._packet, hook, asks_for(same, self._packet, hook))
            return answer
        field = _FIELDS.get(type(match))
        # A field that was rewritten on the way says nothing about its first value.
        if field and getattr(packet, field) == getattr(self._packet, field):
            self._narrow(field, match, packet, hook, answer)
        return answer

    def _narrow(
        self, name: str, match: Match, packet: Packet, hook: str, answer: bool | None
    ) -> None:
        """Keep in the class only the values of a field for which the match has the same result."""
        key = (match, name, packet.protocol, hook)
        if key not in self._masks:
            self._masks[key] = sum(
                bool(asks_for(match, replace(packet, **{name: value}), hook)) << bit
                for bit, value in enumerate(self._values[name])
            )
        mask = self._masks[key]
        self._alike[name] &= mask if answer else ~mask

    def _of(self, cube: Mapping[str, int]) -> Packet:
        """The packet with the first value of each field in the cube."""
        first = {name: (bits & -bits).bit_length() - 1 for name, bits in cube.items()}
        fields = {name: self._values[name][bit] for name, bit in first.items()}
        return Packet(self._journey.direction, **fields)


_FIELDS: Mapping[type[Match], str] = {
    Source: "source",
    Destination: "destination",
    DestinationSet: "destination",
    InInterface: "interface",
    OutInterface: "interface",
    Protocol: "protocol",
    SourcePort: "source_port",
    DestinationPort: "destination_port",
    DestinationPorts: "destination_port",
    Mark: "mark",
    ConnectionMark: "connection_mark",
    OwnerUid: "uid",
    OwnerGid: "gid",
    State: "state",
    ConntrackState: "state",
    Socket: "state",
}
"""The field of a packet that a match tests; for marks, see Search."""


def _asked_by_flags(config: Config, family: Family) -> Iterator[Match]:
    """All matches that `promised` may test."""
    networks, ports, gids = config.outbound_networks, config.inbound_ports, config.owner_groups
    listed = () if networks is EVERYTHING else networks
    listed += config.outbound_excluded_networks + config.dns_servers
    yield from map(Destination, config.networks(listed, family))
    yield config.loopback(family)
    yield Source(family.passthrough)
    yield from map(OwnerUid, config.proxy_uids)
    yield from map(OwnerGid, (*config.proxy_gids, *config.owner_groups_excluded))
    yield from map(OwnerGid, () if gids is EVERYTHING else gids)
    yield from map(InInterface, (*config.excluded_interfaces, *config.virtual_interfaces))
    for port in (
        *(() if ports is EVERYTHING else ports),
        *config.inbound_excluded_ports,
        *config.outbound_ports,
        *config.outbound_excluded_ports,
        *(config.tunnel_port, SSH_PORT, 53),
    ):
        yield DestinationPort("tcp", port)


def _values(journey: Journey, asked: Set[Match]) -> Mapping[str, Sequence[Any]]:
    """For each field of a packet, one value of every kind that the matches may distinguish."""
    out, family = journey.direction is Direction.OUT, journey.family
    inside = out and journey.local
    here, from_here = (POD if journey.local else SERVER)[family], (POD if out else CLIENT)[family]
    ports = {match.port for match in asked if isinstance(match, DestinationPort)}
    ports |= {port for m in asked if isinstance(m, DestinationPorts) for port in m.ports}
    ports.discard(0)  # no packet can be sent to port 0
    source_ports = {match.port for match in asked if isinstance(match, SourcePort)}
    uids = {match.uid for match in asked if isinstance(match, OwnerUid)}
    gids = {match.gid for match in asked if isinstance(match, OwnerGid)}
    marks = {match.value for match in asked if isinstance(match, Mark | ConnectionMark)}
    to = {match.network for match in asked if isinstance(match, Destination)}
    to |= {net for m in asked if isinstance(m, DestinationSet) for net in m.networks()}
    sources = {match.network for match in asked if isinstance(match, Source)}
    return {
        "protocol": ("tcp", "udp"),
        "source": _addresses(from_here, sources, inside),
        "source_port": _numbers(40000, source_ports),
        "destination": _addresses(here, to, inside),
        "destination_port": _numbers(80, ports),
        "interface": ["lo"] if inside else _interfaces(asked),
        "uid": _numbers(1000, uids) if out else [0],
        "gid": _numbers(1000, gids) if out else [0],
        "mark": _numbers(0, marks),
        "state": ("NEW", "RELATED", "ESTABLISHED", "INVALID"),
        "connection_mark": _numbers(0, marks),
    }


def _numbers(usual: int, values: Set[int]) -> Sequence[int]:
    """The values, after a value that is not among them: `usual` if possible."""
    other = usual if usual not in values else next(n for n in count(1024) if n not in values)
    return [other, *sorted(values)]


def _addresses(usual: Address, networks: Set[Network], inside: bool) -> Sequence[Address]:
    """One address of each class that networks make; if `inside` the pod, loopback addresses too.

    Networks are disjoint or nested, so a class is a network without the networks inside it. Its
    address is `usual` if that is in it, or else its second address, which reads best.
    """
    family = Family(usual.version)
    reserved = [IPNetwork(str(network)) for network in (LOOPBACK[family], read_network("::6/128"))]
    named = {IPNetwork(str(network)) for network in networks if network.version == usual.version}
    known = sorted({IPNetwork(f"{family.any_address}/0"), *named, *reserved})
    known = [network for network in known if network.version == usual.version]
    firsts = [network.first for network in known]
    found: list[Address] = []
    for place, network in enumerate(known, start=1):
        if not inside and any(network in whole for whole in reserved):
            continue
        # In sorted order, a network comes right before the networks inside it.
        of_class = IPSet([network]) - IPSet(known[place : bisect_right(firsts, network.last)])
        if str(usual) in of_class:
            found.insert(0, usual)
        elif of_class:
            first, *_ = of_class.iter_cidrs()
            found.append(read_address(str(first[min(1, first.size - 1)])))
    return found


def _interfaces(asked: Iterable[Match]) -> Sequence[str]:
    """One interface of each class that matches distinguish, without lo."""
    names = sorted({m.name for m in asked if isinstance(m, InInterface | OutInterface)})
    candidates = ["eth0", "eth1", "net0", *(name for name in names if not name.endswith("+"))]
    candidates += [
        f"{name[:-1]}{digit}" for name in names if name.endswith("+") for digit in range(10)
    ]
    return _one_of_each(
        (name, tuple(is_named(name, pattern) for pattern in names))
        for name in candidates
        if name != "lo"
    )


def _one_of_each(values: Iterable[tuple[_Value, Hashable]]) -> Sequence[_Value]:
    """The first value of each class."""
    found: dict[Hashable, _Value] = {}
    for value, of_class in values:
        found.setdefault(of_class, value)
    return list(found.values())
