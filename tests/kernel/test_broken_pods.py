"""Ten pods, each broken in another way, with real traffic: what goes wrong, and what names it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pods import (
    ENVIRONMENT,
    REFUSED,
    TIMEOUT,
    Pod,
    connect,
    forwarder,
    listener,
    make_pod,
)
from proxy_init.rules.model import Family
from tests.running import both_backends, program, restored, run_in, with_legacy_tables
from tests.schemas import read_json

pytestmark = both_backends

FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*")
INBOUND = ("-b", "*")
USUAL = (*FLAGS, *INBOUND)
FAR = "198.51.100.7"


def explained(pod: Pod, to: str = f"{FAR}:80", **environ: str) -> dict[str, Any]:
    """What explain --live says of a connection, without any flags."""
    words = ("explain", "--live", "--to", to, "-O", "json")
    result = run_in(pod.namespace, *words, environ=environ)
    assert result.status == 0, result.stderr
    said: dict[str, Any] = read_json("explain", result.stdout)
    return said


def found(pod: Pod, **environ: str) -> dict[str, str]:
    """What is wrong with a pod: by cause, what describe and explain say of it and what to do."""
    result = run_in(pod.namespace, "describe", "-O", "json", environ=environ)
    assert result.status in (0, 3), result.stderr
    named = read_json("describe", result.stdout)["findings"]
    assert named == explained(pod, **environ)["findings"]
    return {each["cause"]: f"{each['says']} {each['remedy']}" for each in named}


@contextmanager
def a_pod(
    *flags: str, ipv6: bool = False, proxy: tuple[int, int] | None = (1337, 1337)
) -> Iterator[Pod]:
    """A pod with these rules, a proxy of this uid and gid, and a world around it."""
    with ExitStack() as stack:
        pod = stack.enter_context(make_pod(ipv6=ipv6))
        stack.enter_context(listener(pod.outside, "outside", (80, 443)))
        stack.enter_context(listener(pod.namespace, "application", (8080,), uid=1000, gid=1000))
        if proxy:
            uid, gid = proxy
            stack.enter_context(listener(pod.namespace, "proxy", (15001, 15006), uid=uid, gid=gid))
        assert run_in(pod.namespace, *flags).status == 0
        yield pod


def put(pod: Pod, *rules: str) -> None:
    """Change the table nat as another program does."""
    for words in rules:
        command = [program(Family.V4), "-t", "nat", *words.split()]
        pod.run(command, env=ENVIRONMENT).check_returncode()


def test_a_sound_pod_has_nothing_wrong() -> None:
    with a_pod(*USUAL, "--ipv6", ipv6=True) as pod:
        assert connect(pod.namespace, FAR, 80).who == "proxy"
        assert connect(pod.outside, pod.address(4), 8080, interface="to-eth0").who == "proxy"
        assert found(pod) == {}


def test_a_flag_swallowed_by_another() -> None:
    # What `-x -b '*'` comes to with a program that takes it: there is no -b.
    with a_pod(*FLAGS) as pod:
        answer = connect(pod.outside, pod.address(4), 8080, interface="to-eth0")
        assert answer.who == "application"
        said = found(pod)
        assert set(said) == {"inbound not captured"}
        assert "Outbound traffic is captured, and inbound traffic is not" in said.popitem()[1]
        # This program refuses it.
        refused = run_in(pod.namespace, *FLAGS, "-x", "-b", "*")
        assert refused.status == 2 and "-x took the next flag as its value" in refused.stderr


def test_the_network_of_the_services_is_excluded() -> None:
    with a_pod(*USUAL, "-x", "10.96.0.0/12") as pod:
        assert connect(pod.namespace, "10.100.0.7", 80).who == "outside"
        said = found(pod, KUBERNETES_SERVICE_HOST="10.96.0.1")
        assert set(said) == {"services excluded"}
        assert (
            "Connections to 10.96.0.0/12 are not captured (-x), and it holds 10.96.0.1, the API "
            "server (KUBERNETES_SERVICE_HOST)" in said["services excluded"]
        )
        assert explained(pod, "10.100.0.7:80")["sentence"] == (
            "Direct: TCP to 10.100.0.7:80 from uid 1000, gid 1000 is not captured: "
            "outbound to 10.96.0.0/12 is excluded (-x)."
        )


def test_the_proxy_runs_as_another_user() -> None:
    with (
        a_pod(*USUAL, proxy=None) as pod,
        forwarder(pod.namespace, "proxy", 15001, uid=1000, gid=1000),
        listener(pod.namespace, "proxy", (15006,), uid=1000, gid=1000),
    ):
        answer = connect(pod.namespace, FAR, 80, uid=2000, gid=2000)
        assert answer.who != "outside"  # the proxy's own connection came back to it
        said = found(pod)
        assert "loop" in said
        assert (
            "The proxy listens on port 15001 as uid 1000, and the rules exempt uid 1337 and gid "
            "1337. Unless its group is 1337, what it sends is captured and comes back to it, in a "
            "loop." in said["loop"]
        )
        assert "-u 1000" in said["loop"]


def test_the_proxy_does_not_listen() -> None:
    with a_pod(*USUAL, proxy=None) as pod:
        assert connect(pod.namespace, FAR, 80).who == REFUSED
        said = found(pod)
        assert set(said) == {"not listening"}
        assert (
            "Nobody listens on TCP port 15001 and TCP port 15006, where the rules send captured "
            "traffic: captured connections are refused." in said["not listening"]
        )


def test_rules_of_mode_redirect_for_a_proxy_of_mode_tproxy() -> None:
    with (
        a_pod(*USUAL, proxy=None) as pod,
        listener(pod.namespace, "proxy", (15001, 15006), uid=1337, gid=1337, transparent=True),
    ):
        answer = connect(pod.outside, pod.address(4), 8080, interface="to-eth0")
        # It is reached at its own port, which a transparent proxy takes for the destination.
        assert answer.local and answer.local.port == 15006
        said = found(pod)
        assert set(said) == {"wrong listener"}
        assert (
            "The rules capture by REDIRECT, and the socket that listens on port 150"
            in said["wrong listener"]
        )
        assert "-m TPROXY" in said["wrong listener"]


def test_rules_of_mode_tproxy_for_a_proxy_of_mode_redirect() -> None:
    with a_pod(*USUAL, "-m", "TPROXY") as pod:
        answer = connect(pod.outside, pod.address(4), 8080, interface="to-eth0", timeout=0.5)
        assert answer.who == TIMEOUT
        said = found(pod)
        assert set(said) == {"wrong listener"}
        assert (
            "The rules capture by TPROXY, and the socket that listens on port 15006 is not "
            "transparent" in said["wrong listener"]
        )


@with_legacy_tables
def test_a_second_mesh() -> None:
    with a_pod(*USUAL) as pod:
        # linkerd2-proxy-init, as it is by default; it came first.
        put(
            pod,
            "-N PROXY_INIT_OUTPUT",
            "-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN",
            "-A PROXY_INIT_OUTPUT -o lo -j RETURN",
            "-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140",
            "-I OUTPUT -j PROXY_INIT_OUTPUT",
        )
        with listener(pod.namespace, "linkerd", (4140,), uid=2102, gid=2102):
            assert connect(pod.namespace, FAR, 80).who == "linkerd"
        said = found(pod)
        assert set(said) == {"other mesh"}
        assert (
            "Another program redirects traffic in this pod, too: Linkerd (chain "
            "PROXY_INIT_OUTPUT). Now outbound connections go to port 4140 (Linkerd) and inbound "
            "connections go to port 15006 (ours)." in said["other mesh"]
        )


def test_ipv6_is_not_captured_in_a_pod_of_both_families() -> None:
    with a_pod(*USUAL, "--no-ipv6", ipv6=True) as pod:
        assert connect(pod.namespace, "2001:db8:ffff::7", 80).who == "outside"
        said = found(pod)
        assert set(said) == {"IPv6 not captured"}
        assert (
            "The pod has a global IPv6 address (2001:db8::2), and IPv6 is not captured"
            in said["IPv6 not captured"]
        )
        assert "--dual-stack" in said["IPv6 not captured"]


@with_legacy_tables
def test_rules_in_both_kinds_of_tables() -> None:
    with a_pod(*USUAL, "-x", "198.51.100.0/24", "--backend", "legacy") as pod:
        # Another init container's, with iptables-nft.
        text = run_in(pod.namespace, "--dry-run", "-4", *USUAL).stdout
        assert restored(pod.namespace, Family.V4, text, "-n", kind="nft").returncode == 0
        assert connect(pod.namespace, FAR, 80).who == "proxy"  # although it is excluded
        said = found(pod)
        assert set(said) == {"both kinds of tables"}
        assert (
            "Rules of a sidecar are in the legacy tables and in nf_tables at once"
            in said["both kinds of tables"]
        )
        # As is said: once more with the flags, and one kind is left.
        assert run_in(pod.namespace, *USUAL).status == 0
        assert found(pod) == {}


@with_legacy_tables
def test_a_foreign_rule_accepts_before_ours() -> None:
    with a_pod(*USUAL) as pod:
        put(pod, "-I OUTPUT -p tcp --dport 443 -j ACCEPT")
        assert connect(pod.namespace, FAR, 443).who == "outside"
        said = found(pod)
        assert set(said) == {"bypassed"}
        assert (
            "A rule of another program stands before ours and lets what it matches past our "
            "rules, uncaptured (1 packet so far): rule 1 of OUTPUT in nat "
            "(-p tcp -m tcp --dport 443 -j ACCEPT)." in said["bypassed"]
        )
        assert explained(pod, f"{FAR}:443")["sentence"].endswith(
            "is not captured: rule 1 of OUTPUT (nat) decides: -p tcp -m tcp --dport 443 -j ACCEPT."
        )


def test_the_policy_route_is_missing() -> None:
    with (
        a_pod(*USUAL, "-m", "TPROXY", proxy=None) as pod,
        listener(pod.namespace, "proxy", (15001,), uid=0, gid=1337, transparent=True),
        forwarder(pod.namespace, "proxy", 15006, uid=0, gid=1337, mark=1337),
    ):
        to = (pod.outside, pod.address(4), 8080)
        assert connect(*to, interface="to-eth0").who == "application"
        assert found(pod) == {}
        pod.run(["ip", "rule", "del", "fwmark", "1337"]).check_returncode()
        assert connect(*to, interface="to-eth0", timeout=0.5).who != "application"
        said = found(pod)
        assert set(said) == {"no policy route"}
        assert (
            "The policy route of mode TPROXY is missing for IPv4: what the application answers the "
            "proxy (mark 0x539) leaves the pod" in said["no policy route"]
        )
