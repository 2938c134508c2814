"""What `prove` says of damaged rules is what the kernel does with a real packet."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest

from pods import ENVIRONMENT, Pod, connect, listener, make_pod
from proxy_init.analysis.number_sets import Numbers
from proxy_init.analysis.packet_sets import (
    DESTINATION,
    DESTINATION_PORT,
    INTERFACE,
    MARK,
    POD,
    SERVER,
    SOURCE,
    Condition,
    Journey,
    example,
    interfaces,
    split,
)
from proxy_init.analysis.packet_walk import Direction, Packet, PodNetwork, walk
from proxy_init.analysis.prove import Counterexample, prove
from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.kernel.system.host import Host
from proxy_init.rules.iptables_save import ruleset_text
from proxy_init.rules.model import Family, Ruleset
from proxy_init.rulesets import build
from tests.damaged_rules import damaged
from tests.our_rules import change_rules
from tests.running import both_backends, program, restored, run_in

OUTBOUND, INBOUND, TUNNEL = 15001, 15006, 15008
ELSEWHERE = (22, 53, 80, 443, 8080, TUNNEL)
FLAGS = ("-p", str(OUTBOUND), "-z", str(INBOUND), "-i", "*", "-b", "*", "-d", "22", "--ipv6")


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """A pod and the world outside, in which everyone listens."""
    with make_pod() as made, ExitStack() as listening:
        # Damaged rules capture with the port beside.
        for port in (OUTBOUND, OUTBOUND + 1, INBOUND, INBOUND + 1, 15053):
            # Over TPROXY the port that was meant is the socket's own: the name has to tell.
            proxy = listener(
                made.namespace, f"proxy {port}", (port,), uid=1337, gid=1337, transparent=True
            )
            listening.enter_context(proxy)
        listening.enter_context(listener(made.namespace, "pod", ELSEWHERE, uid=1000, gid=1000))
        listening.enter_context(listener(made.outside, "outside", ELSEWHERE))
        yield made


def can_be_sent(journey: Journey) -> list[Condition]:
    """The packets that the test's pod can send: nobody else's address, no mark."""
    family, out = journey.family, journey.direction is Direction.OUT
    to = POD if journey.local else SERVER
    conditions = [
        Condition(DESTINATION, Numbers.of(int(to[family]))),
        Condition(DESTINATION_PORT, Numbers.of(*ELSEWHERE)),
        Condition(INTERFACE, interfaces("lo") | interfaces("eth0")),
        Condition(MARK, Numbers.of(0)),
    ]
    # What comes from outside for others ends in a pod, which is no router.
    nobody = [Condition(DESTINATION, Numbers.of())]
    if not out:
        return conditions if journey.local else nobody
    return [*conditions, Condition(SOURCE, Numbers.of(int(POD[family])))]


def packets_of(found: Sequence[Counterexample]) -> Iterator[tuple[Counterexample, Packet]]:
    """The packets that can be sent, one for each set that has one."""
    for each in found:
        for box in each.boxes:
            inside, _ = split(box, can_be_sent(each.sample.journey))
            packet = inside and example(each.sample.journey, inside)
            if packet:
                yield each, packet


def captured_by(pod: Pod, packet: Packet) -> int | None:
    """The port of the proxy that gets a real packet; None if the one it is for gets it."""
    out = packet.direction is Direction.OUT
    answer = connect(
        pod.namespace if out else pod.outside,
        str(packet.destination),
        packet.destination_port,
        uid=packet.uid if out else 0,
        gid=packet.gid if out else 0,
        protocol="tcp" if packet.protocol == "tcp" else "udp",
    )
    who, _, port = answer.who.partition(" ")
    assert who in ("proxy", "pod", "outside"), (answer, packet)
    return int(port) if port else None


def pod_network_of(ruleset: Ruleset) -> PodNetwork:
    """The rules in the test's pod."""
    tables = {table.name: table for table in ruleset.tables}
    return PodNetwork(tables, frozenset(POD.values()), ruleset.routing.policy_route)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("family", Family, ids=lambda family: family.title)
def test_the_kernel_confirms_a_counterexample_of_damaged_rules(
    pod: Pod, family: Family, mode: str
) -> None:
    flags = (*FLAGS, "-m", mode)
    config = settle(read_config(flags, {}, Host()), [])
    whole = build(config, family)
    assert run_in(pod.namespace, *flags).status == 0
    confirmed = 0
    for ruleset in damaged(whole):
        found = prove(config, {family: pod_network_of(ruleset)}).counterexamples
        sent = next(packets_of(found), None)
        if sent is None:
            continue
        counterexample, packet = sent
        result = restored(pod.namespace, family, ruleset_text(ruleset))
        assert result.returncode == 0, result.stderr
        port = captured_by(pod, packet)
        assert port not in counterexample.ends
        assert port == walk(pod_network_of(ruleset), packet).port
        confirmed += 1
    assert confirmed >= 30, confirmed


@both_backends
def test_live_rules_are_held_against_what_the_flags_promise(pod: Pod) -> None:
    assert run_in(pod.namespace, *FLAGS).status == 0
    assert run_in(pod.namespace, "prove", "--live", *FLAGS).status == 0
    for rule in (
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "-A OUTPUT -j ISTIO_OUTPUT",
    ):
        delete = rule.replace("-A", "-D", 1).split()
        change_rules(pod.namespace, Family.V4, "-t", "nat", *delete)
        result = run_in(pod.namespace, "prove", "--live", *FLAGS)
        assert result.status == 3
        assert "Not every promise holds" in result.stdout
        assert " --live --to " in result.stdout


def test_rules_of_the_kernel_of_a_file_and_of_flags_are_compared(pod: Pod, tmp_path: Path) -> None:
    for words in (("clean",), FLAGS):  # whatever tables the rules of other tests are in
        assert run_in(pod.namespace, *words).status == 0
    dry_run, kernel = tmp_path / "dry-run", tmp_path / "kernel"
    dry_run.write_text(run_in(pod.namespace, *FLAGS, "--dry-run").stdout)
    kernel.write_text(pod.save(4))
    sides = [FLAGS, ("--live",), ("--saved", str(dry_run)), ("--saved", str(kernel))]
    for side, other in permutations(sides, 2):
        result = run_in(pod.namespace, "prove", *side, "--against", shlex.join(other))
        assert result.status == 0, result.stdout
    for action in ("-I", "-D"):
        rule = ("-t", "nat", action, *["OUTPUT", "-p", "tcp", "--dport", "8443", "-j", "ACCEPT"])
        assert pod.run([program(Family.V4), *rule], env=ENVIRONMENT).returncode == 0
        compared = run_in(pod.namespace, "prove", *FLAGS, "--against", "--live")
        proved = run_in(pod.namespace, "prove", "--live", *FLAGS)
        if action == "-D":
            assert (compared.status, proved.status) == (0, 0)
            continue
        assert (compared.status, proved.status) == (3, 3)
        foreign = "The foreign rule: nat: -A OUTPUT -p tcp -m tcp --dport 8443 -j ACCEPT"
        assert foreign in proved.stdout
        assert "- IPv4 TCP to any address outside the pod, port 8443, " in compared.stdout


OUTPUT = "chain c { type nat hook output priority -110; tcp dport 8080 %s; };"
REPLIES = "chain d { type filter hook prerouting priority -310; tcp sport 8080 notrack; };"


@pytest.mark.parametrize(
    ("chains", "bypasses"),
    [
        (OUTPUT.replace("nat", "filter").replace("-110", "-310") % "notrack" + REPLIES, True),
        (OUTPUT % "dnat to 198.51.100.7:8080", True),
        (OUTPUT % "accept", False),  # in nat, only a translation keeps packets from the next chain
    ],
    ids=["notrack", "dnat", "accept"],
)
def test_a_foreign_table_is_found_if_the_kernel_lets_packets_bypass_ours_by_it(
    pod: Pod, chains: str, bypasses: bool
) -> None:
    for words in (("clean",), FLAGS):
        assert run_in(pod.namespace, *words).status == 0
    try:
        assert pod.run(["nft", f"table ip foreign {{ {chains} }}"]).returncode == 0
        answer = connect(pod.namespace, str(SERVER[Family.V4]), 8080, uid=1000, gid=1000)
        assert answer.who == ("outside" if bypasses else f"proxy {OUTBOUND}")
        proved = run_in(pod.namespace, "prove", "--live", *FLAGS)
        assert proved.status == (3 if bypasses else 0), proved.stdout
        assert ("The foreign rule: " in proved.stdout) == bypasses
    finally:
        assert pod.run(["nft", "delete table ip foreign"]).returncode == 0
