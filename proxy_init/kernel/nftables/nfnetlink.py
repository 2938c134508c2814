"""Questions to nf_tables that need no program: what is there, and did anything change?

The messages are few and short, so they are written here: pyroute2 would take longer to load than
the rest of the work. Sources: linux/netfilter/nfnetlink.h, nf_tables.h and nf_tables_compat.h,
linux/netlink.h.
"""

import _socket
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ...rules.model import BUILT_IN, Family

_NETFILTER = 12
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_NF_TABLES, _COMPAT = 10, 11
_GET_TABLE, _GET_CHAIN, _GET_GENERATION = 1, 4, 16
_NEW_TABLE, _NEW_CHAIN = 0, 3
_BATCH_BEGIN = 16
_NESTED = 0x8000
_HOOK = 4  # NFTA_CHAIN_HOOK: what packets come to by themselves has one
_HOOKS = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
_ROUTE = ("mangle", "OUTPUT")
_SECONDS = 5
_NUMBERS = {Family.V4: 2, Family.V6: 10}
_INET = 1  # linux/netfilter.h: both families
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")


def generation() -> int:
    """A number that grows with each change of this namespace's rules. Raises OSError."""
    (answer,) = _asked(_NF_TABLES << 8 | _GET_GENERATION, 0)
    return int.from_bytes(answer[1], "big")


def table_names(family: Family) -> tuple[str, ...]:
    """Those of the iptables programs' tables that this namespace has. Raises OSError."""
    answers = _asked(_NF_TABLES << 8 | _GET_TABLE, _NUMBERS[family], flags=_DUMP)
    names = {_text(answer[1]) for answer in answers}
    return tuple(name for name in BUILT_IN if name in names)


def chains_of_others(family: Family) -> Iterator[str]:
    """The chains that a family's packets meet and that the programs of iptables do not show, each
    as `nft` calls it: FAMILY TABLE CHAIN. Raises OSError."""
    own = "ip" if family is Family.V4 else "ip6"
    for title, number in ((own, _NUMBERS[family]), ("inet", _INET)):
        for answer in _asked(_NF_TABLES << 8 | _GET_CHAIN, number, flags=_DUMP):
            table, chain = _text(answer[1]), _text(answer[3])
            shown = title == own and chain in BUILT_IN.get(table, ())
            if _HOOK in answer and not shown:
                yield f"{title} {table} {chain}"


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def has_revision(family: Family, kind: str, name: str, revision: int) -> bool:
    """Whether the kernel has a `match` or `target`; asking makes it load the module."""
    question = (
        _attribute(1, name.encode() + b"\0")
        + _attribute(2, struct.pack("!I", revision))
        + _attribute(3, struct.pack("!I", int(kind == "target")))
    )
    try:
        return bool(_asked(_COMPAT << 8, _NUMBERS[family], question))
    except OSError:
        return False


def try_chain(family: Family, table: str, chain: str) -> None:
    """Let the kernel check whether it would take a built-in chain of a table, without taking it.

    Raises OSError. What it is sent is a transaction without an end, which the kernel checks and
    takes back (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).
    """
    number = _NUMBERS[family]
    name = f"proxy-init-check-{os.getpid()}".encode() + b"\0"
    hook = _attribute(1, struct.pack("!I", _HOOKS[chain])) + _attribute(2, struct.pack("!i", -50))
    kind = "nat" if table == "nat" else "route" if (table, chain) == _ROUTE else "filter"
    base = (
        _attribute(1, name)
        + _attribute(3, chain.encode() + b"\0")
        + _attribute(_HOOK | _NESTED, hook)
        + _attribute(7, kind.encode() + b"\0")
    )
    flags = _CREATE | _ACK
    with _connected() as line:
        line.settimeout(_SECONDS)
        line.send(
            _message(_BATCH_BEGIN, 0, b"", 0, resource=_NF_TABLES)
            + _message(_NF_TABLES << 8 | _NEW_TABLE, number, _attribute(1, name), flags)
            + _message(_NF_TABLES << 8 | _NEW_CHAIN, number, base, flags)
        )
        for _ in ("table", "chain"):
            list(_answers(line, several=False))


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


_Attributes = dict[int, bytes]


def _asked(kind: int, family: int, attributes: bytes = b"", flags: int = 0) -> list[_Attributes]:
    """The attributes of each answer to one message. Raises OSError."""
    with _connected() as line:
        line.send(_message(kind, family, attributes, flags))
        return list(_answers(line, bool(flags & _DUMP)))


@contextmanager
def _connected() -> Iterator[_socket.socket]:
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
    line = _socket.socket(_socket.AF_NETLINK, kind, _NETFILTER)
    try:
        yield line
    finally:
        line.close()


def _message(kind: int, family: int, attributes: bytes, flags: int, resource: int = 0) -> bytes:
    # struct nfgenmsg: the family, the version, and in network order a resource.
    body = struct.pack("=BB", family, 0) + struct.pack("!H", resource) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 0, 0) + body


def _answers(line: _socket.socket, several: bool) -> Iterator[_Attributes]:
    while True:
        data = line.recv(1 << 16)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[_aligned(length) :]
            if kind == _ERROR and (number := struct.unpack_from("=i", body)[0]):
                raise OSError(-number, errno.errorcode.get(-number, ""))
            if kind in (_ERROR, _DONE):
                return
            yield dict(_attributes(body[4:]))
        if not several:
            return


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return length + 3 & ~3
