"""What the tests here run on; tests/cluster/run makes the place for it, and alone collects them."""

from collections.abc import Iterator

import pytest

from cluster.containerd import Containerd, running_containerd
from cluster.kubernetes import Cluster, running_kubernetes
from cluster.place import here
from tests.cluster.mesh import new_pods_deleted

collect_ignore_glob = [] if here() else ["test_*.py"]


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """containerd with the images, and no Kubernetes."""
    with running_containerd() as containerd:
        yield containerd


@pytest.fixture(scope="session")
def cluster(containerd: Containerd) -> Iterator[Cluster]:
    """Kubernetes on this containerd: one node, which is ready."""
    with running_kubernetes(containerd) as cluster:
        yield cluster


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for a test whose pods are deleted after it."""
    with new_pods_deleted(cluster):
        yield cluster
