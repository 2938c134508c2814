"""deploy/: the Kustomize base and the Helm chart on a real API server, and the agent they start."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import daemon, programs
from cluster.daemon import until
from cluster.kubernetes import KUBECONFIG, Cluster
from node import read_manifest
from node.images import APP

ROOT = Path(__file__).resolve().parents[2]
BASE, METRICS, CHART = (ROOT / "deploy" / name for name in ("base", "metrics", "helm"))
NAMESPACE, AGENT = "proxy-init", "daemonset/proxy-init-node"
FLAGS = "-p 15001 -z 15006 -u 1337 -i '*' -b '*'"
REQUIRED = {"required-plugins.noderesource.dev": '["proxy-init"]'}

Object = dict[str, Any]


def helm(*args: str) -> str:
    """What helm prints. Raises CommandFailed."""
    command = (str(programs.HELM), f"--kubeconfig={KUBECONFIG}", *args)
    return daemon.run(command, timeout=300)


def objects(text: str) -> list[Object]:
    """The objects of a stream of YAML, sorted by their kinds."""
    found = [each for each in yaml.safe_load_all(text) if each]
    return sorted(found, key=lambda each: str(each["kind"]))


def an_app(name: str, **annotations: str) -> Object:
    """A Pod whose own annotations ask for rules."""
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 1000,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"proxy-init.io/flags": FLAGS} | annotations},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "app",
                    "image": APP,
                    "args": ["serve", "8080"],
                    "securityContext": security,
                }
            ],
        },
    }


def listed(cluster: Cluster) -> dict[str, Object]:
    """What `node pods` says of the pods in the namespace default, by name."""
    command = ("exec", "-n", NAMESPACE, AGENT, "--", "proxy-init", "node", "pods", "-O", "json")
    pods = json.loads(cluster.kubectl(*command))
    return {pod["pod"]: pod for pod in pods if pod["namespace"] == "default"}


def namespace_of(cluster: Cluster, pod: str) -> str:
    """The path of a pod's network namespace."""
    (sandbox,) = cluster.containerd.crictl("pods", "--quiet", "--name", f"^{pod}$").split()
    info = json.loads(cluster.containerd.crictl("inspectp", sandbox))["info"]
    kinds = info["runtimeSpec"]["linux"]["namespaces"]
    (path,) = (each["path"] for each in kinds if each["type"] == "network")
    return str(path)


def rules(cluster: Cluster, pod: str) -> str:
    """The rules in a pod's network namespace, by the system's own program."""
    path = namespace_of(cluster, pod)
    command = ["nsenter", f"--net={path}", "iptables-legacy-save", "-t", "nat"]
    saved = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "".join(line for line in saved.splitlines(keepends=True) if line.startswith("-A"))


def roll_out(cluster: Cluster) -> None:
    """Wait until every node runs the agent as it is now."""
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, AGENT, "--timeout=240s", timeout=300)


@contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    """The agent of the base, until the block ends."""
    cluster.kubectl("apply", "-k", str(BASE))
    try:
        roll_out(cluster)
        yield
    finally:
        cluster.delete("namespace", NAMESPACE)


@pytest.mark.parametrize(
    ("directory", "values"),
    [(BASE, ()), (METRICS, ("--set", "metrics.scrape=true"))],
    ids=["base", "metrics"],
)
def test_the_chart_makes_the_objects_of_kustomize(
    cluster: Cluster, directory: Path, values: tuple[str, ...]
) -> None:
    chart = helm("template", str(CHART), *values)
    assert objects(chart) == objects(cluster.kubectl("kustomize", str(directory)))


def test_the_api_server_takes_what_other_values_make(cluster: Cluster, tmp_path: Path) -> None:
    values = {
        "image": {"repository": "registry.example.com/p", "tag": "1", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "flags": ["-x", "10.0.0.1/32", "--comments"],
        "httpPort": 9000,
        "metrics": {"scrape": True},
        "resources": {"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"cpu": "1.5"}},
        "priorityClassName": "",
        "nodeSelector": {"pool": "mesh"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "maxSurge": "10%",
        "namespace": {"name": "default", "create": False},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    assert set(values) == set(yaml.safe_load((CHART / "values.yaml").read_text()))
    made = helm("template", str(CHART), "-f", f"{tmp_path}/values.yaml")
    answer = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-o", "yaml", "-f", "-"), stdin=made
    )
    spec = yaml.safe_load(answer)["spec"]
    pod = spec["template"]["spec"]
    (agent,) = pod["containers"]
    assert agent["args"] == ["node", "--http-port", "9000", "-x", "10.0.0.1/32", "--comments"]
    assert (agent["image"], agent["ports"][0]["containerPort"]) == (
        "registry.example.com/p:1",
        9000,
    )
    assert spec["updateStrategy"]["rollingUpdate"]["maxSurge"] == "10%"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "mesh"}
    assert spec["template"]["metadata"]["annotations"]["prometheus.io/port"] == "9000"


def test_the_agent_redirects_pods_with_the_privileges_of_the_base(pods: Cluster) -> None:
    with installed(pods):
        pods.apply(an_app("redirected"), an_app("wrong", **{"proxy-init.io/flags": "-b 99999"}))
        pods.wait("pod", "redirected")
        assert listed(pods)["redirected"]["state"] == "redirected"
        assert "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001" in rules(pods, "redirected")
        # The agent's container serves to look at any pod of the node.
        path = namespace_of(pods, "redirected").removeprefix("/var")
        status = ("proxy-init", "status", "--network-namespace", path, *shlex.split(FLAGS))
        assert pods.kubectl("exec", "-n", NAMESPACE, AGENT, "--", *status) == ""
        sentence = "-b: got '99999', expected a port from 1 to 65535"
        until(lambda: sentence in pods.describe("wrong"), what="the event has no reason")


def test_no_pod_starts_without_an_agent_while_it_is_upgraded(pods: Cluster) -> None:
    """Nor does one fail, although there are two agents for a while."""

    def agents() -> list[str]:
        return pods.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").split()

    pod = read_manifest("validation.yaml")
    injected = {"initContainers": ["istio-validation"], "containers": ["istio-proxy"]}
    annotations = {"sidecar.istio.io/status": json.dumps(injected)} | REQUIRED
    with installed(pods):
        (old,) = agents()
        pods.kubectl("rollout", "restart", "-n", NAMESPACE, AGENT)
        names: list[str] = []
        while old in agents() and len(names) < 50:
            names.append(f"during-{len(names)}")
            pods.apply(pod | {"metadata": {"name": names[-1], "annotations": annotations}})
            pods.wait("pod", names[-1])
        roll_out(pods)
        assert old not in agents()
        assert names
        for name in names:
            assert "-A ISTIO_OUTPUT" in rules(pods, name)
            assert [event for event in pods.events(name) if "NRI" in event] == []


def test_helm_installs_upgrades_and_removes_the_agent(pods: Cluster) -> None:
    release = ("proxy-init-node", str(CHART))
    pods.delete("namespace", NAMESPACE)  # another test's
    helm("install", *release, "--wait")
    try:
        labels = pods.get("namespace", NAMESPACE)["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
        pods.apply(an_app("stays", **REQUIRED))
        pods.wait("pod", "stays")
        before = rules(pods, "stays")
        helm("upgrade", *release, "--set", "flags={-x,10.0.0.1/32}", "--wait")
        roll_out(pods)
        assert listed(pods)["stays"]["state"] == "redirected"
    finally:
        helm("uninstall", "proxy-init-node", "--wait", "--cascade", "foreground")
    assert "-A ISTIO_OUTPUT" in before
    assert rules(pods, "stays") == before

    # And without an agent no pod starts that asks for it.
    pods.apply(an_app("waits", **REQUIRED))
    until(lambda: "required plugin" in pods.describe("waits"), what="the event has no reason")
