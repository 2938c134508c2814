"""The walk of sets of packets, against the walk of single ones."""

from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy_init.analysis.number_sets import ANYTHING, NOTHING, Numbers
from proxy_init.analysis.packet_sets import (
    CONNECTION_MARK,
    FIELDS,
    INTERFACE,
    NEW,
    STATE,
    STATES,
    Box,
    Journey,
    asked,
    common,
    everything,
    example,
    interface_name,
    interfaces,
    journeys,
    meets,
    merged,
    name_number,
    point,
    with_field,
    without,
)
from proxy_init.analysis.packet_walk import (
    Direction,
    Outcome,
    Packet,
    PodNetwork,
    Walk,
    asks_for,
    is_named,
    walk,
)
from proxy_init.analysis.rule_steps import Compiled
from proxy_init.analysis.set_walk import Fate, SetWalk
from proxy_init.frozen import replace
from proxy_init.rules.matches import (
    Comment,
    ConnectionMark,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
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
from proxy_init.rules.model import Chain, Family, PolicyRoute, Rule, Table
from proxy_init.rules.networks import Address, network_around, read_address, read_network
from proxy_init.rules.options import Option
from proxy_init.rules.targets import (
    ACCEPT,
    DROP,
    RETURN,
    UNTRACKED,
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Target,
    Tproxy,
    UnknownTarget,
)
from proxy_init.rulesets import build
from tests.unit.fakes import bounded, settled

some = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))

# Few values, so that rules meet each other; and of packets one of each sort that these tell apart.
NETWORKS = [read_network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "127.0.0.1/32")]
ADDRESSES = [
    read_address(a)
    for a in ("10.1.0.1", "10.2.0.1", "10.3.0.1", "127.0.0.1", "127.0.0.9", "8.8.8.8")
]
NAMES = ("lo", "eth0", "eth1", "veth+", "+")
IDS = (0, 1337)
MARKS = (1, 2)

negations = st.booleans()
networks = st.sampled_from(NETWORKS)
protocols = st.sampled_from(["tcp", "udp"])
ports = st.sampled_from([53, 80, 81])
marks = st.sampled_from(MARKS)
states = st.lists(st.sampled_from(STATES), min_size=1, unique=True).map(tuple)
known_matches: st.SearchStrategy[Match] = st.one_of(
    st.builds(Destination, networks, negations),
    st.builds(Destination, networks, negations),
    st.builds(Source, networks, negations),
    st.builds(InInterface, st.sampled_from(NAMES), negations),
    st.builds(OutInterface, st.sampled_from(NAMES), negations),
    st.builds(Protocol, st.sampled_from(["tcp", "udp", "icmp"]), negations),
    st.builds(DestinationPort, protocols, ports, negations),
    st.builds(SourcePort, protocols, ports, negations),
    st.builds(DestinationPorts, st.lists(ports, min_size=1).map(tuple), negations),
    st.builds(OwnerUid, st.sampled_from(IDS), negations),
    st.builds(OwnerGid, st.sampled_from(IDS), negations),
    st.builds(Mark, marks, negations),
    st.builds(ConnectionMark, marks, negations),
    st.just(Socket()),
    st.builds(State, states),
    st.builds(ConntrackState, states),
    st.just(Comment("anything")),
)
unknown = st.builds(
    lambda name: UnknownMatch(name, (Option("some"),)), st.sampled_from(["set", "limit"])
)
targets: st.SearchStrategy[Target] = st.sampled_from(
    [
        *(ACCEPT, ACCEPT, DROP, RETURN, RETURN, Reject("icmp-port-unreachable")),
        *(Redirect(15001), Redirect(80), Tproxy(15006, 1, "0.0.0.0"), ConntrackZone(1)),
        *(SetMark(1), SetMark(2), SaveMark(), RestoreMark()),
        *(UnknownTarget("LOG"), UnknownTarget("DNAT"), UnknownTarget("")),
        *(UNTRACKED, UnknownTarget("CT", (Option("notrack"),))),
    ]
)
OWN_CHAINS = ("A", "B", "C")


@st.composite
def rules(draw: st.DrawFn, below: Sequence[str], knows_all: bool) -> Rule:
    """A rule that may lead to the chains `below` its own."""
    matches = draw(st.lists(known_matches, max_size=2))
    if not knows_all and draw(st.integers(0, 5)) == 0:
        matches.append(draw(unknown))
    leads = [kind(name) for kind in (Jump, Goto) for name in below]
    target = draw(st.one_of(targets, st.sampled_from(leads)) if leads else targets)
    return Rule(matches, target, "a reason")


@st.composite
def runs(draw: st.DrawFn, below: Sequence[str]) -> list[Rule]:
    """Rules that differ in one field, with few targets: they are walked in one step."""
    kinds: list[st.SearchStrategy[Match]] = [
        st.builds(Destination, networks),
        st.builds(DestinationPort, st.just("tcp"), ports),
        st.builds(Mark, marks),
    ]
    each = draw(st.sampled_from(kinds))
    leads = [kind(name) for kind in (Jump, Goto) for name in below]
    few = draw(st.lists(st.sampled_from([*leads, RETURN, SetMark(2)]), min_size=1, max_size=2))
    on_one = st.builds(InInterface, st.sampled_from(["eth0", "eth1"]))
    matches = [each, on_one] if draw(st.booleans()) else [each]
    rule = st.builds(Rule, st.tuples(*matches), st.sampled_from(few), st.just("a reason"))
    return draw(st.lists(rule, min_size=2, max_size=4))


@st.composite
def some_rules(draw: st.DrawFn, below: Sequence[str], knows_all: bool) -> tuple[Rule, ...]:
    """The rules of a chain."""
    single = rules(below, knows_all).map(lambda rule: [rule])
    found = draw(st.lists(st.one_of(single, single, runs(below)), max_size=4))
    return tuple(rule for several in found for rule in several)[:6]


@st.composite
def tables(draw: st.DrawFn, name: str) -> Table:
    """A table whose chains lead to later ones only."""
    hooks = [hook for hook in ("PREROUTING", "INPUT", "OUTPUT") if name in _WITH[hook]]
    chains = [
        Chain(
            hook,
            draw(some_rules(OWN_CHAINS, knows_all=False)),
            policy=draw(st.sampled_from(["ACCEPT", "ACCEPT", "DROP"])),
        )
        for hook in hooks
    ]
    for place, own in enumerate(OWN_CHAINS, start=1):
        # An answer that is not known is one for each place, and a chain may be met twice.
        chains.append(Chain(own, draw(some_rules(OWN_CHAINS[place:], knows_all=True))))
    return Table(name, tuple(chains))


_WITH = {
    "PREROUTING": ("raw", "mangle", "nat"),
    "INPUT": ("mangle", "nat", "filter"),
    "OUTPUT": ("raw", "mangle", "nat", "filter"),
}


@st.composite
def pod_networks(draw: st.DrawFn) -> PodNetwork:
    """Tables of any kind, some of them twice, as of two backends."""
    titles = draw(
        st.lists(
            st.sampled_from(["raw", "mangle", "nat", "nat of others", "filter"]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    found = {title: draw(tables(title.partition(" ")[0])) for title in titles}
    route = draw(st.sampled_from([None, PolicyRoute(1, 133)]))
    return PodNetwork(found, frozenset(), route)


def walk_of(
    pod_network: PodNetwork, journey: Journey, packet: Packet, fate: Fate | None = None
) -> Walk:
    """The way of one packet, in a pod that has the address or not."""
    own = frozenset([packet.destination] if journey.local else [])
    pod = replace(pod_network, pod_addresses=own)
    return walk(pod, packet, fate.assumed if fate else frozenset())


def grid(journey: Journey) -> Iterator[Packet]:
    """A packet of each sort that the rules of these tests tell apart, but for rare fields."""
    whole = everything(journey)
    for protocol, source, to, port, interface, owner, mark, (state, connection_mark) in product(
        ("tcp", "udp"),
        ADDRESSES[:1] + ADDRESSES[-1:],
        ADDRESSES,
        (53, 80, 443),
        ("lo", "eth0", "veth1"),
        (0, 1337, 1000),
        (0, 1, 2),
        (("NEW", 0), ("ESTABLISHED", 1), ("INVALID", 0), ("RELATED", 2)),
    ):
        packet = Packet(
            *(journey.direction, protocol, source, 53, to, port, interface),
            *(owner, owner, mark, state, connection_mark),
        )
        if all(number in numbers for number, numbers in zip(point(packet), whole, strict=True)):
            yield packet


def packet_in(data: st.DataObject, journey: Journey, box: Box) -> Packet | None:
    """Any packet of a box: at the edges of its ranges, mostly."""
    narrow = box
    for field in FIELDS:
        if field != INTERFACE:
            start, end = data.draw(st.sampled_from(list(box[field])[:8]))
            number = data.draw(st.sampled_from([start, end]) | st.integers(start, end))
            narrow = with_field(narrow, field, Numbers.of(number))
    return example(journey, narrow)


@bounded
@given(st.data(), known_matches, st.sampled_from([*journeys(Family.V4)]), st.booleans())
def test_a_set_is_asked_what_a_packet_is_asked(
    data: st.DataObject, match: Match, journey: Journey, sends: bool
) -> None:
    conditions = asked(match, sends)
    assert conditions is not None
    packet = packet_in(data, journey, everything(journey))
    assert packet
    said = asks_for(match, packet, "OUTPUT" if sends else "PREROUTING")
    assert meets(packet, conditions) == said


@some
@given(st.data(), pod_networks(), st.sampled_from([*journeys(Family.V4)]))
def test_every_packet_fares_as_its_set_does(
    data: st.DataObject, pod_network: PodNetwork, journey: Journey
) -> None:
    fates = SetWalk(Compiled(pod_network), journey).fates
    for fate in fates:
        for _ in range(3):
            packet = packet_in(data, journey, fate.box)
            assert packet is not None
            found = walk_of(pod_network, journey, packet, fate)
            if fate.decision is None:
                assert found.outcome is not Outcome.DROPPED or packet.state == "ESTABLISHED"
            else:
                assert found.verdict == fate.decision


@some
@given(pod_networks(), st.sampled_from([*journeys(Family.V4)]))
def test_sets_are_apart_and_hold_every_packet(pod_network: PodNetwork, journey: Journey) -> None:
    fates = SetWalk(Compiled(pod_network), journey).fates
    boxes = [fate.box for fate in fates if not fate.assumed]
    whole = everything(journey)
    is_new = Numbers.of(NEW)
    first = with_field(with_field(whole, STATE, is_new), CONNECTION_MARK, Numbers.of(0))
    later = with_field(whole, STATE, whole[STATE] - is_new)
    assert without([first, later], boxes) == []
    for place, box in enumerate(boxes):
        assert not any(common(box, other) for other in boxes[place + 1 :])


@settings(some, max_examples=15)
@given(pod_networks(), st.sampled_from([*journeys(Family.V4)]))
def test_a_packet_may_fare_otherwise_only_as_is_said(
    pod_network: PodNetwork, journey: Journey
) -> None:
    found = SetWalk(Compiled(pod_network), journey)
    by_packets: set[tuple[str, str, int]] = set()
    for packet in grid(journey):
        numbers = point(packet)
        mine = [
            fate
            for fate in found.fates
            if all(number in field for number, field in zip(numbers, fate.box, strict=True))
        ]
        assert len([fate for fate in mine if not fate.assumed]) == 1
        single = walk_of(pod_network, journey, packet)
        may_be = {fate.decision for fate in mine}
        for visit in single.path:
            if visit.matched:
                by_packets.add((visit.table, visit.chain, visit.number))
            if visit.matched is None:
                assumed = Fate(everything(journey), None, frozenset([visit.place]))
                other = walk_of(pod_network, journey, packet, assumed)
                if packet.state != "ESTABLISHED":
                    assert other.verdict in may_be
    assert by_packets <= set(found.matched())


@settings(some, max_examples=15)
@given(pod_networks(), st.sampled_from([*journeys(Family.V4)]))
def test_a_rule_that_a_set_matches_is_matched_by_a_packet_of_it(
    pod_network: PodNetwork, journey: Journey
) -> None:
    """Shown by taking the rule away: nothing else is then matched that was not before."""
    found = SetWalk(Compiled(pod_network), journey)
    unmatched = {place for place, _ in pod_network.rules()} - set(found.matched())
    for place in unmatched:
        less = SetWalk(Compiled(pod_network.without(*place)), journey)
        if not any(isinstance(m, UnknownMatch) for m in dict(pod_network.rules())[place].matches):
            assert set(_told(less.fates)) == set(_told(found.fates))


def _told(fates: Sequence[Fate]) -> list[tuple[Box, object]]:
    return [(fate.box, fate.decision) for fate in fates if not fate.assumed]


@pytest.mark.parametrize(
    "target",
    [
        UnknownTarget("MARK", (Option("or-mark", "0x1"),)),
        UnknownTarget("several", (Option("MARK"), Option("ACCEPT"))),
    ],
)
def test_a_mark_that_is_not_known_may_be_any(target: UnknownTarget) -> None:
    """Of the rules for TPROXY, all that ask for a mark may match."""
    config = settled("-i", "*", "-b", "80", "-m", "TPROXY", "-u", "1337", "-z", "15006")
    ruleset = build(config, Family.V4)
    odd = Chain("PREROUTING", (Rule((Protocol("tcp"),), target),))
    tables = {"mangle of others": Table("mangle", (odd,))}
    tables |= {table.name: table for table in ruleset.tables}
    pod_network = PodNetwork(tables, frozenset(), ruleset.routing.policy_route)
    journey = Journey(Family.V4, Direction.IN, True)
    ways: set[object] = set()
    for fate in SetWalk(Compiled(pod_network), journey).fates:
        packet = example(journey, fate.box)
        assert packet
        if fate.decision is not None:
            ways.add((packet.destination_port, packet.state, fate.decision[0]))
            assert walk_of(pod_network, journey, packet, fate).verdict == fate.decision
    assert {(80, "NEW", Outcome.CAPTURED), (80, "NEW", Outcome.DIRECT)} <= ways


# Interfaces.


@bounded
@given(st.sampled_from(["lo", "eth0", "eth", "veth12", "é1", "e"]), st.sampled_from(NAMES))
def test_an_interface_is_a_number_and_a_prefix_a_range(name: str, pattern: str) -> None:
    assert (name_number(name) in interfaces(pattern)) == is_named(name, pattern)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (interfaces("+"), "lo"),
        (interfaces("+") - interfaces("lo"), "eth0"),
        (interfaces("+") - interfaces("eth+") - interfaces("lo") - interfaces("net+"), "0"),
        (interfaces("veth+"), "veth"),
        (interfaces("veth+") - interfaces("veth"), "veth0"),
        (interfaces("a-name_of.15ch+") - interfaces("a-name_of.15ch"), "a-name_of.15ch0"),
        (interfaces("eth0"), "eth0"),
        (NOTHING, None),
    ],
)
def test_a_name_is_found_for_an_interface(names: Numbers, found: str | None) -> None:
    assert interface_name(names) == found


def test_boxes_that_differ_in_one_field_become_one() -> None:
    whole = everything(Journey(Family.V4, Direction.OUT, False))
    halves = [with_field(whole, STATE, numbers) for numbers in (Numbers.of(0, 1), Numbers.of(2, 3))]
    quarters = [
        with_field(half, CONNECTION_MARK, numbers)
        for half in halves
        for numbers in (Numbers.of(7), whole[CONNECTION_MARK] - Numbers.of(7))
    ]
    assert merged(quarters) == [whole]


def test_a_long_list_is_one_set_whatever_its_length() -> None:
    listed = [network_around(Address((n << 9).to_bytes(4)), 24) for n in range(1, 3000)]
    to_listed = tuple(Rule((Destination(network),), RETURN) for network in listed)
    chain = Chain("OUTPUT", (*to_listed, Rule((Protocol("tcp"),), Redirect(15001))))
    pod_network = PodNetwork({"nat": Table("nat", (chain,))}, frozenset())
    journey = Journey(Family.V4, Direction.OUT, False)
    found = SetWalk(Compiled(pod_network), journey)
    assert len(found.fates) < 20
    assert len(set(found.matched())) == len(chain.rules)
    assert ANYTHING.meets(found.fates[0].box[STATE])
