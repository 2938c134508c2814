"""What is to be done about a pod, by what it says."""

import json
import shlex
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_init.errors import BadCall
from proxy_init.node.desired import (
    ISTIO_DEFAULTS,
    Desired,
    LeaveAlone,
    NoRules,
    Redirect,
    desired_state,
    note_of,
)
from proxy_init.node.nri_pb2 import Container as ContainerMessage
from proxy_init.node.nri_pb2 import LinuxNamespace, LinuxPodSandbox, PodSandbox
from proxy_init.node.pod_config import pod_config, shell_words
from proxy_init.node.pods import NOTE, Container, Pod, container_of, pod_of
from tests.unit.fakes import bounded

STATUS = "sidecar.istio.io/status"
INJECTED = {STATUS: json.dumps({"initContainers": [], "containers": ["istio-proxy"]})}
WITH_VALIDATION = {
    STATUS: json.dumps({"initContainers": ["istio-validation"], "containers": ["istio-proxy"]})
}
TRAFFIC = "traffic.sidecar.istio.io/"
FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-x", "", "-b", "*")
VALIDATION = Container(
    "istio-validation",
    ("/usr/local/bin/pilot-agent", "istio-iptables", *FLAGS),
    {"DUAL_STACK": "1"},
)
PROXY = Container("istio-proxy", ("/usr/local/bin/pilot-agent", "proxy", "sidecar"))
APP = Container("app")


def pod(
    annotations: Mapping[str, str] = {},
    labels: Mapping[str, str] = {},
    netns: str | None = "/run/netns/cni-1",
) -> Pod:
    return Pod("id", "default", "web", labels, annotations, netns)


def desired(
    annotations: Mapping[str, str] = {},
    *containers: Container,
    labels: Mapping[str, str] = {},
    defaults: Sequence[str] = (),
) -> Desired:
    """What is to be done about a pod when the last of these containers is being created."""
    named = {container.name: container for container in containers}
    created = containers[-1].name if containers else ""
    return desired_state(pod(annotations, labels), named, defaults, created)


# What is left alone.


@pytest.mark.parametrize(
    ("annotations", "containers", "labels", "why"),
    [
        ({}, (), {}, "nothing in it asks"),
        ({}, (PROXY, APP), {}, "nothing in it asks"),
        (INJECTED, (), {"sidecar.istio.io/inject": "false"}, "inject is false"),
        ({**INJECTED, "sidecar.istio.io/inject": "False"}, (), {}, "inject is False"),
        (INJECTED, (VALIDATION,), {"sidecar.istio.io/inject": "f"}, "inject is f"),
        (INJECTED, (Container("istio-init"),), {}, "istio-init writes the rules"),
        ({STATUS: '{"initContainers":["istio-init"]}'}, (), {}, "istio-init writes the rules"),
        ({STATUS: '{"containers":["other"]}'}, (), {}, "no container istio-proxy"),
    ],
)
def test_pods_that_are_left_alone(
    annotations: Mapping[str, str],
    containers: tuple[Container, ...],
    labels: Mapping[str, str],
    why: str,
) -> None:
    said = desired(annotations, *containers, labels=labels)
    assert isinstance(said, LeaveAlone)
    assert why in said.why


def test_a_pod_in_the_network_of_the_node_is_left_alone_whatever_it_says() -> None:
    annotations = {**INJECTED, "proxy-init.io/flags": "-i '*'"}
    said = desired_state(pod(annotations, netns=None), {"istio-validation": VALIDATION}, ())
    assert said == LeaveAlone("it uses the network of the node")


def test_the_label_counts_before_the_annotation_of_the_same_name() -> None:
    annotations = {**INJECTED, "sidecar.istio.io/inject": "false"}
    assert isinstance(desired(annotations, labels={"sidecar.istio.io/inject": "true"}), Redirect)


# The call of istio-validation.


@pytest.mark.parametrize(
    "argv",
    [
        ("/usr/local/bin/pilot-agent", "istio-iptables", *FLAGS),
        ("istio-iptables", *FLAGS),
        ("proxy-init", "istio-iptables", *FLAGS),
        ("/usr/local/bin/proxy-init", *FLAGS),
    ],
)
def test_the_call_of_istio_validation_counts_before_all_else(argv: tuple[str, ...]) -> None:
    annotations = {
        **WITH_VALIDATION,
        f"{TRAFFIC}excludeOutboundPorts": "1",
        "proxy-init.io/flags": "-o 2",
    }
    said = desired(annotations, Container("istio-validation", argv, {"DUAL_STACK": "1"}))
    assert isinstance(said, Redirect)
    assert said.words == FLAGS
    assert said.environ == {"DUAL_STACK": "1"}
    assert not said.if_missing
    assert "proxy-init.io/flags is ignored" in said.note


def test_it_counts_for_later_containers_too() -> None:
    said = desired(WITH_VALIDATION, VALIDATION, PROXY, APP)
    assert isinstance(said, Redirect)
    assert said.source == "container istio-validation"


def test_after_it_has_ended_the_note_in_another_container_says_the_same() -> None:
    exact = desired(WITH_VALIDATION, VALIDATION)
    assert isinstance(exact, Redirect)
    noted = Container("app", note=note_of(exact))
    assert desired(WITH_VALIDATION, noted) == exact


@pytest.mark.parametrize("note", ["{", "[]", '{"flags": 1}', '{"flags": [], "environment": []}'])
def test_a_note_that_cannot_be_read_counts_for_nothing(note: str) -> None:
    assert isinstance(desired({}, Container("app", note=note)), LeaveAlone)


def test_without_the_exact_flags_rules_that_are_there_are_kept() -> None:
    said = desired(WITH_VALIDATION, PROXY)
    assert isinstance(said, Redirect)
    assert said.if_missing


# Annotations, as Istio's CNI plugin reads them.


def test_without_more_annotations_a_pod_has_the_defaults_of_istio() -> None:
    said = desired(INJECTED)
    assert isinstance(said, Redirect)
    assert said.words == ISTIO_DEFAULTS
    config = pod_config(said.words, said.environ)
    assert config.inbound_excluded_ports == (15020, 15021, 15090)
    assert config.outbound_excluded_ports == (15020,)
    assert (config.outbound_port, config.inbound_port) == (15001, 15006)


def test_flags_of_the_agent_count_before_these_and_annotations_before_those() -> None:
    said = desired(
        {**INJECTED, f"{TRAFFIC}excludeOutboundPorts": "7,8"},
        defaults=("-o=1", "-x=192.0.2.0/24", "--comments=true"),
    )
    assert isinstance(said, Redirect)
    config = pod_config(said.words, said.environ)
    assert config.outbound_excluded_ports == (7, 8)
    assert [str(network) for network in config.outbound_excluded_networks] == ["192.0.2.0/24"]
    assert config.comments


@pytest.mark.parametrize(
    ("name", "text", "flags"),
    [
        ("sidecar.istio.io/interceptionMode", "TPROXY", "-m TPROXY"),
        (f"{TRAFFIC}includeOutboundIPRanges", "10.0.0.0/8", "-i 10.0.0.0/8"),
        (f"{TRAFFIC}includeOutboundIPRanges", "", "-i ''"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "10.0.0.0/8,fd00::/8", "-x 10.0.0.0/8,fd00::/8"),
        (f"{TRAFFIC}includeInboundPorts", "80,81", "-b 80,81"),
        (f"{TRAFFIC}includeInboundPorts", "", "-b ''"),
        (f"{TRAFFIC}excludeInboundPorts", "80,15021", "-d 80,15021,15020,15090"),
        (f"{TRAFFIC}excludeInboundPorts", "", "-d 15020,15021,15090"),
        (f"{TRAFFIC}includeOutboundPorts", "443", "-q 443"),
        (f"{TRAFFIC}excludeOutboundPorts", "443", "-o 443"),
        (f"{TRAFFIC}excludeOutboundPorts", "", "-o ''"),
        (f"{TRAFFIC}excludeInterfaces", "net1,net2", "-c net1,net2"),
        (f"{TRAFFIC}kubevirtInterfaces", "net1", "-k net1"),
        ("istio.io/reroute-virtual-interfaces", "net1", "-k net1"),
    ],
)
def test_each_annotation_is_a_flag(name: str, text: str, flags: str) -> None:
    said = desired({**INJECTED, name: text})
    assert isinstance(said, Redirect)
    assert said.words == (*ISTIO_DEFAULTS, *shlex.split(flags))


def test_reroute_virtual_interfaces_replaces_kubevirt_interfaces() -> None:
    names = ("istio.io/reroute-virtual-interfaces", f"{TRAFFIC}kubevirtInterfaces")
    said = desired({**INJECTED, names[0]: "new", names[1]: "old"})
    assert isinstance(said, Redirect)
    assert pod_config(said.words, {}).virtual_interfaces == ("new",)


def test_variables_of_the_proxy_count_with_annotations() -> None:
    environ = {"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_DUAL_STACK": "true", "ENVOY_PORT": "1"}
    said = desired(INJECTED, Container("istio-proxy", ("pilot-agent", "proxy", "sidecar"), environ))
    assert isinstance(said, Redirect)
    config = pod_config(said.words, said.environ)
    assert config.redirect_dns
    assert config.capture_all_dns
    assert config.dual_stack
    assert config.outbound_port == 15001


@pytest.mark.parametrize(
    "proxy",
    [
        Container("istio-proxy", ("pilot-agent", "proxy", "router")),
        Container("istio-proxy", (), {"DISABLE_ENVOY": "true"}),
    ],
)
def test_a_proxy_that_takes_no_redirected_traffic_means_no_rules(proxy: Container) -> None:
    assert isinstance(desired(INJECTED, proxy), NoRules)


@pytest.mark.parametrize("status", ["", "[1", "[]", "{}", '{"containers": 1}', "[" * 100_000])
def test_a_status_that_lists_no_containers_is_enough(status: str) -> None:
    assert isinstance(desired({STATUS: status}), Redirect)


# Our own annotations.


def test_our_own_annotation_holds_flags() -> None:
    said = desired({"proxy-init.io/flags": "-p 15001 -i '*' -x \"\""})
    assert isinstance(said, Redirect)
    assert (*said.words, *shell_words(said.text)) == ("-p", "15001", "-i", "*", "-x", "")


def test_flags_of_a_pod_have_a_greatest_length() -> None:
    text = "-i 10.0.0.0/8 " * 10_000
    with pytest.raises(BadCall, match=r"proxy-init\.io/flags: expected at most 131072 characters"):
        desired({"proxy-init.io/flags": text})
    with pytest.raises(BadCall, match="istio-validation: expected at most 131072 characters"):
        desired({}, Container("istio-validation", ("istio-iptables", text)))


def test_our_own_annotation_must_be_words_of_a_shell() -> None:
    expected = r"proxy-init\.io/flags: got .* expected flags as in a shell: No closing quotation"
    with pytest.raises(BadCall, match=expected):
        shell_words("-i '*")


def test_rules_may_wait_for_the_container_of_the_proxy() -> None:
    annotations = {**WITH_VALIDATION, "proxy-init.io/rules-from": "istio-proxy"}
    migrate = Container("migrate")
    assert isinstance(desired(annotations), NoRules)
    assert isinstance(desired(annotations, VALIDATION), Redirect)
    assert isinstance(desired(annotations, VALIDATION, migrate), NoRules)
    assert isinstance(desired(annotations, VALIDATION, migrate, PROXY), Redirect)
    assert isinstance(desired(annotations, VALIDATION, migrate, PROXY, APP), Redirect)


@pytest.mark.parametrize("name", ["", "Istio", "a b", "istio-prox", "x" * 64])
def test_a_container_that_rules_wait_for_must_be_one_of_the_pod(name: str) -> None:
    with pytest.raises(BadCall, match=r"proxy-init\.io/rules-from: got"):
        desired({**WITH_VALIDATION, "proxy-init.io/rules-from": name})


# What a pod may not do.


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (("--network-namespace", "/proc/1/ns/net"), {}),
        (("--pod", "default/other"), {}),
        ((), {"NETWORK_NAMESPACE": "/proc/1/ns/net"}),
        (("--pod", "default/other"), {}),
        (("--cleanup-only",), {}),
        (("-n",), {}),
        ((), {"DRY_RUN": "true"}),
    ],
)
def test_flags_of_a_process_are_refused(words: tuple[str, ...], environ: Mapping[str, str]) -> None:
    with pytest.raises(BadCall, match="not possible in node mode"):
        pod_config(words, environ)


@pytest.mark.parametrize("flag", ["-b", "-d", "-i", "-x", "-o", "-q"])
def test_no_file_is_read_for_a_pod(flag: str) -> None:
    with pytest.raises(BadCall, match=r"@/etc/passwd.*no file is read"):
        pod_config((flag, "@/etc/passwd"), {})


def test_files_of_rule_set_1_0_are_not_read_for_a_pod() -> None:
    with pytest.raises(BadCall, match="/etc/passwd"):
        pod_config(("--ruleset", "1.0"), {"ISTIO_CLUSTER_CONFIG": "/etc/passwd"})
    assert pod_config(("--ruleset", "1.0", "-i", "*"), {}).ruleset == "1.0"


def test_the_lock_file_and_the_wait_are_the_agents() -> None:
    config = pod_config(("--wait", "3000"), {"XTABLES_LOCKFILE": "/run/nri/x"})
    assert (config.lock_file, config.wait) == ("/proc/self/ns/net", 1)


def test_dns_is_redirected_for_all_servers_unless_some_are_named() -> None:
    assert pod_config(("--redirect-dns",), {}).capture_all_dns
    named = pod_config(("--redirect-dns", "--dns-servers", "10.96.0.10"), {})
    assert not named.capture_all_dns
    assert [str(server) for server in named.dns_servers] == ["10.96.0.10/32"]


def test_rules_are_replaced_whatever_the_pod_says() -> None:
    assert pod_config(("--no-reconcile",), {"RECONCILE": "false"}).reconcile


def test_a_mistake_names_the_annotation_and_says_what_the_command_line_would() -> None:
    name = f"{TRAFFIC}excludeOutboundPorts"
    said = desired({**INJECTED, name: "http"})
    assert isinstance(said, Redirect)
    with pytest.raises(BadCall) as raised:
        pod_config(said.words, said.environ, said.annotations)
    assert str(raised.value) == f"{name}: -o: got 'http', expected a port from 1 to 65535"


@bounded
@given(
    st.dictionaries(
        st.sampled_from(
            [
                STATUS,
                "sidecar.istio.io/inject",
                "sidecar.istio.io/interceptionMode",
                f"{TRAFFIC}includeOutboundIPRanges",
                f"{TRAFFIC}excludeInboundPorts",
                f"{TRAFFIC}excludeInterfaces",
                "proxy-init.io/flags",
                "proxy-init.io/rules-from",
            ]
        ),
        st.text(max_size=30) | st.sampled_from(["-n", "@/etc/passwd", "-x @/etc/passwd", "10/8"]),
    ),
    st.lists(st.text(max_size=10), max_size=4),
)
def test_whatever_a_pod_says_can_be_acted_on_or_is_a_bad_call(
    annotations: Mapping[str, str], argv: Sequence[str]
) -> None:
    try:
        said = desired(annotations, Container("istio-validation", ("istio-iptables", *argv)))
        if isinstance(said, Redirect):
            words = (*said.words, *shell_words(said.text))
            pod_config(words, said.environ, said.annotations)
    except BadCall as bad:
        assert bad.mistakes


# Messages of the runtime.


def sandbox(*paths: str) -> PodSandbox:
    namespaces = [LinuxNamespace(type="network", path=path) for path in paths]
    return PodSandbox(linux=LinuxPodSandbox(namespaces=namespaces))


def test_a_network_namespace_is_found_below_run() -> None:
    assert pod_of(sandbox("/var/run/netns/cni-1")).netns == "/run/netns/cni-1"
    assert pod_of(sandbox("/run/netns/4d2a.x_y")).netns == "/run/netns/4d2a.x_y"
    assert pod_of(sandbox()).netns is None
    assert pod_of(sandbox("")).netns is None


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/ns/net",
        "/run/netns/../../proc/1/ns/net",
        "/run/netns/..",
        "/run/netns/",
        "/run/netns/a/b",
        "/run/netns/a\n",
        "run/netns/a",
    ],
)
def test_no_other_path_is_a_network_namespace(path: str) -> None:
    with pytest.raises(Exception, match="expected a network namespace in /run/netns, got"):
        pod_of(sandbox(path))


def test_of_a_container_only_what_matters_is_kept() -> None:
    env = ["DUAL_STACK=a=b", "SECRET=x", "NOTHING", "NETWORK_NAMESPACE=x"]
    message = ContainerMessage(name="istio-validation", args=["a"], env=env)
    assert container_of(message).environ == {"DUAL_STACK": "a=b", "NETWORK_NAMESPACE": "x"}
    other = ContainerMessage(name="app", args=["a"], env=env, annotations={NOTE: "n", "x": "y"})
    assert container_of(other) == Container("app", note="n")
