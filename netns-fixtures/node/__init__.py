"""A throwaway node, on which podman runs Pods from Kubernetes' manifests."""

from node.images import PROXY_INIT, build_images, builder
from node.manifests import MANIFESTS, Manifest, read_manifest
from node.node import OUTSIDE, Node, PodFailed, RunningPod, make_node

__all__ = [
    "MANIFESTS",
    "OUTSIDE",
    "PROXY_INIT",
    "Manifest",
    "Node",
    "PodFailed",
    "RunningPod",
    "build_images",
    "builder",
    "make_node",
    "read_manifest",
]
