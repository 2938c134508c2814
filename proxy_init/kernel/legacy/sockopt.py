"""Questions to the kernel about its legacy tables that take no library.

Sources: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h.
"""

from __future__ import annotations

import _socket
import errno
import struct

from ...rules.model import Family, Ruleset
from ..system.c_types import ctypes
from ..system.refusal import NO_SUCH_TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_LEVELS = {Family.V4: _socket.SOL_IP, Family.V6: 41}
_GET_REVISION = {
    (Family.V4, "match"): (_socket.SOL_IP, 66),
    (Family.V4, "target"): (_socket.SOL_IP, 67),
    (Family.V6, "match"): (41, 68),
    (Family.V6, "target"): (41, 69),
}


def lacks_legacy(ruleset: Ruleset, there: Container[str], write: bool) -> str:
    """Why legacy tables can't serve a family at all, or nothing. Those that are `there` can.

    Asking brings the others that are needed into being; unless we are to `write`, elsewhere.
    """
    family = ruleset.family
    if lacks_x_tables(family):
        return f"this kernel has no legacy tables loaded for {family.title}"
    for table in ruleset.tables:
        if table.name not in there and table_errno(family, table.name, write) in NO_SUCH_TABLE:
            return f"this kernel has no legacy table {table.name} for {family.title}"
    return ""


def lacks_x_tables(family: Family) -> bool:
    """Whether this kernel cannot even be asked for what belongs to legacy tables."""
    return extension_errno(family, "match", "tcp", 0) in NO_SUCH_TABLE


def extension_errno(family: Family, kind: str, name: str, revision: int) -> int:
    """Whether the kernel has a `match` or `target`: 0, or why not. It may load a module for it."""
    level, option = _GET_REVISION[family, kind]
    return _getsockopt(family, level, option, struct.pack("29sB", name.encode(), revision))


def table_errno(family: Family, name: str, write: bool) -> int | None:
    """Whether the kernel has a table: 0, or why not.

    Asking brings it into being. So unless we are to `write`, it is asked in a network namespace
    that is made for the question; None where none can be made.
    """
    if write:
        return _table_errno(family, name)
    from ..system.namespace import asked_in_a_new_one

    return asked_in_a_new_one(lambda: _table_errno(family, name))


def _table_errno(family: Family, name: str) -> int:
    # struct ipt_getinfo begins with the table's name in 32 bytes; IPT_SO_GET_INFO is 64.
    return _getsockopt(family, _LEVELS[family], 64, struct.pack("32s52x", name.encode()))


def _getsockopt(family: Family, level: int, option: int, question: bytes) -> int:
    """getsockopt() whose buffer carries a question, which Python's own can't; gives the errno."""
    domain = _socket.AF_INET if family is Family.V4 else _socket.AF_INET6
    buffer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint32(len(question))
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        raw = _socket.socket(domain, _socket.SOCK_RAW, _socket.IPPROTO_RAW)
    except OSError as error:
        return error.errno or errno.EINVAL
    try:
        failed = libc.getsockopt(raw.fileno(), level, option, buffer, ctypes.byref(size))
    finally:
        raw.close()
    return ctypes.get_errno() if failed else 0
