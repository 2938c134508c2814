"""Simulates the way of a packet through rules, wanted ones or those of the kernel.

It models what the kernel does around the rules: the order of hooks, one pass through nat for each
connection, the return of locally redirected packets over the loopback interface, and rerouting by
mark. It is independent of the machine: a PodNetwork holds everything that it needs to know.
Sources: Documentation/networking/nf_conntrack-sysctl.rst and net/netfilter/nf_nat_core.c for nat,
net/netfilter/xt_TPROXY.c, net/netfilter/xt_socket.c, net/ipv4/netfilter.c (ip_route_me_harder).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, assert_never

from ..frozen import replace
from ..rules.iptables_save import rule_text
from ..rules.matches import (
    Comment,
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
    UnknownMatch,
)
from ..rules.model import BUILT_IN, Chain, Family, PolicyRoute, Rule, Table
from ..rules.networks import Address, read_address
from ..rules.targets import (
    NON_TERMINATING,
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Tproxy,
    UnknownTarget,
    Verdict,
    is_untracking,
    sets_marks,
)
from ..rules.wording import printable

Place: TypeAlias = tuple[str, str, str, int]
"""Where a packet reaches a rule: hook, table, chain and number, from 1."""


class Direction(Enum):
    """Whether a process of the pod sends the packet, or it arrives from outside."""

    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of its connection, unless `state` says otherwise.

    `interface` is the one that it leaves on or arrives on; `uid` and `gid` own the sending socket.
    """

    direction: Direction
    protocol: str
    source: Address
    source_port: int
    destination: Address
    destination_port: int
    interface: str
    uid: int = 1000
    gid: int = 1000
    mark: int = 0
    state: str = "NEW"
    connection_mark: int = 0
    """The mark of its connection, which conntrack keeps."""

    @property
    def family(self) -> Family:
        """The packet's address family."""
        return Family(self.destination.version)


@dataclass(frozen=True)
class PodNetwork:
    """What decides in one family: the rules, the pod's own addresses, the policy route."""

    tables: Mapping[str, Table]
    """By the name that is shown. The kernel may have several of a kind, in x_tables and nf_tables;
    they are walked in this order. The kernel's order, the newest first, cannot be read."""
    pod_addresses: frozenset[Address]
    policy_route: PolicyRoute | None = None

    def rules(self) -> Iterator[tuple[tuple[str, str, int], Rule]]:
        """Every rule, after its position: table, chain and number, from 1."""
        for title, table in self.tables.items():
            for chain in table.chains:
                for number, rule in enumerate(chain.rules, start=1):
                    yield (title, chain.name, number), rule

    def without(self, table: str, chain: str, number: int) -> "PodNetwork":
        """The same without one rule, given by its number in its chain, from 1."""
        chains = tuple(
            Chain(each.name, each.rules[: number - 1] + each.rules[number:], each.top, each.policy)
            if each.name == chain
            else each
            for each in self.tables[table].chains
        )
        less = Table(self.tables[table].name, chains)
        return replace(self, tables={**self.tables, table: less})

    def is_local(self, address: Address) -> bool:
        """Whether the address is one of the pod itself."""
        return (
            address.is_loopback
            or address in self.pod_addresses
            or address == Family.V6.passthrough.network_address
        )


class Outcome(Enum):
    """What happens to a packet."""

    CAPTURED = "captured"
    DIRECT = "direct"
    DROPPED = "dropped"


Decision: TypeAlias = tuple[Outcome, str | None, int | None]
"""What happens to a packet, and the target and port that capture it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A rule that was reached, and the packet as it was then. `matched` is None if the rule depends
    on something that is not known here."""

    packet: Packet
    hook: str
    table: str
    chain: str
    number: int
    rule: Rule
    matched: bool | None
    why: str

    @property
    def place(self) -> Place:
        """Where the rule was reached."""
        return self.hook, self.table, self.chain, self.number


@dataclass(frozen=True)
class Walk:
    """The result for a packet: the target and port that capture it, and the rules on its way."""

    outcome: Outcome
    by: str | None
    port: int | None
    path: tuple[Visit, ...]
    decided_by: Visit | None
    """The rule that decided the outcome; None if no rule did."""

    @property
    def verdict(self) -> Decision:
        """The result without the way to it."""
        return self.outcome, self.by, self.port


def walk(pod_network: PodNetwork, packet: Packet, assumed: frozenset[Place] = frozenset()) -> Walk:
    """Walk one packet. A rule whose result is not known matches only if `assumed` has its place."""
    first = None
    if packet.state == "ESTABLISHED":
        # The first packet of a connection decides for conntrack and the sockets.
        first = walk(pod_network, replace(packet, state="NEW"), assumed)
    return _Walker(pod_network, packet, assumed, first).run()


def alternatives(pod_network: PodNetwork, packet: Packet) -> list[tuple[Visit, Walk]]:
    """For each rule on the way whose result is not known: the walk if it matches."""
    return [
        (visit, walk(pod_network, packet, frozenset([visit.place])))
        for visit in walk(pod_network, packet).path
        if visit.matched is None
    ]


class _Stop(Enum):
    """How the traversal of a chain ended."""

    ACCEPTED = "accepted"
    RETURNED = "returned"


class _Walker:
    """The state of one walk: the packet so far, and the rules that it reached."""

    def __init__(
        self, pod_network: PodNetwork, packet: Packet, assumed: frozenset[Place], first: Walk | None
    ) -> None:
        self.pod_network = pod_network
        self.packet = packet
        self.assumed = assumed
        self.first = first
        self.hook = "OUTPUT" if packet.direction is Direction.OUT else "PREROUTING"
        self.nat_done = packet.state in ("ESTABLISHED", "INVALID")
        self.captured: tuple[str, int] | None = None
        self.translated = False
        self.unknown: set[type[Match]] = set()
        """The matches on marks that a rule with an unknown target may have changed."""
        self.dropped = False
        self.decided_by: Visit | None = None
        self.path: list[Visit] = []

    def run(self) -> Walk:
        """Pass the hooks in the order in which the kernel calls them."""
        hooks = ["OUTPUT", "PREROUTING", "INPUT"]
        for hook in hooks if self.packet.direction is Direction.OUT else hooks[1:]:
            self.hook = hook
            for name in BUILT_IN:
                self._tables(name)
                if self.dropped:
                    return self._result(Outcome.DROPPED)
            if not self._stays_here():
                break
        return self._end()

    def _end(self) -> Walk:
        if self.first is not None:
            return replace(self.first, path=tuple(self.path))
        return self._result(Outcome.CAPTURED if self.captured else Outcome.DIRECT)

    def _result(self, outcome: Outcome) -> Walk:
        by, port = (self.captured if outcome is Outcome.CAPTURED else None) or (None, None)
        # After a jump that returned, a mark or a zone, the packet continues.
        final = (Verdict, Reject, UnknownTarget)
        matched = (visit for visit in reversed(self.path) if visit.matched)
        last = next((visit for visit in matched if isinstance(visit.rule.target, final)), None)
        return Walk(outcome, by, port, tuple(self.path), self.decided_by or last)

    def _capture(self, by: str, port: int) -> None:
        """Send the packet to the proxy, unless it is captured already."""
        if self.captured is None:
            self.captured = (by, port)
            # The rule that jumps to ISTIO_REDIRECT or a similar chain has the more specific reason.
            matched = [visit for visit in self.path if visit.matched]
            self.decided_by = matched[-2] if len(matched) > 1 else self.path[-1]

    def _stays_here(self) -> bool:
        """Whether the packet stays in the pod after this hook; if the pod sends it, over lo."""
        route = self.pod_network.policy_route
        known = Mark not in self.unknown
        marked = known and route is not None and self.packet.mark == route.mark
        if not (marked or self.captured or self.pod_network.is_local(self.packet.destination)):
            return False
        if self.hook == "OUTPUT":
            self.packet = replace(self.packet, interface="lo")
        return True

    def _tables(self, name: str) -> None:
        titles = [title for title, table in self.pod_network.tables.items() if table.name == name]
        if not titles:
            return
        if name == "nat":
            if self.nat_done or self.hook == "INPUT":
                return
            # Whatever the result, conntrack does not ask nat again for this connection.
            self.nat_done = True
        for title in titles:
            self._table(title)
            if self.dropped or (name == "nat" and (self.captured or self.translated)):
                return

    def _table(self, title: str) -> None:
        chain = self.pod_network.tables[title].chain(self.hook)
        if self._chain(title, self.hook) is not _Stop.ACCEPTED and chain and chain.policy == "DROP":
            self.dropped = True

    def _chain(self, title: str, name: str) -> _Stop:
        chain = self.pod_network.tables[title].chain(name)
        for number, rule in enumerate(chain.rules if chain else (), start=1):
            matched = self._matches(rule)
            visit = Visit(self.packet, self.hook, title, name, number, rule, matched, rule.why)
            self.path.append(visit)
            if matched or (matched is None and visit.place in self.assumed):
                stop = self._target(title, rule)
                if stop is not None:
                    return stop
        return _Stop.RETURNED

    def _target(self, title: str, rule: Rule) -> _Stop | None:
        """Execute the target of a rule; returns None if the next rule is tried."""
        target = rule.target
        match target:
            case Verdict("RETURN"):
                return _Stop.RETURNED
            case Verdict(name):
                self.dropped = name == "DROP"
                return _Stop.ACCEPTED
            case Reject():
                self.dropped = True
                return _Stop.ACCEPTED
            case Jump(name):
                stop = self._chain(title, name)
                return stop if stop is _Stop.ACCEPTED else None
            case Goto(name):
                return self._chain(title, name)
            case Redirect(port):
                self._redirect(port)
                return _Stop.ACCEPTED
            case Tproxy(port, mark, _):
                self.unknown -= {Mark}
                self.packet = replace(self.packet, mark=mark)
                self._capture("TPROXY", port)
                return _Stop.ACCEPTED
            case SetMark(value):
                self.unknown -= {Mark}
                self.packet = replace(self.packet, mark=value)
            case SaveMark():
                self.unknown = {Mark, ConnectionMark} if Mark in self.unknown else set()
                self.packet = replace(self.packet, connection_mark=self.packet.mark)
            case RestoreMark():
                unknown = ConnectionMark in self.unknown
                self.unknown = {Mark, ConnectionMark} if unknown else set()
                self.packet = replace(self.packet, mark=self.packet.connection_mark)
            case ConntrackZone():
                pass
            case UnknownTarget(name):
                table = self.pod_network.tables[title].name
                if table == "raw" and is_untracking(target):
                    self.packet = replace(self.packet, state="UNTRACKED")
                    self.nat_done = True
                if sets_marks(target):
                    self.unknown = {Mark, ConnectionMark}
                if name in NON_TERMINATING:
                    return None
                self.translated = table == "nat"
                return _Stop.ACCEPTED
            case _:
                assert_never(target)
        return None

    def _redirect(self, port: int) -> None:
        self._capture("REDIRECT", port)
        if self.hook == "OUTPUT":
            loopback = read_address("127.0.0.1"), read_address("::1")
            own = loopback[self.packet.family is Family.V6]
        else:
            # The address of the interface it arrived on; any address of the pod stands for it.
            here = [
                a for a in self.pod_network.pod_addresses if a.version == self.packet.family.value
            ]
            own = here[0] if here else self.packet.destination
        self.packet = replace(self.packet, destination=own, destination_port=port)

    def _matches(self, rule: Rule) -> bool | None:
        """Whether a rule matches; None if a part of it is not known, and the rest matches."""
        known: bool | None = True
        for match in rule.matches:
            unknown = type(match) in self.unknown
            result = None if unknown else asks_for(match, self.packet, self.hook)
            if result is False:
                return False
            known = known if result else None
        return known


def asks_for(match: Match, packet: Packet, hook: str) -> bool | None:
    """Whether a match holds for a packet at this hook; None if that is not known here."""
    sends = hook == "OUTPUT"
    match match:
        case Source(network, negated):
            return (packet.source in network) != negated
        case Destination(network, negated):
            return (packet.destination in network) != negated
        case InInterface(name, negated):
            return (not sends and is_named(packet.interface, name)) != negated
        case OutInterface(name, negated):
            return (sends and is_named(packet.interface, name)) != negated
        case Protocol(name, negated):
            return (packet.protocol == name) != negated
        case DestinationPort(name, port, negated):
            return packet.protocol == name and (packet.destination_port == port) != negated
        case SourcePort(name, port, negated):
            return packet.protocol == name and (packet.source_port == port) != negated
        case DestinationPorts(ports, negated):
            return (packet.destination_port in ports) != negated
        case OwnerUid(uid, negated):
            return sends and (packet.uid == uid) != negated
        case OwnerGid(gid, negated):
            return sends and (packet.gid == gid) != negated
        case Mark(value, negated):
            return (packet.mark == value) != negated
        case ConnectionMark(value, negated):
            return (packet.connection_mark == value) != negated
        case Socket():
            # A listener on the unspecified address does not count, an established connection does.
            return packet.state == "ESTABLISHED"
        case State(states) | ConntrackState(states):
            return packet.state in states
        case DestinationSet():
            return packet.destination in match
        case Comment():
            return True
        case UnknownMatch():
            return None
        case _:
            assert_never(match)


def is_named(interface: str, name: str) -> bool:
    """Whether the interface name in a rule, perhaps a prefix with +, matches this interface."""
    return interface.startswith(name[:-1]) if name.endswith("+") else interface == name


def sentence(packet: Packet, result: Walk) -> str:
    """The result in one sentence."""
    sent = packet_text(packet)
    decided = result.decided_by
    because = ""
    if decided:
        where = f"rule {decided.number} of {decided.chain} ({decided.table}) decides"
        because = f": {decided.why or printable(f'{where}:{rule_text(decided.rule)}')}"
    if result.outcome is Outcome.CAPTURED:
        target = f"the proxy's port {result.port} by {result.by}"
        return f"Captured: {sent} goes to {target}{because}."
    if result.outcome is Outcome.DROPPED:
        return f"Dropped: {sent} does not arrive{because}."
    return f"Direct: {sent} is not captured{because or ': no rule captures it'}."


def either_text(packet: Packet, visit: Visit, other: Walk) -> str:
    """What follows if a rule matches of which that is not known: `other` is the walk if it does."""
    unknown = f"If rule {visit.number} of {visit.chain} ({visit.table}) matches, which is not known"
    return f"{unknown} here: {sentence(packet, other)}"


def packet_text(packet: Packet) -> str:
    """Where a packet goes, and who sends it: `TCP to 198.51.100.7:80 from uid 1000, gid 1000`."""
    end = endpoint_text(packet.destination, packet.destination_port)
    who = f" from uid {packet.uid}, gid {packet.gid}" if packet.direction is Direction.OUT else ""
    return f"{packet.protocol.upper()} to {end}{who}"


def endpoint_text(address: Address, port: int) -> str:
    """An address and a port, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
