"""Reading what the kernel tells in /proc."""

import os

from ...errors import NodeCannot


def read(path: str) -> str:
    """The text of a file below /proc.

    Raises OSError, and NodeCannot where /proc is not mounted: elsewhere, that a file is not there
    says that the kernel lacks something.
    """
    try:
        with open(path) as file:  # noqa: PTH123  loading pathlib takes 5 ms
            return file.read()
    except FileNotFoundError:
        if os.path.exists("/proc/self"):  # noqa: PTH110
            raise
        raise NodeCannot(
            "/proc is not mounted here, and without it nobody can tell what the kernel holds; "
            "mount -t proc proc /proc"
        ) from None
