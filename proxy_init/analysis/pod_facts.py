"""What a pod's network namespace holds, as far as it decides what becomes of its traffic. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, product

from ..frozen import replace
from ..rules.iptables_save import rule_text
from ..rules.matches import Destination, DestinationPort, DestinationPorts, OwnerGid, OwnerUid
from ..rules.model import PREFIX, Family, PolicyRoute, Rule
from ..rules.networks import Address, read_address
from ..rules.targets import Goto, Jump
from ..rules.wording import printable
from .kernel_rules import KernelTable
from .listeners import Listener
from .packet_walk import Direction, Outcome, Packet, PodNetwork, Walk, walk

HOOKS = ("PREROUTING", "INPUT", "OUTPUT")
_POD = {Family.V4: read_address("192.0.2.2"), Family.V6: read_address("2001:db8::2")}
FAR = {Family.V4: read_address("198.51.100.7"), Family.V6: read_address("2001:db8:ffff::7")}
_CLIENT = {Family.V4: read_address("192.0.2.1"), Family.V6: read_address("2001:db8::1")}
_MOST_SAMPLES = 16


@dataclass(frozen=True)
class Known:
    """An address that the pod is known to use, and how that is known."""

    address: Address
    source: str


@dataclass(frozen=True)
class FamilyRules:
    """What packets of one family meet: the tables in their order, and the policy routes."""

    family: Family
    tables: tuple[KernelTable, ...]
    policy_routes: tuple[PolicyRoute, ...] = ()

    def reached(self, hook: str, ours: bool | None = None) -> Iterator["Placed"]:
        """The rules that packets may reach from a hook, in our chains, in others', or in all."""
        for table in self.tables:
            for each in self.below(table, hook):
                if ours is None or each.chain.startswith(PREFIX) is ours:
                    yield each

    def below(self, table: KernelTable, chain: str) -> Iterator["Placed"]:
        """The rules of a chain, and of those that it leads to."""
        seen: set[str] = set()
        left = [chain]
        while left:
            name = left.pop()
            found = table.table.chain(name)
            if name in seen or found is None:
                continue
            seen.add(name)
            for number, rule in enumerate(found.rules, start=1):
                yield Placed(table, name, number, rule)
                if isinstance(rule.target, Jump | Goto):
                    left.append(rule.target.name)

    @cached_property
    def ours(self) -> tuple["Placed", ...]:
        """The rules of our chains that packets may reach."""
        found = (each for hook in HOOKS for each in self.reached(hook, ours=True))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Placed:
    """A rule, and where it is: its table, its chain and its number there."""

    table: KernelTable
    chain: str
    number: int
    rule: Rule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placed) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[str, str, int]:
        return self.table.title, self.chain, self.number

    @property
    def packets(self) -> int | None:
        """How many packets it has matched; None if it does not count."""
        counted = self.table.counts.get(self.chain, ())[self.number - 1]
        return counted.packets if counted else None

    @property
    def title(self) -> str:
        """What people call it."""
        where = f"rule {self.number} of {printable(self.chain)} in {printable(self.table.title)}"
        return f"{where} ({printable(rule_text(self.rule).strip())})"


@dataclass(frozen=True)
class Pod:
    """A network namespace: the rules of each family, its addresses, who listens (None if that is
    not known), and addresses of services that the pod is known to use."""

    rules: Mapping[Family, FamilyRules]
    addresses: frozenset[Address]
    listeners: tuple[Listener, ...] | None
    services: tuple[Known, ...] = ()

    def network(self, family: Family) -> PodNetwork:
        """What packets are walked through."""
        of = self.rules[family]
        tables = {table.title: table.table for table in of.tables}
        return PodNetwork(tables, self.addresses, next(iter(of.policy_routes), None))

    def outbound(self, family: Family) -> Walk | None:
        """The walk of some captured packet that the application sends; None if none is found."""
        rules = [each.rule for each in self.rules[family].reached("OUTPUT")]
        sender = sent(family, rules)
        for to, port in product(_destinations(family, rules), _ports(80, rules)):
            found = walk(
                self.network(family), replace(sender, destination=to, destination_port=port)
            )
            if found.outcome is Outcome.CAPTURED:
                return found
        return None

    def inbound(self, family: Family) -> Walk | None:
        """The walk of some captured packet that arrives; None if none is found."""
        own = [a for a in self.addresses if a.version == family.value and is_global_address(a)]
        to = min(own, key=int) if own else _POD[family]
        rules = [each.rule for each in self.rules[family].reached("PREROUTING")]
        for port in _ports(8080, rules):
            arriving = Packet(Direction.IN, "tcp", _CLIENT[family], 40000, to, port, "eth0")
            found = walk(self.network(family), arriving)
            if found.outcome is Outcome.CAPTURED:
                return found
        return None


def sent(family: Family, rules: Iterable[Rule]) -> Packet:
    """A packet to a far server, from a user and a group that no rule asks for."""
    matches = [match for rule in rules for match in rule.matches]
    uids = {match.uid for match in matches if isinstance(match, OwnerUid)}
    gids = {match.gid for match in matches if isinstance(match, OwnerGid)}
    uid = next(each for each in count(1000) if each not in uids)
    gid = next(each for each in count(1000) if each not in gids)
    return Packet(Direction.OUT, "tcp", _POD[family], 40000, FAR[family], 80, "eth0", uid, gid)


def _destinations(family: Family, rules: Iterable[Rule]) -> list[Address]:
    named = (
        match.network[-1]
        for rule in rules
        for match in rule.matches
        if isinstance(match, Destination) and not match.negated and not match.network.is_loopback
    )
    return [*dict.fromkeys((FAR[family], *named))][:_MOST_SAMPLES]


def _ports(usual: int, rules: Iterable[Rule]) -> list[int]:
    named: list[int] = []
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, DestinationPort) and not match.negated:
                named.append(match.port)
            if isinstance(match, DestinationPorts) and not match.negated:
                named += match.ports
    return [*dict.fromkeys((usual, *named))][:_MOST_SAMPLES]


def is_global_address(address: Address) -> bool:
    return not (address.is_loopback or address.is_link_local or address.is_unspecified) and (
        address != Family.V6.passthrough.network_address
    )
