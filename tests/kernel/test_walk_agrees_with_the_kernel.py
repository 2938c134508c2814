"""What `explain` says of a packet is what the kernel does with it, for any flags and packet."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from pods import ENVIRONMENT, TIMEOUT, Pod, connect, listener, make_pod
from proxy_init.config import settle
from proxy_init.explain import Direction, Outcome, Packet, Scene, Walk, walk
from proxy_init.kernel.host import Host
from proxy_init.model import Family
from proxy_init.reading import read_config
from proxy_init.rulesets import build
from tests.running import run_in
from tests.strategies import lists

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
    words += draw(st.sampled_from([[], [], ["--redirect-dns", "--capture-all-dns"]]))
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


def scenes(pod: Pod, words: tuple[str, ...]) -> dict[int, Scene]:
    """What the flags ask for, by IP version."""
    config = settle(read_config(words, {}, Host()), [])
    own = [ip_address(pod.address(v, name)) for v in (4, 6) for name in ("eth0", "eth1")]
    return {
        ruleset.family.value: Scene(
            {table.name: table for table in ruleset.tables},
            frozenset(own),
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
        ip_address(source),
        40000,
        ip_address(attempt.to),
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


def observed(pod: Pod, attempt: Attempt) -> str:
    """Who answers."""
    out = attempt.direction is Direction.OUT
    return connect(
        pod.namespace if out else pod.outside,
        attempt.to,
        attempt.port,
        uid=attempt.uid if out else 0,
        gid=attempt.gid if out else 0,
        protocol=attempt.protocol,
        interface=None if out else f"to-{attempt.interface}",
        timeout=5.0,
    ).who


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(flags(), st.lists(attempts(), min_size=8, max_size=8, unique=True))
def test_the_walk_agrees_with_the_kernel(
    pod: Pod, words: tuple[str, ...], tries: list[Attempt]
) -> None:
    # A -k interface of which nothing is captured leaves a RETURN that looks foreign.
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for chain in ("PREROUTING", "OUTPUT"):
            flushed = pod.run([program, "-t", "nat", "-F", chain], env=ENVIRONMENT)
            assert flushed.returncode == 0, flushed.stderr
    applied = run_in(pod.namespace, *words)
    assert applied.status == 0, applied.stderr
    scene = scenes(pod, words)
    for attempt in tries:
        found = walk(scene[attempt.version], packet_of(pod, attempt))
        assert observed(pod, attempt) == predicted(attempt, found), (attempt, found)
