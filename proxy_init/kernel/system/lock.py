"""The lock that the iptables programs hold while they change rules.

See XTABLES_LOCKFILE in man 8 iptables.
"""

from __future__ import annotations

import fcntl
import time

from ...errors import ApplyFailed
from ...light import contextmanager, os, suppress
from ...log import logger
from .proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL_SECONDS = 0.05


@contextmanager
def xtables_lock(path: str, wait: int) -> Iterator[None]:
    """Hold the lock file at `path`, waiting at most `wait` seconds for whoever has it.

    A container's file system may have no place for the file; then nobody else in the container
    can hold it either, and we go on without. Raises ApplyFailed when the wait is over.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        logger.debug("no xtables lock: %s: %s", path, error.strerror)
        yield
        return
    try:
        _wait_for(descriptor, path, wait)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: str, wait: int) -> None:
    # flock() itself can't be bounded without a signal handler, so it is asked again and again.
    until = time.monotonic() + wait
    told = False
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() >= until:
            raise ApplyFailed(
                f"the xtables lock {path} is still held by {_holder(descriptor)} after {wait} s; "
                "end that program, or wait longer with --wait SECONDS"
            )
        if not told:
            holder = _holder(descriptor)
            logger.info(
                "waiting up to %d s for the xtables lock %s, held by %s", wait, path, holder
            )
            told = True
        time.sleep(_POLL_SECONDS)


def _holder(descriptor: int) -> str:
    return _known_holder(descriptor) or "another process"


def _known_holder(descriptor: int) -> str:
    """Who holds the lock, from /proc/locks (man 5 proc); empty if it is not listed there."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        for line in read("/proc/locks").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == file:
                name = read(f"/proc/{words[4]}/comm").strip()
                return f"process {words[4]} ({name})"
    except OSError:
        pass
    return ""


def state_of_lock(path: str) -> str:
    """The state of the lock file in words. The file is neither created nor locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.access(os.path.dirname(path) or ".", os.W_OK):
            return "free; it is made when it is needed"
        return "it can't be created here, so runs go on without it"
    except OSError as error:
        return f"it can't be opened ({error.strerror}), so runs go on without it"
    try:
        holder = _known_holder(descriptor)
    finally:
        os.close(descriptor)
    return f"held by {holder}" if holder else "free"
