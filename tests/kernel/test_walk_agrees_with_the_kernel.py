"""What `explain` says of a packet is what the kernel does with it, for any flags and packet."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from pods import TIMEOUT, UNREACHABLE, Pod, connect, listener, make_pod, namespace
from proxy_init.analysis.packet_walk import (
    Direction,
    Outcome,
    Packet,
    PodNetwork,
    Walk,
    alternatives,
    walk,
)
from proxy_init.cli.pod_network import live_rules, pod_network_of
from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.kernel.system.host import Host
from proxy_init.rules.model import BUILT_IN, Family
from proxy_init.rules.networks import Address, read_address
from proxy_init.rulesets import build
from tests.running import backend_under_test, both_backends, restored, run_in
from tests.strategies import IN_THE_KERNEL, lists

pytestmark = both_backends

OUTBOUND, INBOUND, TUNNEL, AGENT = 15001, 15006, 15008, 15053
APPLICATION_PORTS = (53, 80, 443, 8080)
PROXY_PORTS = (OUTBOUND, INBOUND, TUNNEL, AGENT)
INTERNET = {4: ("198.51.100.7", "203.0.113.9"), 6: ("2001:db8:ffff::7", "2001:db8:eeee::9")}

ports = st.sampled_from([*APPLICATION_PORTS, TUNNEL]).map(str)
ids = st.sampled_from(["0", "1000", "1337", "2000"])
interfaces = st.sampled_from(["eth0", "eth1", "eth+", "lo", "eth2"])
IPV4_CIDRS = ("198.51.100.0/24", "203.0.113.9", "127.0.0.0/8", "192.0.2.0/24", "0.0.0.0/0")
IPV6_CIDRS = ("2001:db8:ffff::/48", "2001:db8:eeee::9", "::1", "2001:db8::/64", "::/0")
cidrs = st.sampled_from([*IPV4_CIDRS, *IPV6_CIDRS])


@dataclass(frozen=True)
class Attempt:
    """A packet to send: the first of a connection, or a datagram."""

    direction: Direction
    version: Literal[4, 6]
    protocol: Literal["tcp", "udp"]
    to: str
    port: int
    uid: int
    gid: int
    interface: str


@st.composite
def flags(draw: DrawFn) -> tuple[str, ...]:
    """Flags about the few ports, ids, interfaces and networks that attempts use."""
    some = {
        "-u": lists(ids, most=2),
        "-g": lists(ids, most=2),
        "-b": st.one_of(st.just("*"), lists(ports)),
        "-d": lists(ports),
        "-i": st.one_of(st.just("*"), lists(cidrs)),
        "-x": lists(cidrs, most=2),
        "-q": lists(ports, most=2),
        "-o": lists(ports, most=2),
        "-c": lists(interfaces, most=2),
        "-k": lists(interfaces, most=1),
    }
    names = draw(st.lists(st.sampled_from(sorted(some)), unique=True, max_size=6))
    words = ["-p", str(OUTBOUND), "-z", str(INBOUND), "-e", str(TUNNEL)]
    words += [word for name in names for word in (name, draw(some[name]))]
    words += ["-m", draw(st.sampled_from(["REDIRECT", "TPROXY"]))]
    words += draw(st.sampled_from([["--ipv6"], ["--ipv6"], ["--no-ipv6"]]))
    # The answers of its DNS agent are told by their owner: 1337, as the listeners have it.
    dns = ["--redirect-dns", "--capture-all-dns", "-g", "1337"]
    words += draw(st.sampled_from([[], [], dns]))
    return tuple(words)


@st.composite
def attempts(draw: DrawFn) -> Attempt:
    """A packet of the pod's own, or one from outside."""
    version: Literal[4, 6] = draw(st.sampled_from([4, 6]))
    own = ("192.0.2.2", "172.16.1.2") if version == 4 else ("2001:db8::2", "2001:db8:1::2")
    loopback = ("127.0.0.1",) if version == 4 else ("::1",)
    direction = draw(st.sampled_from(Direction))
    to = (*own, *loopback, *INTERNET[version]) if direction is Direction.OUT else own[:1]
    interface = "eth0"
    address = draw(st.sampled_from(to))
    if direction is Direction.OUT and address in (*own, *loopback):
        interface = "lo"
    if direction is Direction.IN:
        interface = draw(st.sampled_from(["eth0", "eth1"]))
        address = own[interface == "eth1"]
    tcp_mostly: SearchStrategy[Literal["tcp", "udp"]] = st.sampled_from(["tcp", "tcp", "udp"])
    return Attempt(
        direction,
        version,
        draw(tcp_mostly),
        address,
        draw(st.sampled_from([*APPLICATION_PORTS, TUNNEL])),
        draw(st.sampled_from([0, 1000, 1337, 2000])),
        draw(st.sampled_from([0, 1000, 1337, 2000])),
        interface,
    )


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """A pod with two interfaces in which proxy and application listen, and the world outside."""
    with make_pod(interfaces=("eth0", "eth1")) as made, ExitStack() as listening:
        proxy = [(made.namespace, f"proxy on {port}", (port,), 1337) for port in PROXY_PORTS]
        others = [
            (made.namespace, "app", APPLICATION_PORTS, 1000),
            (made.outside, "outside", (*APPLICATION_PORTS, TUNNEL), 0),
        ]
        for namespace, who, where, uid in (*proxy, *others):
            listening.enter_context(
                listener(namespace, who, where, uid=uid, gid=uid, transparent=uid == 1337)
            )
        yield made


def own_addresses(pod: Pod) -> frozenset[Address]:
    """The pod's addresses."""
    own = (pod.address(version, name) for version in (4, 6) for name in ("eth0", "eth1"))
    return frozenset(map(read_address, own))


def pod_networks(pod: Pod, words: tuple[str, ...]) -> dict[int, PodNetwork]:
    """What the flags ask for, by IP version."""
    config = settle(read_config(words, {}, Host()), [])
    return {
        ruleset.family.value: PodNetwork(
            {table.name: table for table in ruleset.tables},
            own_addresses(pod),
            ruleset.routing.policy_route,
        )
        for ruleset in (build(config, family) for family in Family)
    }


def packet_of(pod: Pod, attempt: Attempt) -> Packet:
    """The attempt as `explain` sees it."""
    outside = pod.neighbour(attempt.version, "eth0")
    own = attempt.to if attempt.interface == "lo" else pod.address(attempt.version, "eth0")
    source = own if attempt.direction is Direction.OUT else outside
    return Packet(
        attempt.direction,
        attempt.protocol,
        read_address(source),
        40000,
        read_address(attempt.to),
        attempt.port,
        attempt.interface,
        attempt.uid,
        attempt.gid,
    )


def predicted(attempt: Attempt, found: Walk) -> str:
    """Who should answer."""
    if found.outcome is Outcome.DROPPED:
        return TIMEOUT
    if found.outcome is Outcome.CAPTURED:
        return f"proxy on {found.port}"
    if attempt.direction is Direction.OUT and attempt.interface != "lo":
        return "outside"
    return f"proxy on {TUNNEL}" if attempt.port == TUNNEL else "app"


def observed(pod: Pod, attempt: Attempt, *, silent: bool = False) -> str:
    """Who answers. Where it should be nobody, there is no need to wait long."""
    out = attempt.direction is Direction.OUT
    who = connect(
        pod.namespace if out else pod.outside,
        attempt.to,
        attempt.port,
        uid=attempt.uid if out else 0,
        gid=attempt.gid if out else 0,
        protocol=attempt.protocol,
        interface=None if out else f"to-{attempt.interface}",
        timeout=0.3 if silent else 5.0,
    ).who
    # Of a datagram dropped in OUTPUT the sender is told.
    return TIMEOUT if who == UNREACHABLE else who


def empty_tables(pod: Pod) -> None:
    """As the kernel has them from the start: a -k interface of which nothing is captured leaves a
    RETURN that looks foreign."""
    for family in Family:
        text = "".join(f"*{name}\nCOMMIT\n" for name in BUILT_IN)
        emptied = restored(pod.namespace, family, text)
        assert emptied.returncode == 0, emptied.stderr


@settings(IN_THE_KERNEL, max_examples=50)
@given(flags(), st.lists(attempts(), min_size=8, max_size=8, unique=True))
def test_the_walk_agrees_with_the_kernel(
    pod: Pod, words: tuple[str, ...], tries: list[Attempt]
) -> None:
    empty_tables(pod)
    applied = run_in(pod.namespace, *words)
    assert applied.status == 0, applied.stderr
    pod_network = pod_networks(pod, words)
    for attempt in tries:
        found = walk(pod_network[attempt.version], packet_of(pod, attempt))
        expected = predicted(attempt, found)
        assert observed(pod, attempt, silent=expected == TIMEOUT) == expected, (attempt, found)


# Rules of others, in the way of ours; none that stops answers, of which the walk says nothing. Of
# the last three `explain` does not know what they ask.
FOREIGN = (
    "-p tcp --dport 443 -j ACCEPT",
    "-p tcp --dport 80 -j RETURN",
    "-p udp --dport 53 -j DROP",
    "-p tcp --dport 53 -j DROP",
    "-p tcp --dport 443 -j MARK --set-mark 1337",
    "-p tcp --dport 80 -j CONNMARK --save-mark",
    "-p tcp --dport 80 -j CONNMARK --restore-mark",
    "-p tcp --dport 8080 -j THEIRS",
    "-m mark --mark 0 -j THEIRS",
    "-p tcp -g THEIRS",
    "! -p tcp -j ACCEPT",
    "-p tcp --dport 443 -m statistic --mode nth --every 1 --packet 0 -j ACCEPT",
    "-p tcp --dport 8080 -m length --length 0:65535 -j THEIRS",
    "-p tcp -m ecn --ecn-tcp-cwr -j DROP",
)
PLACES = [
    (table, chain)
    for table, chains in BUILT_IN.items()
    for chain in chains
    if chain in ("OUTPUT", "PREROUTING", "INPUT") and (table, chain) != ("nat", "INPUT")
]


@st.composite
def foreign_rules(draw: DrawFn) -> str:
    """Text for iptables-restore that puts rules above and below ours, and into our chains."""
    lines = {name: [":THEIRS - [0:0]"] for name in BUILT_IN}
    for name in BUILT_IN:
        verdict = draw(
            st.sampled_from(["ACCEPT", "RETURN", "DROP"] if name != "nat" else ["ACCEPT"])
        )
        lines[name].append(f"-A THEIRS -p tcp --dport 8080 -j {verdict}")
    for _ in range(draw(st.integers(1, 4))):
        table, chain = draw(st.sampled_from(PLACES))
        usable = [rule for rule in FOREIGN if table != "nat" or "DROP" not in rule]
        usable = [rule for rule in usable if table == "mangle" or "MARK --" not in rule]
        lines[table].append(
            f"{draw(st.sampled_from(['-A', '-I']))} {chain} {draw(st.sampled_from(usable))}"
        )
    return "".join("\n".join([f"*{name}", *some, "COMMIT", ""]) for name, some in lines.items())


@settings(IN_THE_KERNEL, max_examples=40)
@given(flags(), foreign_rules(), st.lists(attempts(), min_size=6, max_size=6, unique=True))
def test_the_walk_through_live_rules_agrees_with_the_kernel(
    pod: Pod, words: tuple[str, ...], foreign: str, tries: list[Attempt]
) -> None:
    empty_tables(pod)
    assert run_in(pod.namespace, *words).status == 0
    pod_network = {}
    for family in Family:
        added = restored(pod.namespace, family, foreign, "--noflush")
        assert added.returncode == 0, (added.stderr, foreign)
        pod_network[family.value] = namespace.call(pod.namespace, partial(live, family, words))
    for attempt in tries:
        packet = packet_of(pod, attempt)
        here = replace(pod_network[attempt.version], pod_addresses=own_addresses(pod))
        ways = [walk(here, packet), *(other for _, other in alternatives(here, packet))]
        expected = {predicted(attempt, found) for found in ways}
        who = observed(pod, attempt, silent=expected == {TIMEOUT})
        assert who in expected, (attempt, foreign, ways)


def live(family: Family, words: tuple[str, ...]) -> PodNetwork:
    """What the kernel holds, as `explain --live` reads it."""
    flags = (*words, "--backend", backend_under_test())
    config = settle(read_config(flags, {}, Host()), [])
    wanted = build(config, family)
    backends, _ = live_rules(config)
    return pod_network_of(wanted, frozenset(), *backends)
