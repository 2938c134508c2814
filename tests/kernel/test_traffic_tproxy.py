"""Where real connections go in mode TPROXY and under the rule set 1.0, and what comes back.

Every connection is checked for who answered, whether at the very address that the client asked
for or by a redirection, and that the client's own address was seen there.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from pods import (
    REFUSED,
    TIMEOUT,
    Endpoint,
    Pod,
    connect,
    forwarder,
    listener,
    make_pod,
    make_router,
)
from pods.traffic import Protocol
from proxy_init.rules.model import Family
from tests.our_rules import change_rules
from tests.running import both_backends, run_in

pytestmark = both_backends

ALL = ("-m", "TPROXY", "-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
OLD = ("--ruleset", "1.0", "-p", "15001", "-z", "15006", "-i", "*", "-b", "*")
MARK = 1337

PLACES: Mapping[int, Mapping[str, str]] = {
    4: {"internet": "198.51.100.7", "loopback": "127.0.0.1", "passthrough": "127.0.0.6"},
    6: {"internet": "2001:db8:ffff::7", "loopback": "::1", "passthrough": "::6"},
}
MESSAGES = (b"first", b"second " * 3000, b"third")

each_version = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


class Client(NamedTuple):
    """Who connects: a process of the pod, or one outside, by the interface that it comes in on."""

    uid: int = 1000
    gid: int = 1000
    outside: str | None = None


APP = Client()
PROXY = Client(1337, 1337)
# A sidecar in mode TPROXY runs as root, for its capabilities, and is known by its group.
ROOT_PROXY = Client(0, 1337)
ROOT = Client(0, 0)
OUTSIDE = Client(0, 0, "eth0")


@dataclass(frozen=True)
class Try:
    """A connection of `client` to a place and port, and who gets it; `why` says why."""

    why: str
    client: Client
    place: str
    port: int
    arrives: str
    protocol: Protocol = "tcp"
    source: str | None = None


@dataclass(frozen=True)
class Scenario:
    """One set of flags, and what becomes of connections under it."""

    title: str
    flags: tuple[str, ...]
    tries: tuple[Try, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[str, ...] = ("eth0",)
    versions: tuple[int, ...] = (4, 6)


# Listeners in the pod: (who, port). A transparent one can't tell by which port it was reached.
INBOUND, OUTBOUND = "inbound", "outbound"
PROXY_PORTS = ((OUTBOUND, 15001), (INBOUND, 15006), ("tunnel", 15008), ("other inbound", 15016))
REDIRECTED = ", redirected"

SCENARIOS = (
    Scenario(
        "all is captured",
        ALL,
        (
            Try("what comes from outside is captured", OUTSIDE, "pod", 8080, INBOUND),
            Try("on any port, with nobody behind", OUTSIDE, "pod", 4321, INBOUND),
            Try("the tunnel port too: nat alone exempts it", OUTSIDE, "pod", 15008, INBOUND),
            Try("UDP is not", OUTSIDE, "pod", 8080, "app", "udp"),
            Try("what the application sends is", APP, "internet", 80, OUTBOUND + REDIRECTED),
            Try("that of root too", ROOT, "internet", 80, OUTBOUND + REDIRECTED),
            Try("the proxy's is not", PROXY, "internet", 80, "outside"),
            Try("nor that of a proxy that is root", ROOT_PROXY, "internet", 80, "outside"),
        ),
    ),
    Scenario(
        "inside the pod",
        ALL,
        (
            Try("the application calls itself on lo", APP, "loopback", 8080, "app"),
            Try("or by the pod's address", APP, "pod", 8080, "app"),
            Try("the proxy calls the application on lo", PROXY, "loopback", 8080, "app"),
            Try("so does one that is root", ROOT_PROXY, "loopback", 8080, "app"),
            Try("by the pod's address that is inbound", PROXY, "pod", 8080, INBOUND + REDIRECTED),
            Try("for one that is root too, by the mark", ROOT_PROXY, "pod", 8080, INBOUND),
            Try(
                "from the passthrough source it reaches the application",
                *(PROXY, "pod", 8080, "app"),
                source="passthrough",
            ),
            Try(
                "so does one that is root",
                *(ROOT_PROXY, "pod", 8080, "app"),
                source="passthrough",
            ),
            Try(
                "and on lo",
                *(PROXY, "loopback", 8080, "app"),
                source="passthrough",
            ),
        ),
    ),
    Scenario(
        "-b is a list",
        (*ALL, "-b", "8080, 9090, "),
        (
            Try("the first port is captured", OUTSIDE, "pod", 8080, INBOUND),
            Try("and the second", OUTSIDE, "pod", 9090, INBOUND),
            Try("others are not", OUTSIDE, "pod", 7070, "app"),
        ),
    ),
    Scenario(
        "-b is empty",
        (*ALL, "-b", ""),
        (
            Try("nothing inbound is captured", OUTSIDE, "pod", 8080, "app"),
            Try("outbound is", APP, "internet", 80, OUTBOUND + REDIRECTED),
        ),
    ),
    Scenario(
        "-d",
        (*ALL, "-d", "9090,7070"),
        (
            Try("the first port is not captured", OUTSIDE, "pod", 9090, "app"),
            Try("nor the second", OUTSIDE, "pod", 7070, "app"),
            Try("others are", OUTSIDE, "pod", 8080, INBOUND),
        ),
    ),
    Scenario(
        "-z",
        (*ALL, "-z", "15016"),
        (
            Try("inbound goes there", OUTSIDE, "pod", 8080, "other inbound"),
            Try("outbound does not", APP, "internet", 80, OUTBOUND + REDIRECTED),
        ),
    ),
    Scenario(
        "without -z",
        ("-m", "TPROXY", "-p", "15001", "-u", "1337", "-b", "*", "--ipv6"),
        (Try("inbound goes to the port of -p", OUTSIDE, "pod", 8080, OUTBOUND),),
    ),
    Scenario(
        "-c",
        (*ALL, "-c", "eth1"),
        (
            Try("what comes by it is left alone", Client(0, 0, "eth1"), "pod eth1", 8080, "app"),
            Try("what leaves by it too", APP, "neighbour eth1", 80, "outside"),
            Try("what comes by another is captured", OUTSIDE, "pod", 8080, INBOUND),
            Try("what leaves by another too", APP, "internet", 80, OUTBOUND + REDIRECTED),
        ),
        interfaces=("eth0", "eth1"),
    ),
    Scenario(
        "-t and -r",
        (*ALL, "-t", "0x42", "-r", "1000"),
        (
            Try("inbound is captured with this mark and table", OUTSIDE, "pod", 8080, INBOUND),
            Try("the proxy's call to its pod is inbound", ROOT_PROXY, "pod", 8080, INBOUND),
            Try("the application's is not", APP, "pod", 8080, "app"),
        ),
    ),
    Scenario(
        "--drop-invalid",
        (*ALL, "--drop-invalid"),
        (
            Try("inbound is captured", OUTSIDE, "pod", 8080, INBOUND),
            Try("outbound too", APP, "internet", 80, OUTBOUND + REDIRECTED),
            Try("the proxy's is not", PROXY, "internet", 80, "outside"),
        ),
    ),
    Scenario(
        "1.0, REDIRECT",
        (*OLD, "-d", "9090"),
        (
            Try("inbound is captured", OUTSIDE, "pod", 8080, INBOUND + REDIRECTED),
            Try("but for ssh", OUTSIDE, "pod", 22, "app"),
            Try("and the ports of -d", OUTSIDE, "pod", 9090, "app"),
            Try("outbound is captured", APP, "internet", 80, OUTBOUND + REDIRECTED),
            Try("the proxy's is not", PROXY, "internet", 80, "outside"),
            Try("by default root's is not either", ROOT, "internet", 80, "outside"),
            Try("nor its group's", Client(1000, 0), "internet", 80, "outside"),
            Try("the application calls itself on lo", APP, "loopback", 8080, "app"),
            Try("not by the pod's address", APP, "pod", 8080, OUTBOUND + REDIRECTED),
        ),
        versions=(4,),
    ),
    Scenario(
        "1.0, REDIRECT, -u",
        (*OLD, "-u", "1337"),
        (
            Try("root's is captured then", ROOT, "internet", 80, OUTBOUND + REDIRECTED),
            Try("the proxy's is not", PROXY, "internet", 80, "outside"),
        ),
        versions=(4,),
    ),
    Scenario(
        "1.0, TPROXY",
        (*OLD, "-m", "TPROXY", "-d", "9090"),
        (
            Try("inbound goes to the port of -p, not of -z", OUTSIDE, "pod", 8080, OUTBOUND),
            Try("but for ssh", OUTSIDE, "pod", 22, "app"),
            Try("and the ports of -d", OUTSIDE, "pod", 9090, "app"),
            Try("outbound is captured", APP, "internet", 80, OUTBOUND + REDIRECTED),
            Try("the proxy's is not", PROXY, "internet", 80, "outside"),
            Try("by default root's is not either", ROOT, "internet", 80, "outside"),
        ),
        versions=(4,),
    ),
    Scenario(
        "1.0, TPROXY, -b is a list",
        (*OLD, "-m", "TPROXY", "-b", "8080,9090"),
        (
            Try("the first port is captured", OUTSIDE, "pod", 8080, OUTBOUND),
            Try("and the second", OUTSIDE, "pod", 9090, OUTBOUND),
            Try("others are not", OUTSIDE, "pod", 7070, "app"),
        ),
        versions=(4,),
    ),
    Scenario(
        "1.0 and IPv6",
        OLD,
        (
            Try("what comes from outside is refused", OUTSIDE, "pod", 8080, REFUSED),
            Try("UDP too", OUTSIDE, "pod", 8080, REFUSED, "udp"),
            Try("answers to the pod's own connections come in", APP, "internet", 80, "outside"),
        ),
        versions=(6,),
    ),
    Scenario(
        "1.0 and IPv6, ENABLE_INBOUND_IPV6",
        OLD,
        (
            Try("what comes from outside reaches the application", OUTSIDE, "pod", 8080, "app"),
            Try("what goes out is not captured", APP, "internet", 80, "outside"),
        ),
        environ={"ENABLE_INBOUND_IPV6": "false"},
        versions=(6,),
    ),
)


def _cases() -> Iterator[object]:
    for scenario in SCENARIOS:
        for version in scenario.versions:
            yield pytest.param(scenario, version, id=f"{scenario.title}-IPv{version}")


@pytest.mark.parametrize(("scenario", "version"), list(_cases()))
def test_connections_go_where_the_flags_send_them(scenario: Scenario, version: int) -> None:
    with make_pod(interfaces=scenario.interfaces) as pod, ExitStack() as listening:
        # The IPv6 rules of 1.0 refuse a neighbour's answers too, so it is asked for before.
        connect(pod.namespace, pod.neighbour(version), 9)
        # Without this user the proxy is uid 1337 whatever users the machine has.
        environ = {"ENVOY_USER": "nobody-of-that-name", **scenario.environ}
        applied = run_in(pod.namespace, *scenario.flags, environ=environ)
        assert applied.status == 0, applied.stderr
        enter = listening.enter_context
        enter(listener(pod.namespace, "app", (22, 7070, 8080, 9090), uid=1000, gid=1000))
        enter(listener(pod.outside, "outside", (80,)))
        for who, port in PROXY_PORTS:
            enter(listener(pod.namespace, who, (port,), uid=1337, gid=1337, transparent=True))
        went = {each.why: _went(pod, version, each) for each in scenario.tries}
        assert went == {each.why: each.arrives for each in scenario.tries}


def _went(pod: Pod, version: int, attempt: Try) -> str:
    """Who a connection reached, and how; with what was not as it should be."""
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
        timeout=5.0,
    )
    if answer.local is None or answer.peer is None:
        return answer.who
    went = answer.who
    if answer.local != to:
        went += REDIRECTED if answer.original == to else f" at {answer.local}, {answer.original}"
    source = _source(pod, version, attempt)
    return went + ("" if answer.peer.address == source else f" as {answer.peer.address}")


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
    if attempt.place == "loopback":
        return PLACES[version]["loopback"]
    return pod.address(version, attempt.place.partition(" ")[2] or "eth0")


# The proxy goes on to the application, from the client's address and with the mark. It is known by
# its group: what -u names is sent back to it, wherever in the pod it connects to.


@each_version
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(ALL, id="every port"),
        pytest.param((*ALL, "-b", "8080"), id="a port of a list"),
        pytest.param((*ALL, "--drop-invalid"), id="with --drop-invalid"),
    ],
)
def test_the_application_answers_the_client_by_way_of_the_proxy(
    flags: tuple[str, ...], version: int
) -> None:
    with (
        make_pod() as pod,
        listener(pod.namespace, "app", (8080,), uid=1000, gid=1000),
        forwarder(pod.namespace, "inbound", 15006, uid=0, gid=1337, mark=MARK),
    ):
        assert run_in(pod.namespace, *flags).status == 0
        to = Endpoint(pod.address(version), 8080)
        for client, name, address in (
            (OUTSIDE, pod.outside, pod.neighbour(version)),
            (ROOT_PROXY, pod.namespace, pod.address(version)),
        ):
            answer = connect(name, *to, uid=client.uid, gid=client.gid, messages=MESSAGES)
            assert (answer.who, answer.local) == ("app", to)
            assert answer.via is not None
            assert (answer.via.who, answer.via.local) == ("inbound", to)
            # Both see the client, by two connections.
            assert answer.peer is not None and answer.via.peer is not None
            assert {answer.peer.address, answer.via.peer.address} == {address}
            assert answer.peer.port != answer.via.peer.port


@each_version
def test_without_the_restored_mark_the_application_answers_past_the_proxy(version: int) -> None:
    """So that the test above is known to see it."""
    with (
        make_pod() as pod,
        listener(pod.namespace, "app", (8080,), uid=1000, gid=1000),
        forwarder(pod.namespace, "inbound", 15006, uid=0, gid=1337, mark=MARK),
    ):
        assert run_in(pod.namespace, *ALL).status == 0
        restore = (
            f"-D OUTPUT -p tcp -m connmark --mark {MARK:#x} "
            "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
        )
        change_rules(pod.namespace, Family(version), "-t", "mangle", *restore.split())
        answer = connect(pod.outside, pod.address(version), 8080, timeout=0.5)
        assert answer.who == TIMEOUT


# A router: the connections that it forwards.


@each_version
def test_a_routers_proxy_connects_onward_and_passes_data_both_ways(version: int) -> None:
    with (
        make_router() as router,
        listener(router.server, "server", (80, 9090)),
        forwarder(router.namespace, "proxy", 15006, uid=1337, gid=1337),
    ):
        assert run_in(router.namespace, *ALL, "-d", "9090").status == 0
        client, server = router.client_address(version), router.server_address(version)
        to = Endpoint(server, 80)

        answer = connect(router.client, *to, messages=MESSAGES)
        assert (answer.who, answer.local) == ("server", to)
        assert answer.peer is not None
        assert answer.peer.address == router.address_near_server(version)
        assert answer.via is not None and answer.via.peer is not None
        assert (answer.via.who, answer.via.local) == ("proxy", to)
        assert answer.via.peer.address == client

        past = connect(router.client, *to, protocol="udp")
        assert past.who == "server" and past.peer is not None and past.peer.address == client
        # A weakness of these rules: the server's answer counts as one to the proxy.
        assert connect(router.client, server, 9090, timeout=0.5).who == TIMEOUT
