"""Which probes are planned, and what is made of what they showed; the kernel tests send them."""

from collections.abc import Mapping

import pytest

from proxy_init.analysis.packet_walk import Direction, Outcome, PodNetwork, walk
from proxy_init.analysis.probe_plan import (
    UNASSIGNED,
    Judged,
    Owner,
    Probe,
    Result,
    Surroundings,
    destinations,
    ports,
    probes,
)
from proxy_init.cli.pod_network import pod_network_of
from proxy_init.kernel.probing import probe as kernel
from proxy_init.rules.iptables_save import rule_text
from proxy_init.rules.model import Family, Ruleset
from proxy_init.rules.networks import Address, read_address
from proxy_init.rulesets import build
from tests.schemas import read_json
from tests.unit.conftest import Call
from tests.unit.fakes import settled

POD: Mapping[Family, Address] = {
    Family.V4: read_address("192.0.2.2"),
    Family.V6: read_address("2001:db8::2"),
}
ROOT, PROXY = Owner(0, 0), Owner(1337, 1337)
USUAL = ("-p", "15001", "-z", "15006", "-i", "*", "-b", "*", "--ipv6")
Captured = pytest.CaptureFixture[str]

both_families = pytest.mark.parametrize("family", Family, ids=lambda family: family.title)


def planned(family: Family, *argv: str, own: Owner = ROOT, **environ: str) -> list[Probe]:
    """The probes in a pod in which everything but its own network is reached by eth0."""
    config = settled(*argv, **environ)
    interfaces = dict.fromkeys(destinations(config, family), "eth0")
    around = Surroundings(own, tuple(POD.values()), interfaces)
    return list(probes(config, family, pod_network(build(config, family)), around))


def pod_network(ruleset: Ruleset) -> PodNetwork:
    return pod_network_of(ruleset, frozenset(POD.values()))


def fate(probe: Probe) -> tuple[str, int | None]:
    """What is expected of a probe."""
    return probe.expected.outcome.value, probe.expected.port


def named(found: list[Probe], name: str) -> Probe:
    """The one probe of that name."""
    (probe,) = (each for each in found if each.name == name)
    return probe


@both_families
def test_the_common_probes_come_first(family: Family) -> None:
    excluded = "10.0.0.0/8,fd00::/8"
    passthrough, captured, direct, proxy = planned(family, *USUAL, "-x", excluded)[:4]
    assert passthrough.packet.destination == family.passthrough.network_address
    assert passthrough.packet.destination_port == 15002
    assert passthrough.packet.source.is_loopback
    assert (passthrough.owner, fate(passthrough)) == (PROXY, ("captured", 15006))
    assert (captured.owner, fate(captured)) == (ROOT, ("captured", 15001))
    assert (direct.owner, fate(direct)) == (ROOT, ("direct", None))
    assert str(direct.packet.destination) in ("10.0.0.1", "fd00::1")
    assert (proxy.owner, fate(proxy)) == (PROXY, ("direct", None))
    assert proxy.packet.destination == captured.packet.destination


def test_without_a_rule_some_probe_has_another_result_unless_the_rule_is_shadowed() -> None:
    flags = (*USUAL, "-x", "10.0.0.0/8", "-d", "15090", "-q", "443")
    found, whole = planned(Family.V4, *flags), pod_network(build(settled(*flags), Family.V4))
    lost = {
        rule_text(rule).strip()
        for place, rule in whole.rules()
        if all(
            walk(whole.without(*place), each.packet).verdict == each.expected.verdict
            for each in found
        )
    }
    assert lost == {
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337"
        " -j ISTIO_IN_REDIRECT",
        "-o lo -m owner ! --gid-owner 1337 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        # All other ports are captured as well.
        "-p tcp -m tcp --dport 443 -j ISTIO_REDIRECT",
    }


def test_the_usual_probes_are_few() -> None:
    assert len(planned(Family.V4, *USUAL)) <= 15


def test_a_process_makes_all_probes_that_it_can_as_itself() -> None:
    own = [each for each in planned(Family.V4, *USUAL, own=PROXY) if each.owner == PROXY]
    assert [fate(each)[0] for each in own] == ["captured", "direct", "direct"]
    # Whoever is in the proxy's group is the proxy too.
    groupmate = Owner(1000, 1337)
    assert planned(Family.V4, *USUAL, own=groupmate)[0].owner == groupmate


def test_if_root_is_the_proxy_another_user_is_the_application() -> None:
    found = planned(Family.V4, *USUAL, "-u", "0", "-g", "0")
    assert found[0].owner == ROOT
    assert named(found, "an application to a captured address").owner == Owner(1000, 1000)


def test_the_application_has_a_captured_owner_group() -> None:
    found = planned(Family.V4, *USUAL, ISTIO_OUTBOUND_OWNER_GROUPS="1337,2000")
    application = named(found, "an application to a captured address")
    assert (application.owner, fate(application)) == (Owner(0, 2000), ("captured", 15001))


@both_families
def test_probes_outside_the_pod_go_to_unassigned_addresses_only(family: Family) -> None:
    (_, captured, *_) = planned(family, *USUAL)
    assert captured.packet.destination in UNASSIGNED[family.value]
    listed = planned(family, *USUAL[:-3], "-b", "*", "--ipv6", "-i", "10.1.2.0/24,fd00:1::/64")
    to = named(listed, "an application to a captured address").packet.destination
    assert str(to) in ("10.1.2.1", "fd00:1::1")


def test_the_first_items_of_a_long_list_are_probed() -> None:
    many = ",".join(f"10.0.{number}.0/24" for number in range(200))
    config = settled(*USUAL, "-x", many)
    assert len(destinations(config, Family.V4)) < 50


def test_inbound_packets_are_made_on_lo_and_marked_where_tproxy_wants_it() -> None:
    arriving = [p for p in planned(Family.V4, *USUAL) if p.packet.direction is Direction.IN]
    assert {fate(each) for each in arriving} == {("captured", 15006), ("direct", None)}
    marked = planned(Family.V4, *USUAL, "-m", "TPROXY")
    (first, *_) = (each for each in marked if each.packet.direction is Direction.IN)
    assert (first.packet.mark, first.packet.interface) == (1338, "lo")
    assert first.expected.verdict == (Outcome.CAPTURED, "TPROXY", 15006)


def test_the_application_and_the_agent_send_dns_queries() -> None:
    found = planned(Family.V4, *USUAL, "--redirect-dns", "--capture-all-dns")
    udp = [each for each in found if each.packet.protocol == "udp"]
    assert fate(named(udp, "a DNS query")) == ("captured", 15053)
    answered = named(udp, "a DNS query, answered by uid 1337, gid 0")
    assert (answered.owner, answered.beside) == (ROOT, Owner(1337, 0))
    own = [each for each in udp if each.name == "the agent's own DNS query"]
    assert {fate(each) for each in own} == {("direct", None)}
    assert {each.beside for each in own} == {ROOT}


def test_the_only_ipv6_probe_of_the_old_rules_is_an_inbound_one() -> None:
    (probe,) = planned(Family.V6, "--ruleset", "1.0", "-b", "*")
    assert (fate(probe), probe.packet.interface) == (("dropped", None), "lo")


def test_without_rules_there_are_no_probes() -> None:
    assert planned(Family.V4, "-m", "NONE") == []
    assert planned(Family.V6, "-b", "*", "--no-ipv6") == []


def test_the_ports_of_the_proxy_are_those_that_rules_name_and_the_probe_port() -> None:
    flags = (*USUAL, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")
    config = settled(*flags, "--iptables-probe-port", "7")
    listening = ports(config, pod_network(build(config, Family.V4)))
    assert listening == {7: False, 15001: False, 15006: True, 15053: False}


# The command.


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[int, Result]:
    """What the probes of a pod without IPv6 show, by their number; all others pass."""
    results: dict[int, Result] = {}

    def make(planned: list[Probe], *_: object) -> list[Judged]:
        passed = Result.PASSED
        return [Judged(each, results.get(n, passed), "seen") for n, each in enumerate(planned)]

    around = Surroundings(ROOT, (POD[Family.V4],), {UNASSIGNED[4][0]: "eth0"})
    monkeypatch.setattr(kernel, "make", make)
    monkeypatch.setattr(kernel, "surroundings", lambda destinations: around)
    return results


def test_all_passed(call: Call, capsys: Captured, shown: dict[int, Result]) -> None:
    assert call("validate", *USUAL[:-1], "--no-ipv6") == 0
    output, errors = capsys.readouterr()
    first, second, *_, last = output.splitlines()
    assert first == "IPv4"
    assert second.startswith("passed  the proxy to its own pod: TCP, uid 1337, gid 1337, from")
    assert last.endswith(" passed, 0 failed, 0 not made.")
    assert max(map(len, output.splitlines())) <= 80
    assert errors == ""


def test_one_failed(call: Call, capsys: Captured, shown: dict[int, Result]) -> None:
    shown[1] = Result.FAILED
    assert call("validate", *USUAL[:-1], "--no-ipv6") == 126
    output, errors = capsys.readouterr()
    *lines, summary, why = output.splitlines()
    assert " 1 failed, " in summary
    words = " ".join(" ".join(lines).split())
    assert "port 15002: seen (expected: captured on port 15001)" in words
    assert why == (
        "To see why: proxy-init explain -p 15001 -z 15006 -i '*' -b '*' --no-ipv6=true --live"
        " --to 198.51.100.1:15002 --from 192.0.2.2:40000 --interface eth0 --uid 0 --gid 0"
    )
    (line,) = errors.splitlines()
    assert "validation failed: 1 of " in line


def test_what_was_not_made_is_listed_by_reason(
    call: Call, capsys: Captured, shown: dict[int, Result]
) -> None:
    shown.update({0: Result.NOT_MADE, 2: Result.NOT_MADE})
    assert call("validate", *USUAL[:-1], "--no-ipv6") == 0
    output = capsys.readouterr().out
    assert "not made  seen: the proxy to its own pod; the proxy to an outside address" in output
    assert output.endswith(" 2 not made.\n")


def test_a_warning_says_that_no_probe_could_be_made(
    call: Call, capsys: Captured, shown: dict[int, Result]
) -> None:
    shown.update(dict.fromkeys(range(1000), Result.NOT_MADE))
    assert call("validate", *USUAL[:-1], "--no-ipv6") == 0
    assert "no probe could be made here, so nothing was validated" in capsys.readouterr().err


def test_json_has_no_user_for_inbound_probes(
    call: Call, capsys: Captured, shown: dict[int, Result]
) -> None:
    assert call("validate", *USUAL[:-1], "--no-ipv6", "-O", "json") == 0
    report = read_json("validate", capsys.readouterr().out)
    assert report["failed"] is False
    for probe in report["probes"]:
        assert (probe["uid"] is None) == (probe["direction"] == "in")


def test_in_mode_none_there_is_nothing_to_validate(call: Call, capsys: Captured) -> None:
    assert call("validate", "-m", "NONE", "--no-ipv6") == 0
    output, errors = capsys.readouterr()
    assert output == ""
    assert "there is nothing to validate" in errors
    assert call("validate", "-m", "NONE", "--no-ipv6", "-O", "json") == 0
    assert read_json("validate", capsys.readouterr().out) == {"failed": False, "probes": []}
