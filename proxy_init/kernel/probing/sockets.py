"""Sockets for probes: with another owner, for packets that do not leave the node."""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from typing import TypeAlias

from ...analysis.probe_plan import Owner
from ...rules.model import Family
from ...rules.networks import Address, read_address
from ..system.proc import read

End: TypeAlias = tuple[Address, int]

# linux/netfilter_ipv4.h (ip6_tables.h has the same), linux/in6.h: not in Python's module.
_SO_ORIGINAL_DST = 80
_IPV6_TRANSPARENT = 75
_CLOSE_AT_ONCE = struct.pack("ii", 1, 0)  # man 7 socket, SO_LINGER


class NotMade(Exception):
    """A probe cannot be sent here, or would prove nothing; the text says why."""


@contextmanager
def taking(capability: str) -> Iterator[None]:
    """Raise NotMade if the kernel refuses an operation that needs a capability."""
    try:
        yield
    except PermissionError:
        raise NotMade(f"that takes CAP_{capability}") from None


@contextmanager
def owned_by(owner: Owner) -> Iterator[None]:
    """Sockets made in this block belong to `owner`, for the rules too. Raises NotMade."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            os.setegid(owner.gid)
            os.seteuid(owner.uid)
        except OSError:
            who = f"uid {owner.uid}, gid {owner.gid}"
            raise NotMade(f"being {who} takes CAP_SETUID and CAP_SETGID") from None
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)


def new_socket(family: Family, kind: socket.SocketKind, owner: Owner) -> socket.socket:
    """A socket that does not wait, and whose packets end at the next hop. Raises NotMade."""
    with owned_by(owner):
        made = socket.socket(socket.AF_INET if family is Family.V4 else socket.AF_INET6, kind)
    made.setblocking(False)
    if family is Family.V4:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind is socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_AT_ONCE)
    return made


def fresh_ports() -> Iterator[int]:
    """Ports for clients, other ones than it gave in the half minute before: for as long connection
    tracking may remember where somebody's packets from a port went, and send others after them."""
    first = time.monotonic_ns() // 1_000_000
    return (32768 + number % 28000 for number in count(first))


def bind_afresh(made: socket.socket, address: Address, ports: Iterator[int]) -> None:
    """Bind to the first of the ports that is free. Raises OSError."""
    for port in islice(ports, 1000):
        try:
            made.bind((str(address), port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def make_transparent(made: socket.socket) -> None:
    """Let a socket send and receive for foreign addresses. Raises NotMade."""
    with taking("NET_ADMIN"):
        if made.family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)


def is_taken(family: Family, port: int) -> bool:
    """Whether a process listens on a TCP port."""
    with socket.socket(socket.AF_INET if family is Family.V4 else socket.AF_INET6) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((family.any_address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def accepted_on(client_port: int) -> set[int]:
    """The ports of this namespace that have a connection from a port. Empty if it is elsewhere."""
    lines: list[str] = []
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # the kernel has no IPv6
            lines += read(f"/proc/self/net/{name}").splitlines()[1:]
    rows = [line.split()[1:3] for line in lines]
    ports = [[int(name.rpartition(":")[2], 16) for name in row] for row in rows]
    return {local for local, remote in ports if remote == client_port}


def end(name: tuple[str, int] | tuple[str, int, int, int]) -> End:
    """One end of a connection, as Python's sockets represent it."""
    return read_address(name[0].partition("%")[0]), name[1]


def original_destination(accepted: socket.socket) -> End:
    """Where a client was going; without a record of that, where it is."""
    is_ipv4 = accepted.family == socket.AF_INET
    level, size, form = (
        (socket.IPPROTO_IP, 16, "!2xH4s") if is_ipv4 else (socket.IPPROTO_IPV6, 28, "!2xH4x16s")
    )
    try:
        port, address = struct.unpack_from(form, accepted.getsockopt(level, _SO_ORIGINAL_DST, size))
    except OSError:
        return end(accepted.getsockname())
    return Address(address), port
