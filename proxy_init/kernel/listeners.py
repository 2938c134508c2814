"""Who listens in this process's network namespace: no privilege is needed.

Sources: linux/sock_diag.h, linux/inet_diag.h, net/ipv4/inet_diag.c.
"""

import errno
import socket
from struct import pack, unpack_from

from ..analysis.listeners import Listener
from ..rules.networks import read_address
from .system.netlink import Message, attributes, connected

_SOCK_DIAG, _BY_FAMILY = 4, 20  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
_LISTEN, _CLOSE = 1 << 10, 1 << 7  # TCP states; a UDP socket without a peer is in the second
_MESSAGE = 72  # struct inet_diag_msg
_SOCKET_OPTIONS, _IPV6_ONLY = 22, 11  # INET_DIAG_SOCKOPT, INET_DIAG_SKV6ONLY
_TRANSPARENT = 0x20  # of the first byte of struct inet_diag_sockopt
_KINDS = (
    ("tcp", socket.IPPROTO_TCP, _LISTEN),
    ("udp", socket.IPPROTO_UDP, _CLOSE),
)


def listeners() -> tuple[Listener, ...] | None:
    """All sockets that take connections, or UDP packets from anywhere; None if the kernel can't
    list sockets. Raises OSError."""
    found: list[Listener] = []
    try:
        with connected(_SOCK_DIAG) as kernel:
            for family in (socket.AF_INET, socket.AF_INET6):
                for protocol, number, states in _KINDS:
                    question = pack("=BBBBI48x", family, number, 0, 0, states)
                    for answer in kernel.dump(Message(_BY_FAMILY, question)):
                        found.append(_listener(protocol, answer))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return tuple(found)


def _listener(protocol: str, answer: bytes) -> Listener:
    family = answer[0]
    (port,) = unpack_from("!H", answer, 4)
    (uid,) = unpack_from("=I", answer, 64)
    length = 4 if family == socket.AF_INET else 16
    address = read_address(socket.inet_ntop(family, answer[8 : 8 + length]))
    told = attributes(answer[_MESSAGE:])
    options = told.get(_SOCKET_OPTIONS)  # since Linux 5.10
    return Listener(
        protocol,
        address,
        port,
        uid,
        None if options is None else bool(options[0] & _TRANSPARENT),
        family == socket.AF_INET6 and told.get(_IPV6_ONLY, b"\0")[0] == 0,
    )
