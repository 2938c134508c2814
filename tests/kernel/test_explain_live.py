"""`explain --live`: the rules in the kernel, foreign ones included."""

from typing import Any

import pytest

from pods import ENVIRONMENT, TIMEOUT, connect, listener, make_pod, namespace
from proxy_init.rules.model import Family
from tests.our_rules import change_rules
from tests.running import (
    backend_under_test,
    both_backends,
    fresh_namespace,
    program,
    run_in,
)
from tests.schemas import read_json

FLAGS = ("-p", "15001", "-u", "1337", "-i", "*", "-b", "*", "--log-level", "error")


def explained(name: str, *options: str) -> dict[str, Any]:
    """What the command says of a packet."""
    result = run_in(name, "explain", *FLAGS, "-O", "json", *options)
    assert result.status == 0, result.stderr
    found: dict[str, Any] = read_json("explain", result.stdout)
    return found


@both_backends
def test_a_foreign_rule_in_the_way_is_seen_and_the_kernel_agrees() -> None:
    with (
        make_pod(ipv6=False) as pod,
        listener(pod.namespace, "proxy", (15001,), uid=1337, gid=1337),
        listener(pod.outside, "outside", (80, 443)),
    ):
        assert run_in(pod.namespace, *FLAGS).status == 0
        in_the_way = "-I OUTPUT 1 -d 198.51.100.0/24 -p tcp -m tcp --dport 443 -j ACCEPT"
        change_rules(pod.namespace, Family.V4, "-t", "nat", *in_the_way.split())
        if backend_under_test() == "legacy":
            not_known = "-p tcp -m statistic --mode nth --every 1000000 --packet 9 -j RETURN"
            rule = [program(Family.V4), "-t", "nat", "-I", "ISTIO_OUTPUT", *not_known.split()]
        else:
            not_known = "meta l4proto tcp numgen inc mod 1000000 9 return"
            rule = ["nft", f"insert rule inet istio-proxy-nat istio-output {not_known}"]
        pod.run(rule, env=ENVIRONMENT).check_returncode()
        for port, verdict, who in ((443, "direct", "outside"), (80, "captured", "proxy")):
            to = ("--to", f"198.51.100.7:{port}")
            assert explained(pod.namespace, *to)["verdict"] == "captured"  # as the flags ask
            live = explained(pod.namespace, "--live", *to)
            assert live["verdict"] == verdict
            assert connect(pod.namespace, "198.51.100.7", port).who == who
        (either,) = live["either"]
        assert (either["if"]["chain"], either["if"]["matched"]) == ("ISTIO_OUTPUT", None)
        assert either["verdict"] == "direct"
        # A rule that the flags ask for has its reason in the kernel too.
        assert (
            live["path"][-1]["why"]
            == "captured: to port 15001, where the proxy accepts outbound TCP"
        )


@both_backends
def test_nothing_in_the_kernel_captures_nothing() -> None:
    with make_pod(ipv6=False) as pod:
        assert explained(pod.namespace, "--live", "--to", "198.51.100.7:80") == {
            **{"verdict": "direct", "by": None, "port": None, "path": [], "either": []},
            "findings": [],
            "sentence": "Direct: TCP to 198.51.100.7:80 from uid 1000, gid 1000 is not captured: "
            "no rule captures it.",
        }


@both_backends
def test_a_packet_meets_the_tables_of_both_kinds() -> None:
    other, tables = {
        "legacy": ("iptables-nft", "ip filter"),
        "nft": ("iptables-legacy", "filter of the legacy tables"),
    }[backend_under_test()]
    with (
        make_pod(ipv6=False) as pod,
        listener(pod.namespace, "proxy", (15001,), uid=1337, gid=1337),
        listener(pod.outside, "outside", (80,)),
    ):

        def rule(words: str) -> None:
            pod.run([other, *words.split()], env=ENVIRONMENT).check_returncode()

        assert run_in(pod.namespace, *FLAGS).status == 0
        to = ("--live", "--to", "198.51.100.7:80")
        # What the other kind does not send elsewhere, ours take, and the other way round.
        rule("-t nat -A OUTPUT -p tcp --dport 80 -j ACCEPT")
        assert explained(pod.namespace, *to)["verdict"] == "captured"
        assert connect(pod.namespace, "198.51.100.7", 80).who == "proxy"
        # It meets the packet that ours have sent to the proxy.
        rule("-A OUTPUT -p tcp --dport 15001 -j DROP")
        live = explained(pod.namespace, *to)
        assert live["verdict"] == "dropped"
        assert live["path"][-1]["table"] == tables
        assert connect(pod.namespace, "198.51.100.7", 80, timeout=0.5).who == TIMEOUT
        # And what no longer passes through ours.
        rule("-F OUTPUT")
        rule("-t mangle -A OUTPUT -p tcp --dport 80 -j DROP")
        assert explained(pod.namespace, *to)["verdict"] == "dropped"
        proved = run_in(pod.namespace, "prove", *FLAGS, "--live")
        assert proved.status == 3 and "does not arrive" in proved.stdout
        assert connect(pod.namespace, "198.51.100.7", 80, timeout=0.5).who == TIMEOUT


@both_backends
@pytest.mark.parametrize("place", ["inet mesh", "ip nat"])
def test_rules_that_iptables_cannot_show_are_walked_too(place: str) -> None:
    with fresh_namespace() as name:
        assert run_in(name, *FLAGS).status == 0
        chain = "chain theirs { type nat hook output priority -110; ip daddr 192.0.2.7 drop; }"
        made = f"table {place} {{ {chain}; chain no_hook {{ accept; }}; }}"
        namespace.run(name, ["nft", made]).check_returncode()
        live = explained(name, "--live", "--to", "192.0.2.7:80")
        assert (live["verdict"], live["path"][-1]["chain"]) == ("dropped", "OUTPUT")
        assert live["path"][-1]["table"].startswith(place)
        assert explained(name, "--live", "--to", "192.0.2.8:80")["verdict"] == "captured"


@both_backends
def test_what_is_not_known_of_a_rule_is_never_taken_for_nothing() -> None:
    # iptables-nft-save prints this one as -j ACCEPT.
    with fresh_namespace() as name:
        assert run_in(name, *FLAGS).status == 0
        chain = "chain OUTPUT { type nat hook output priority -110; meta cpu 7 accept; }"
        namespace.run(name, ["nft", f"table ip nat {{ {chain}; }}"]).check_returncode()
        live = explained(name, "--live", "--to", "192.0.2.7:80")
        (visit,) = [visit for visit in live["path"] if visit["table"].startswith("ip nat")]
        assert visit["matched"] is None and "cmp" in visit["rule"]
