"""Pods with a sidecar: starting them, asking them, and what their Envoy has counted."""

import json
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from node import OUTSIDE, Manifest, Node, RunningPod, read_manifest
from pods import namespace

READY_SECONDS = 20.0
APP_PORT = 8080
ADMIN_PORT = 15000
READY_PORT = 15021


def sidecar(manifest: str, name: str, **flags: str) -> Manifest:
    """A Pod of netns-fixtures/manifests under another name. `flags` are those of the init container
    that change: `x` is the value of -x, `dual_stack` of --dual-stack."""
    pod = read_manifest(manifest)
    pod["metadata"]["name"] = name
    for flag, value in flags.items():
        set_flag(pod, f"-{flag}" if len(flag) == 1 else f"--{flag.replace('_', '-')}", value)
    return pod


def set_flag(pod: Manifest, flag: str, value: str) -> None:
    """Give a flag of the init container another value."""
    args = init_container(pod)["args"]
    if flag in args:
        args[args.index(flag) + 1] = value
    else:
        args.append(f"{flag}={value}")


def init_container(pod: Manifest) -> Manifest:
    """The first init container of a Pod."""
    container: Manifest = pod["spec"]["initContainers"][0]
    return container


EXCLUDED, CAPTURED = OUTSIDE
MANIFESTS = {
    # In both families, and leaves alone what goes to EXCLUDED.
    "client": sidecar("sidecar.yaml", "client", x=f"{EXCLUDED}/32", dual_stack="true"),
    "today's": sidecar("sidecar.yaml", "today"),
    "TPROXY": sidecar("tproxy.yaml", "tproxy"),
    "1.0's": sidecar("sidecar-1.0.yaml", "one-zero"),
    "dual": sidecar("sidecar.yaml", "dual", dual_stack="true"),
    "dual TPROXY": sidecar("tproxy.yaml", "dual-tproxy", dual_stack="true"),
}
CLIENT = "the client's own address"
SEEN = {
    ("today's", 4): "127.0.0.6",
    ("TPROXY", 4): CLIENT,
    ("1.0's", 4): "127.0.0.1",
    ("dual", 4): "127.0.0.6",
    ("dual", 6): "::6",
    ("dual TPROXY", 4): CLIENT,
    ("dual TPROXY", 6): CLIENT,
}


def start(node: Node, pod: Manifest) -> RunningPod:
    """Start a Pod, and wait until its application and its sidecar answer."""
    running = node.play(pod)
    try:
        until(lambda: fetch(running.namespace, "127.0.0.1", APP_PORT))
        until(lambda: fetch(running.namespace, "127.0.0.1", ADMIN_PORT, "/ready"))
    except OSError:
        print(running.logs("app"), running.logs("istio-proxy"))
        raise
    return running


def until(answer: Callable[[], object]) -> None:
    """Wait until there is an answer. Raises the OSError that stands in its way for too long."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            answer()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def url(address: str, port: int = APP_PORT) -> str:
    """Where a web server is."""
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def get(pod: RunningPod, where: str) -> dict[str, Any]:
    """What the application of a Pod is answered: by whom, and what it was asked with."""
    asked = pod.execute("app", "/app.py", "get", where)
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def fetch(name: str, address: str, port: int, path: str = "/") -> str:
    """A request by a process in a network namespace. Raises OSError."""

    def ask() -> str:
        connection = HTTPConnection(address, port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"status {response.status}")
        return response.read().decode()

    return namespace.call(name, ask)


def requests(*pods: RunningPod) -> Counter[str]:
    """How many requests the sidecars have taken so far, as `client outbound`, `server inbound`."""
    taken: Counter[str] = Counter()
    for pod in pods:
        statistics = dict(
            line.split(": ", 1)
            for line in fetch(pod.namespace, "127.0.0.1", ADMIN_PORT, "/stats").splitlines()
        )
        for direction in ("outbound", "inbound"):
            total = statistics[f"http.{direction}.downstream_rq_total"]
            taken[f"{pod.name} {direction}"] = int(total)
    return taken
