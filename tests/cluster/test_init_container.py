"""proxy-init as an init container, on kubelet and containerd, with a real Envoy."""

from collections.abc import Iterator

import pytest

from cluster import outside
from cluster.kubernetes import Cluster
from node import PROXY_INIT, Manifest
from node.manifests import config_maps
from tests.cluster.mesh import (
    addresses,
    ask,
    assert_passes_both_sidecars,
    create,
    new_pods_deleted,
    start,
    wait_for_app,
    wait_for_phase,
    with_app,
    with_native_sidecar,
)
from tests.pod.mesh import (
    CAPTURED,
    CLIENT,
    EXCLUDED,
    MANIFESTS,
    SEEN,
    init_container,
    sidecar,
    url,
)

# The flags of sidecar.yaml.
FLAGS = (
    "-p",
    "15001",
    "-z",
    "15006",
    "-u",
    "1337",
    "-i",
    "*",
    "-b",
    "*",
    "-d",
    "15090,15021,15020",
)


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[dict[str, str]]:
    """The names of the Pods of MANIFESTS, all of which run."""
    with new_pods_deleted(cluster):
        start(cluster, *MANIFESTS.values())
        yield {kind: pod["metadata"]["name"] for kind, pod in MANIFESTS.items()}


def message_of(pod: Manifest, container: str) -> str:
    """Why an init container has ended, as `kubectl describe` shows it."""
    (status,) = (
        each for each in pod["status"]["initContainerStatuses"] if each["name"] == container
    )
    message: str = status["state"]["terminated"]["message"]
    return message


@pytest.mark.parametrize(("kind", "version"), SEEN)
def test_a_request_passes_both_sidecars(
    cluster: Cluster, mesh: dict[str, str], kind: str, version: int
) -> None:
    answer = assert_passes_both_sidecars(cluster, mesh["client"], mesh[kind], version)
    seen = SEEN[kind, version]
    client = addresses(cluster, mesh["client"])[version]
    assert answer["client"] == (client if seen is CLIENT else seen)


def test_what_x_names_does_not_pass_the_sidecar(cluster: Cluster, mesh: dict[str, str]) -> None:
    with outside.serve():
        assert ask(cluster, mesh["client"], url(EXCLUDED)) == "direct\n"
        assert ask(cluster, mesh["client"], url(CAPTURED)) == "through a proxy\n"


def test_a_new_sandbox_gets_rules_of_its_own(cluster: Cluster, mesh: dict[str, str]) -> None:
    """The node has lost a pod's sandbox: kubelet makes another, and runs all containers again."""
    name = "lost"
    pod = sidecar("sidecar.yaml", name)
    pod["spec"]["restartPolicy"] = "Always"
    start(cluster, pod)
    before = addresses(cluster, name)
    sandbox = cluster.containerd.crictl("pods", "--quiet", "--name", f"^{name}$")
    cluster.containerd.crictl("stopp", sandbox)
    cluster.wait("pod", name, "Ready=false")
    start(cluster, pod)
    assert addresses(cluster, name) != before
    assert_passes_both_sidecars(cluster, mesh["client"], name)


@pytest.mark.parametrize("manifest", ["sidecar.yaml", "tproxy.yaml"])
def test_a_second_init_container_changes_nothing(pods: Cluster, manifest: str) -> None:
    pod = sidecar(manifest, "twice", dual_stack="true")
    pod["spec"]["initContainers"].append({**init_container(pod), "name": "again"})
    start(pods, pod)
    assert "result=applied " in pods.logs("twice", "istio-init").splitlines()[-1]
    assert "result=unchanged " in pods.logs("twice", "again").splitlines()[-1]


def test_a_wrong_flag_is_named_where_people_look(pods: Cluster) -> None:
    create(pods, sidecar("sidecar.yaml", "wrong-flag", p="70000"))
    pod = wait_for_phase(pods, "wrong-flag", ["Failed"])
    message = message_of(pod, "istio-init")
    assert "-p: got '70000'" in message
    assert pods.logs("wrong-flag", "istio-init") == f"proxy-init: {message}\n"
    described = pods.describe("wrong-flag")
    assert message in described
    assert "Exit Code:    2" in described


def test_a_missing_capability_is_named_where_people_look(pods: Cluster) -> None:
    pod = sidecar("sidecar.yaml", "no-net-raw")
    init_container(pod)["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]
    create(pods, pod)
    wait_for_phase(pods, "no-net-raw", ["Failed"])
    described = pods.describe("no-net-raw")
    assert "missing capability NET_RAW: " in described
    assert "Exit Code:    4" in described


@pytest.mark.parametrize("manifest", ["sidecar.yaml", "tproxy.yaml"])
@pytest.mark.parametrize("native", [False, True], ids=["beside", "native"])
def test_the_first_connection_goes_through_the_proxy(
    pods: Cluster, manifest: str, native: bool
) -> None:
    """Beside it the application starts first, and is refused until the proxy is there."""
    pod = with_app(sidecar(manifest, "first"), "insist", url(CAPTURED))
    with outside.serve() as server:
        create(pods, with_native_sidecar(pod) if native else pod)
        app = wait_for_app(pods, "first")
        assert app["exitCode"] == 0
        assert [each.client for each in server.connections] == [app["address"]]
        assert server.direct() == []
    assert "through a proxy\n" in pods.logs("first", "app")
    if native:
        assert pods.logs("first", "app") == "through a proxy\n"


def test_a_job_ends_with_its_native_sidecar(cluster: Cluster) -> None:
    pod = with_native_sidecar(with_app(sidecar("sidecar.yaml", "job"), "get", url(CAPTURED)))
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod["spec"]}},
    }
    try:
        with outside.serve() as server:
            cluster.apply(*config_maps(pod), job)
            cluster.wait("job", "job", "Complete")
        assert len(server.connections) == 1
        assert server.direct() == []
    finally:
        cluster.delete("job", "job")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("explain", "--live", *FLAGS, "--to", "198.51.100.7:80"), "Captured: "),
        (("status", *FLAGS), ""),
        (("validate", *FLAGS), " passed"),
    ],
    ids=["explain", "status", "validate"],
)
def test_an_ephemeral_container_reads_the_rules(
    cluster: Cluster, mesh: dict[str, str], command: tuple[str, ...], expected: str
) -> None:
    name = f"debug-{command[0]}"
    cluster.kubectl(
        *("debug", mesh["today's"], f"--image={PROXY_INIT}", "--profile=netadmin"),
        *(f"--container={name}", "--", "proxy-init", *command),
    )
    which = f"{{.status.ephemeralContainerStatuses[?(@.name=='{name}')].state.terminated.exitCode}}"
    cluster.kubectl("wait", "pod", mesh["today's"], f"--for=jsonpath={which}", "--timeout=60s")
    output = cluster.logs(mesh["today's"], name)
    assert cluster.kubectl("get", "pod", mesh["today's"], "-o", f"jsonpath={which}") == "0", output
    assert expected in output
