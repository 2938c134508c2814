"""A shell on a new node: sudo PYTHONPATH=netns-fixtures .venv/bin/python -m node [POD...]

The Pods are files of ../manifests. In the shell `podman` sees this node's Pods and nothing else;
the node ends with the shell.
"""

import os
import subprocess
import sys

from node import PodFailed, build_images, make_node, read_manifest
from pods.namespace import command_in, leave_blocks_on_signals


def main() -> int:
    """Start the Pods that the arguments name, and a shell."""
    leave_blocks_on_signals()
    print("building what has changed of the images ...")
    with make_node(build_images()) as node:
        for name in sys.argv[1:]:
            try:
                pod = node.play(read_manifest(name))
            except PodFailed as failure:
                print(f"{name} failed: {failure}", end="")
            else:
                print(f"{name}: {pod.name}, {pod.addresses[4]}, {pod.addresses[6]}")
        shell = [*command_in(node.namespace), os.environ.get("SHELL", "/bin/sh")]
        return subprocess.run(shell, env=node.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
