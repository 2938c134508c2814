"""Enters another network namespace, or creates one to find something out."""

from __future__ import annotations

import fcntl
from typing import TypeVar

from ...errors import BadCall, Mistake, NodeCannot
from ...light import os, suppress
from .c_types import ctypes
from .workers import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703  # linux/nsfs.h
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000  # linux/sched.h

_Answer = TypeVar("_Answer")


def enter(name: str, source: str) -> None:
    """Move this process into a network namespace, by path or by its `ip netns` name.

    Also into the user namespace that it belongs to, whose uids rules there are about: the match
    owner can't be used from outside (net/netfilter/xt_owner.c, owner_check).
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
        _enter_user_namespace_of(descriptor, libc)
        if libc.setns(descriptor, _CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise NodeCannot(
                f"{source}: can't enter {path}: {reason}; that takes CAP_SYS_ADMIN: run as root"
            )
    finally:
        os.close(descriptor)


def _enter_user_namespace_of(network: int, libc: ctypes.CDLL) -> None:
    """Enter the user namespace of a network namespace, if it is not this process's own already.

    Where that can't be, entering the network namespace fails, or what is done there.
    """
    try:
        user = fcntl.ioctl(network, _NS_GET_USERNS)
    except OSError:  # EPERM: it is none below this process's own
        return
    with suppress(OSError):  # without /proc
        own, other = os.stat("/proc/self/ns/user"), os.fstat(user)
        if (own.st_dev, own.st_ino) != (other.st_dev, other.st_ino):
            libc.setns(user, _CLONE_NEWUSER)
    os.close(user)


def asked_in_a_new_one(ask: Callable[[], _Answer]) -> _Answer | None:
    """What a question gives in a network namespace that is made for it, and ends with it.

    None where this process may make none: that takes CAP_SYS_ADMIN, or the right to make a user
    namespace, in which it has it.
    """

    def steps() -> Iterator[_Answer | None]:
        libc = ctypes.CDLL(None, use_errno=True)
        made = not libc.unshare(_CLONE_NEWNET) or not libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        yield ask() if made else None

    with Worker("a new network namespace", steps) as worker:
        worker.ask()
        return worker.answer()


def _type_of(descriptor: int) -> int:
    """The kind of a namespace, man 2 ioctl_ns; 0 for any other file."""
    try:
        return int(fcntl.ioctl(descriptor, _NS_GET_NSTYPE))
    except OSError:
        return 0
