"""Kubernetes with one node: etcd, API server, controllers, scheduler and kubelet, inside the place.

The cluster has no kube-proxy and no DNS: pods reach each other and the node by their addresses.
"""

import json
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster import daemon, programs
from cluster.containerd import SOCKET, Containerd
from cluster.daemon import Daemon, until
from cluster.place import Place, here

Object = dict[str, Any]
"""A Kubernetes object, as its JSON is."""

NODE_ADDRESSES = ("10.78.0.1", "fd00:78::1")
SERVICES = ("10.79.0.0/16", "fd00:79::/112")
FILES = Path("/run/cluster")
KUBECONFIG = FILES / "kubeconfig"
TOKEN = "administrator"  # good for nothing outside of these namespaces


class Cluster:
    """A cluster that is up: kubectl, and its parts to stop and start."""

    def __init__(self, place: Place, containerd: Containerd) -> None:
        self.containerd = containerd
        self.kubelet = _daemon(place, _kubelet(), port=10248)
        self._place = place

    def kubectl(self, *args: str, stdin: str = "", timeout: float = 120.0) -> str:
        """What kubectl prints. Raises CommandFailed."""
        return daemon.run(self.command(*args), stdin=stdin, timeout=timeout)

    def command(self, *args: str) -> list[str]:
        """The words that run kubectl."""
        return [str(programs.KUBERNETES / "kubectl"), f"--kubeconfig={KUBECONFIG}", *args]

    def apply(self, *objects: Object) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def delete(self, kind: str, *names: str) -> None:
        """Delete objects at once, and wait until they are gone; all of the kind without names."""
        which = names or ("--all",)
        self.kubectl("delete", kind, *which, "--now", "--ignore-not-found", timeout=300)

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def objects(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind, or those with the labels that `selector` asks for."""
        items: list[Object] = json.loads(
            self.kubectl("get", kind, "-o", "json", "--selector", selector)
        )["items"]
        return items

    def wait(self, kind: str, name: str, condition: str = "Ready", seconds: float = 120.0) -> None:
        """Wait for a condition of an object. Raises CommandFailed, with what it is like instead."""
        try:
            self.kubectl(
                *("wait", f"--for=condition={condition}", f"--timeout={seconds:.0f}s", kind, name),
                timeout=seconds + 30,
            )
        except daemon.CommandFailed as failure:
            described = self.kubectl("describe", kind, name)
            raise daemon.CommandFailed(f"{failure}\n{described}") from failure

    def describe(self, pod: str) -> str:
        """What `kubectl describe pod` shows."""
        return self.kubectl("describe", "pod", pod)

    def logs(self, pod: str, container: str, *, previous: bool = False) -> str:
        """What a container has written, or the one before it under this name."""
        return self.kubectl("logs", pod, "-c", container, f"--previous={str(previous).lower()}")

    def execute(self, pod: str, container: str, *args: str) -> str:
        """What a program prints that runs in a container. Raises CommandFailed."""
        return self.kubectl("exec", pod, "-c", container, "--", *args)

    def events(self, name: str) -> list[str]:
        """The messages of the events about an object, in no order."""
        selector = f"--field-selector=involvedObject.name={name}"
        found = json.loads(self.kubectl("get", "events", selector, "-o", "json"))
        return [event["message"] for event in found["items"]]

    def use_containerd(self, version: str) -> None:
        """Go on with containerd of another version, on which no pod runs yet.

        All pods are deleted; those of DaemonSets and Deployments come back.
        """
        self.kubelet.stop()
        self.containerd.remove_pods()
        self.containerd.stop()
        self.containerd = Containerd(self._place, version)
        self.containerd.start()
        self.kubelet.start()
        self.delete("pods")


@contextmanager
def running_kubernetes(containerd: Containerd) -> Iterator[Cluster]:
    """A cluster on a containerd that is up, until the block ends. Raises NotReady, with the end of
    a log."""
    place = here()
    assert place
    _write_files(place)
    cluster = Cluster(place, containerd)
    etcd, apiserver, controllers, scheduler = _control_plane()
    with ExitStack() as stack:
        _start(stack, _daemon(place, etcd, port=2379))
        _start(stack, _daemon(place, apiserver, port=6443))
        until(
            lambda: cluster.kubectl("get", "--raw", "/readyz"), what="the API server is not ready"
        )
        _start(stack, _daemon(place, controllers, port=10257))
        _start(stack, _daemon(place, scheduler, port=10259))
        _start(stack, cluster.kubelet)
        until(lambda: cluster.get("serviceaccount", "default"), what="no default service account")
        until(lambda: cluster.get("node", "node"), what="kubelet did not register the node")
        cluster.wait("node", "node")
        yield cluster
        cluster.containerd.stop()  # perhaps of another version by now


def _start(stack: ExitStack, daemon: Daemon) -> None:
    stack.callback(daemon.stop, signal.SIGKILL)  # nothing of it is needed again
    daemon.start()


def _daemon(place: Place, command: Sequence[str], *, port: int) -> Daemon:
    """One of the programs, which is ready when it listens."""
    log = place.directory / f"logs/{Path(command[0]).name}.log"
    return Daemon(
        command, log, ready=lambda: socket.create_connection(("127.0.0.1", port), 1).close()
    )


def _control_plane() -> tuple[list[str], list[str], list[str], list[str]]:
    """The commands of etcd, API server, controllers and scheduler."""
    return (
        [
            str(programs.ETCD),
            f"--data-dir={FILES}/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
        [
            str(programs.KUBERNETES / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--cert-dir={FILES}",
            f"--advertise-address={NODE_ADDRESSES[0]}",
            f"--service-cluster-ip-range={','.join(SERVICES)}",
            "--authorization-mode=AlwaysAllow",
            f"--token-auth-file={FILES}/tokens",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={FILES}/service-accounts.key",
            f"--service-account-key-file={FILES}/service-accounts.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ],
        [
            str(programs.KUBERNETES / "kube-controller-manager"),
            f"--kubeconfig={KUBECONFIG}",
            f"--service-account-private-key-file={FILES}/service-accounts.key",
            f"--root-ca-file={FILES}/apiserver.crt",
            "--leader-elect=false",
        ],
        [
            str(programs.KUBERNETES / "kube-scheduler"),
            f"--kubeconfig={KUBECONFIG}",
            "--leader-elect=false",
        ],
    )


def _kubelet() -> list[str]:
    return [
        str(programs.KUBERNETES / "kubelet"),
        f"--config={FILES}/kubelet.json",
        f"--kubeconfig={KUBECONFIG}",
        "--hostname-override=node",
        f"--node-ip={','.join(NODE_ADDRESSES)}",
    ]


def _write_files(place: Place) -> None:
    """What the programs read."""
    FILES.mkdir(mode=0o700)
    kubelet = {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": place.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "protectKernelDefaults": True,  # compares, and does not write
        "resolvConf": "/etc/resolv.conf",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "maxPods": 200,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},  # tests would wait for minutes
        # However full the machine's disk is: an image that was deleted could not be pulled.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1%"},
    }
    (FILES / "kubelet.json").write_text(json.dumps(kubelet))
    (FILES / "tokens").write_text(f"{TOKEN},{TOKEN},{TOKEN},system:masters\n")
    # kubectl reads it again and again; JSON is YAML, too.
    KUBECONFIG.write_text(
        json.dumps(
            {
                "kind": "Config",
                "apiVersion": "v1",
                "clusters": [
                    {
                        "name": "cluster",
                        "cluster": {
                            "server": "https://127.0.0.1:6443",
                            "insecure-skip-tls-verify": True,
                        },
                    }
                ],
                "users": [{"name": TOKEN, "user": {"token": TOKEN}}],
                "contexts": [{"name": "it", "context": {"cluster": "cluster", "user": TOKEN}}],
                "current-context": "it",
            }
        )
    )
    daemon.run(["openssl", "genrsa", "-out", str(FILES / "service-accounts.key"), "2048"])
