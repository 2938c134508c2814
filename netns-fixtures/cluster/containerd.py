"""containerd, with CNI and NRI as on a node; usable without Kubernetes, through crictl.

Its paths are the usual ones: /run/containerd/containerd.sock, /run/nri/nri.sock, /run/netns/cni-….
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster import daemon, programs
from cluster.place import Place, here
from node.images import ALL_IMAGES, PAUSE
from node.images import KEPT as IMAGES

SOCKET = Path("/run/containerd/containerd.sock")
NRI_SOCKET = Path("/run/nri/nri.sock")
SUBNETS = ("10.78.0.0/16", "fd00:78::/64")
REQUIRED_PLUGINS = "required-plugins.noderesource.dev"
"""The annotation of a Pod that must not start without the NRI plugins that it names, as JSON."""

# Addresses of pods are usable at once: the plugin `bridge` turns off the search for duplicates.
CNI = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": subnet}] for subnet in SUBNETS],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }
    ],
}
# Profiles of AppArmor are the machine's, not a namespace's; and root of some machines may not lower
# oom_score_adj.
CONFIG = """\
version = 3
root = "/var/lib/containerd/{version}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
[plugins."io.containerd.nri.v1.nri".default_validator]
enable = true
"""


class Containerd:
    """containerd of one version. Two versions keep their images and containers apart."""

    def __init__(self, place: Place, version: str) -> None:
        self.version = version
        self._place = place
        self._programs = programs.containerd(version)
        config = Path(f"/etc/containerd/config-{version}.toml")
        self._config = config
        self._daemon = daemon.Daemon(
            [str(self._programs / "containerd"), "--config", str(config)],
            place.directory / f"logs/containerd-{version}.log",
            ready=lambda: self.crictl("info"),
            # Where it looks for its shim.
            environment={"PATH": f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._daemon.log.read_text()

    def start(self) -> None:
        """Start it, at first with its configuration and images. Raises NotReady."""
        new = not self._config.exists()
        if new:
            self._write_configuration()
        self._daemon.start()
        if new:
            self.ctr("images", "import", str(IMAGES / "images.tar"), timeout=600)
            daemon.until(self._has_images, what="no images after their import")

    def stop(self) -> None:
        """Stop it; the containers go on."""
        self._daemon.stop()

    def restart(self) -> None:
        """As an upgrade does, under running containers."""
        self.stop()
        self.start()

    def crictl(self, *args: str, stdin: str = "", timeout: float = 60.0) -> str:
        """What crictl prints. Raises CommandFailed."""
        return daemon.run((str(programs.CRICTL), *args), stdin=stdin, timeout=timeout).strip()

    def ctr(self, *args: str, timeout: float = 60.0) -> str:
        """What ctr prints, in the namespace of Kubernetes. Raises CommandFailed."""
        command = (str(self._programs / "ctr"), "--namespace", "k8s.io")
        return daemon.run((*command, *args), timeout=timeout)

    def run_pod(self, name: str, annotations: Mapping[str, str] | None = None) -> str:
        """Run a pod sandbox, without containers, and give its id. Raises CommandFailed."""
        pod = {
            "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 0},
            "annotations": dict(annotations or {}),
            "log_directory": f"/var/log/pods/{name}",
            "linux": {"cgroup_parent": self._place.cgroup},
        }
        return self.crictl("runp", "/dev/stdin", stdin=json.dumps(pod), timeout=300)

    def remove_pods(self) -> None:
        """Stop and remove all sandboxes, with their containers."""
        self.crictl("rmp", "--all", "--force", timeout=300)

    def _has_images(self) -> bool:
        """Whether what asks through crictl sees the images, which takes a moment."""
        listed = self.crictl("images")
        return all(name.split(":")[0] in listed for name in ALL_IMAGES)

    def _write_configuration(self) -> None:
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(CONFIG.format(version=self.version, pause=PAUSE))
        Path("/etc/crictl.yaml").write_text(f"runtime-endpoint: unix://{SOCKET}\ntimeout: 300\n")
        cni = Path("/etc/cni/net.d")
        cni.mkdir(parents=True, exist_ok=True)
        for other in cni.iterdir():  # the machine's, in an overlay
            other.unlink()
        (cni / "10-pods.conflist").write_text(json.dumps(CNI))


@contextmanager
def running_containerd(version: str = "") -> Iterator[Containerd]:
    """containerd alone, in the place that this process runs in, until the block ends; by default
    the version that tests/cluster/run was called with. Raises NotReady, with the end of its log."""
    place = here()
    assert place, "tests/cluster/run runs this, in namespaces of its own"
    containerd = Containerd(place, version or os.environ["CONTAINERD_VERSION"])
    try:
        containerd.start()
        yield containerd
    finally:
        containerd.stop()
