"""Ways into a pod that docs/debugging.md shows: kubectl debug, and --pod on the node."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster.daemon import until
from cluster.kubernetes import Cluster
from cluster.programs import CRICTL
from node import PROXY_INIT
from tests.cluster.mesh import start
from tests.cluster.test_init_container import FLAGS
from tests.pod.mesh import sidecar

POD = "debugged"


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Iterator[str]:
    """A Pod with a sidecar that runs, and whose init container is proxy-init."""
    start(cluster, sidecar("sidecar.yaml", POD))
    yield POD
    cluster.delete("pods", POD)


def debug(
    cluster: Cluster, name: str, *words: str, profile: str, arguments: bool = False
) -> tuple[int, str]:
    """The exit status of an ephemeral container, and what it has written."""
    only = ["--arguments-only"] if arguments else []
    cluster.kubectl(
        *("debug", POD, f"--image={PROXY_INIT}", "--image-pull-policy=Never"),
        *(f"--profile={profile}", "-c", name, *only, "--", *words),
    )

    def ended() -> int | None:
        for each in cluster.get("pod", POD)["status"].get("ephemeralContainerStatuses", []):
            if each["name"] == name and "terminated" in each["state"]:
                return int(each["state"]["terminated"]["exitCode"]) + 1
        return None

    return until(ended, what=f"{name} does not end") - 1, cluster.logs(POD, name)


def test_an_ephemeral_container_describes(cluster: Cluster, pod: str) -> None:
    for name, words, arguments in (
        ("e", ("proxy-init", "describe"), False),
        ("f", ("describe",), True),
    ):
        status, text = debug(cluster, name, *words, profile="netadmin", arguments=arguments)
        assert status == 0, text
        assert shlex.join(("proxy-init", *FLAGS, "--no-ipv6")) in text
        assert "just those of the flags" in text
        assert "IPv6 is not captured" in text and "Nobody listens" not in text


def test_an_ephemeral_container_explains(cluster: Cluster, pod: str) -> None:
    words = ("explain", "--live", *FLAGS, "--to", "198.51.100.7:80")
    for name, before, arguments in (("a", ("proxy-init",), False), ("b", (), True)):
        status, text = debug(
            cluster, name, *before, *words, profile="netadmin", arguments=arguments
        )
        assert status == 0
        assert text.startswith("Captured: TCP to 198.51.100.7:80 from uid 1000")
        # The Pods of this cluster have addresses of both families.
        assert "IPv6 is not captured" in text and "Nobody listens" not in text


def test_with_another_profile_it_says_what_is_missing(cluster: Cluster, pod: str) -> None:
    words = ("proxy-init", "describe")
    status, text = debug(cluster, "c", *words, profile="general", arguments=False)
    assert status == 4
    assert "CAP_NET_ADMIN" in text and "kubectl debug --profile=netadmin" in text
    status, text = debug(cluster, "d", "proxy-init", "status", *FLAGS, profile="general")
    assert status == 4
    assert "missing capability NET_ADMIN" in text and "--profile=netadmin" in text


def test_on_the_node_the_runtime_names_the_network_of_a_pod(cluster: Cluster, pod: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy_init", *words]
        environ = os.environ | {"PATH": f"{CRICTL.parent}:{os.environ['PATH']}"}
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, timeout=60
        )

    here = ("--pod", f"default/{pod}")
    in_place = run("status", *here, *FLAGS)
    assert (in_place.returncode, in_place.stdout) == (0, ""), in_place.stderr
    other = run("status", *here, *FLAGS, "-x", "10.0.0.0/8")
    assert other.returncode == 3
    nowhere = run("status", "--pod", "default/nowhere", *FLAGS)
    assert nowhere.returncode == 2
    assert "expected a pod that runs on this node" in nowhere.stderr
