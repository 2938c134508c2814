"""The place itself: containerd, and sandboxes that crictl makes."""

import json
from pathlib import Path

from cluster.containerd import NRI_SOCKET, Containerd


def test_a_sandbox_has_addresses_of_both_families(containerd: Containerd) -> None:
    name = "addresses"
    sandbox = containerd.run_pod(name)
    try:
        status = json.loads(containerd.crictl("inspectp", sandbox))["status"]
        assert status["metadata"]["name"] == name
        network = status["network"]
        assert network["ip"].startswith("10.78.")
        assert network["additionalIps"][0]["ip"].startswith("fd00:78::")
    finally:
        containerd.crictl("rmp", "--force", sandbox)


def test_sandboxes_live_through_a_restart_of_containerd(containerd: Containerd) -> None:
    sandbox = containerd.run_pod("lives-on")
    try:
        containerd.restart()
        assert NRI_SOCKET.is_socket()
        assert sandbox in containerd.crictl("pods", "--quiet", "--no-trunc", "--state", "ready")
        assert any(Path("/run/netns").iterdir())
    finally:
        containerd.crictl("rmp", "--force", sandbox)
