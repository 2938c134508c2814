"""Entering another network namespace."""

import ctypes
import fcntl
import os

from ..errors import BadCall, Mistake, NodeCannot

_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def enter(name: str, source: str) -> None:
    """Move this process into a network namespace, by path or by its `ip netns` name.

    `source` is the flag or variable that named it.
    Raises BadCall if there is none, NodeCannot if this process may not enter it.
    """
    path = name if "/" in name else f"/var/run/netns/{name}"
    expected = "expected a network namespace: /proc/PID/ns/net, /var/run/netns/NAME or NAME"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (PermissionError, ValueError) as error:
        if isinstance(error, ValueError):
            raise BadCall([Mistake(source, name, expected)]) from None
        raise NodeCannot(
            f"{source}: {path} can't be opened: {error.strerror}; run as root"
        ) from error
    except OSError as error:
        raise BadCall([Mistake(source, name, expected, f"{path}: {error.strerror}")]) from error
    try:
        if _type_of(descriptor) != _CLONE_NEWNET:
            raise BadCall([Mistake(source, name, expected, f"{path} is something else")])
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise NodeCannot(
                f"{source}: can't enter {path}: {reason}; that takes CAP_SYS_ADMIN: run as root"
            )
    finally:
        os.close(descriptor)


def _type_of(descriptor: int) -> int:
    """The kind of a namespace, man 2 ioctl_ns; 0 for any other file."""
    try:
        return int(fcntl.ioctl(descriptor, _NS_GET_NSTYPE))
    except OSError:
        return 0
