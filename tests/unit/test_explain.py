"""The packet walk, without a kernel: its agreement with one is shown in tests/kernel."""

from dataclasses import replace

import pytest

from proxy_init.analysis.packet_walk import (
    Direction,
    Outcome,
    Packet,
    PodNetwork,
    Walk,
    alternatives,
    sentence,
    walk,
)
from proxy_init.rules.matches import UnknownMatch
from proxy_init.rules.model import Chain, Family, Rule, Table
from proxy_init.rules.networks import read_address
from proxy_init.rules.options import Option
from proxy_init.rules.targets import ACCEPT, Goto, Jump, Redirect, UnknownTarget
from proxy_init.rulesets import build
from tests.schemas import read_json
from tests.unit.conftest import Call
from tests.unit.fakes import settled

POD = {4: read_address("192.0.2.2"), 6: read_address("2001:db8::2")}
FAR = {4: read_address("198.51.100.7"), 6: read_address("2001:db8:ffff::7")}
USUAL = ("-p", "15001", "-z", "15006", "-i", "*", "-b", "*", "-d", "15090", "--ipv6")
Captured = pytest.CaptureFixture[str]

both_families = pytest.mark.parametrize("family", Family, ids=lambda family: family.title)


def pod_network(family: Family, *argv: str) -> PodNetwork:
    """What the flags ask for."""
    ruleset = build(settled(*argv), family)
    tables = {table.name: table for table in ruleset.tables}
    return PodNetwork(tables, frozenset(POD.values()), ruleset.routing.policy_route)


def sent(family: Family, **more: object) -> Packet:
    """A TCP packet of the application to a far server."""
    version = family.value
    packet = Packet(Direction.OUT, "tcp", POD[version], 40000, FAR[version], 80, "eth0")
    return replace(packet, **more)  # type: ignore[arg-type]


def arriving(family: Family, **more: object) -> Packet:
    """A TCP packet from a far client to the application."""
    version = family.value
    packet = Packet(Direction.IN, "tcp", FAR[version], 40000, POD[version], 8080, "eth0")
    return replace(packet, **more)  # type: ignore[arg-type]


def verdict(found: Walk) -> tuple[str, str | None, int | None]:
    """The decision in plain words."""
    return found.outcome.value, found.by, found.port


@both_families
def test_a_connection_of_the_application_is_captured_for_the_reason_of_the_deciding_rule(
    family: Family,
) -> None:
    found = walk(pod_network(family, *USUAL), sent(family))
    assert verdict(found) == ("captured", "REDIRECT", 15001)
    assert found.decided_by is not None
    assert found.decided_by.why == "all other outbound traffic is captured (-i)"


@both_families
def test_a_connection_of_the_proxy_is_not_captured(family: Family) -> None:
    found = walk(pod_network(family, *USUAL), sent(family, uid=1337))
    assert verdict(found) == ("direct", None, None)
    assert found.decided_by is not None
    assert found.decided_by.why == "sent by the proxy itself (uid 1337)"


@both_families
def test_inbound_is_captured_by_either_mode(family: Family) -> None:
    packet = arriving(family)
    assert verdict(walk(pod_network(family, *USUAL), packet)) == ("captured", "REDIRECT", 15006)
    transparent = pod_network(family, *USUAL, "-m", "TPROXY")
    assert verdict(walk(transparent, packet)) == ("captured", "TPROXY", 15006)
    excluded = replace(packet, destination_port=15090)
    assert verdict(walk(transparent, excluded)) == ("direct", None, None)


@both_families
def test_later_packets_of_a_connection_go_where_the_first_one_went(family: Family) -> None:
    packet = sent(family, state="ESTABLISHED")
    found = walk(pod_network(family, *USUAL), packet)
    assert verdict(found) == ("captured", "REDIRECT", 15001)
    assert not [visit for visit in found.path if visit.table == "nat"]


@both_families
def test_an_invalid_packet_gets_past_nat_unless_it_is_dropped(family: Family) -> None:
    packet = arriving(family, state="INVALID")
    assert walk(pod_network(family, *USUAL), packet).outcome is Outcome.DIRECT
    assert walk(pod_network(family, *USUAL, "--drop-invalid"), packet).outcome is Outcome.DROPPED


def test_the_old_rules_reject_inbound_ipv6_but_not_replies() -> None:
    old = pod_network(Family.V6, "--ruleset", "1.0", "-b", "*")
    assert walk(old, arriving(Family.V6)).outcome is Outcome.DROPPED
    assert (
        walk(pod_network(Family.V4, "--ruleset", "1.0", "-b", "*"), arriving(Family.V4)).port
        == 15001
    )


def with_foreign(rule: Rule) -> PodNetwork:
    """The usual rules behind somebody else's."""
    usual = pod_network(Family.V4, *USUAL)
    nat = usual.tables["nat"]
    output = nat.chain("OUTPUT")
    assert output is not None
    rules = Chain("OUTPUT", (rule, *output.rules))
    chains = tuple(rules if chain is output else chain for chain in nat.chains)
    return replace(usual, tables={"nat": Table("nat", chains)})


def test_an_unknown_match_is_reported_and_both_results_are_walked() -> None:
    odd = Rule((UnknownMatch("time", (Option("timestart", "22:00"),)),), ACCEPT)
    foreign = with_foreign(odd)
    assert walk(foreign, sent(Family.V4)).port == 15001
    ((visit, other),) = alternatives(foreign, sent(Family.V4))
    assert (visit.rule, visit.matched) == (odd, None)
    assert other.outcome is Outcome.DIRECT


def test_a_rule_that_may_match_may_capture() -> None:
    odd = Rule((UnknownMatch("time", (Option("timestart", "22:00"),)),), Redirect(9))
    foreign = with_foreign(odd)
    ((visit, other),) = alternatives(foreign, sent(Family.V4, uid=1337))
    assert (other.port, other.decided_by) == (9, visit)


def test_a_non_terminating_foreign_target_changes_nothing() -> None:
    assert walk(with_foreign(Rule((), UnknownTarget("LOG"))), sent(Family.V4)).port == 15001
    assert walk(with_foreign(Rule((), UnknownTarget("DNAT"))), sent(Family.V4)).port is None


def test_a_goto_does_not_return_to_its_chain() -> None:
    foreign = with_foreign(Rule((), Goto("ISTIO_REDIRECT")))
    assert walk(foreign, sent(Family.V4, uid=1337)).port == 15001
    assert walk(foreign, sent(Family.V4, protocol="udp")).port is None
    back = with_foreign(Rule((), Jump("ISTIO_REDIRECT")))
    assert walk(back, sent(Family.V4, protocol="udp")).port is None


def test_the_sentence_says_who_what_where_and_why() -> None:
    packet = sent(Family.V4)
    assert sentence(packet, walk(pod_network(Family.V4, *USUAL), packet)) == (
        "Captured: TCP to 198.51.100.7:80 from uid 1000, gid 1000 goes to the proxy's port 15001 "
        "by REDIRECT: all other outbound traffic is captured (-i)."
    )


def test_the_command_prints_the_verdict_first_then_the_path(call: Call, capsys: Captured) -> None:
    assert call("explain", *USUAL, "--to", "198.51.100.7:80") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Captured: TCP to 198.51.100.7:80")
    assert "OUTPUT, table nat" in lines
    assert max(map(len, lines)) <= 80


def test_the_command_prints_json(call: Call, capsys: Captured) -> None:
    flags = ("--to", "[2001:db8:ffff::7]:443", "--uid", "1337", "-O", "json")
    assert call("explain", *USUAL, *flags) == 0
    found = read_json("explain", capsys.readouterr().out)
    assert (found["verdict"], found["by"], found["port"]) == ("direct", None, None)
    assert set(found["path"][0]) == {
        *("family", "hook", "table", "chain", "number", "rule", "matched", "why")
    }
    assert found["path"][-1]["why"] == "sent by the proxy itself (uid 1337)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "--to: expected the destination of the packet"),
        (("--to", "198.51.100.7"), "--to: got '198.51.100.7', expected ADDRESS:PORT"),
        (("--to", "198.51.100.7:0"), "--to: got '198.51.100.7:0', expected ADDRESS:PORT"),
        (("--to", "1.2.3.4:80", "--direction", "up"), "--direction: got 'up', expected out or in"),
        (("--to", "1.2.3.4:80", "--from", "::1"), "--from: got '::1', expected an IPv4 address"),
        (("--to", "1.2.3.4:80", "--state", "OLD"), "--state: got 'OLD', expected NEW or"),
        (("--to", "1.2.3.4:80", "--pod-address", "pod"), "--pod-address: got 'pod'"),
    ],
)
def test_an_invalid_packet_is_reported_in_one_line(
    call: Call, capsys: Captured, options: tuple[str, ...], expected: str
) -> None:
    assert call("explain", *USUAL, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"proxy-init: {expected}")
