"""The agent of node mode on the cluster, and Pods that ask it for their rules."""

import copy
import json
import os
import re
import shlex
import signal
from http.client import HTTPConnection

from cluster.containerd import REQUIRED_PLUGINS
from cluster.daemon import CommandFailed
from cluster.kubernetes import Cluster
from cluster.place import ROOT
from node import Manifest, read_manifest
from tests.pod.mesh import init_container

NAMESPACE = "proxy-init"
HTTP_PORT = 15014
FLAGS = "proxy-init.io/flags"
RULES_FROM = "proxy-init.io/rules-from"
STATUS = "sidecar.istio.io/status"
# A Pod with this does not start while the agent is away.
REQUIRED = {REQUIRED_PLUGINS: '["proxy-init"]'}


class Agent:
    """The agent of deploy/, which can be installed, killed and removed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def install(self) -> None:
        """Install it as users do, and wait until the runtime calls it."""
        self._cluster.kubectl("apply", "--kustomize", str(ROOT / "deploy/base"))
        self.wait()

    def wait(self) -> None:
        """Wait until it is ready, all of it as it was asked for last. Raises CommandFailed, with
        what it has logged."""
        try:
            self._kubectl("rollout", "status", "daemonset/proxy-init-node", "--timeout=120s")
        except CommandFailed as failure:
            raise CommandFailed(f"{failure}\n{self.logs()}") from failure

    def roll_out(self) -> None:
        """Replace it, as an upgrade does, and do not wait for that."""
        self._kubectl("rollout", "restart", "daemonset/proxy-init-node")

    def remove(self) -> None:
        """Remove it, and wait until it is gone."""
        self._kubectl("delete", "daemonset", "proxy-init-node", "--ignore-not-found")
        self._kubectl("delete", "pods", "--all", "--now", timeout=300)

    def pod(self) -> Manifest:
        """Its Pod. Raises LookupError while there is none."""
        (pod, *_) = json.loads(self._kubectl("get", "pods", "-o", "json"))["items"]
        found: Manifest = pod
        return found

    def kill(self) -> bool:
        """Kill its process, which kubelet then starts again.

        Raises LookupError, CommandFailed or OSError while there is none.
        """
        crictl = self._cluster.containerd.crictl
        container = crictl("ps", "--quiet", "--name", "^agent$", "--state", "running").split()[0]
        pid = json.loads(crictl("inspect", container))["info"]["pid"]
        if not pid:  # it has just ended; 0 would be whoever asks
            raise ProcessLookupError(container)
        os.kill(pid, signal.SIGKILL)
        return True

    def logs(self) -> str:
        """What it has logged since it started."""
        return self._kubectl("logs", "daemonset/proxy-init-node")

    def metrics(self) -> dict[str, float]:
        """Its metrics, by name with labels."""
        connection = HTTPConnection(self.pod()["status"]["podIP"], HTTP_PORT, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return {
            name: float(value)
            for name, value in re.findall(r"^([^# ]\S*) ([0-9.e+-]+)$", text, re.M)
        }

    def repairs(self) -> float:
        """How many Pods it has repaired since it started."""
        return self.metrics()["proxy_init_node_repairs_total"]

    def _kubectl(self, *args: str, timeout: float = 150.0) -> str:
        return self._cluster.kubectl("--namespace", NAMESPACE, *args, timeout=timeout)


def by_flags(pod: Manifest, **annotations: str) -> Manifest:
    """The Pod without its istio-init, whose flags are an annotation."""
    changed, init = _without_init(pod)
    words = [word for word in init["args"] if word != "istio-iptables"]
    return annotated(changed, **{FLAGS: shlex.join(words)}, **annotations)


def by_validation(pod: Manifest) -> Manifest:
    """The Pod as Istio's injector writes it with `pilot.cni.enabled`: istio-validation instead of
    istio-init, which is called with the same flags."""
    changed, init = _without_init(pod)
    validation = init_container(read_manifest("validation.yaml"))
    validation["args"] = [*init["args"], "--run-validation", "--skip-rule-apply"]
    changed["spec"]["initContainers"].insert(0, validation)
    return annotated(changed, **{STATUS: _status("istio-validation")})


def by_annotations(pod: Manifest, mode: str = "REDIRECT") -> Manifest:
    """The Pod without its istio-init, with the annotations that Istio's CNI plugin reads."""
    changed, _ = _without_init(pod)
    return annotated(changed, **{STATUS: _status(), "sidecar.istio.io/interceptionMode": mode})


def annotated(pod: Manifest, **annotations: str) -> Manifest:
    """The Pod with more annotations."""
    changed = copy.deepcopy(pod)
    changed["metadata"].setdefault("annotations", {}).update(annotations)
    return changed


def _without_init(pod: Manifest) -> tuple[Manifest, Manifest]:
    changed = copy.deepcopy(pod)
    return changed, changed["spec"]["initContainers"].pop(0)


def _status(*init_containers: str) -> str:
    return json.dumps({"initContainers": [*init_containers], "containers": ["istio-proxy"]})
