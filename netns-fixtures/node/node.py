"""A node: a network namespace with a bridge, and on it the Pods that podman runs.

      node                             Pods
      10.77.0.1, fd00:77::1  ------  10.77.0.2, fd00:77::2; 10.77.0.3, fd00:77::3; ...
      198.51.100.7 and 203.0.113.7, for whoever is outside of the mesh

The machine's own network, firewall and podman see nothing of it.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyroute2 import IPRoute

from node.manifests import Manifest, config_maps
from node.podman import own_podman
from pods import namespace
from pods.pod import LOOPBACK

NETWORK = "mesh"
SUBNETS = ("10.77.0.0/16", "fd00:77::/64")
OUTSIDE = ("198.51.100.7", "203.0.113.7")
SECONDS = 60.0  # for one call of podman

# podman then keeps an init container that is done: its log can be read, and it can run again.
KEEP_INIT_CONTAINERS = {"io.podman.annotations.init.container.type": "always"}


class PodFailed(Exception):
    """A Pod did not start; says what podman said."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is up. `namespace` is an `ip netns` name."""

    namespace: str
    environment: Mapping[str, str]

    def podman(
        self, *args: str, stdin: str = "", timeout: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run podman on this node; `timeout` is in seconds, then subprocess.TimeoutExpired."""
        return subprocess.run(
            self.command(*args),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def command(self, *args: str) -> list[str]:
        """The words that run podman on this node, in `environment`."""
        return [*namespace.command_in(self.namespace), "podman", *args]

    def play(self, pod: Manifest) -> "RunningPod":
        """Start a Pod, with the ConfigMaps of ../manifests that it asks for.

        Its name is the caller's to choose: two Pods of one name do not go together.
        Raises PodFailed where an init container fails; what is there of the Pod stays to be read.
        """
        metadata = dict(pod["metadata"])
        metadata["annotations"] = metadata.get("annotations", {}) | KEEP_INIT_CONTAINERS
        objects = [*config_maps(pod), {**pod, "metadata": metadata}]
        text = yaml.safe_dump_all(objects)
        played = self.podman("kube", "play", "--network", NETWORK, "-", stdin=text)
        if played.returncode != 0:
            raise PodFailed(played.stderr)
        return self._running(metadata["name"])

    def logs(self, pod: str, container: str) -> str:
        """What a container of a Pod has written, running or not."""
        logs = self.podman("logs", f"{pod}-{container}")
        return logs.stdout + logs.stderr

    def _running(self, name: str) -> "RunningPod":
        (pod,) = _objects(self.podman("pod", "inspect", name))
        (infra,) = _objects(self.podman("inspect", pod["InfraContainerID"]))
        settings = infra["NetworkSettings"]
        network = settings["Networks"][NETWORK]
        return RunningPod(
            self,
            name,
            namespace=Path(settings["SandboxKey"]).name,
            addresses={4: network["IPAddress"], 6: network["GlobalIPv6Address"]},
        )


@dataclass(frozen=True, slots=True)
class RunningPod:
    """A Pod that has started. `namespace` is an `ip netns` name; `addresses` are by IP version."""

    node: Node
    name: str
    namespace: str
    addresses: Mapping[int, str]

    def execute(self, container: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a container."""
        return self.node.podman("exec", f"{self.name}-{container}", *args)

    def run_again(self, container: str) -> subprocess.CompletedProcess[str]:
        """Run an init container once more, as kubelet may; gives its exit status and output."""
        return self.node.podman("start", "--attach", f"{self.name}-{container}")

    def logs(self, container: str) -> str:
        """What a container has written."""
        return self.node.logs(self.name, container)


@contextmanager
def make_node(images: Path) -> Iterator[Node]:
    """A node whose images are in the store `images`; it ends with the block, and its Pods with it.

    Raises OSError where the kernel refuses.
    """
    with namespace.namespace("node") as name, own_podman(also=images) as environment:
        node = Node(name, environment)
        namespace.call(name, _set_up)
        subnets = (word for subnet in SUBNETS for word in ("--subnet", subnet))
        made = node.podman("network", "create", "--ipv6", "--disable-dns", *subnets, NETWORK)
        made.check_returncode()
        try:
            yield node
        finally:
            node.podman("pod", "kill", "--all")  # `rm` would wait for those that ignore SIGTERM
            node.podman("pod", "rm", "--all", "--force").check_returncode()


def _set_up() -> None:
    with IPRoute() as kernel:
        kernel.link("set", index=LOOPBACK, state="up")
        for address in OUTSIDE:
            kernel.addr("add", index=LOOPBACK, address=address, prefixlen=32)


def _objects(inspected: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    inspected.check_returncode()
    found = json.loads(inspected.stdout)
    return found if isinstance(found, list) else [found]
