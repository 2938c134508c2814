"""What the tests here run on; tests/cluster/run makes the place for it, and alone collects them."""

from collections.abc import Iterator

import pytest

from cluster.containerd import Containerd, start_containerd
from cluster.kubernetes import Cluster, start_kubernetes
from cluster.place import here

collect_ignore_glob = [] if here() else ["test_*.py"]


@pytest.fixture(scope="session")
def containerd() -> Containerd:
    """containerd with the images, and no Kubernetes."""
    return start_containerd()


@pytest.fixture(scope="session")
def cluster(containerd: Containerd) -> Cluster:
    """Kubernetes on this containerd: one node, which is ready."""
    return start_kubernetes(containerd)


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for a test whose pods are deleted after it."""
    yield cluster
    cluster.delete("pods")
