"""Plans the probes: real packets that show whether the rules work, each with its expected result.

Pure: kernel/probing/probe.py sends the probes. The expected result of a probe is that of the walk
of its packet through the wanted rules (packet_walk.py).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import chain, count, product
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ..config.config import (
    EVERYTHING,
    OLD_RULES,
    TPROXY_OUTBOUND_MARK,
    Config,
    Everything,
    Mode,
    Ports,
)
from ..frozen import replace
from ..rules.model import Family
from ..rules.networks import Address, Network, read_address
from ..rules.targets import Redirect, Tproxy
from ..rulesets.istio_1_0 import SSH_PORT
from .packet_walk import Direction, Outcome, Packet, PodNetwork, Walk, is_named, walk

T = TypeVar("T")
Place: TypeAlias = tuple[str, str, int]
"""The position of a rule: table, chain and number."""

LOOPBACK: Mapping[int, Address] = {4: read_address("127.0.0.1"), 6: read_address("::1")}
CLIENT: Mapping[int, Address] = {4: read_address("127.0.0.77"), 6: read_address("::1")}
"""The source of inbound probes, which are sent on lo."""
# Reserved for documentation, so no host has them: RFC 5737, RFC 3849, RFC 9637.
UNASSIGNED = {
    4: (read_address("198.51.100.1"), read_address("203.0.113.1")),
    6: (read_address("2001:db8:ffff::1"), read_address("3fff:ffff::1")),
}
ANY_PORT = 40000
"""As source port: stands for a port that the kernel chooses."""


class Owner(NamedTuple):
    """The owner of a socket."""

    uid: int
    gid: int


class Surroundings(NamedTuple):
    """Where probes are sent from: the user and group of this process, the pod's addresses, and the
    interface to each of the `destinations` to which probes may be sent."""

    own: Owner
    addresses: tuple[Address, ...]
    interfaces: Mapping[Address, str]


@dataclass(frozen=True)
class Probe:
    """The first packet of a connection, and its expected result.

    Its interface is empty if it may not be sent from here. `beside` is the other party of a DNS
    query: the owner that answers it or, if it is not captured, that queried from its port before.
    """

    name: str
    packet: Packet
    expected: Walk = field(compare=False)
    beside: Owner | None = None

    @property
    def owner(self) -> Owner:
        """The owner of the sending socket."""
        return Owner(self.packet.uid, self.packet.gid)


class Result(Enum):
    """The result of a probe."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_MADE = "not made"


class Judged(NamedTuple):
    """A probe with its result, and in words what was observed, or why it was not made."""

    probe: Probe
    result: Result
    seen: str


def in_words(outcome: Outcome | None, port: int | None) -> str:
    """What happened to a packet, in words."""
    if outcome is Outcome.CAPTURED:
        return f"captured on port {port}" if port else "captured"
    return "not captured" if outcome is Outcome.DIRECT else "does not arrive"


def ports(config: Config, pod_network: PodNetwork) -> dict[int, bool]:
    """The ports at which probes may arrive, and whether the proxy listens there transparently."""
    targets = [rule.target for _, rule in pod_network.rules()]
    plain = {target.port: False for target in targets if isinstance(target, Redirect)}
    tproxy = {target.port: True for target in targets if isinstance(target, Tproxy)}
    return {config.probe_port: False, **plain, **tproxy}


def destinations(config: Config, family: Family) -> tuple[Address, ...]:
    """The addresses outside the pod that probes may go to."""
    captured = _listed(config.outbound_networks)
    lists = (captured, config.outbound_excluded_networks, config.dns_servers)
    networks = chain.from_iterable(_some(config.networks(each, family)) for each in lists)
    hosts = chain.from_iterable(map(_hosts, networks))
    return tuple(dict.fromkeys([*UNASSIGNED[family.value], *hosts]))


def _hosts(network: Network) -> Iterator[Address]:
    """The unassigned addresses in a network, and its first and last host."""
    margin = 1 if network.num_addresses > 2 else 0
    ends = (network[margin], network[-1 - margin])
    yield from (address for address in (*UNASSIGNED[network.version], *ends) if address in network)


def the_proxy(config: Config, own: Owner) -> Owner:
    """The owner of the proxy's sockets: our own if possible, else its first uid and gid."""
    if own.uid in config.proxy_uids or own.gid in config.proxy_gids:
        return own
    return Owner(config.proxy_uids[0], config.proxy_gids[0])


def the_application(config: Config, own: Owner) -> Owner:
    """An owner whose traffic is captured: our own if possible."""
    exempt = {*config.proxy_gids, *config.owner_groups_excluded}
    groups = [gid for gid in _listed(config.owner_groups) if gid not in exempt]
    gid = next(iter(groups), 1000) if own.gid not in groups and groups else own.gid
    return Owner(_other_than(config.proxy_uids, own.uid), _other_than(exempt, gid))


def probes(
    config: Config, family: Family, pod_network: PodNetwork, around: Surroundings
) -> tuple[Probe, ...]:
    """The probes of one family: those for the common questions; and for each rule, if possible, a
    probe that would have another result without the rule."""
    if not pod_network.tables:
        return ()
    maker = _Maker(config, family, pod_network, around)
    if "nat" not in pod_network.tables:  # IPv6 of the rule set 1.0: inbound is rejected
        return (maker.probe(maker.application, maker.loopback),)
    common = tuple(maker.common())
    candidates = dict.fromkeys([*common, *maker.further()])
    needed = set(common)
    tested: set[Place] = set()
    # Probes that need least come first; the others are used only for rules that these do not test.
    for probe in sorted(candidates, key=lambda probe: _demands(probe, around.own)):
        newly_tested = set(_newly_tested(maker.pod_network, probe, tested))
        tested |= newly_tested
        if newly_tested:
            needed.add(probe)
    return tuple(probe for probe in candidates if probe in needed)


def _demands(probe: Probe, own: Owner) -> tuple[bool, bool, bool, int]:
    """What a probe needs: a route, another owner, CAP_NET_RAW, CAP_NET_ADMIN."""
    packet = probe.packet
    other_owner = Owner(packet.uid, packet.gid) != own
    return not packet.interface, other_owner, packet.direction is Direction.IN, packet.mark


def _newly_tested(
    pod_network: PodNetwork, probe: Probe, tested: Collection[Place]
) -> Iterator[Place]:
    """The rules not tested so far without which the probe would have another result."""
    for visit in probe.expected.path:
        place = (visit.table, visit.chain, visit.number)
        if visit.matched and place not in tested:
            without = walk(pod_network.without(*place), probe.packet)
            if (without.outcome, without.port) != (probe.expected.outcome, probe.expected.port):
                yield place


class _Maker:
    """Makes the probes for the flags of one call."""

    def __init__(
        self, config: Config, family: Family, pod_network: PodNetwork, around: Surroundings
    ) -> None:
        self.config, self.family, self.pod_network = config, family, pod_network
        self.interfaces = around.interfaces
        self.marks_inbound = config.mode is Mode.TPROXY and config.ruleset != OLD_RULES
        self.loopback = LOOPBACK[self.family.value]
        self.passthrough: Address = self.family.passthrough.network_address
        own = (a for a in around.addresses if a.version == self.family.value)
        known = (a for a in own if not (a.is_loopback or a.is_link_local or a == self.passthrough))
        self.address = next(known, None)
        self.pod = self.address or self.passthrough
        self.application = app = the_application(config, around.own)
        by_uid = (Owner(uid, app.gid) for uid in _some(config.proxy_uids))
        by_gid = (Owner(app.uid, gid) for gid in _some(config.proxy_gids))
        self.proxies = tuple(dict.fromkeys([the_proxy(config, around.own), *by_uid, *by_gid]))
        far = [self.probe(app, to) for to in destinations(config, self.family)]
        self.far = sorted(far, key=lambda probe: probe.packet.interface in ("", "lo"))
        self.captured = self._first(Outcome.CAPTURED)
        self.direct = self._first(Outcome.DIRECT)

    def _first(self, outcome: Outcome) -> Address | None:
        """The first address outside for which the application's probe has this outcome."""
        fitting = (probe for probe in self.far if probe.expected.outcome is outcome)
        return next((probe.packet.destination for probe in fitting), None)

    def common(self) -> Iterator[Probe]:
        """The common questions, and whether replies come back, which no walk shows."""
        config, app, proxy = self.config, self.application, self.proxies[0]
        yield self.probe(proxy, self.passthrough, "the proxy to its own pod")
        for to, kind in ((self.captured, "a captured"), (self.direct, "an excluded")):
            if to:
                yield self.probe(app, to, f"an application to {kind} address")
        outside = self.captured or self.far[0].packet.destination
        yield self.probe(proxy, outside, "the proxy to an outside address")
        for number, server in enumerate(self.dns_servers()):
            query: dict[str, Any] = {"destination_port": 53, "protocol": "udp"}
            yield self.probe(app, server, "a DNS query", **query)
            # The parties make no difference between servers: all are tested with the first.
            for agent in self.proxies[: 1 if number else None]:
                name = f"a DNS query, answered by uid {agent.uid}, gid {agent.gid}"
                yield self.probe(app, server, name, agent, **query)
                yield self.probe(agent, server, "the agent's own DNS query", app, **query)
        client = UNASSIGNED[self.family.value][1]
        used = ("lo", self.interfaces.get(client, ""))
        excluded = any(is_named(u, name) for u in used for name in config.excluded_interfaces)
        if self.marks_inbound and self.pod_network.policy_route and used[1] and not excluded:
            name = "an application's reply to the client whose address the proxy uses"
            yield self.probe(app, self.pod, name, source=client, mark=config.tproxy_mark)
        if config.mode is Mode.TPROXY:
            for port in _some_ports(config.inbound_ports):
                yield self.probe(
                    app, outside, f"the reply that arrives at port {port}", source_port=port
                )

    def further(self) -> Iterator[Probe]:
        """Further probes that may show whether a rule exists, named after the rule that decides."""
        config, app = self.config, self.application
        yield from self.far
        yield from (self.probe(app, to, destination_port=53) for to in self.dns_servers())
        for to in (to for to in (self.captured, self.direct) if to):
            yield from (self.probe(owner, to) for owner in self._owners())
            excluded = config.outbound_excluded_ports
            for port in (*_some_ports(config.outbound_ports), *_some_ports(excluded)):
                yield self.probe(app, to, destination_port=port)
        ports = (config.probe_port, config.tunnel_port, 53, *_some_ports(config.inbound_ports))
        for owner, port in product((app, *self.proxies), ports):
            to_port = partial(self.probe, owner, destination_port=port)
            yield to_port(self.loopback)
            yield to_port(self.pod)
            yield to_port(self.pod, source=self.passthrough)
            yield to_port(self.pod, mark=config.tproxy_mark)
        if not any(is_named("lo", name) for name in config.virtual_interfaces):
            yield from self._arriving()

    def _owners(self) -> Iterator[Owner]:
        """The owners that rules may distinguish."""
        config, groups = self.config, _listed(self.config.owner_groups)
        yield from (self.application, *self.proxies)
        gids = (*_some(config.owner_groups_excluded), *_some(groups), _other_than(groups, 1000))
        yield from (Owner(self.application.uid, gid) for gid in gids)

    def dns_servers(self) -> Sequence[Address]:
        """The servers to which DNS queries are captured."""
        if not self.config.captures_dns:
            return ()
        if self.config.capture_all_dns:
            return (self.captured or self.far[0].packet.destination,)
        servers = self.config.networks(self.config.dns_servers, self.family)
        return [server.network_address for server in _some(servers)]

    def _arriving(self) -> Iterator[Probe]:
        """Inbound probes. They are sent on lo, where TPROXY captures only packets with the mark."""
        listed = _listed(self.config.inbound_ports)
        excluded = self.config.inbound_excluded_ports
        free = _other_than({*listed, *excluded}, 61001)
        ports = (
            free,
            self.config.tunnel_port,
            SSH_PORT,
            *_some_ports(listed),
            *_some_ports(excluded),
        )
        for port, state in (*((port, "NEW") for port in ports), (free, "INVALID")):
            yield self.probe(
                *(self.application, self.pod),
                direction=Direction.IN,
                source=CLIENT[self.family.value],
                destination_port=port,
                mark=TPROXY_OUTBOUND_MARK if self.marks_inbound else 0,
                state=state,
            )

    def probe(
        self, owner: Owner, to: Address, name: str = "", beside: Owner | None = None, **fields: Any
    ) -> Probe:
        """A probe, to the probe port unless `fields` of the packet say otherwise."""
        local, own = self.pod_network.is_local(to), self.address
        packet = Packet(
            direction=Direction.OUT,
            protocol="tcp",
            source=own if own and (not local or to == own) else self.loopback,
            source_port=ANY_PORT,
            destination=to,
            destination_port=self.config.probe_port,
            interface="lo" if local else self.interfaces.get(to, ""),
            uid=owner.uid,
            gid=owner.gid,
        )
        packet = replace(packet, **fields)
        expected = walk(self.pod_network, packet)
        decided = expected.decided_by
        name = name or (decided.why if decided else "no rule decides")
        return Probe(name, packet, expected, beside)


def _listed(items: tuple[T, ...] | Everything) -> tuple[T, ...]:
    """The items of a list; none for `*`."""
    return () if items is EVERYTHING else items


def _some(items: Sequence[T], most: int = 16) -> Sequence[T]:
    """The first items of a list: only these are probed."""
    return items[:most]


def _some_ports(ports: Ports | Everything) -> Sequence[int]:
    """The first ports of a list, without 0, to which nothing can be sent."""
    return [port for port in _some(_listed(ports)) if port]


def _other_than(taken: Collection[int], first: int) -> int:
    """A number that is not taken: `first` if that is free."""
    return next(number for number in chain([first], count(1000)) if number not in taken)
