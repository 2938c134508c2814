"""Node mode: Pods without a privilege, whose rules the agent writes, on a real node."""

import contextlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import daemon, outside
from cluster.daemon import CommandFailed, until
from cluster.kubernetes import Cluster
from node import Manifest
from node.manifests import config_maps
from tests.cluster.agent import (
    REQUIRED,
    RULES_FROM,
    Agent,
    annotated,
    by_annotations,
    by_flags,
    by_validation,
)
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
from tests.pod.mesh import CAPTURED, CLIENT, MANIFESTS, sidecar, url

REDIRECT, TPROXY = sidecar("sidecar.yaml", "redirect"), sidecar("tproxy.yaml", "tproxy")
KINDS = {
    "client": by_flags(MANIFESTS["client"]),
    "validation": by_validation(sidecar("sidecar.yaml", "validation")),
    "validation TPROXY": by_validation(sidecar("tproxy.yaml", "validation-tproxy")),
    "annotations": by_annotations(sidecar("sidecar.yaml", "annotations")),
    "annotations TPROXY": by_annotations(sidecar("tproxy.yaml", "annotations-tproxy"), "TPROXY"),
    "flags": by_flags(sidecar("sidecar.yaml", "flags", dual_stack="true")),
    "flags TPROXY": by_flags(sidecar("tproxy.yaml", "flags-tproxy", dual_stack="true")),
    "native": with_native_sidecar(by_validation(sidecar("sidecar.yaml", "native"))),
}
SEEN = {
    ("validation", 4): "127.0.0.6",
    ("validation TPROXY", 4): CLIENT,
    ("annotations", 4): "127.0.0.6",
    ("annotations TPROXY", 4): CLIENT,
    ("flags", 4): "127.0.0.6",
    ("flags", 6): "::6",
    ("flags TPROXY", 4): CLIENT,
    ("flags TPROXY", 6): CLIENT,
    ("native", 4): "127.0.0.6",
}
KILLS = 25
"""Of the agent, on each version of containerd."""


@pytest.fixture(scope="module", params=["2.4", "2.2"])
def runtime(request: pytest.FixtureRequest, cluster: Cluster) -> Cluster:
    """The cluster on containerd of some version: the later one calls RunPodSandbox, the earlier one
    StateChange."""
    if cluster.containerd.version != request.param:
        cluster.use_containerd(request.param)
    return cluster


@pytest.fixture(scope="module")
def agent(runtime: Cluster) -> Iterator[Agent]:
    """The agent, which is ready."""
    agent = Agent(runtime)
    agent.install()
    yield agent
    agent.remove()


@pytest.fixture
def pods(runtime: Cluster, agent: Agent) -> Iterator[Cluster]:
    """The cluster with the agent, for a test whose pods are deleted after it."""
    with new_pods_deleted(runtime):
        yield runtime
    agent.install()


@pytest.fixture(scope="module")
def mesh(runtime: Cluster, agent: Agent) -> Iterator[dict[str, str]]:
    """The names of the Pods of KINDS, all of which run."""
    with new_pods_deleted(runtime):
        start(runtime, *KINDS.values())
        yield {kind: pod["metadata"]["name"] for kind, pod in KINDS.items()}


@pytest.mark.parametrize(("kind", "version"), SEEN)
def test_a_request_passes_both_sidecars(
    runtime: Cluster, mesh: dict[str, str], kind: str, version: int
) -> None:
    answer = assert_passes_both_sidecars(runtime, mesh["client"], mesh[kind], version)
    seen = SEEN[kind, version]
    client = addresses(runtime, mesh["client"])[version]
    assert answer["client"] == (client if seen is CLIENT else seen)


@pytest.mark.parametrize(
    "pod",
    [
        by_flags(REDIRECT),
        by_annotations(TPROXY, "TPROXY"),
        by_validation(REDIRECT),
        with_native_sidecar(by_validation(TPROXY)),
    ],
    ids=["flags", "annotations", "validation", "native"],
)
def test_the_first_connection_goes_through_the_proxy(pods: Cluster, pod: Manifest) -> None:
    name = pod["metadata"]["name"]
    with outside.serve() as server:
        create(pods, with_app(pod, "insist", url(CAPTURED)))
        app = wait_for_app(pods, name)
        assert app["exitCode"] == 0
        assert [each.client for each in server.connections] == [app["address"]]
        assert server.direct() == []


def with_init_container(pod: Manifest) -> Manifest:
    """The Pod with an init container of the application's, which needs the network, and after it
    the proxy as a native sidecar."""
    (app,) = (each for each in pod["spec"]["containers"] if each["name"] == "app")
    first = {**app, "name": "first", "args": ["get", url(CAPTURED)]}
    changed = with_native_sidecar(with_app(pod, "insist", url(CAPTURED)))
    changed["spec"]["initContainers"].insert(0, first)
    return changed


def test_with_rules_from_the_proxy_on_init_containers_have_the_network(pods: Cluster) -> None:
    pod = with_init_container(by_flags(REDIRECT, **{RULES_FROM: "istio-proxy"}))
    with outside.serve() as server:
        create(pods, pod)
        app = wait_for_app(pods, "redirect")
        assert app["exitCode"] == 0
        assert pods.logs("redirect", "first") == "direct\n"
        assert pods.logs("redirect", "app") == "through a proxy\n"
        assert [each.direct for each in server.connections] == [1, 0]


def test_without_it_they_have_none(pods: Cluster) -> None:
    with outside.serve() as server:
        create(pods, with_init_container(by_flags(REDIRECT)))
        wait_for_phase(pods, "redirect", ["Failed"])
        assert server.connections == []


def test_a_job_ends_with_its_native_sidecar(pods: Cluster) -> None:
    pod = with_native_sidecar(by_validation(with_app(REDIRECT, "get", url(CAPTURED))))
    template = {"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {"backoffLimit": 0, "template": template},
    }
    try:
        with outside.serve() as server:
            pods.apply(*config_maps(pod), job)
            pods.wait("job", "job", "Complete")
        assert len(server.connections) == 1
        assert server.direct() == []
    finally:
        pods.delete("job", "job")


def test_the_network_of_the_node_is_left_alone(pods: Cluster, agent: Agent) -> None:
    pod = by_flags(with_app(REDIRECT, "get", url(CAPTURED)))
    pod["spec"]["hostNetwork"] = True
    pod["spec"]["containers"] = [c for c in pod["spec"]["containers"] if c["name"] == "app"]
    with outside.serve() as server:
        create(pods, pod)
        wait_for_phase(pods, "redirect", ["Succeeded"])
        assert len(server.direct()) == 1
    for save in ("iptables-legacy-save", "iptables-nft-save", "ip6tables-legacy-save"):
        assert "ISTIO" not in subprocess.run([save], capture_output=True, text=True).stdout
    assert "the network of the node" in agent.logs()


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        ({"proxy-init.io/flags": "-p 70000"}, "-p: got '70000'"),
        (
            {
                "sidecar.istio.io/status": "{}",
                "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/33",
            },
            "10.0.0.0/33",
        ),
    ],
    ids=["flags", "Istio's"],
)
def test_an_annotation_that_is_wrong_is_named_in_an_event(
    pods: Cluster, annotations: dict[str, str], sentence: str
) -> None:
    pod = by_flags(REDIRECT)
    pod["metadata"]["annotations"] = annotations
    create(pods, pod)

    def events() -> str:
        # Not pods.events: it gives those of an earlier Pod of this name, too.
        return pods.describe("redirect").partition("\nEvents:")[2]

    until(lambda: sentence in events(), what=f"no event with {sentence!r}")
    assert "FailedCreatePodSandBox" in events()
    assert pods.get("pod", "redirect")["status"]["phase"] == "Pending"


def test_a_pod_that_requires_the_agent_waits_for_it(pods: Cluster, agent: Agent) -> None:
    agent.remove()
    with outside.serve() as server:
        create(pods, annotated(with_app(by_flags(REDIRECT), "insist", url(CAPTURED)), **REQUIRED))
        until(lambda: 'required plugin "proxy-init"' in pods.describe("redirect"))
        assert server.connections == []
        agent.install()
        assert wait_for_app(pods, "redirect")["exitCode"] == 0
        assert server.direct() == []


def test_a_pod_that_validates_waits_for_the_agent(pods: Cluster, agent: Agent) -> None:
    pod = by_validation(with_app(REDIRECT, "insist", url(CAPTURED)))
    pod["spec"]["restartPolicy"] = "OnFailure"
    agent.remove()
    with outside.serve() as server:
        create(pods, pod)
        until(lambda: restarts(pods, "redirect") > 0, what="istio-validation did not fail")
        assert server.connections == []
        agent.install()
        assert wait_for_app(pods, "redirect")["exitCode"] == 0
        assert server.direct() == []


def restarts(cluster: Cluster, pod: str) -> int:
    """How often the first init container of a Pod was started again."""
    count: int = cluster.get("pod", pod)["status"]["initContainerStatuses"][0]["restartCount"]
    return count


def test_a_pod_that_started_without_the_agent_is_repaired(pods: Cluster, agent: Agent) -> None:
    agent.remove()
    start(pods, by_flags(REDIRECT))
    with outside.serve():
        assert ask(pods, "redirect", url(CAPTURED)) == "direct\n"
        agent.install()
        until(lambda: agent.repairs() == 1, what="no repair was counted")
        assert ask(pods, "redirect", url(CAPTURED)) == "through a proxy\n"
    assert "redirect" in agent.logs()


def test_rules_stay_while_the_agent_and_containerd_restart(pods: Cluster, agent: Agent) -> None:
    start(pods, by_flags(REDIRECT), by_annotations(TPROXY, "TPROXY"))
    with outside.serve():
        pods.containerd.restart()
        until(lambda: agent.metrics()["proxy_init_node_connected"] == 1)
        assert ask(pods, "redirect", url(CAPTURED)) == "through a proxy\n"
        agent.remove()
        assert ask(pods, "redirect", url(CAPTURED)) == "through a proxy\n"
        assert_passes_both_sidecars(pods, "redirect", "tproxy")
        agent.install()
        assert agent.repairs() == 0
    start(pods, by_flags(sidecar("sidecar.yaml", "later")))
    assert_passes_both_sidecars(pods, "redirect", "later")


def test_a_hundred_sandboxes_at_once_are_all_redirected(runtime: Cluster, agent: Agent) -> None:
    """All that a node can be asked for at once: the runtime calls the agent for one at a time."""
    annotations = by_flags(REDIRECT, **REQUIRED)["metadata"]["annotations"]
    runtime.kubelet.stop()  # it would remove what is no Pod of its own
    sandboxes: list[str] = []
    try:
        with ThreadPoolExecutor(100) as pool:
            starts = [
                pool.submit(runtime.containerd.run_pod, f"one-{number}", annotations)
                for number in range(100)
            ]
            sandboxes += [start.result() for start in starts]
        rules = Counter(nat_rules(runtime, sandbox) for sandbox in sandboxes)
        assert [*rules.values()] == [100], rules
        assert "ISTIO_REDIRECT" in next(iter(rules))
        assert agent.metrics()['proxy_init_node_outcomes_total{outcome="late"}'] == 0
    finally:
        for sandbox in sandboxes:
            runtime.containerd.crictl("rmp", "--force", sandbox)
        runtime.kubelet.start()
        runtime.wait("node", "node")


def nat_rules(cluster: Cluster, sandbox: str) -> str:
    """The rules of a sandbox's IPv4 nat, without what differs from one to the other."""
    status = json.loads(cluster.containerd.crictl("inspectp", sandbox))
    (netns,) = (
        each["path"]
        for each in status["info"]["runtimeSpec"]["linux"]["namespaces"]
        if each["type"] == "network"
    )
    saved = daemon.run(["nsenter", f"--net={netns}", "iptables-legacy-save", "-t", "nat"])
    return "\n".join(line for line in saved.splitlines() if line.startswith("-A"))


def deployment(pod: Manifest, replicas: int) -> Manifest:
    """A Deployment of Pods which require the agent, and ask for an answer for ever."""
    polling = annotated(with_app(pod, "poll", url(CAPTURED)), **REQUIRED)
    polling["spec"]["restartPolicy"] = "Always"
    polling["spec"]["terminationGracePeriodSeconds"] = 0
    labels = {"app": "polling"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "polling"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": polling["metadata"]["annotations"]},
                "spec": polling["spec"],
            },
        },
    }


def polling_pods(cluster: Cluster) -> set[str]:
    """The addresses of the Pods of the Deployment which are not about to go."""
    return {
        pod["status"].get("podIP", "")
        for pod in cluster.objects("pods", "app=polling")
        if "deletionTimestamp" not in pod["metadata"]
    }


@contextlib.contextmanager
def deployed(cluster: Cluster, pod: Manifest, replicas: int) -> Iterator[None]:
    """The Deployment, until the block ends."""
    cluster.apply(*config_maps(pod), deployment(pod, replicas))
    try:
        yield
    finally:
        cluster.delete("deployment", "polling")


def test_thirty_pods_start_while_the_agent_is_rolled_out_twice(pods: Cluster, agent: Agent) -> None:
    with outside.serve() as server, deployed(pods, by_flags(REDIRECT), 4):
        until(lambda: len(server.clients()) == 4, seconds=120, what="4 Pods did not start")
        pods.kubectl("scale", "deployment/polling", "--replicas=30")
        for _ in range(2):
            agent.roll_out()
            agent.wait()
        until(
            lambda: len(found := polling_pods(pods)) == 30 and found <= server.clients(),
            seconds=300,
            what="30 Pods did not get through their proxies",
        )
        assert server.direct() == []


def test_no_pod_is_open_while_the_agent_is_killed_at_random_moments(
    pods: Cluster, agent: Agent
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done = threading.Event()

    def replace_pods() -> None:
        """Delete one of the Pods that have got through, again and again: another one starts."""
        while not done.wait(chance.uniform(0, 1)):
            with contextlib.suppress(CommandFailed):
                found = pods.objects("pods", "app=polling")
                ready = [each for each in found if each["status"].get("podIP") in server.clients()]
                names = [each["metadata"]["name"] for each in ready]
                if names:
                    pods.kubectl("delete", "pod", chance.choice(names), "--now", "--wait=false")

    with outside.serve() as server, deployed(pods, by_validation(REDIRECT), 6):
        until(lambda: len(server.clients()) == 6, seconds=120, what="6 Pods did not start")
        thread = threading.Thread(target=replace_pods)
        thread.start()
        try:
            for _ in range(KILLS):
                until(agent.kill, what="the agent did not start again")
                time.sleep(chance.uniform(0, 5))
        finally:
            done.set()
            thread.join()
        agent.wait()
        until(
            lambda: len(found := polling_pods(pods)) == 6 and found <= server.clients(),
            seconds=300,
            what="6 Pods did not get through their proxies",
        )
        assert len(server.clients()) > 8, "too few Pods have started meanwhile"
        assert server.direct() == []
