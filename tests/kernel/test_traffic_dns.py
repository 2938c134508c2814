"""Where real DNS queries go: an application's to the agent, the agent's own to a server."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from pods import ENVIRONMENT, Endpoint, Pod, connect, listener, make_pod, namespace
from pods.traffic import Protocol
from proxy_init.config.read import RESOLV_CONF
from proxy_init.kernel.legacy.libiptc import load
from proxy_init.kernel.system.host import Host
from proxy_init.rules.model import Family
from tests.running import Result, backend_under_test, both_backends, program, run_here

pytestmark = both_backends

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
DNS = (*ALL, "--redirect-dns")

# Of these, resolv.conf names the first ones; the other is somebody's choice.
SERVER = {4: "198.51.100.53", 6: "2001:db8:ffff::53"}
SECOND = {4: "198.51.100.54", 6: "2001:db8:ffff::54"}
LOCAL = {4: "127.0.0.53", 6: "::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
OTHER = {4: "203.0.113.53", 6: "2001:db8:eeee::53"}
SERVERS = (*SERVER.values(), *SECOND.values(), *LOCAL.values())

AGENT_ZONE, SERVER_ZONE = 2, 1

each_version = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


class Client(NamedTuple):
    """A process of the pod."""

    uid: int
    gid: int


APP, AGENT = Client(1000, 1000), Client(1337, 1337)


@dataclass(frozen=True)
class Try:
    """Queries of `client` to a server: who gets them over UDP, and over TCP."""

    why: str
    client: Client
    server: Mapping[int, str]
    udp: str
    tcp: str


@dataclass(frozen=True)
class Scenario:
    """One set of flags and what resolv.conf names, and what becomes of queries then."""

    title: str
    flags: tuple[str, ...]
    servers: Sequence[str]
    tries: tuple[Try, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[int, ...] = (4, 6)


SCENARIOS = (
    *(
        Scenario(
            f"the servers of resolv.conf, mode {mode}",
            (*DNS, "-m", mode),
            SERVERS,
            (
                Try("the application asks the first server", APP, SERVER, "agent", "agent"),
                Try("and the second", APP, SECOND, "agent", "agent"),
                Try("one that is in the pod", APP, LOCAL, "agent", "agent"),
                Try("one that is not named", APP, OTHER, "server", "proxy"),
                Try("root asks", Client(0, 0), SERVER, "agent", "agent"),
                Try("the agent asks the first server", AGENT, SERVER, "server", "server"),
                Try("one that is not named", AGENT, OTHER, "server", "server"),
                Try("known by its group", Client(4000, 1337), SERVER, "server", "server"),
            ),
        )
        for mode in ("REDIRECT", "TPROXY")
    ),
    Scenario(
        "a server in the pod, mode REDIRECT",
        DNS,
        SERVERS,
        (Try("the agent asks it", AGENT, LOCAL, "local server", "local server"),),
    ),
    *(
        Scenario(
            "a server in the pod, mode TPROXY",
            (*DNS, "-m", "TPROXY"),
            SERVERS,
            (Try("the agent asks it", AGENT, LOCAL, "local server", tcp),),
            versions=(version,),
        )
        # A weakness of these rules: what is no single loopback address counts as inbound.
        for version, tcp in ((4, "inbound"), (6, "local server"))
    ),
    Scenario(
        "a server in the pod, mode TPROXY, the loopback CIDR is all of 127",
        (*DNS, "-m", "TPROXY"),
        SERVERS,
        (
            Try("the agent asks it", AGENT, LOCAL, "local server", "local server"),
            Try("the application asks it", APP, LOCAL, "agent", "agent"),
        ),
        environ={"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"},
    ),
    Scenario(
        "all servers",
        (*DNS, "--capture-all-dns"),
        (),
        (
            Try("the application asks any server", APP, OTHER, "agent", "agent"),
            Try("one that is in the pod", APP, LOCAL, "agent", "agent"),
            Try("the agent asks any server", AGENT, OTHER, "server", "server"),
            Try("one that is in the pod", AGENT, LOCAL, "local server", "local server"),
        ),
    ),
    Scenario(
        "a server at the loopback address",
        DNS,
        [*LOOPBACK.values()],
        (
            Try("the application asks it", APP, LOOPBACK, "agent", "agent"),
            Try("the agent asks it", AGENT, LOOPBACK, "local server", "local server"),
        ),
    ),
    Scenario(
        "no server of this family",
        DNS,
        [SERVER[4]],
        (Try("its queries are not captured", APP, SERVER, "server", "proxy"),),
        versions=(6,),
    ),
    Scenario(
        "-o 53",
        (*DNS, "-o", "53"),
        SERVERS,
        (Try("excluded wins", APP, SERVER, "server", "server"),),
    ),
    Scenario(
        "without DNS capture",
        ALL,
        SERVERS,
        (
            Try("UDP is not captured", APP, SERVER, "server", "proxy"),
            Try("nor what stays in the pod", APP, LOCAL, "local server", "local server"),
        ),
    ),
)


def apply(
    pod: Pod, servers: Sequence[str], *flags: str, environ: Mapping[str, str] | None = None
) -> Result:
    """Run the program in the pod, where resolv.conf names these servers."""
    text = "search example.org\n" + "".join(f"nameserver {server}\n" for server in servers)
    read_text = Host.read_text

    def read(host: Host, path: str) -> str:
        return text if path == RESOLV_CONF else read_text(host, path)

    def work() -> Result:
        with mock.patch.object(Host, "read_text", read):
            return run_here(*flags, environ=environ)

    load()
    return namespace.call(pod.namespace, work, timeout=60)


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod with a proxy, an agent and a DNS server of its own, and servers outside."""
    with make_pod() as made, ExitStack() as listening:
        for name, who, port, uid in (
            (made.namespace, "agent", 15053, 1337),
            (made.namespace, "proxy", 15001, 1337),
            (made.namespace, "inbound", 15006, 1337),
            (made.namespace, "local server", 53, 101),
            (made.outside, "server", 53, 0),
        ):
            transparent = who == "inbound"
            listening.enter_context(
                listener(name, who, [port], uid=uid, gid=uid, transparent=transparent)
            )
        yield made


def _cases() -> Iterator[object]:
    for scenario in SCENARIOS:
        for version in scenario.versions:
            yield pytest.param(scenario, version, id=f"{scenario.title}-IPv{version}")


@pytest.mark.parametrize(("scenario", "version"), list(_cases()))
def test_queries_go_where_the_flags_send_them(pod: Pod, scenario: Scenario, version: int) -> None:
    applied = apply(pod, scenario.servers, *scenario.flags, environ=scenario.environ)
    assert applied.status == 0, applied.stderr
    went = [
        (each.why, _asked(pod, version, each, "udp"), _asked(pod, version, each, "tcp"))
        for each in scenario.tries
    ]
    assert went == [(each.why, each.udp, each.tcp) for each in scenario.tries]


def _asked(pod: Pod, version: int, attempt: Try, protocol: Protocol) -> str:
    """Who answered; with what was not as it should be."""
    to = Endpoint(attempt.server[version], 53)
    uid, gid = attempt.client
    answer = connect(pod.namespace, *to, uid=uid, gid=gid, protocol=protocol, timeout=5.0)
    if answer.local is None or answer.peer is None:
        return answer.who
    on_lo = attempt.server in (LOCAL, LOOPBACK)
    source = LOOPBACK[version] if on_lo else pod.address(version)
    direct = answer.who in ("server", "local server")
    wrong = f" at {answer.local}" if direct and answer.local != to else ""
    return answer.who + wrong + (f" as {answer.peer}" if answer.peer.address != source else "")


# Conntrack: one source port, two queries.

PORT = 40053
TURNS = {"the application first": [APP, AGENT] * 2, "the agent first": [AGENT, APP] * 2}

to_servers = pytest.mark.parametrize(
    ("server", "real"), [(SERVER, "server"), (LOCAL, "local server")], ids=["outside", "in the pod"]
)
each_turn = pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS.keys())


@each_version
@to_servers
@each_turn
@pytest.mark.parametrize("more", [(), ("--capture-all-dns",)], ids=["by server", "all DNS"])
def test_queries_from_one_port_do_not_share_an_entry(
    pod: Pod,
    more: tuple[str, ...],
    turns: Sequence[Client],
    server: Mapping[int, str],
    real: str,
    version: int,
) -> None:
    assert apply(pod, SERVERS, *DNS, *more).status == 0
    answers = [_ask_from_the_port(pod, client, server[version]) for client in turns]
    assert answers == [{APP: "agent", AGENT: real}[client] for client in turns]
    assert _entries(pod, version) == {
        (server[version], AGENT_ZONE, 15053),
        (server[version], SERVER_ZONE, 53),
    }


@each_version
@to_servers
@each_turn
def test_without_zones_the_second_query_goes_where_the_first_went(
    pod: Pod, turns: Sequence[Client], server: Mapping[int, str], real: str, version: int
) -> None:
    """So that the test above is known to see it."""
    assert apply(pod, SERVERS, *DNS).status == 0
    flush = [program(Family(version)), "-t", "raw", "-F"]
    if backend_under_test() == "nft":
        flush = ["nft", "flush", "table", "inet", "istio-proxy-raw"]
    pod.run(flush, env=ENVIRONMENT).check_returncode()
    answers = [_ask_from_the_port(pod, client, server[version]) for client in turns]
    assert answers == [{APP: "agent", AGENT: real}[turns[0]]] * len(turns)


def _ask_from_the_port(pod: Pod, client: Client, server: str) -> str:
    uid, gid = client
    return connect(
        pod.namespace, server, 53, uid=uid, gid=gid, protocol="udp", source_port=PORT
    ).who


def _entries(pod: Pod, version: int) -> set[tuple[str, int, int]]:
    """Of the entries with our port: the server asked, the zone, and the port that answers."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def port(entry: Any, direction: str) -> int:
        number = entry.get_nested(direction, "CTA_TUPLE_PROTO", "CTA_PROTO_SRC_PORT")
        return int(number or 0)

    def look() -> set[tuple[str, int, int]]:
        with NFCTSocket(nfgen_family=family) as conntrack:
            return {
                (
                    entry.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_IP", f"CTA_IP_V{version}_DST"),
                    entry.get_attr("CTA_ZONE") or 0,
                    port(entry, "CTA_TUPLE_REPLY"),
                )
                for entry in conntrack.dump()
                if port(entry, "CTA_TUPLE_ORIG") == PORT
            }

    return namespace.call(pod.namespace, look)


# No server.


@pytest.mark.parametrize("servers", [[], ["not-an-address"]], ids=["none", "none that is one"])
def test_without_a_server_there_is_a_warning_and_no_capture(
    pod: Pod, servers: Sequence[str]
) -> None:
    applied = apply(pod, servers, *DNS)
    assert applied.status == 0
    warnings = [line for line in applied.stderr.splitlines() if "\twarn\t" in line]
    *skipped, warning = warnings
    for server, line in zip(servers, skipped, strict=True):
        assert f"nameserver '{server}' is skipped" in line
    assert f"{RESOLV_CONF} lists no name server, so DNS is not captured" in warning
    for version in (4, 6):
        assert "15053" not in pod.save(version)
        assert "*raw" not in pod.save(version)
        attempt = Try("the application asks", APP, SERVER, "server", "proxy")
        assert _asked(pod, version, attempt, "udp") == "server"
