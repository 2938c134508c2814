"""Pods with a sidecar on the cluster: starting them, asking them, what their Envoy has counted."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from cluster.daemon import until
from cluster.kubernetes import Cluster
from node import Manifest
from node.manifests import config_maps
from tests.pod.mesh import ADMIN_PORT, APP_PORT, READY_PORT, url

READY = {"httpGet": {"path": "/healthz/ready", "port": READY_PORT}, "periodSeconds": 1}


def start(cluster: Cluster, *pods: Manifest) -> None:
    """Start Pods, and wait until application and sidecar of each answer."""
    create(cluster, *pods)
    for pod in pods:
        name = pod["metadata"]["name"]
        cluster.wait("pod", name)
        for port, path in ((APP_PORT, "/"), (ADMIN_PORT, "/ready")):
            until(
                partial(ask, cluster, name, f"http://127.0.0.1:{port}{path}"),
                what=f"port {port} of {name} does not answer",
            )


def create(cluster: Cluster, *pods: Manifest) -> None:
    """Create Pods, with the ConfigMaps that they ask for."""
    cluster.apply(*(object for pod in pods for object in (*config_maps(pod), pod)))


def with_native_sidecar(pod: Manifest) -> Manifest:
    """The Pod with its istio-proxy as the last init container, which stays and starts first."""
    changed = copy.deepcopy(pod)
    spec = changed["spec"]
    (proxy,) = (each for each in spec["containers"] if each["name"] == "istio-proxy")
    spec["containers"].remove(proxy)
    spec["initContainers"].append({**proxy, "restartPolicy": "Always", "startupProbe": READY})
    return changed


def with_app(pod: Manifest, *args: str) -> Manifest:
    """The Pod with other arguments of its application, app.py."""
    changed = copy.deepcopy(pod)
    (app,) = (each for each in changed["spec"]["containers"] if each["name"] == "app")
    app["args"] = list(args)
    return changed


def addresses(cluster: Cluster, pod: str) -> dict[int, str]:
    """The addresses of a Pod, by IP version."""
    found = [each["ip"] for each in cluster.get("pod", pod)["status"]["podIPs"]]
    return {6 if ":" in address else 4: address for address in found}


def ask(cluster: Cluster, pod: str, where: str) -> str:
    """What the application of a Pod is answered. Raises CommandFailed."""
    return cluster.execute(pod, "app", "/app.py", "get", where)


def get(cluster: Cluster, pod: str, where: str) -> dict[str, Any]:
    """What the application of a Pod is answered by another one: by whom, and what it saw."""
    answer: dict[str, Any] = json.loads(ask(cluster, pod, where))
    return answer


def requests(cluster: Cluster, *pods: str) -> Counter[str]:
    """How many requests the sidecars have taken so far, as `client outbound`, `server inbound`."""
    taken: Counter[str] = Counter()
    for pod in pods:
        text = ask(cluster, pod, f"http://127.0.0.1:{ADMIN_PORT}/stats").strip()
        statistics = dict(line.split(": ", 1) for line in text.splitlines())
        for direction in ("outbound", "inbound"):
            taken[f"{pod} {direction}"] = int(statistics[f"http.{direction}.downstream_rq_total"])
    return taken


def assert_passes_both_sidecars(
    cluster: Cluster, client: str, server: str, version: int = 4
) -> dict[str, Any]:
    """A request between two Pods goes through one sidecar each; gives what the server saw."""
    before = requests(cluster, client, server)
    answer = get(cluster, client, url(addresses(cluster, server)[version]))
    assert answer["pod"] == server
    expected = Counter({f"{client} outbound": 1, f"{server} inbound": 1})
    assert requests(cluster, client, server) - before == expected
    return answer


def wait_for_phase(cluster: Cluster, pod: str, phases: Sequence[str]) -> Manifest:
    """Wait until a Pod is in one of some phases, such as Failed, and give it."""

    def arrived() -> Manifest | None:
        found = cluster.get("pod", pod)
        return found if found["status"]["phase"] in phases else None

    return until(arrived, seconds=120, what=f"{pod} is not {' or '.join(phases)}")


def wait_for_app(cluster: Cluster, name: str) -> Manifest:
    """Wait until the application of a Pod has ended; how, and the address that it had."""
    cluster.kubectl(
        *("wait", "pod", name, "--timeout=100s"),
        "--for=jsonpath={.status.containerStatuses[?(@.name=='app')].state.terminated.exitCode}",
    )
    pod = cluster.get("pod", name)
    (app,) = (each for each in pod["status"]["containerStatuses"] if each["name"] == "app")
    return {**app["state"]["terminated"], "address": pod["status"]["podIP"]}


@contextmanager
def new_pods_deleted(cluster: Cluster) -> Iterator[None]:
    """Delete the Pods that are made in the block, when it ends."""

    def names() -> set[str]:
        return {pod["metadata"]["name"] for pod in cluster.objects("pods")}

    before = names()
    try:
        yield
    finally:
        if new := names() - before:
            cluster.delete("pods", *new)
