"""The manifests of ../manifests, as data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
Manifest = dict[str, Any]


def read_manifest(name: str) -> Manifest:
    """The Pod of a file of ../manifests; its reader may change it."""
    (pod,) = _objects(name)
    return pod


def config_maps(pod: Manifest) -> Iterator[Manifest]:
    """The ConfigMaps that a Pod's volumes name."""
    names = [volume.get("configMap", {}).get("name") for volume in pod["spec"].get("volumes", [])]
    for config_map in _objects("envoy.yaml"):
        if config_map["metadata"]["name"] in names:
            yield config_map


def _objects(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))
