"""Where real connections go, for each flag that decides it: pods, listeners, and who answers.

Every connection is checked for three things: who answered on which port, that it is told the
destination the client asked for, and that it sees the client's own address.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pytest

from pods import TIMEOUT, Endpoint, Pod, connect, listener, make_pod, namespace
from pods.traffic import Protocol
from proxy_init.rules.networks import read_address
from tests.running import both_backends, run_in

pytestmark = both_backends

CAPTURE_ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")
OUT, IN = "proxy :15001", "proxy :15006"

PLACES: Mapping[int, Mapping[str, str]] = {
    4: {
        "internet": "198.51.100.7",
        "service": "10.96.0.10",
        "excluded": "203.0.113.9",
        "loopback": "127.0.0.1",
        "other loopback": "127.0.0.2",
        "passthrough": "127.0.0.6",
    },
    6: {
        "internet": "2001:db8:ffff::7",
        "service": "fd00:96::10",
        "excluded": "2001:db8:eeee::9",
        "loopback": "::1",
        "passthrough": "::6",
    },
}
SERVICES = "10.96.0.0/12,fd00:96::/32"
EXCLUDED = "203.0.113.0/24,2001:db8:eeee::/48"
# The pod's own networks on eth0, so that -i can name them.
OWN = "192.0.2.0/24,2001:db8::/64"


class Client(NamedTuple):
    """Who connects: a process of the pod, or one outside, by the interface that it comes in on."""

    uid: int = 1000
    gid: int = 1000
    outside: str | None = None


APP = Client()
PROXY = Client(1337, 1337)
OUTSIDE = Client(0, 0, "eth0")


@dataclass(frozen=True)
class Try:
    """A connection of `client` to a place and port, and where it arrives; `why` says why."""

    why: str
    client: Client
    place: str
    port: int
    arrives: str
    protocol: Protocol = "tcp"
    source: str | None = None


@dataclass(frozen=True)
class Scenario:
    """One set of flags, and what becomes of connections under it. Without flags: no rules."""

    title: str
    flags: tuple[str, ...]
    tries: tuple[Try, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[str, ...] = ("eth0",)
    versions: tuple[int, ...] = (4, 6)


SCENARIOS = (
    Scenario(
        "no rules at all",
        (),
        (
            Try("the application reaches the internet", APP, "internet", 80, "outside :80"),
            Try("the proxy reaches the internet", PROXY, "internet", 80, "outside :80"),
            Try("the application is reached from outside", OUTSIDE, "pod", 8080, "app :8080"),
            Try("the application reaches itself", APP, "pod", 8080, "app :8080"),
            Try("UDP reaches the internet", APP, "internet", 80, "outside :80", "udp"),
        ),
    ),
    Scenario(
        "all is captured",
        CAPTURE_ALL,
        (
            Try("what the application sends is captured", APP, "internet", 80, OUT),
            Try("on any port", APP, "service", 4321, OUT),
            Try("that of root too", Client(0, 0), "internet", 80, OUT),
            Try("of the neighbour's number too", Client(1336, 1338), "internet", 80, OUT),
            Try("also to a machine of its own network", APP, "neighbour", 80, OUT),
            Try("the proxy's is not", PROXY, "internet", 80, "outside :80"),
            Try("known by its uid alone", Client(1337, 4000), "internet", 80, "outside :80"),
            Try("or by its gid alone", Client(4000, 1337), "internet", 80, "outside :80"),
            Try("what comes from outside is captured", OUTSIDE, "pod", 8080, IN),
            Try("on any port, with nobody behind", OUTSIDE, "pod", 4321, IN),
            Try("but for the tunnel port", OUTSIDE, "pod", 15008, "proxy :15008"),
            Try("UDP is not captured outbound", APP, "internet", 80, "outside :80", "udp"),
            Try("nor inbound", OUTSIDE, "pod", 8080, "app :8080", "udp"),
        ),
    ),
    Scenario(
        "inside the pod",
        CAPTURE_ALL,
        (
            Try("the application calls itself on lo", APP, "loopback", 8080, "app :8080"),
            Try("or by the pod's address", APP, "pod", 8080, "app :8080"),
            Try("the application calls the proxy", APP, "loopback", 15001, "proxy :15001"),
            Try("the proxy calls the application on lo", PROXY, "loopback", 8080, "app :8080"),
            Try("by the pod's address that is inbound", PROXY, "pod", 8080, IN),
            Try("but not to the tunnel port", PROXY, "pod", 15008, "proxy :15008"),
            Try(
                "from the passthrough source it reaches the application",
                PROXY,
                "pod",
                8080,
                "app :8080",
                source="passthrough",
            ),
        ),
    ),
    Scenario(
        "inside the pod, to a loopback address that is not the one",
        CAPTURE_ALL,
        (
            Try("the application calls itself", APP, "other loopback", 8080, "app :8080"),
            Try("the proxy's call is inbound", PROXY, "other loopback", 8080, IN),
        ),
        versions=(4,),
    ),
    Scenario(
        "IPv6 is off",
        (*CAPTURE_ALL, "--no-ipv6"),
        (
            Try("nothing outbound is captured", APP, "internet", 80, "outside :80"),
            Try("nor inbound", OUTSIDE, "pod", 8080, "app :8080"),
        ),
        versions=(6,),
    ),
    Scenario(
        "--drop-invalid",
        (*CAPTURE_ALL, "--drop-invalid"),
        (
            Try("good connections go out", APP, "internet", 80, OUT),
            Try("and come in", OUTSIDE, "pod", 8080, IN),
            Try("the proxy's own too", PROXY, "internet", 80, "outside :80"),
        ),
    ),
    Scenario(
        "several uids, one gid",
        (*CAPTURE_ALL, "-u", "1337,2000", "-g", "1337"),
        (
            Try("the first is not captured", PROXY, "internet", 80, "outside :80"),
            Try("nor the second", Client(2000, 2000), "internet", 80, "outside :80"),
            Try("but a gid of that number is", Client(1000, 2000), "internet", 80, OUT),
            Try("the first calls its pod: inbound", PROXY, "pod", 8080, IN),
            Try(
                "the second does: the first one's rule lets it out (a known weakness)",
                Client(2000, 2000),
                "pod",
                8080,
                "app :8080",
            ),
        ),
    ),
    Scenario(
        "several gids, one uid",
        (*CAPTURE_ALL, "-u", "1337", "-g", "1337,2000"),
        (
            Try("the first is not captured", Client(1000, 1337), "internet", 80, "outside :80"),
            Try("nor the second", Client(1000, 2000), "internet", 80, "outside :80"),
            Try("but a uid of that number is", Client(2000, 1000), "internet", 80, OUT),
        ),
    ),
    Scenario(
        "-x",
        (*CAPTURE_ALL, "-x", EXCLUDED),
        (
            Try("an excluded network is reached", APP, "excluded", 80, "outside :80"),
            Try("others are captured", APP, "internet", 80, OUT),
        ),
    ),
    Scenario(
        "-x an address, as a host",
        (*CAPTURE_ALL, "-x", "203.0.113.9,2001:db8:eeee::9,10.96.0.11,fd00:96::11"),
        (
            Try("that address is reached", APP, "excluded", 80, "outside :80"),
            Try("the one beside it is captured", APP, "service", 80, OUT),
        ),
    ),
    Scenario(
        "-o",
        (*CAPTURE_ALL, "-o", "443,8443"),
        (
            Try("the first port is not captured", APP, "internet", 443, "outside :443"),
            Try("nor the second", APP, "internet", 8443, "outside :8443"),
            Try("nor the same of UDP", APP, "internet", 443, "outside :443", "udp"),
            Try("others are", APP, "internet", 80, OUT),
            Try("inbound it says nothing", OUTSIDE, "pod", 8443, IN),
        ),
    ),
    Scenario(
        "-i is a list",
        ("-u", "1337", "-i", SERVICES),
        (
            Try("listed destinations are captured", APP, "service", 80, OUT),
            Try("others are not", APP, "internet", 80, "outside :80"),
            Try("the proxy's are not", PROXY, "service", 80, "outside :80"),
            Try("nothing inbound is, without -b", OUTSIDE, "pod", 8080, "app :8080"),
        ),
    ),
    Scenario(
        "-i is empty",
        ("-u", "1337", "-i", "", "-b", "*", "-z", "15006"),
        (
            Try("nothing outbound is captured", APP, "internet", 80, "outside :80"),
            Try("inbound is", OUTSIDE, "pod", 8080, IN),
        ),
    ),
    Scenario(
        "-q",
        ("-u", "1337", "-i", SERVICES, "-q", "443", "-x", EXCLUDED),
        (
            Try("the port is captured whatever the address", APP, "internet", 443, OUT),
            Try("other ports by the address: yes", APP, "service", 80, OUT),
            Try("or no", APP, "internet", 80, "outside :80"),
            Try("an excluded network stays excluded", APP, "excluded", 443, "outside :443"),
            Try("the proxy's is not captured", PROXY, "internet", 443, "outside :443"),
            Try("nor UDP", APP, "internet", 443, "outside :443", "udp"),
        ),
    ),
    Scenario(
        "-o and -q name one port",
        ("-u", "1337", "-q", "443,8443", "-o", "443"),
        (
            Try("excluded wins", APP, "internet", 443, "outside :443"),
            Try("the other port is captured", APP, "internet", 8443, OUT),
        ),
    ),
    Scenario(
        "-i names loopback addresses",
        ("-u", "1337", "-z", "15006", "-i", f"127.0.0.0/8,::1,{OWN}"),
        (
            Try("the loopback address itself stays in the pod", APP, "loopback", 8080, "app :8080"),
            Try("the pod's own address is captured", APP, "pod", 8080, OUT),
            Try("the proxy's call to it is inbound", PROXY, "pod", 8080, IN),
            Try("a neighbour's address is captured", APP, "neighbour", 80, OUT),
            Try("no other address is", APP, "internet", 80, "outside :80"),
        ),
    ),
    Scenario(
        "-i names a loopback address of the other family only",
        ("-u", "1337", "-z", "15006", "-i", f"::1,{OWN}"),
        (Try("that counts for both families", APP, "pod", 8080, OUT),),
    ),
    Scenario(
        "-i names loopback addresses beside the one",
        ("-u", "1337", "-z", "15006", "-i", "127.0.0.0/8"),
        (
            Try("others of the network are captured", APP, "other loopback", 8080, OUT),
            Try("the one is not", APP, "loopback", 8080, "app :8080"),
            Try("the proxy's calls there are inbound", PROXY, "other loopback", 8080, IN),
        ),
        versions=(4,),
    ),
    Scenario(
        "-i names the pod's network, no loopback address",
        ("-u", "1337", "-i", OWN),
        (
            Try("the application's call to itself is not captured", APP, "pod", 8080, "app :8080"),
            Try("its call to a neighbour is", APP, "neighbour", 80, OUT),
        ),
    ),
    Scenario(
        "the loopback CIDR is all of 127",
        ("-u", "1337", "-z", "15006", "-i", "127.0.0.0/8"),
        (
            Try("all of it stays in the pod", APP, "other loopback", 8080, "app :8080"),
            Try("for the proxy too", PROXY, "other loopback", 8080, "app :8080"),
        ),
        environ={"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"},
        versions=(4,),
    ),
    Scenario(
        "the loopback CIDR is another address",
        ("-u", "1337", "-z", "15006", "-i", "127.0.0.0/8"),
        (
            Try("that one stays in the pod", APP, "other loopback", 8080, "app :8080"),
            Try("127.0.0.1 is captured then", APP, "loopback", 8080, OUT),
            Try("and the proxy's call to it is inbound", PROXY, "loopback", 8080, IN),
        ),
        environ={"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.2"},
        versions=(4,),
    ),
    Scenario(
        "-b is a list",
        ("-u", "1337", "-z", "15006", "-b", "8080, 9090, "),
        (
            Try("the first port is captured", OUTSIDE, "pod", 8080, IN),
            Try("and the second", OUTSIDE, "pod", 9090, IN),
            Try("others are not", OUTSIDE, "pod", 7070, "app :7070"),
            Try("nothing outbound is, without -i", APP, "internet", 80, "outside :80"),
        ),
    ),
    Scenario(
        "-b lists the tunnel port",
        ("-u", "1337", "-z", "15006", "-b", "8080,15008"),
        (Try("it is not captured", OUTSIDE, "pod", 15008, "proxy :15008"),),
    ),
    Scenario(
        "-d",
        (*CAPTURE_ALL, "-d", "9090,7070"),
        (
            Try("the first port is not captured", OUTSIDE, "pod", 9090, "app :9090"),
            Try("nor the second", OUTSIDE, "pod", 7070, "app :7070"),
            Try("others are", OUTSIDE, "pod", 8080, IN),
            Try("outbound it says nothing", APP, "internet", 9090, OUT),
        ),
    ),
    Scenario(
        "-e",
        (*CAPTURE_ALL, "-e", "15009"),
        (
            Try("it is the tunnel port", OUTSIDE, "pod", 15009, "proxy :15009"),
            Try("for the proxy's calls too", PROXY, "pod", 15009, "proxy :15009"),
            Try("and the usual one is captured", OUTSIDE, "pod", 15008, IN),
        ),
    ),
    Scenario(
        "without -z",
        ("-p", "15009", "-u", "1337", "-i", "*", "-b", "*"),
        (
            Try("inbound goes to the port of -p", OUTSIDE, "pod", 8080, "proxy :15009"),
            Try("as outbound does", APP, "internet", 80, "proxy :15009"),
        ),
    ),
    Scenario(
        "-c",
        (*CAPTURE_ALL, "-c", "eth0"),
        (
            Try("by eth0 nothing goes captured", APP, "internet", 80, "outside :80"),
            Try("nor comes", OUTSIDE, "pod", 8080, "app :8080"),
            # The names differ in one bit: a careless mask takes them for the same.
            Try("by eth2 all goes captured", APP, "neighbour eth2", 80, OUT),
            Try("and comes", Client(0, 0, "eth2"), "pod eth2", 8080, IN),
            Try("the proxy calls its pod: inbound", PROXY, "pod", 8080, IN),
        ),
        interfaces=("eth0", "eth2"),
    ),
    Scenario(
        "-c with a prefix and a second name",
        (*CAPTURE_ALL, "-c", "eth+, net"),
        (
            Try("eth0 goes uncaptured", APP, "internet", 80, "outside :80"),
            Try("eth2 comes uncaptured", Client(0, 0, "eth2"), "pod eth2", 8080, "app :8080"),
            Try("net goes uncaptured", APP, "neighbour net", 80, "outside :80"),
            Try("net1 is no net: captured", APP, "neighbour net1", 80, OUT),
            Try("both ways", Client(0, 0, "net1"), "pod net1", 8080, IN),
        ),
        interfaces=("eth0", "eth2", "net", "net1"),
    ),
    Scenario(
        "-k",
        (*CAPTURE_ALL, "-k", "eth1"),
        (
            Try("what comes by it counts as outbound", Client(0, 0, "eth1"), "internet", 80, OUT),
            Try("even to the pod's address", Client(0, 0, "eth1"), "pod eth1", 8080, OUT),
            Try("what comes by others is inbound", OUTSIDE, "pod", 8080, IN),
            Try("by one whose name differs in bits too", Client(0, 0, "eth3"), "pod eth3", 80, IN),
            Try("the pod's own is outbound", APP, "internet", 80, OUT),
        ),
        interfaces=("eth0", "eth1", "eth3"),
    ),
    Scenario(
        "-k with a list in -i, and two interfaces",
        ("-u", "1337", "-z", "15006", "-b", "*", "-i", SERVICES, "-k", "eth1,eth2"),
        (
            Try("listed is captured", Client(0, 0, "eth1"), "service", 80, OUT),
            Try("by the second too", Client(0, 0, "eth2"), "service", 80, OUT),
            Try("others go their way", Client(0, 0, "eth1"), "internet", 80, TIMEOUT),
            Try("even to the application", Client(0, 0, "eth2"), "pod eth2", 8080, "app :8080"),
            Try("by other interfaces it is inbound", OUTSIDE, "pod", 8080, IN),
        ),
        interfaces=("eth0", "eth1", "eth2"),
    ),
    Scenario(
        "excluded owner groups",
        CAPTURE_ALL,
        (
            Try("the first is not captured", Client(1000, 2000), "internet", 80, "outside :80"),
            Try("nor the second", Client(1000, 3000), "internet", 80, "outside :80"),
            Try("others are", APP, "internet", 80, OUT),
        ),
        environ={"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "2000,3000"},
    ),
    Scenario(
        "included owner groups",
        CAPTURE_ALL,
        (
            Try("the first is captured", Client(1000, 2000), "internet", 80, OUT),
            Try("and the second", Client(1000, 3000), "internet", 80, OUT),
            Try("others are not", APP, "internet", 80, "outside :80"),
            Try("nor a uid of that number", Client(2000, 1000), "internet", 80, "outside :80"),
            Try("nor the proxy", Client(1337, 2000), "internet", 80, "outside :80"),
        ),
        environ={"ISTIO_OUTBOUND_OWNER_GROUPS": "2000,3000"},
    ),
)


def _cases() -> Iterator[object]:
    for scenario in SCENARIOS:
        for version in scenario.versions:
            yield pytest.param(scenario, version, id=f"{scenario.title}-IPv{version}")


@pytest.mark.parametrize(("scenario", "version"), list(_cases()))
def test_connections_go_where_the_flags_send_them(scenario: Scenario, version: int) -> None:
    with make_pod(interfaces=scenario.interfaces) as pod, ExitStack() as listening:
        if scenario.flags:
            applied = run_in(pod.namespace, "--ipv6", *scenario.flags, environ=scenario.environ)
            assert applied.status == 0, applied.stderr
        for name, who, ports, uid in (
            (pod.namespace, "app", (7070, 8080, 9090), 1000),
            (pod.namespace, "proxy", (15001, 15006, 15008, 15009), 1337),
            (pod.outside, "outside", (80, 443, 8443), 0),
        ):
            listening.enter_context(listener(name, who, ports, uid=uid, gid=uid))
        went = {each.why: _went(pod, version, each) for each in scenario.tries}
        assert went == {each.why: each.arrives for each in scenario.tries}


def _went(pod: Pod, version: int, attempt: Try) -> str:
    """Where a connection arrived, and what the answer lost on the way."""
    to = Endpoint(_address(pod, version, attempt.place), attempt.port)
    uid, gid, outside = attempt.client
    answer = connect(
        pod.outside if outside else pod.namespace,
        *to,
        uid=uid,
        gid=gid,
        protocol=attempt.protocol,
        source=attempt.source and PLACES[version][attempt.source],
        interface=outside and f"to-{outside}",
        # One that has to be silent should not take long.
        timeout=0.5 if attempt.arrives == TIMEOUT else 5.0,
    )
    if answer.local is None or answer.peer is None:
        return answer.who
    came_from = _source(pod, version, attempt)
    wrong = "" if answer.destination == to else f" for {answer.destination} instead of {to}"
    if answer.peer.address != came_from:
        wrong += f" from {answer.peer.address} instead of {came_from}"
    return f"{answer.who} :{answer.local.port}{wrong}"


def _address(pod: Pod, version: int, place: str) -> str:
    """The address of a place: one of PLACES, or `pod` or `neighbour` with an interface."""
    kind, _, interface = place.partition(" ")
    if place in PLACES[version]:
        return PLACES[version][place]
    look_up = {"pod": pod.address, "neighbour": pod.neighbour}[kind]
    return look_up(version, interface or "eth0")


def _source(pod: Pod, version: int, attempt: Try) -> str:
    """The address that the client speaks from, by the pod's routes."""
    if attempt.source:
        return PLACES[version][attempt.source]
    if attempt.client.outside:
        return pod.neighbour(version, attempt.client.outside)
    if "loopback" in attempt.place:
        return PLACES[version]["loopback"]
    return pod.address(version, attempt.place.partition(" ")[2] or "eth0")


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("flags", "reaches_the_pod"),
    [
        pytest.param((), True, id="without rules the pod answers a stray packet itself"),
        pytest.param(CAPTURE_ALL, True, id="so it does with rules, which nat never shows it"),
        pytest.param((*CAPTURE_ALL, "--drop-invalid"), False, id="with --drop-invalid it is gone"),
    ],
)
def test_a_packet_of_no_connection(
    flags: tuple[str, ...], reaches_the_pod: bool, version: int
) -> None:
    with make_pod() as pod:
        if flags:
            assert run_in(pod.namespace, "--ipv6", "-d", "9", *flags).status == 0
        asking = partial(_answered, pod.neighbour(version), pod.address(version))
        assert namespace.call(pod.outside, asking) == reaches_the_pod


SYN, ACK = 0x02, 0x10


def _answered(source: str, destination: str) -> bool:
    """Whether the pod answers a SYN/ACK that nobody asked for, which conntrack calls INVALID."""
    family = socket.AF_INET if read_address(source).version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.settimeout(5)
        raw.bind((source, 0))
        raw.connect((destination, 0))
        raw.send(_segment(source, destination, 8080, SYN | ACK))
        # This one is answered in any case, and packets do not overtake each other.
        raw.send(_segment(source, destination, 9, SYN))
        answered = False
        while True:
            packet = raw.recv(4096)
            header = 4 * (packet[0] & 0x0F) if family == socket.AF_INET else 0
            (port,) = struct.unpack_from("!H", packet, header)
            if port == 9:
                return answered
            answered = answered or port == 8080


def _segment(source: str, destination: str, port: int, flags: int) -> bytes:
    """A TCP header (RFC 9293, 3.1) with its checksum."""
    header = struct.pack("!HHIIBBHHH", 40000, port, 1, 1, 5 << 4, flags, 1024, 0, 0)
    pseudo = read_address(source).packed + read_address(destination).packed
    pseudo += struct.pack("!HH", socket.IPPROTO_TCP, len(header))
    total = sum(struct.unpack(f"!{len(pseudo + header) // 2}H", pseudo + header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]
