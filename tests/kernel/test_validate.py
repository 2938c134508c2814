"""`validate`: it passes where all is in place, and notices each rule whose loss matters.

Rules are taken out one at a time. Each that no probe misses stands in a Case, with the reason why.
"""

import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import rich.table  # noqa: F401  # before a test lets go of the right to read it
from hypothesis import example, given, settings

from pods import Pod, listener, make_pod, namespace
from proxy_init.analysis import probe_plan
from proxy_init.cli.pod_network import pod_network_of
from proxy_init.config.config import settle
from proxy_init.config.read import RESOLV_CONF, read_config
from proxy_init.kernel.probing import probe
from proxy_init.kernel.routing.addresses import global_addresses
from proxy_init.kernel.system.host import Host
from proxy_init.rules.model import Family
from proxy_init.rulesets import build
from tests.fault_injection import NET_ADMIN, NET_RAW, run_with, told
from tests.foreign import run
from tests.our_rules import change_rules
from tests.running import (
    BOTH,
    Result,
    backend_under_test,
    both_backends,
    fresh_namespace,
    program,
    run_here,
    run_in,
)
from tests.schemas import read_json
from tests.strategies import IN_THE_KERNEL, Call, calls

pytestmark = both_backends

NAMED = ("-p", "15001", "-z", "15006", "-u", "1337")
USUAL = (*NAMED, "-i", "*", "-b", "*")
OLD = ("--ruleset", "1.0", "-u", "1337")
DNS = ("--redirect-dns", "--capture-all-dns")
SOON = ("--probe-timeout", "300ms")
both_modes = pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])

# Why the loss of a rule goes unnoticed.
SHADOWED = "a rule above it takes every packet that would match"
ALIKE = "without it the rules below, or another table, do the same"
OTHER_LINK = "only packets that arrive or leave by that interface match, where just neighbours are"
ANSWERS = "only an answer that comes from outside matches"
NO_EFFECT = "what it does to a packet makes no difference in a pod"

TO_LOOPBACK = {"nat ISTIO_OUTPUT -d LO -j RETURN": SHADOWED}
GID = {
    "nat ISTIO_OUTPUT ! -d LO -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337"
    " -j ISTIO_IN_REDIRECT": SHADOWED,
    "nat ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN": SHADOWED,
    **TO_LOOPBACK,
}
WITH_DNS = {
    # An answer without its zone lies in none, and nat leaves it alone there as well.
    "raw PREROUTING -j ISTIO_INBOUND": NO_EFFECT,
    "nat ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner 1337 -j RETURN": (
        SHADOWED
    ),
}
OF_ALL_DNS = {
    "raw ISTIO_INBOUND -p udp -m udp --sport 53 -j CT --zone 1": NO_EFFECT,
    **WITH_DNS,
    **TO_LOOPBACK,
}
WITH_TPROXY = {
    # It matters for addresses that are not the pod's own, and nobody sends those to a pod.
    "mangle ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff": NO_EFFECT,
    # Such a packet comes over lo, and the rule for lo that follows lets it go as well.
    "mangle ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN": ALIKE,
    # In mode TPROXY nothing leads to this chain.
    "nat ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN": NO_EFFECT,
}
OLD_IPV6 = {"filter INPUT -m state --state ESTABLISHED -j ACCEPT": ANSWERS}


@dataclass(frozen=True)
class Case:
    """Some flags, and the rules whose loss no probe notices, with the reason."""

    title: str
    flags: tuple[str, ...]
    unnoticed: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=dict)

    def expected(self, family: Family) -> set[str]:
        if self.flags[:2] == OLD[:2] and family is Family.V6:
            return set(OLD_IPV6)
        return set(self.unnoticed)


CASES = (
    Case(
        "the usual",
        (*USUAL, "--ipv6", "-x", "10.0.0.0/8,fd00::/8", "-d", "15090,15020", "-o", "3306"),
        # No rule captures UDP but that of DNS.
        {"nat ISTIO_OUTPUT -p udp -m udp --dport 3306 -j RETURN": NO_EFFECT, **GID},
    ),
    Case(
        "lists, several uids, an interface",
        (
            *(*NAMED, "--ipv6", "-u", "1337,2000", "-g", "1337", "-b", "8080,9090"),
            *("-i", "10.96.0.0/12,192.168.0.0/16,fd00:96::/32", "-q", "443,5432"),
            *("-x", "10.97.0.0/16,fd00:96:1::/48", "-c", "eth1", "-k", "eth2"),
        ),
        {
            "nat ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN": ALIKE,
            "nat ISTIO_OUTPUT ! -d LO -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner"
            " 2000 -j ISTIO_IN_REDIRECT": SHADOWED,
            "nat ISTIO_OUTPUT -o lo -m owner ! --uid-owner 2000 -j RETURN": SHADOWED,
            "nat PREROUTING -d 10.96.0.0/12 -i eth2 -j ISTIO_REDIRECT": OTHER_LINK,
            "nat PREROUTING -d 192.168.0.0/16 -i eth2 -j ISTIO_REDIRECT": OTHER_LINK,
            "nat PREROUTING -d fd00:96::/32 -i eth2 -j ISTIO_REDIRECT": OTHER_LINK,
            "nat PREROUTING -i eth2 -j RETURN": OTHER_LINK,
            "nat PREROUTING -i eth1 -j RETURN": OTHER_LINK,
            "nat OUTPUT -o eth1 -j RETURN": OTHER_LINK,
            **GID,
        },
    ),
    Case("all DNS, and no invalid packet", (*USUAL, "--ipv6", *DNS, "--drop-invalid"), OF_ALL_DNS),
    Case(
        "DNS of some servers, and loopback addresses",
        (*NAMED, "--ipv6", "-b", "*", "-i", "127.0.0.0/8,::1,10.0.0.0/8,fd00::/8", DNS[0]),
        {
            "raw PREROUTING -j ISTIO_INBOUND": NO_EFFECT,
            "raw ISTIO_INBOUND -s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1": NO_EFFECT,
            "raw ISTIO_INBOUND -s fd00:96::a/128 -p udp -m udp --sport 53 -j CT --zone 1": (
                NO_EFFECT
            ),
            "nat ISTIO_OUTPUT -d ::1/128 -j ISTIO_REDIRECT": SHADOWED,
        },
    ),
    Case(
        "owner groups",
        (*USUAL, "--no-ipv6"),
        # The proxy's group is none of those that are captured.
        {"nat ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN": ALIKE, **GID},
        environ={"ISTIO_OUTBOUND_OWNER_GROUPS": "2000,3000"},
    ),
    Case(
        "TPROXY",
        (
            *(*USUAL, "--ipv6", "-m", "TPROXY", "-x", "10.0.0.0/8,fd00::/8", "-d", "15090"),
            *("-c", "eth1", "--drop-invalid"),
        ),
        {
            "mangle PREROUTING -i eth1 -j RETURN": OTHER_LINK,
            "mangle OUTPUT -o eth1 -j RETURN": OTHER_LINK,
            "nat PREROUTING -i eth1 -j RETURN": OTHER_LINK,
            "nat OUTPUT -o eth1 -j RETURN": OTHER_LINK,
            **WITH_TPROXY,
            **GID,
        },
    ),
    Case(
        "TPROXY of some ports, and DNS",
        (*NAMED, "--ipv6", "-i", "*", "-b", "8080,9090", "-m", "TPROXY", *DNS),
        {
            # Where the mark would matter, nat has taken the proxy's packet already.
            "mangle OUTPUT ! -d LO -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark"
            " 0x53a/0xffffffff": NO_EFFECT,
            **WITH_TPROXY,
            **OF_ALL_DNS,
        },
    ),
    Case("1.0", (*OLD, "-i", "*", "-b", "*", "-d", "15020", "-x", "10.0.0.0/8"), {}),
    Case(
        "1.0 with lists",
        (*OLD, "-i", "10.0.0.0/8", "-b", "8080,9090", "-x", "10.97.0.0/16"),
        {**dict.fromkeys(TO_LOOPBACK, ALIKE), "nat ISTIO_OUTPUT -j RETURN": ALIKE},
    ),
    Case(
        "1.0 and TPROXY of one port",
        (*OLD, "-i", "*", "-b", "8080", "-m", "TPROXY"),
        {
            "mangle ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff": NO_EFFECT,
            # The rule stands there twice.
            "mangle ISTIO_INBOUND -p tcp -m tcp --dport 8080 -m socket -j ISTIO_DIVERT": ALIKE,
            # In mode TPROXY nothing leads to this chain.
            "nat ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001": NO_EFFECT,
        },
    ),
)


@pytest.fixture(autouse=True)
def resolvers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The DNS servers are these, whatever this machine's are."""
    read_text = Host.read_text

    def read(self: Host, path: str) -> str:
        servers = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"
        return servers if path == RESOLV_CONF else read_text(self, path)

    monkeypatch.setattr(Host, "read_text", read)


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod with three interfaces, both families, and no rules."""
    with make_pod(interfaces=("eth0", "eth1", "eth2")) as made:
        yield made


def applied(pod: Pod, *flags: str, environ: Mapping[str, str] | None = None) -> Result:
    """Apply, which must succeed."""
    result = run_in(pod.namespace, *flags, environ=environ)
    assert result.status == 0, result.stderr
    return result


def probes(result: Result, *kinds: str) -> list[dict[str, Any]]:
    """The probes of a report, which must be as the schema says, with these results or any."""
    report = read_json("validate", result.stdout)
    found = [each for each in report["probes"] if not kinds or each["result"] in kinds]
    assert report["failed"] == any(each["result"] == "failed" for each in report["probes"])
    assert report["failed"] == (result.status == 126)
    return found


def iptables(pod: Pod, family: Family, *words: str) -> None:
    result = pod.run([program(family), *words])
    assert result.returncode == 0, result.stderr


def held(pod: Pod) -> tuple[str, ...]:
    """The rules, policy rules and loopback addresses that a pod has."""
    lists = ("ip rule", "ip -6 rule", "ip address show dev lo")
    return (pod.save(4), pod.save(6), *(run(pod.namespace, *words.split()) for words in lists))


# Each rule.


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_it_passes_after_applying_and_misses_each_rule_that_matters(case: Case, pod: Pod) -> None:
    applied(pod, *case.flags, environ=case.environ)
    result = run_in(pod.namespace, "validate", *case.flags, "-O", "json", environ=case.environ)
    assert result.status == 0, result.stderr
    assert probes(result)
    assert probes(result, "failed", "not made") == []

    wrong = namespace.call(pod.namespace, partial(_wrongly_judged, case), timeout=120)

    assert wrong == []


def _wrongly_judged(case: Case) -> list[tuple[str, str, bool]]:
    """The rules that are missed and should not be, or the other way round."""
    failed = _validation(case)
    # The families do not meet, so each may lose a rule at the same time.
    rules = [list(_rules(family, case)) for family in BOTH]
    wrong = []
    for lost in (list(filter(None, each)) for each in zip_longest(*rules)):
        for rule in lost:
            _run(program(rule.family), "-t", rule.table, "-D", rule.chain, str(rule.number))
        # Only what is wrong takes time, so that a little will do, but on a busy machine.
        for milliseconds in (80, 3000):
            families = failed(milliseconds)
            off = [rule for rule in lost if (rule.family in families) is rule.goes_unnoticed]
            if not off:
                break
        wrong += [(rule.family.title, rule.name, rule.goes_unnoticed) for rule in off]
        for rule in lost:
            put_back = ("-t", rule.table, "-I", rule.chain, str(rule.number))
            _run(program(rule.family), *put_back, *rule.spelled)
    return wrong


@dataclass(frozen=True)
class InKernel:
    """A rule where it stands."""

    family: Family
    table: str
    chain: str
    number: int
    spelled: tuple[str, ...]
    name: str
    goes_unnoticed: bool


def _rules(family: Family, case: Case) -> Iterator[InKernel]:
    """All rules of a family, as the system's own program lists them."""
    table, numbers = "", dict[tuple[str, str], int]()
    for line in _run(program(family, "-save")).splitlines():
        words = tuple(line.split())
        if line.startswith("*"):
            table = line[1:]
        elif words[0] == "-A":
            place = (table, words[1])
            numbers[place] = numbers.get(place, 0) + 1
            name = f"{table} {' '.join(words[1:])}"
            for address in ("127.0.0.1/32", "::1/128"):
                name = name.replace(f" -d {address} -o", " -d LO -o")
                name = name.replace(f" -d {address} -j RETURN", " -d LO -j RETURN")
            unnoticed = name in case.expected(family)
            yield InKernel(family, *place, numbers[place], words[2:], name, unnoticed)


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _validation(case: Case) -> Callable[[int], set[Family]]:
    """What gives the families of which a probe fails, within some milliseconds."""
    config = settle(read_config(case.flags, case.environ, Host()), global_addresses())
    rulesets = [ruleset for family in BOTH if (ruleset := build(config, family)).tables]
    to = [each for ruleset in rulesets for each in probe_plan.destinations(config, ruleset.family)]
    around = probe.surroundings(to)
    own = frozenset(around.addresses)
    pod_networks = {each.family: pod_network_of(each, own) for each in rulesets}
    planned = [
        each
        for family, pod_network in pod_networks.items()
        for each in probe_plan.probes(config, family, pod_network, around)
    ]
    ports = {
        family: probe_plan.ports(config, pod_network)
        for family, pod_network in pod_networks.items()
    }

    def failed(milliseconds: int) -> set[Family]:
        proxy = probe_plan.the_proxy(config, around.own)
        judged = probe.make(planned, ports, proxy, milliseconds)
        wrong = [each for each in judged if each.result is probe_plan.Result.FAILED]
        return {each.probe.packet.family for each in wrong}

    return failed


@pytest.mark.parametrize(
    "lost",
    [
        "rule del fwmark 1337 lookup 133",
        "route flush table 133",
        "-6 rule del fwmark 1337 lookup 133",
        "-6 route flush table 133",
        "-6 address del ::6/128 dev lo",
    ],
)
def test_lost_routing_is_missed_too(lost: str, pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "-m", "TPROXY")
    applied(pod, *flags)
    pod.run(["ip", *lost.split()]).check_returncode()
    assert run_in(pod.namespace, "validate", *flags, *SOON).status == 126


@settings(IN_THE_KERNEL, max_examples=10)
@example(call=Call(("-p", "1207", "-x", "0.0.0.0", "-b", "*", "-d", "1207")))
@example(call=Call(("-m", "TPROXY", "-b", "80", "-z", "449", "-e", "80", "-q", "449", "-k", "lo")))
@example(call=Call(("-i", "*", "-g", "0"), {"ISTIO_OUTBOUND_OWNER_GROUPS": "0"}))
@example(call=Call(("-m", "TPROXY", "-i", "*", "-b", "*", "-c", "eth0", "--ipv6")))
@example(call=Call(("-m", "TPROXY", "-i", "*", "-b", "*", "-c", "lo", "-t", "4294967295")))
@example(call=Call(("-m", "TPROXY", "-b", "6", "-z", "6", "-o", "1", "-p", "1", "-q", "1")))
@given(call=calls())
def test_whatever_the_flags_no_probe_fails_right_after_applying(call: Call) -> None:
    with make_pod(interfaces=("eth0", "eth1")) as pod:
        applied(pod, *call.flags, environ=call.environ)
        result = run_in(pod.namespace, "validate", *call.flags, environ=call.environ)
        assert result.status == 0, result.stdout


# Who may probe what.


@both_modes
def test_a_validation_container_is_the_proxy_and_may_nothing(mode: str, pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "-m", mode, *DNS, "-O", "json")
    applied(pod, *flags)
    result = run_with(pod.namespace, "validate", *flags, uid=1337, capabilities=0)
    assert result.status == 0, result.stderr
    made = probes(result, "passed")
    assert {(each["uid"], each["gid"]) for each in made} == {(1337, 1337)}
    assert {"127.0.0.6", "::6"} <= {each["to"] for each in made}
    lacking = probes(result, "not made")
    assert "an application to a captured address" in {each["name"] for each in lacking}
    assert all("takes CAP_" in each["seen"] for each in lacking)


@both_modes
@pytest.mark.parametrize("call", [["validate"], ["--skip-rule-apply", "--run-validation"]])
def test_a_validation_container_fails_where_nothing_was_set_up(
    mode: str, call: list[str], pod: Pod
) -> None:
    flags = (*call, *USUAL, "--ipv6", "-m", mode, *SOON)
    result = run_with(pod.namespace, *flags, uid=1337, capabilities=0)
    assert result.status == 126
    assert "validation failed" in result.stderr


@both_modes
def test_a_container_that_only_probes_passes_where_all_is_in_place(mode: str, pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "-m", mode)
    applied(pod, *flags)
    before = held(pod)
    call = (*flags, "--skip-rule-apply", "--run-validation")
    result = run_with(pod.namespace, *call, uid=1337, capabilities=0)
    assert (result.status, result.stdout) == (0, ""), result.stderr
    assert "result=unchanged " in result.stderr.splitlines()[-1]
    assert held(pod) == before


@both_modes
def test_an_init_container_cannot_be_the_proxy_and_notices_all_the_same(
    mode: str, pod: Pod
) -> None:
    flags = (*USUAL, "--ipv6", "-m", mode, *DNS, "-O", "json")
    applied(pod, *flags)
    may = 1 << NET_ADMIN | 1 << NET_RAW
    result = run_with(pod.namespace, "validate", *flags, uid=0, capabilities=may)
    assert result.status == 0, result.stderr
    assert {each["uid"] for each in probes(result, "passed")} == {0, None}
    assert all("CAP_SETUID" in each["seen"] for each in probes(result, "not made"))
    assert "the proxy to its own pod" in {each["name"] for each in probes(result, "not made")}
    inbound = ("-t", "mangle" if mode == "TPROXY" else "nat", "-F", "PREROUTING")
    for lost in (inbound, ("-t", "nat", "-F", "OUTPUT")):
        change_rules(pod.namespace, Family.V4, *lost)
        call = ("validate", *flags, *SOON)
        damaged = run_with(pod.namespace, *call, uid=0, capabilities=may)
        assert probes(damaged, "failed"), lost
        applied(pod, *flags)


# Where the proxy is at work already.


@both_modes
def test_the_ports_of_a_proxy_that_runs_are_left_to_it(mode: str, pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "-m", mode, "-O", "json")
    applied(pod, *flags)
    with ExitStack() as running:
        proxy = partial(listener, pod.namespace, uid=1337, gid=1337)
        running.enter_context(proxy("outbound", [15001]))
        running.enter_context(proxy("inbound", [15006], transparent=mode == "TPROXY"))
        running.enter_context(listener(pod.namespace, "app", [8080, 15002], uid=1000, gid=1000))
        running.enter_context(listener(pod.outside, "outside", [15002]))
        result = run_in(pod.namespace, "validate", *flags)
        assert result.status == 0, result.stderr
        told_apart = {each["name"] for each in probes(result, "passed")}
        assert {"the proxy to its own pod", "the proxy to an outside address"} <= told_apart
        reasons = [each["seen"] for each in probes(result, "not made")]
        known = ("before its owner could be identified", "another process has port ")
        assert [reason for reason in reasons if not any(each in reason for each in known)] == []
        for lost in ("ISTIO_REDIRECT", "ISTIO_OUTPUT"):
            change_rules(pod.namespace, Family.V4, "-t", "nat", "-F", lost)
            assert probes(run_in(pod.namespace, "validate", *flags, *SOON), "failed"), lost


def test_of_an_agent_that_runs_nothing_is_said(pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", *DNS, "-O", "json")
    applied(pod, *flags)
    with listener(pod.namespace, "agent", [15053], uid=1337, gid=1337):
        result = run_in(pod.namespace, "validate", *flags)
    assert result.status == 0, result.stderr
    by_udp = [each["result"] for each in probes(result) if each["protocol"] == "udp"]
    assert set(by_udp) == {"not made"}


# How it ends, and what it leaves.


def test_a_probe_that_fails_says_what_was_expected_and_how_to_see_why(pod: Pod) -> None:
    applied(pod, *USUAL, "--ipv6")
    lost = ("-D", "ISTIO_OUTPUT", "-j", "ISTIO_REDIRECT")
    change_rules(pod.namespace, Family.V6, "-t", "nat", *lost)
    result = run_in(pod.namespace, "validate", *USUAL, "--ipv6", *SOON)
    assert result.status == 126
    assert "(expected: captured on port 15001)" in " ".join(result.stdout.split())
    (line,) = told(result)
    assert line.startswith("validation failed: 1 of ")
    assert "over IPv6: an application to a captured address" in line

    as_json = run_in(pod.namespace, "validate", *USUAL, "--ipv6", *SOON, "-O", "json")
    (failed,) = probes(as_json, "failed")
    assert failed["expected"] == {"verdict": "captured", "port": 15001}
    assert failed["seen"] == "not captured"
    name, *words = shlex.split(failed["explain"])
    assert name == "proxy-init"
    why = run_in(pod.namespace, *words)
    assert why.stdout.startswith("Direct: "), why


def test_it_gives_up_when_the_time_is_over_and_leaves_nothing(pod: Pod) -> None:
    before = held(pod)
    sockets = namespace.call(pod.namespace, _sockets)
    result = run_in(pod.namespace, "validate", *USUAL, "--ipv6", "--probe-timeout", "700ms")
    assert result.status == 126
    assert held(pod) == before
    assert namespace.call(pod.namespace, _sockets) == sockets


def _sockets() -> list[str]:
    """The sockets of this namespace that wait for something."""
    return [
        line
        for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet")
        for line in Path("/proc/self/net", name).read_text().splitlines()[1:]
        if name[:3] != "tcp" or line.split()[3] == "0A"  # TCP_LISTEN
    ]


def test_rules_that_come_while_it_tries_are_in_time(pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "--network-namespace", pod.namespace)
    call = [sys.executable, "-m", "proxy_init", "validate", *flags, "--probe-timeout", "30s"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            _until_it_listens(pod)
            assert run_in(pod.namespace, *USUAL, "--ipv6").status == 0
            output, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, output + errors


def _until_it_listens(pod: Pod) -> None:
    until = time.monotonic() + 30
    while not namespace.call(pod.namespace, _sockets):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_without_a_route_what_goes_outside_is_not_made() -> None:
    with fresh_namespace() as name:
        assert run_in(name, *USUAL, "--ipv6").status == 0
        result = run_in(name, "validate", *USUAL, "--ipv6", "-O", "json")
        assert result.status == 0, result.stderr
        assert {each["to"] for each in probes(result, "passed")} == {"127.0.0.6", "::6"}
        assert all("cannot be reached" in each["seen"] for each in probes(result, "not made"))


def test_nothing_is_sent_to_neighbours_nor_farther_than_the_next_hop(pod: Pod) -> None:
    flags = (*USUAL, "--no-ipv6", "-x", "192.0.2.0/24,10.0.0.0/8", "-o", "3306")
    applied(pod, *flags)
    for words in ("-m ttl --ttl-gt 1", "-d 192.0.2.0/24", "-m ttl --ttl-eq 1"):
        rule = f"iptables-legacy -t mangle -A PREROUTING -i to-eth0 -p tcp {words}"
        namespace.run(pod.outside, rule.split()).check_returncode()
    assert run_in(pod.namespace, "validate", *flags).status == 0
    listing = namespace.run(pod.outside, ["iptables-legacy", "-t", "mangle", "-nvxL", "PREROUTING"])
    farther, neighbours, near = (int(line.split()[0]) for line in listing.stdout.splitlines()[2:])
    assert (farther, neighbours) == (0, 0)
    assert near > 0


@both_modes
def test_applying_may_validate(mode: str, pod: Pod) -> None:
    result = applied(pod, *USUAL, "--ipv6", "-m", mode, "--run-validation")
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert f" result=applied backend={backend_under_test()} families=IPv4,IPv6 " in last.replace(
        "\t", " "
    )
    assert "IPv6 probe passed: the proxy to its own pod" in result.stderr


def test_validation_after_applying_meets_rules_of_others(pod: Pod, tmp_path: Path) -> None:
    words = ("-t", "mangle", "-A", "OUTPUT", "-d", "198.51.100.0/24", "-j", "DROP")
    iptables(pod, Family.V4, *words)
    log = tmp_path / "termination-log"
    result = run_in(
        pod.namespace,
        *(*USUAL, "--ipv6", "--run-validation", *SOON),
        environ={"TERMINATION_LOG": str(log)},
    )
    assert (result.status, result.stdout) == (126, "")
    assert "result=failed " in result.stderr.splitlines()[-1]
    assert log.read_text().startswith("validation failed: ")
    assert "198.51.100.1" in log.read_text()
    assert run_in(pod.namespace, "status", *USUAL, "--ipv6").status == 0


def test_text_fits_80_columns_and_is_coloured_for_a_terminal_only(pod: Pod) -> None:
    flags = ("validate", *USUAL, "--ipv6", *SOON)
    plain = run_in(pod.namespace, *flags)
    assert "\x1b" not in plain.stdout
    lines = plain.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("To see why: ")) <= 80
    assert "\x1b[1;31m" in namespace.call(pod.namespace, partial(_on_a_terminal, flags), timeout=60)


def _on_a_terminal(flags: Sequence[str]) -> str:
    """What the program prints to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        sys.stdout = os.fdopen(1, "w")
        run = [sys.executable, "-m", "proxy_init", *flags]
        os.execve(sys.executable, run, dict(os.environ))
    printed = b""
    try:
        while piece := os.read(terminal, 4096):
            printed += piece
    except OSError:  # how a terminal says that nobody is at the other end
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    return printed.decode()


@pytest.mark.parametrize("call", [["validate"], ["--run-validation"]])
def test_in_mode_none_there_is_nothing_to_validate(call: list[str], pod: Pod) -> None:
    result = run_in(pod.namespace, *call, *USUAL, "--ipv6", "-m", "NONE")
    assert (result.status, result.stdout) == (0, "")
    assert "there is nothing to validate" in result.stderr


def test_the_program_validates_in_another_namespace(pod: Pod) -> None:
    flags = (*USUAL, "--ipv6", "--network-namespace", pod.namespace)
    assert run_in(pod.outside, *flags).status == 0
    result = namespace.call(pod.outside, lambda: run_here("validate", *flags), timeout=60)
    assert result.status == 0, result.stderr
