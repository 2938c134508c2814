"""`graph --live` and `explain --live --format`: the kernel's rules, drawn with their counters."""

from collections.abc import Iterator

import pytest

from pods import ENVIRONMENT, Pod, connect, listener, make_pod, namespace
from proxy_init.rules.model import Family
from tests.foreign import NONE_MADE, tables_made
from tests.running import both_backends, fresh_namespace, program, run_in, with_legacy_tables

FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-x", "10.0.0.0/8")

pytestmark = both_backends


@pytest.fixture
def pod() -> Iterator[Pod]:
    with (
        make_pod(ipv6=False) as pod,
        listener(pod.namespace, "proxy", (15001, 15006), uid=1337, gid=1337),
    ):
        assert run_in(pod.namespace, *FLAGS).status == 0
        yield pod


def drawn(name: str, *words: str) -> str:
    """What a command draws, each rule of the tree in one line."""
    result = run_in(name, *words)
    assert result.status == 0, result.stderr
    return " ".join(result.stdout.replace("│", "").split())


def test_each_rule_has_the_packets_that_it_has_matched(pod: Pod) -> None:
    for _ in range(2):
        connect(pod.namespace, "198.51.100.7", 80)
    connect(pod.outside, pod.address(4), 8080, interface="to-eth0")
    live = drawn(pod.namespace, "graph", *FLAGS, "--live")
    for words in (
        "any packet: → ISTIO_OUTPUT 2 packets outbound traffic",
        "any packet: → ISTIO_REDIRECT 2 packets all other outbound",
        "any TCP: captured (REDIRECT) → port 15006 1 packet captured",
        "to 10.0.0.0/8: passes never matched outbound to 10.0.0.0/8 is excluded (-x)",
    ):
        assert words in live
    assert "missing" not in live and "not wanted" not in live and "another" not in live


@with_legacy_tables
def test_what_differs_from_the_flags_is_named_at_its_place(pod: Pod) -> None:
    for words in (
        "-D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "-A ISTIO_INBOUND -p udp -j RETURN",
        "-I OUTPUT -p tcp --dport 443 -j ACCEPT",
    ):
        command = [program(Family.V4), "-t", "nat", *words.split()]
        pod.run(command, env=ENVIRONMENT).check_returncode()
    live = drawn(pod.namespace, "graph", *FLAGS, "--live")
    assert "├── -. sent by uid 1337: passes missing sent by the proxy itself (uid 1337)" in live
    assert "any UDP: passes not wanted, never matched" in live
    assert "1. TCP, to port 443: accepted another program's, never matched" in live
    # The way of a packet is that of explain, though the picture has rules that are not there.
    way = drawn(pod.namespace, "graph", *FLAGS, "--live", "--to", "198.51.100.7:80")
    assert "9. any packet: → ISTIO_REDIRECT -> step 2, decides, 0 packets" in way
    way = drawn(pod.namespace, "graph", *FLAGS, "--live", "--to", "198.51.100.7:443")
    assert "1. TCP, to port 443: accepted -> another program's, step 1, decides, 0 packets" in way


def test_explain_draws_the_way_through_live_rules(pod: Pod) -> None:
    packet = ("--live", "--direction", "in", "--to", "192.0.2.2:8080", "--format", "mermaid")
    shown = drawn(pod.namespace, "explain", *FLAGS, *packet)
    assert "captured (REDIRECT) → port 15006<br>step 3, 0 packets" in shown
    assert "== 3 ==> nat_ISTIO_IN_REDIRECT_r1" in shown


def test_all_is_missing_where_there_is_nothing_and_looking_changes_nothing(fresh: str) -> None:
    live = drawn(fresh, "graph", *FLAGS, "--live")
    assert "-. any packet: → ISTIO_OUTPUT missing outbound traffic" in live
    assert "packets" in live and "never matched" not in live
    assert drawn(fresh, "graph", "-m", "NONE", "--live") == "no rules"
    assert tables_made(fresh) == NONE_MADE


def test_tables_of_others_with_any_names_are_drawn() -> None:
    with fresh_namespace() as name:
        assert run_in(name, *FLAGS).status == 0
        chain = "chain a/1 { type nat hook output priority -110; policy drop; counter jump b.r1; }"
        made = f"table inet m/e_s.h {{ chain b.r1 {{ ip daddr 192.0.2.7 drop; }}; {chain}; }}"
        namespace.run(name, ["nft", made]).check_returncode()
        live = drawn(name, "graph", *FLAGS, "--live")
        assert "table inet m/e_s.h" in live
        assert "to 192.0.2.7: dropped another program's, not counted" in live
        assert "any packet: dropped the policy of the chain" in live
        for kind in ("dot", "svg", "mermaid"):
            assert "the policy of the chain" in drawn(
                name, "graph", *FLAGS, "--live", "--format", kind
            )
        way = drawn(name, "graph", *FLAGS, "--live", "--to", "192.0.2.8:80", "--format", "mermaid")
        assert "dropped: does not arrive" in way


def test_without_its_policy_route_mode_tproxy_is_drawn_with_a_note(fresh: str) -> None:
    flags = (*FLAGS, "-m", "TPROXY")
    assert run_in(fresh, *flags).status == 0
    assert "the policy route is missing" not in drawn(fresh, "graph", *flags, "--live")
    namespace.run(fresh, ["ip", "rule", "del", "fwmark", "1337"]).check_returncode()
    assert (
        "the policy route is missing: packets marked 0x539 are not kept local by routing table 133"
        in drawn(fresh, "graph", *flags, "--live")
    )
