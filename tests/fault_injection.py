"""What the program meets: too little privilege, a held lock, a kernel that says no."""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The program imports these late, where a user without privilege may not be able to read it.
import proxy_init.kernel.system.namespace
import proxy_init.rules.saved_text  # noqa: F401
from pods import namespace
from proxy_init.kernel.legacy import libiptc
from proxy_init.kernel.nftables import tables as nf_tables
from proxy_init.rules.model import Family
from tests.running import Result, run_here, run_in


def told(result: Result) -> list[str]:
    """The errors that a run logged."""
    lines = (line.partition("\terror\t") for line in result.stderr.splitlines())
    return [message for _, level, message in lines if level]


NET_ADMIN, NET_RAW = 12, 13  # linux/capability.h


def run_with(
    name: str,
    *flags: str,
    uid: int,
    capabilities: int,
    environ: dict[str, str] | None = None,
) -> Result:
    """Run the program in a namespace as some user with a set of capabilities, as bits."""

    def work() -> Result:
        # A set of our own survives the change of the user (PR_SET_KEEPCAPS, linux/prctl.h) ...
        called(libc.prctl, 8, 1, 0, 0, 0)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # ... and is then cut down: man 2 capset, version 3, effective and permitted alike.
        low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
        header = struct.pack("Ii", 0x20080522, 0)
        called(libc.capset, header, struct.pack("6I", low, low, 0, high, high, 0))
        return run_here(*flags, environ=environ)

    run_in(name, "--version")  # loads what has to be loaded while we may
    return namespace.call(name, work, timeout=60)


libc = ctypes.CDLL(None, use_errno=True)


def called(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def held_lock(path: Path) -> Iterator[int]:
    """The lock file, locked by this process as the iptables programs lock it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def replace(owner: object, name: str, replacement: Callable[..., object]) -> None:
    """Put a function, which gets the real one first, in the place of one."""
    real = getattr(owner, name)
    setattr(owner, name, lambda *arguments: replacement(real, *arguments))


class AllTables:
    """Stands for the tables of a backend that reads and writes them all at once."""

    _family = Family.V4


ALL_TABLES = AllTables()
_NATIVELY = {"read": "read", "commit": "_committed"}


def replace_in_tables(name: str, replacement: Callable[..., object]) -> None:
    """The same for a method of the tables of each backend."""
    replace(libiptc.Tables, name, replacement)
    if name in _NATIVELY:
        real = getattr(nf_tables, _NATIVELY[name])

        def instead(*arguments: object) -> object:
            return replacement(lambda *_: real(*arguments), ALL_TABLES, "nf_tables")

        setattr(nf_tables, _NATIVELY[name], instead)


def run_patched(
    name: str, patch: Callable[[], None], *flags: str, environ: dict[str, str] | None = None
) -> Result:
    """Run the program in a child in which `patch` has been at work."""

    def work() -> Result:
        patch()
        return run_here(*flags, environ=environ)

    run_in(name, "--version")
    return namespace.call(name, work, timeout=60)
