"""A Pod whose init container fails does not start, and says why where a person looks."""

from pathlib import Path

import pytest

from node import Node, PodFailed
from tests.pod.mesh import init_container, sidecar

REASON = "-p: got '70000'"


@pytest.fixture
def termination_log(tmp_path: Path) -> Path:
    """A file as kubelet makes one, outside of the container and for it to write."""
    path = tmp_path / "termination-log"
    path.touch(mode=0o666)
    return path


def failing(name: str, log: Path, **flags: str) -> dict[str, object]:
    """A Pod in which `log` is where kubelet would put it."""
    pod = sidecar("sidecar.yaml", name, **flags)
    volume = {"name": "log", "hostPath": {"path": str(log), "type": "File"}}
    pod["spec"]["volumes"].append(volume)
    mount = {"name": "log", "mountPath": "/dev/termination-log"}
    init_container(pod).setdefault("volumeMounts", []).append(mount)
    return pod


def test_a_wrong_call(node: Node, termination_log: Path) -> None:
    with pytest.raises(PodFailed, match="exited with code 2"):
        node.play(failing("wrong-call", termination_log, p="70000"))
    (line,) = node.logs("wrong-call", "istio-init").splitlines()
    assert line == f"proxy-init: {termination_log.read_text()}"
    assert REASON in line


def test_a_missing_capability(node: Node, termination_log: Path) -> None:
    pod = failing("no-net-raw", termination_log)
    init_container(pod)["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]
    with pytest.raises(PodFailed, match="exited with code 4"):
        node.play(pod)
    reason = termination_log.read_text()
    assert "missing capability NET_RAW: " in reason
    assert all(line in node.logs("no-net-raw", "istio-init") for line in reason.splitlines())


def test_a_call_that_works_leaves_no_word(node: Node, termination_log: Path) -> None:
    node.play(failing("fine", termination_log))
    assert termination_log.read_text() == ""
