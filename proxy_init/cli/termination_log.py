"""The pod's termination log, which `kubectl describe pod` shows as the container's message."""

from __future__ import annotations

from ..light import os, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "/dev/termination-log"
MAX_BYTES = 4096  # kubelet keeps no more


def write_termination_log(reason: str, environ: Mapping[str, str]) -> None:
    """Write why a run failed to $TERMINATION_LOG, or to the default file if that exists.

    An error while writing is ignored: the run has failed anyway.
    """
    path = environ.get("TERMINATION_LOG")
    # Outside a pod there is no default file, and none should be created in /dev.
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if path else 0)
    with suppress(OSError):
        descriptor = os.open(path or DEFAULT, flags, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(reason.encode(errors="backslashreplace")[:MAX_BYTES])
