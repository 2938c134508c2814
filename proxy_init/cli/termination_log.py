"""The pod's termination log, which `kubectl describe pod` shows as the container's message."""

import os
from collections.abc import Mapping
from contextlib import suppress

DEFAULT = "/dev/termination-log"
MOST_BYTES = 4096  # what kubelet keeps of it


def leave_last_words(words: str, environ: Mapping[str, str]) -> None:
    """Write why a run failed to $TERMINATION_LOG, or to the default where that file is there.

    Where it cannot be written, the failure is the same without.
    """
    path = environ.get("TERMINATION_LOG")
    # By hand, outside a pod, there is no such file, and /dev is no place to make one.
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if path else 0)
    with suppress(OSError):
        descriptor = os.open(path or DEFAULT, flags, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(words.encode(errors="backslashreplace")[:MOST_BYTES])
