"""What every test with real containers has: the images, and a node of its own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node import Node, build_images, make_node


@pytest.fixture(scope="session")
def images() -> Path:
    """The store with the images, built from what the repository holds now."""
    return build_images()


@pytest.fixture(scope="session")
def node(images: Path) -> Iterator[Node]:
    """A node, for all tests of this process."""
    with make_node(images) as node:
        yield node
