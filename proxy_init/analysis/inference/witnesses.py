"""What the rules that are there say about each setting.

A setting is usually visible in several rules. Each rule is a witness of its own, so that a damaged
one does not mislead; `infer.py` tries what they say, the most frequent first.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from itertools import takewhile
from typing import Any, TypeAlias, TypeVar

from ...config.config import DNS_PORT, OLD_RULES, TPROXY_OUTBOUND_MARK, Mode
from ...rules.matches import (
    ConnectionMark,
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    InInterface,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
    SourcePort,
    State,
)
from ...rules.model import Family, Rule
from ...rules.networks import Address, Network
from ...rules.targets import (
    RETURN,
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    RestoreMark,
    SaveMark,
    SetMark,
    Tproxy,
)
from .difference import Present

T = TypeVar("T", bound=Hashable)
Choice: TypeAlias = Mapping[str, Any]
"""Values of some settings that go together, by name. The settings are those of Config; lists of
networks are one for each family."""

TO_REDIRECT, TO_IN_REDIRECT = Jump("ISTIO_REDIRECT"), Jump("ISTIO_IN_REDIRECT")
TO_DIVERT = Jump("ISTIO_DIVERT")
"""1.0 has such a rule twice for each port of a list."""
EVERYWHERE = {
    Family.V4: Network(Address(bytes(4)), 0),
    Family.V6: Network(Address(bytes(16)), 0),
}
_TCP = Protocol("tcp")
_SSH = 22


def per_family(name: str, family: Family) -> str:
    """The name of a setting of which each family has its own."""
    return f"{name}_{family.value}"


def choices(present: Present, ruleset: str) -> Iterator[Sequence[Choice]]:
    """For each setting, or settings that depend on each other: what it may be, the likeliest first,
    if the rules are of this rule set."""
    reading = _Reading(present, ruleset == OLD_RULES)
    yield from reading.ports()
    yield from reading.owners()
    yield from reading.inbound()
    yield from reading.destinations()
    yield from reading.outbound_ports()
    yield from reading.interfaces()
    yield from reading.dns()
    yield from reading.marks()
    yield from reading.families()


def ranked(values: Iterable[T]) -> list[T]:
    """The different values, the most frequent first; of equally frequent ones, the first."""
    return [value for value, _ in Counter(values).most_common()]


def _lists(lists: Iterable[Sequence[T]]) -> list[tuple[T, ...]]:
    """The different lists, the most frequent first; and one that has the items of all."""
    found = ranked(map(tuple, lists))
    united: tuple[T, ...] = ()
    for each in found:
        united = _united(united, each)
    return [*dict.fromkeys([*found, united])] or [()]


def _united(these: tuple[T, ...], those: tuple[T, ...]) -> tuple[T, ...]:
    """The shortest list that holds the items of both in their order, or nearly."""
    matcher = SequenceMatcher(None, these, those, autojunk=False)
    united: list[T] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        united += these[i:j]
        united += those[k:m] if tag != "equal" else ()
    return tuple(united)


def _periods(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """The lists that give these items if they are repeated, the shortest first."""
    for length in range(1, len(items) + 1):
        if len(items) % length == 0 and items[:length] * (len(items) // length) == items:
            yield items[:length]


def _values(rules: Iterable[Rule], value_of: Callable[[Rule], T | None]) -> tuple[T, ...]:
    return tuple(value for value in map(value_of, rules) if value is not None)


def _returned_port(protocol: str) -> Callable[[Rule], int | None]:
    def port(rule: Rule) -> int | None:
        match rule.matches:
            case (Protocol(name, False), DestinationPort(_, port, False)) if name == protocol:
                return port if rule.target == RETURN else None
        return None

    return port


def _led_port(target: Jump) -> Callable[[Rule], int | None]:
    """The port of TCP rules that jump to a chain, with a match behind it or not."""

    def port(rule: Rule) -> int | None:
        match rule.matches:
            case (Protocol("tcp", False), DestinationPort(_, port, False), *_):
                return port if rule.target == target else None
        return None

    return port


class _Reading:
    """Reads the rules that are present."""

    def __init__(self, present: Present, is_old: bool) -> None:
        self._present = present
        self._old = is_old
        self._families = tuple(present.held.tables)
        self._outputs = {family: tuple(self._flat(family)) for family in self._families}

    def _rules(self, table: str, chain: str) -> Iterator[Sequence[Rule]]:
        """The chain of each family that has it."""
        for family in self._families:
            rules = self._present.rules(family, table, chain)
            if rules:
                yield rules

    def _each(self, table: str, chain: str) -> Iterator[Rule]:
        for rules in self._rules(table, chain):
            yield from rules

    def _output(self) -> Iterator[Sequence[Rule]]:
        return (rules for rules in self._outputs.values() if rules)

    def _flat(self, family: Family) -> Iterator[Rule]:
        """ISTIO_OUTPUT with the chains in which it continues, as one list."""
        left = [
            name
            for name in self._present.chain_names(family, "nat")
            if name.startswith(("ISTIO_EXCLUDED_", "ISTIO_CAPTURED_"))
            or name in ("ISTIO_NOT_EXCLUDED", "ISTIO_OWNER_GROUPS")
        ]

        def chain(name: str) -> Iterator[Rule]:
            in_tree = name.startswith("ISTIO_EXCLUDED_")
            for rule in self._present.rules(family, "nat", name):
                match rule.target:
                    case Goto("ISTIO_NOT_EXCLUDED") if in_tree:
                        pass
                    case Goto("ISTIO_OWNER_GROUPS"):
                        yield rule
                        if rule is last_of_groups:
                            left.remove("ISTIO_OWNER_GROUPS")
                            yield from chain("ISTIO_OWNER_GROUPS")
                    case Goto(below) if below in left:
                        left.remove(below)
                        yield from chain(below)
                    case Goto(_):
                        pass
                    case _:
                        yield rule

        groups = [
            rule
            for rule in self._present.rules(family, "nat", "ISTIO_OUTPUT")
            if rule.target == Goto("ISTIO_OWNER_GROUPS")
        ]
        last_of_groups = groups[-1] if groups and "ISTIO_OWNER_GROUPS" in left else None
        yield from chain("ISTIO_OUTPUT")
        while left:  # the rules that led there are gone
            yield from chain(left.pop(0))

    # Ports of the proxy.

    def ports(self) -> Iterator[Sequence[Choice]]:
        outbound = [*self._redirected("ISTIO_REDIRECT")]
        inbound = [*self._redirected("ISTIO_IN_REDIRECT")]
        transparent = [
            rule.target.port
            for chain in ("ISTIO_TPROXY", "ISTIO_INBOUND")
            for rule in self._each("mangle", chain)
            if isinstance(rule.target, Tproxy)
        ]
        if self._old:
            outbound += transparent
        else:
            inbound += transparent
        either = dict.fromkeys([*ranked(outbound), *ranked(inbound), 15001])
        yield [{"outbound_port": port} for port in either]
        either = dict.fromkeys([*ranked(inbound), *ranked(outbound), 15006])
        yield [{"inbound_port": port} for port in either]
        if not self._old:
            yield [{"tunnel_port": port} for port in ranked(self._tunnel_ports()) or [15008]]

    def _redirected(self, chain: str) -> Iterator[int]:
        for rule in self._each("nat", chain):
            if isinstance(rule.target, Redirect):
                yield rule.target.port

    def _tunnel_ports(self) -> Iterator[int]:
        for rules in self._rules("nat", "ISTIO_INBOUND"):
            yield from _values(rules, _returned_port("tcp"))[:1]
        for rules in self._output():
            for rule in rules:
                for match in rule.matches:
                    match match:
                        case DestinationPort("tcp", port, True) if rule.target == TO_IN_REDIRECT:
                            yield port
                        case DestinationPorts((*ports,), True) if rule.target == TO_IN_REDIRECT:
                            yield from [port for port in ports if port != 53] or [53]

    # Owners.

    def owners(self) -> Iterator[Sequence[Choice]]:
        uids = _lists(self._owned(OwnerUid))
        if self._old:
            yield [{"proxy_uids": each} for each in uids]
            yield [{"proxy_gids": each} for each in _lists(self._owned(OwnerGid))]
            return
        yield [{"proxy_uids": each} for each in uids]
        yield [{"owner_groups": each} for each in (*ranked(self._groups_included()), None)]
        # The groups that are left alone have rules like the last of each gid of the proxy.
        alone = [tuple(self._exempt(rules, OwnerGid)) for rules in self._output()]
        yield [
            {"proxy_gids": gids, "owner_groups_excluded": others}
            for gids in _lists(self._owned(OwnerGid, with_exempt=False))
            for others in _lists(
                rest for each in alone for rest in (_without(each, gids), each[len(gids) :])
            )
        ] + [{"proxy_gids": each, "owner_groups_excluded": ()} for each in alone]

    def _owned(
        self, kind: type[OwnerUid | OwnerGid], with_exempt: bool = True
    ) -> Iterator[Sequence[int]]:
        """The owners in each run of rules that has one for each."""
        for rules in self._output():
            if with_exempt or self._old:
                yield self._exempt(rules, kind)
            if not self._old:
                yield _values(rules, lambda rule: self._of_owner(rule, kind, TO_IN_REDIRECT))
                others = _values(rules, lambda rule: self._of_others(rule, kind))
                if others:
                    yield others
        if self._old:
            return
        mark = SetMark(TPROXY_OUTBOUND_MARK)
        for rules in self._rules("mangle", "OUTPUT"):
            marked = _values(rules, lambda rule: self._of_owner(rule, kind, mark))
            if marked:
                yield marked
        for rules in self._rules("raw", "ISTIO_OUTPUT_DNS"):
            for zone in (ConntrackZone(1), ConntrackZone(2)):
                yield _values(rules, partial(self._of_owner, kind=kind, target=zone))

    def _exempt(self, rules: Sequence[Rule], kind: type[OwnerUid | OwnerGid]) -> Sequence[int]:
        return _values(
            rules,
            lambda rule: self._of_owner(rule, kind, RETURN) if len(rule.matches) == 1 else None,
        )

    @staticmethod
    def _of_owner(rule: Rule, kind: type[OwnerUid | OwnerGid], target: object) -> int | None:
        if rule.target != target:
            return None
        for match in rule.matches:
            if isinstance(match, kind) and not match.negated:
                return _number(match)
        return None

    @staticmethod
    def _of_others(rule: Rule, kind: type[OwnerUid | OwnerGid]) -> int | None:
        if rule.target != RETURN or OutInterface("lo") not in rule.matches:
            return None
        for match in rule.matches:
            if isinstance(match, kind) and match.negated:
                return _number(match)
        return None

    def _groups_included(self) -> Iterator[tuple[int, ...]]:
        for rules in self._output():
            led = []
            for rule in rules:
                groups = [match for match in rule.matches if isinstance(match, OwnerGid)]
                is_list = len(groups) > 1 or any(match.negated for match in groups)
                if rule.target == RETURN and is_list and len(groups) == len(rule.matches):
                    yield tuple(match.gid for match in groups)
                match rule:
                    case Rule((OwnerGid(gid, False),), Goto("ISTIO_OWNER_GROUPS")):
                        led.append(gid)
            if led:
                yield tuple(led)

    # Inbound.

    def inbound(self) -> Iterator[Sequence[Choice]]:
        found: list[Choice] = []
        for mode, table in ((Mode.TPROXY, "mangle"), (Mode.REDIRECT, "nat")):
            chains = [*self._rules(table, "ISTIO_INBOUND")]
            led = [*self._rules(table, "PREROUTING")] if mode is Mode.TPROXY else []
            if chains or self._is_transparent() == (mode is Mode.TPROXY) or any(led):
                found += self._inbound(mode, chains)
        found.sort(key=lambda each: (each["mode"] is Mode.TPROXY) != self._is_transparent())
        yield [*found, {"mode": Mode.REDIRECT, "inbound_ports": ()}]

    def _is_transparent(self) -> bool:
        rules = [rule for name in ("PREROUTING", "OUTPUT") for rule in self._each("mangle", name)]
        targets = {type(rule.target) for rule in rules}
        chains = ("ISTIO_INBOUND", "ISTIO_TPROXY", "ISTIO_DIVERT")
        witnesses = sum(any(self._each("mangle", name)) for name in chains)
        return witnesses + len(targets & {SaveMark, RestoreMark, SetMark}) > 1

    def _inbound(self, mode: Mode, chains: Sequence[Sequence[Rule]]) -> Iterator[Choice]:
        leads = [Jump("ISTIO_TPROXY"), TO_DIVERT]
        if mode is Mode.REDIRECT:
            leads = [TO_IN_REDIRECT]
        listed = _lists(
            _values(rules, _led_port(lead))[:: 2 if self._old and lead == TO_DIVERT else 1]
            for rules in chains
            for lead in leads
        )
        returned = []
        for rules in chains:
            ports = _values(rules, _returned_port("tcp"))
            if self._old:
                returned += [ports[1:] if ports[:1] == (_SSH,) else ports]
            elif mode is Mode.REDIRECT:
                returned += [ports[1:], ports]
            else:
                returned.append(ports)
        all_ports: list[Choice] = [
            {"mode": mode, "inbound_ports": None, "inbound_excluded_ports": each}
            for each in _lists(returned)
        ]
        some_ports: list[Choice] = [
            {"mode": mode, "inbound_ports": each, "inbound_excluded_ports": ()} for each in listed
        ]
        starred = any(
            rule.target in leads and not any(isinstance(m, DestinationPort) for m in rule.matches)
            for rules in chains
            for rule in rules
        )
        yield from [*all_ports, *some_ports] if starred else [*some_ports, *all_ports]
        yield {"mode": mode, "inbound_ports": (), "inbound_excluded_ports": ()}

    # Destinations.

    def destinations(self) -> Iterator[Sequence[Choice]]:
        loopbacks: Sequence[Network | None] = ranked(self._loopbacks()) or [None]
        yield [{"ipv4_loopback": each} for each in loopbacks]
        captured: dict[Family, Sequence[tuple[Network, ...]]] = {}
        lists: list[bool] = []
        for family in self._families:
            excluded, outbound = self._networks(family, loopbacks)
            captured[family] = [*dict.fromkeys([*self._captured_on_arrival(family), outbound])]
            if outbound or any(captured[family]):
                lists.append(outbound == (EVERYWHERE[family],))
            name = per_family("outbound_excluded_networks", family)
            yield [{name: each} for each in excluded]
            name = per_family("outbound_networks", family)
            yield [{name: each} for each in captured[family]]
        everything = bool(lists) and all(lists)
        yield [{"everything": everything}, {"everything": not everything}]
        inside = any(self._is_within_the_pod(rule) for rules in self._output() for rule in rules)
        yield [{"captures_loopback": not inside}, {"captures_loopback": inside}]
        tree = any(
            name.startswith(("ISTIO_EXCLUDED_", "ISTIO_CAPTURED_"))
            for family in self._families
            for name in self._present.chain_names(family, "nat")
        )
        trees = ("auto", "always", "never") if tree else ("auto", "never")
        yield [{"cidr_tree": each} for each in trees]

    def _loopbacks(self) -> Iterator[Network]:
        places = [("mangle", "OUTPUT"), ("mangle", "ISTIO_TPROXY")]
        rules = [rule for table, chain in places for rule in self._each(table, chain)]
        for rule in (*rules, *(rule for each in self._output() for rule in each)):
            for match in rule.matches:
                if isinstance(match, Destination) and match.network.version == 4:
                    inside = rule.target == RETURN and match.network.is_loopback
                    if match.negated or (inside and len(rule.matches) == 1):
                        yield match.network

    def _networks(
        self, family: Family, loopbacks: Sequence[Network | None]
    ) -> tuple[Sequence[tuple[Network, ...]], tuple[Network, ...]]:
        """What may be the excluded networks of a family, and the captured ones."""
        own = loopbacks[0] if family is Family.V4 else Network(Address(bytes(15) + b"\1"), 128)
        excluded: list[Network] = []
        captured: list[Network] = []
        for rule in self._outputs[family]:
            networks = _destinations(rule, family)
            if networks and rule.target == RETURN:
                excluded += networks
            elif networks and rule.target == TO_REDIRECT:
                captured += networks
        if self._old and captured and self._outputs[family][-1] == Rule((), RETURN):
            excluded.pop()  # the last rule of a list
        elif not self._old and self._ends_with_native_groups(family):
            excluded.pop()
        without = _without(tuple(excluded), (own,)) if own else tuple(excluded)
        return [*dict.fromkeys([without, tuple(excluded)])], tuple(captured)

    def _ends_with_native_groups(self, family: Family) -> bool:
        """Whether a RETURN for all packets ends a list of owner groups, and with it the chain."""
        rules = self._present.rules(family, "nat", "ISTIO_OUTPUT")
        return bool(
            len(rules) > 1
            and rules[-1] == Rule((), RETURN)
            and rules[-2].target == Goto("ISTIO_OWNER_GROUPS")
        )

    def _captured_on_arrival(self, family: Family) -> Iterator[tuple[Network, ...]]:
        """The networks of the captures that each -k interface has."""
        by_name: dict[str, list[Network]] = {}
        for rule in self._present.rules(family, "nat", "PREROUTING"):
            if rule.target == TO_REDIRECT:
                networks = [
                    network
                    for match in rule.matches
                    if isinstance(match, Destination | DestinationSet)
                    for network in _of_match(match)
                ]
                by_name.setdefault(_arriving(rule), []).extend(networks or [EVERYWHERE[family]])
        for networks in by_name.values():
            yield tuple(reversed(networks))

    @staticmethod
    def _is_within_the_pod(rule: Rule) -> bool:
        """Whether it lets the application connect to itself over lo."""
        others = [m for m in rule.matches if not isinstance(m, OwnerUid | OwnerGid)]
        shapes = {OutInterface, Protocol, DestinationPort}
        return (
            rule.target == RETURN
            and OutInterface("lo") in rule.matches
            and all(type(match) in shapes for match in others)
        )

    def outbound_ports(self) -> Iterator[Sequence[Choice]]:
        if self._old:
            return
        returned = [
            _values(rules, _returned_port(protocol))
            for rules in self._output()
            for protocol in ("tcp", "udp")
        ]
        yield [{"outbound_excluded_ports": each} for each in _lists(returned)]
        captured = [_values(rules, _led_port(TO_REDIRECT)) for rules in self._output()]
        yield [{"outbound_ports": each} for each in _lists(captured)]

    # Interfaces.

    def interfaces(self) -> Iterator[Sequence[Choice]]:
        if self._old:
            return
        excluded: list[Sequence[str]] = []
        virtual: list[Sequence[str]] = []
        for rules in self._rules("nat", "OUTPUT"):
            excluded.append(_values(rules, _left_alone_leaving))
        if self._is_transparent():
            excluded += (_values(r, _left_alone_leaving) for r in self._rules("mangle", "OUTPUT"))
            excluded += (
                _values(r, _left_alone_arriving) for r in self._rules("mangle", "PREROUTING")
            )
        leaving = _lists(excluded)
        for family in self._families:
            rules = self._present.rules(family, "nat", "PREROUTING")
            arriving = _values(rules, _left_alone_arriving)
            by_network: dict[object, list[str]] = {}
            for rule in rules:
                if rule.target == TO_REDIRECT:
                    other = tuple(m for m in rule.matches if not isinstance(m, InInterface))
                    by_network.setdefault(other, []).append(_arriving(rule))
            for names in by_network.values():
                virtual += _periods(tuple(reversed(names)))
            # Those of -k come first, the last one at the top, then those of -c.
            if not by_network:
                top = _values(takewhile(_left_alone_arriving, rules), _left_alone_arriving)
                virtual.append(top[: max(0, len(arriving) - len(leaving[0]))][::-1])
                virtual.append(_without(arriving, leaving[0])[::-1])
            excluded += (arriving[len(each) :] for each in virtual or ((),))
        yield [
            {"excluded_interfaces": each, "virtual_interfaces": others}
            for others in dict.fromkeys((*_lists(virtual), ()))
            for each in dict.fromkeys((*_lists(excluded), ()))
        ]

    # DNS.

    def dns(self) -> Iterator[Sequence[Choice]]:
        if self._old:
            return
        witnesses = sum(
            any(True for _ in self._each(table, chain))
            for table, chain in (
                *(("raw", "ISTIO_OUTPUT_DNS"), ("raw", "ISTIO_INBOUND")),
                ("nat", "ISTIO_OUTPUT_DNS"),
            )
        )
        witnesses += any(
            isinstance(match, DestinationPorts)
            for rules in self._output()
            for rule in rules
            for match in rule.matches
        )
        servers: dict[Family, list[tuple[Network, ...]]] = {}
        everything = False
        for family in self._families:
            runs = [*self._dns_runs(family)]
            everything = everything or any(EVERYWHERE[family] in run for run in runs)
            servers[family] = _lists(runs)
        off: Choice = {"redirect_dns": False, "capture_all_dns": False}
        every: Choice = {"redirect_dns": True, "capture_all_dns": True}
        some: Choice = {"redirect_dns": True, "capture_all_dns": False}
        if not witnesses:
            yield [off]
        elif everything:
            yield [every, off, some]
        else:
            yield [some, off, every]
        for family, lists in servers.items():
            yield [{per_family("dns_servers", family): each} for each in lists]

    def _dns_runs(self, family: Family) -> Iterator[tuple[Network, ...]]:
        """The servers in each run of rules that has one for each."""
        nat = self._present.rules(family, "nat", "ISTIO_OUTPUT_DNS")
        raw = self._present.rules(family, "raw", "ISTIO_OUTPUT_DNS")
        replies = self._present.rules(family, "raw", "ISTIO_INBOUND")
        for protocol in ("tcp", "udp"):
            of_protocol = [rule for rule in nat if Protocol(protocol) in rule.matches]
            yield _values(of_protocol, lambda rule: _server(rule, family, Redirect(DNS_PORT)))
        owned = (OwnerUid, OwnerGid)
        unowned = [r for r in raw if not any(isinstance(m, owned) for m in r.matches)]
        yield _values(unowned, lambda rule: _server(rule, family, ConntrackZone(2)))
        yield _values(replies, lambda rule: _server(rule, family, ConntrackZone(1)))

    # The rest.

    def marks(self) -> Iterator[Sequence[Choice]]:
        marks: list[int] = []
        chains = ("PREROUTING", "OUTPUT", "ISTIO_INBOUND", "ISTIO_DIVERT", "ISTIO_TPROXY")
        for chain in chains:
            for rule in self._each("mangle", chain):
                match rule.target:
                    case Tproxy(_, mark, _) | SetMark(mark):
                        marks.append(mark)
                for match in rule.matches:
                    if isinstance(match, Mark | ConnectionMark):
                        marks.append(match.value)
        routes = [
            route
            for family in self._families
            for route in self._present.held.policy_routes.get(family, ())
        ]
        marks += (route.mark for route in routes)
        marks = [mark for mark in marks if mark != TPROXY_OUTBOUND_MARK and mark]
        yield [{"tproxy_mark": mark} for mark in ranked(marks) or [1337]]
        tables = ranked(route.table for route in routes)
        yield [{"tproxy_route_table": table} for table in tables or [133]]
        dropping = any(self._each("mangle", "ISTIO_DROP")) or any(
            rule.target == Jump("ISTIO_DROP") for rule in self._each("mangle", "PREROUTING")
        )
        if dropping and not self._old:
            yield [{"drop_invalid": True}, {"drop_invalid": False}]

    def families(self) -> Iterator[Sequence[Choice]]:
        ours = {family for family, *_ in self._present.ours()}
        there = Family.V6 in ours or bool(self._present.held.passthrough)
        if self._old:
            closed = any(
                isinstance(match, State)
                for rule in self._present.rules(Family.V6, "filter", "INPUT")
                for match in rule.matches
            )
            there = not closed and Family.V6 in self._families
        yield [{"ipv6": there}, {"ipv6": not there}]


def _number(match: OwnerUid | OwnerGid) -> int | None:
    """The uid or gid, if it is one: the largest number means none (man 2 setreuid)."""
    number = match.uid if isinstance(match, OwnerUid) else match.gid
    return number if number < 2**32 - 1 else None


def _without(items: tuple[T, ...], some: Sequence[T]) -> tuple[T, ...]:
    """`items` without the first of each of `some`."""
    left = [*items]
    for each in some:
        if each in left:
            left.remove(each)
    return tuple(left)


def _destinations(rule: Rule, family: Family) -> list[Network]:
    """The networks of a rule that asks for the destination, or for nothing."""
    match rule.matches:
        case ():
            return [EVERYWHERE[family]]
        case (Destination(_, False) | DestinationSet() as match,):
            return _of_match(match)
    return []


def _of_match(match: Destination | DestinationSet) -> list[Network]:
    return [match.network] if isinstance(match, Destination) else [*match.networks()]


def _server(rule: Rule, family: Family, target: object) -> Network | None:
    if rule.target != target:
        return None
    if not any(isinstance(m, DestinationPort | SourcePort) for m in rule.matches):
        return None
    found = (m.network for m in rule.matches if isinstance(m, Destination | Source))
    return next(found, EVERYWHERE[family])


def _arriving(rule: Rule) -> str:
    return next((m.name for m in rule.matches if isinstance(m, InInterface)), "+")


def _left_alone_arriving(rule: Rule) -> str | None:
    match rule.matches, rule.target:
        case (InInterface(name, False),), target if target == RETURN:
            return name
        case (), target if target == RETURN:
            return "+"
    return None


def _left_alone_leaving(rule: Rule) -> str | None:
    match rule.matches, rule.target:
        case (OutInterface(name, False),), target if target == RETURN:
            return name
        case (), target if target == RETURN:
            return "+"
    return None
