"""A container without capabilities sends probes through rules that somebody else has made."""

import pytest

from node import Node, PodFailed, read_manifest
from tests.pod.mesh import init_container


def test_behind_rules_that_stand_the_pod_starts(node: Node) -> None:
    pod = read_manifest("validation.yaml")
    pod["metadata"]["name"] = "validated"
    # In a CNI plugin's place, which podman has no room for.
    pod["spec"]["initContainers"].insert(0, init_container(read_manifest("sidecar.yaml")))
    running = node.play(pod)
    assert running.logs("istio-validation")


def test_without_rules_the_pod_does_not_start(node: Node) -> None:
    pod = read_manifest("validation.yaml")
    pod["metadata"]["name"] = "unvalidated"
    with pytest.raises(PodFailed, match="exited with code 126"):
        node.play(pod)
