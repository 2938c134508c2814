"""What `prove` says of damaged rules is what the kernel does with a real packet."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pods import ENVIRONMENT, Pod, connect, listener, make_pod
from proxy_init.analysis.packet_classes import POD, SERVER
from proxy_init.analysis.packet_walk import Direction, PodNetwork, walk
from proxy_init.analysis.prove import Counterexample, prove
from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.kernel.system.host import Host
from proxy_init.rules.iptables_save import ruleset_text
from proxy_init.rules.model import Family, Ruleset
from proxy_init.rulesets import build
from tests.damaged_rules import damaged
from tests.running import both_backends, program, restored, run_in, with_legacy_tables

OUTBOUND, INBOUND, TUNNEL = 15001, 15006, 15008
ELSEWHERE = (22, 53, 80, 443, 8080, TUNNEL)
FLAGS = ("-p", str(OUTBOUND), "-z", str(INBOUND), "-i", "*", "-b", "*", "-d", "22", "--ipv6")


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """A pod and the world outside, in which everyone listens."""
    with make_pod() as made, ExitStack() as listening:
        for port in (OUTBOUND, INBOUND, 15053):
            # Over TPROXY the port that was meant is the socket's own: the name has to tell.
            proxy = listener(
                made.namespace, f"proxy {port}", (port,), uid=1337, gid=1337, transparent=True
            )
            listening.enter_context(proxy)
        listening.enter_context(listener(made.namespace, "pod", ELSEWHERE, uid=1000, gid=1000))
        listening.enter_context(listener(made.outside, "outside", ELSEWHERE))
        yield made


def can_be_sent(example: Counterexample) -> bool:
    """Whether the test's pod can send such a packet: nobody else's address, no mark."""
    packet, family = example.sample.packet, example.sample.packet.family
    out = packet.direction is Direction.OUT
    to = {POD[family]} if example.sample.journey.local else {SERVER[family]} if out else set()
    return (
        packet.destination in to
        and packet.interface in ("lo", "eth0")
        and packet.mark == 0
        and packet.destination_port in ELSEWHERE
        and (not out or packet.source == POD[family])
    )


def captured_by(pod: Pod, example: Counterexample) -> int | None:
    """The port of the proxy that gets a real packet; None if the one it is for gets it."""
    packet = example.sample.packet
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
    assert who in ("proxy", "pod", "outside"), (answer, example)
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
        example = next(filter(can_be_sent, found), None)
        if example is None:
            assert not found, found[0]
            continue
        result = restored(pod.namespace, family, ruleset_text(ruleset))
        assert result.returncode == 0, result.stderr
        port = captured_by(pod, example)
        assert port not in example.promise.ends
        assert port == walk(pod_network_of(ruleset), example.sample.packet).port
        confirmed += 1
    assert confirmed >= 10


@with_legacy_tables
@both_backends
def test_live_rules_are_held_against_what_the_flags_promise(pod: Pod) -> None:
    assert run_in(pod.namespace, *FLAGS).status == 0
    assert run_in(pod.namespace, "prove", "--live", *FLAGS).status == 0
    for rule in (
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "-A OUTPUT -j ISTIO_OUTPUT",
    ):
        delete = [program(Family.V4), "-t", "nat", *rule.replace("-A", "-D", 1).split()]
        assert pod.run(delete, env=ENVIRONMENT).returncode == 0
        result = run_in(pod.namespace, "prove", "--live", *FLAGS)
        assert result.status == 3
        assert "Not every promise holds" in result.stdout
        assert " --live --to " in result.stdout
