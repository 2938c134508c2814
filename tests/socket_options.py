"""What a process finds missing: options of sockets that the kernel does not have or does not grant.

Through some of them legacy tables are read and written: without these, the kernel has none.
"""

import ctypes
import platform
import struct
from collections.abc import Mapping
from typing import TypeAlias

from tests.fault_injection import called, libc

_Options: TypeAlias = Mapping[int, tuple[int, ...]]
_SETSOCKOPT, _GETSOCKOPT = {"x86_64": (54, 55), "aarch64": (208, 209)}[platform.machine()]
_ENOPROTOOPT = 92
# linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h, by the level of the
# option: tables are read and written there, and extensions asked for. IPv6 has other options at 66
# and 67.
_TABLES = {0: (64, 65), 41: (64, 65)}
_ALL = {0: (64, 65, 66, 67), 41: (64, 65, 68, 69)}
# SOL_SOCKET, SO_SNDBUF and SO_SNDBUFFORCE, asm-generic/socket.h.
_SEND_BUFFERS = {1: (7, 32)}
# linux/bpf_common.h and linux/seccomp.h.
_LOAD, _IF_EQUAL, _GIVE = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _LEVEL, _OPTION = 0, 24, 32


def take_away_legacy_tables() -> None:
    """Do so for this process and its children, for good."""
    _take_away(_ALL)


def take_away_every_legacy_table() -> None:
    """The same, but leave what is asked of extensions: x_tables is there, no table is."""
    _take_away(_TABLES)


def keep_send_buffers_small() -> None:
    """Sockets send at most 208 KiB at once, as mostly in a user namespace: net.core.wmem_max is so
    large, and more takes a privilege over the machine."""
    _take_away(_SEND_BUFFERS)


def _take_away(options: _Options) -> None:
    program = b"".join(_instructions(options))
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions, and where.
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    called(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    called(libc.prctl, 22, 2, ctypes.create_string_buffer(header, len(header)))  # PR_SET_SECCOMP


def _instructions(options: _Options) -> list[bytes]:
    """A filter of system calls, man 2 seccomp; jumps count the instructions that they skip."""
    rows: list[tuple[int, int, int, int]] = []

    def unless(field: int, values: tuple[int, ...], skip: int) -> None:
        """Load a field, and skip as many instructions as said if it is none of `values`."""
        rows.append((_LOAD, 0, 0, field))
        for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
            rows.append((_IF_EQUAL, left, 0 if left else skip, value))

    sizes = {level: 2 + 1 + len(taken) + 1 for level, taken in options.items()}
    unless(_NUMBER, (_SETSOCKOPT, _GETSOCKOPT), sum(sizes.values()))
    for level, taken in options.items():
        unless(_LEVEL, (level,), sizes[level] - 2)
        unless(_OPTION, taken, 1)
        rows.append((_GIVE, 0, 0, _ERRNO | _ENOPROTOOPT))
    rows.append((_GIVE, 0, 0, _ALLOW))
    return [struct.pack("=HBBI", *row) for row in rows]
