"""`prove`: what it shows of rules as they should be, and of rules that somebody has damaged."""

import shlex
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxy_init.analysis.packet_classes import CLIENT, POD, SERVER, Sample
from proxy_init.analysis.packet_walk import Direction, Packet, PodNetwork, asks_for, walk
from proxy_init.analysis.promises import Journey, known_weakness, promised
from proxy_init.analysis.prove import compare, prove
from proxy_init.config.config import Config, settle
from proxy_init.rules.model import Family, Ruleset
from proxy_init.rules.networks import Address
from proxy_init.rulesets import build
from tests.damaged_rules import damaged
from tests.schemas import read_json
from tests.strategies import Call as Flags
from tests.strategies import calls
from tests.unit.conftest import Call
from tests.unit.fakes import FakeMachine, read_on, settled

USUAL = ("-p", "15001", "-z", "15006", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
MACHINE = FakeMachine(files={"/etc/resolv.conf": "nameserver 10.96.0.10\nnameserver fd00::a\n"})
Captured = pytest.CaptureFixture[str]

# Each example walks thousands of packets.
some = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def pod_network_of(ruleset: Ruleset) -> PodNetwork:
    """A pod with these rules."""
    tables = {table.name: table for table in ruleset.tables}
    return PodNetwork(tables, frozenset(), ruleset.routing.policy_route)


def pod_networks(config: Config) -> dict[Family, PodNetwork]:
    """What the flags ask for."""
    return {family: pod_network_of(build(config, family)) for family in Family}


def config_of(flags: Flags) -> Config:
    """Random flags, checked."""
    return settle(read_on(MACHINE, *flags.flags, **flags.environ), [])


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize(
    "more", [(), ("--redirect-dns", "--capture-all-dns"), ("-k", "", "-x", "")]
)
def test_the_usual_rules_keep_every_promise(mode: str, more: tuple[str, ...]) -> None:
    config = settled(*USUAL, "-m", mode, "--ipv6", *more)
    proof = prove(config, pod_networks(config))
    assert proof.classes > 100
    assert proof.counterexamples == ()


def test_unmatched_rules_are_reported_with_the_rule_that_takes_their_packets() -> None:
    config = settled(*USUAL)
    found = prove(config, pod_networks(config)).unreached
    places = [(each.table, each.chain, each.number) for each in found]
    # Of the gid's three rules two: what they are for has left by the uid's. And the loopback's.
    assert places == [("nat", "ISTIO_OUTPUT", number) for number in (5, 6, 8)]
    assert {each.by.why for each in found if each.by} == {
        "the application (not uid 1337) connects to itself over the loopback interface"
    }


def test_an_unreferenced_chain_is_reported() -> None:
    config = settled("-b", "*")
    (redirect,) = (
        each
        for each in prove(config, pod_networks(config)).unreached
        if each.chain == "ISTIO_REDIRECT"
    )
    assert redirect.taken is None


@some
@given(calls())
def test_every_promise_holds_except_for_known_weaknesses(flags: Flags) -> None:
    config = config_of(flags)
    for each in prove(config, pod_networks(config)).counterexamples:
        assert known_weakness(config, each.sample.journey, each.sample.packet), each


@pytest.mark.parametrize(
    ("flags", "weakness"),
    [
        (
            ("--ruleset", "1.0", "-i", "*"),
            "the 1.0 rules capture all traffic from the pod to itself",
        ),
        (("--ruleset", "1.0", "-i", "*"), "the 1.0 rules reject every new IPv6 connection"),
        (("--ruleset", "1.0", "-b", "*", "-m", "TPROXY"), "sends with the TPROXY mark back to it"),
        (("--redirect-dns", "-i", "*"), "TCP to port 53 of the pod itself"),
        (("-k", "tap0", "-i", "*", "-x", "10.0.0.0/8"), "for traffic from a -k interface only -i"),
        (
            ("-k", "tap0", "-b", "*", "-m", "TPROXY"),
            "traffic from a -k interface is treated as inb",
        ),
    ],
)
def test_known_weaknesses_exist(flags: tuple[str, ...], weakness: str) -> None:
    config = config_of(Flags(flags))
    known = (
        known_weakness(config, each.sample.journey, each.sample.packet)
        for each in prove(config, pod_networks(config)).counterexamples
    )
    assert any(text and weakness in text for text in known)


# Packets at random against the proof: it may not have missed a class.


@st.composite
def packets(draw: st.DrawFn, config: Config, family: Family) -> tuple[Journey, Packet]:
    """A packet about the values that the flags name, and one beside each of them."""

    def numbers(*near: int) -> int:
        return draw(st.sampled_from([each + by for each in near for by in (-1, 0, 1)]))

    listed = [config.outbound_networks, config.outbound_excluded_networks, config.dns_servers]
    networks = [n for each in listed if isinstance(each, tuple) for n in each]
    ends = [end for n in networks if n.version == family.value for end in (n[0], n[-1])]
    usual: list[Address] = [SERVER[family], POD[family], CLIENT[family]]
    to = draw(st.sampled_from([*usual, *ends]))
    local, direction = draw(st.booleans()), draw(st.sampled_from(Direction))
    listed_ports = [config.inbound_ports, config.outbound_ports, config.outbound_excluded_ports]
    ports = [p for each in listed_ports if isinstance(each, tuple) for p in each]
    assume(local or not to.is_loopback)
    assume(direction is Direction.OUT or not to.is_loopback)
    names = [n.rstrip("+") or "eth9" for n in (*config.excluded_interfaces, "eth0", "veth7")]
    inside = local and direction is Direction.OUT
    packet = Packet(
        direction,
        draw(st.sampled_from(["tcp", "udp"])),
        CLIENT[family] if direction is Direction.IN else POD[family],
        draw(st.sampled_from([53, 15053, 40000])),
        to,
        max(1, numbers(53, 80, config.tunnel_port, *config.inbound_excluded_ports, *ports)),
        "lo" if inside else draw(st.sampled_from([n for n in names if n != "lo"])),
        max(0, numbers(1000, *config.proxy_uids)),
        max(0, numbers(1000, *config.proxy_gids, *config.owner_groups_excluded)),
    )
    return Journey(family, direction, local), packet


@settings(some, max_examples=12)
@given(st.data())
def test_no_packet_breaks_a_promise_that_was_shown_to_hold(data: st.DataObject) -> None:
    config = config_of(data.draw(calls()))
    family = data.draw(st.sampled_from([*Family]))
    pod_network = pod_networks(config)[family]
    broken = {
        (each.promise, each.sample.journey)
        for each in prove(config, {family: pod_network}).counterexamples
    }
    for _ in range(40):
        journey, packet = data.draw(packets(config, family))
        promise = promised(config, journey, partial(_asked, packet, journey.first_hook))
        own = frozenset([packet.destination] if journey.local else [])
        if promise and not promise.is_kept(walk(replace(pod_network, pod_addresses=own), packet)):
            assert (promise, journey) in broken


def _asked(packet: Packet, hook: str, match: object) -> bool | None:
    return asks_for(match, packet, hook)  # type: ignore[arg-type]


# Damage: a rule lost, two swapped, a wrong uid. tests/kernel has it confirmed by the kernel.


def ends_of(config: Config, sample: Sample) -> frozenset[int | None]:
    """Where a packet may end; nothing if there is no promise."""
    ask = partial(_asked, sample.packet, sample.journey.first_hook)
    promise = promised(config, sample.journey, ask)
    return promise.ends if promise else frozenset()


@pytest.mark.parametrize(
    "flags",
    [
        USUAL,
        ("-b", "80", "-m", "TPROXY"),
        (*USUAL, "-x", "10.0.0.0/8", "-o", "25", "-q", "6379", "-c", "eth1"),
        (*USUAL, "--redirect-dns", "--capture-all-dns"),
        ("-i", "10.0.0.0/8,127.0.0.1", "-b", "80,443"),
    ],
    ids=" ".join,
)
def test_damage_that_changes_where_a_packet_goes_yields_a_counterexample(
    flags: tuple[str, ...],
) -> None:
    config = settled(*flags)
    whole = {Family.V4: pod_networks(config)[Family.V4]}
    assert prove(config, whole).counterexamples == ()
    told = 0
    for ruleset in damaged(build(config, Family.V4)):
        less = {Family.V4: pod_network_of(ruleset)}
        _, differences = compare([config], whole, less)
        # Of what the proxy sends to its own pod, the promise leaves two ways open.
        certain = [each for each in differences if len(ends_of(config, each.sample)) == 1]
        found = prove(config, less).counterexamples
        assert bool(certain) <= bool(found), certain[0]
        told += bool(found)
    assert told > 5


# The command.


def test_the_usual_flags_are_proved_at_the_prompt(call: Call, capsys: Captured) -> None:
    assert call("prove", *USUAL) == 0
    out = capsys.readouterr().out
    assert out.startswith("Every promise holds for all packets (")
    assert "IPv4 nat ISTIO_OUTPUT 5: " in out


def test_a_counterexample_is_a_call_of_explain_that_says_the_same(
    call: Call, capsys: Captured
) -> None:
    assert call("prove", "--ruleset", "1.0", "-i", "*", "-z", "15006", "-O", "json") == 3
    found = read_json("prove", capsys.readouterr().out)
    assert not found["holds"]
    for each in found["counterexamples"]:
        assert each["known_weakness"]
        program, *words = shlex.split(each["explain"])
        assert program == "proxy-init"
        assert call(*words, "-O", "json") == 0
        explained = read_json("explain", capsys.readouterr().out)
        assert {key: explained[key] for key in ("verdict", "by", "port", "sentence")} == {
            key: each[key] for key in ("verdict", "by", "port", "sentence")
        }


def test_two_sets_of_flags_are_compared(call: Call, capsys: Captured) -> None:
    assert call("prove", *USUAL, "--against", "-p 15001 -z 15006 -i * -b * -x 10.0.0.0/8") == 3
    out = capsys.readouterr().out
    unwrapped = " ".join(out.split())
    assert "--against: Direct: TCP to 10.0.0.1:80 from uid 1000, gid 1000 is not cap" in unwrapped
    assert call("prove", *USUAL, "--against", shlex.join(("istio-iptables", *USUAL))) == 0
    assert capsys.readouterr().out.startswith("These flags and --against agree on all packets (")
    assert call("prove", *USUAL, "--against", "-i *", "-O", "json") == 3
    found = read_json("prove", capsys.readouterr().out)["differences"]
    assert {(each["these"]["port"], each["those"]["port"]) for each in found} == {
        (15006, None),  # from outside: nothing is captured without -b
        (15006, 15001),  # the proxy calls its own pod, and -z is not given
    }


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("-b 99999", "--against: -b: got '99999', expected a port from 1 to 65535"),
        (
            "-b '80",
            '--against: got "-b \'80", expected flags, quoted as in a shell: No closing quotation',
        ),
        ("--live", "--against: command line: got '--live', expected a flag of proxy-init"),
    ],
)
def test_errors_in_the_other_flags_are_reported(
    call: Call, capsys: Captured, against: str, said: str
) -> None:
    assert call("prove", *USUAL, "--against", against) == 2
    assert said in capsys.readouterr().err
