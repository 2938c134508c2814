"""Connections, and listeners that tell what they saw of one: an answer is one line of JSON.

Application, outside world and proxy are the same listener under different names, users and ports.
"""

import json
import multiprocessing
import selectors
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple, Self

from pods import namespace

Protocol = Literal["tcp", "udp"]

# Who answers when nobody does.
REFUSED = "refused"
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"

# linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h, in.h: not in Python's socket module.
SO_ORIGINAL_DST = 80
IP_PKTINFO = 8


class Endpoint(NamedTuple):
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else "{}:{}".format(*self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a connection.

    `who` is the listener's name; or REFUSED, TIMEOUT, UNREACHABLE, and the rest is None.
    `local` is where the listener was reached, `peer` who it thinks it talks to, `original` what
    SO_ORIGINAL_DST says (None if the kernel keeps no record: conntrack off, or UDP).
    """

    who: str
    local: Endpoint | None = None
    peer: Endpoint | None = None
    original: Endpoint | None = None

    @classmethod
    def read(cls, line: bytes) -> Self:
        """The answer that a listener wrote."""
        fields = json.loads(line)
        ends = {name: Endpoint(*end) for name, end in fields.items() if isinstance(end, list)}
        return cls(who=fields["who"], **ends)

    def line(self) -> bytes:
        """The answer as a listener writes it."""
        fields = {"who": self.who, "local": self.local, "peer": self.peer}
        return json.dumps(fields | {"original": self.original}).encode() + b"\n"

    @property
    def destination(self) -> Endpoint | None:
        """Where the client wanted to go, as far as the listener can know."""
        return self.original or self.local


@contextmanager
def listener(
    name: str, who: str, ports: Collection[int], *, uid: int = 0, gid: int = 0
) -> Iterator[None]:
    """Somebody listening in a namespace, ready when the block starts, gone when it ends.

    On each port: TCP and UDP, IPv4 and IPv6, every address. Raises OSError if a port is taken.
    """

    def work(tell: namespace.Tell) -> None:
        sockets = [
            _bound(family, kind, port)
            for port in ports
            for family in (socket.AF_INET, socket.AF_INET6)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
        tell("ready")
        _serve(who, sockets)

    with namespace.process(name, work, uid=uid, gid=gid):
        yield


def connect(
    name: str,
    address: str,
    port: int,
    *,
    uid: int = 1000,
    gid: int = 1000,
    protocol: Protocol = "tcp",
    source: str | None = None,
    interface: str | None = None,
    timeout: float = 2.0,
) -> Answer:
    """Connect from a namespace as some user and return what the one who was reached answered.

    `source` and `interface` are what the socket is bound to, `timeout` is in seconds. A refusal
    or silence is an answer too; only a call that makes no sense raises OSError.
    """
    work = partial(_ask, Endpoint(address, port), protocol, source, interface, timeout)
    return namespace.call(name, work, uid=uid, gid=gid, timeout=timeout + 10)


def _ask(
    to: Endpoint, protocol: Protocol, source: str | None, interface: str | None, timeout: float
) -> Answer:
    family = socket.AF_INET6 if ip_address(to.address).version == 6 else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(timeout)
        if interface:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if source:
            client.bind((source, 0))
        try:
            client.connect(to)
            if protocol == "udp":
                client.send(b"?")
            # A line fits in one segment, and is written at once.
            return Answer.read(client.recv(4096))
        except ConnectionError:
            return Answer(REFUSED)
        except TimeoutError:
            return Answer(TIMEOUT)
        except OSError:
            return Answer(UNREACHABLE)


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    bound = socket.socket(family, kind)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_STREAM:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    elif family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    bound.bind(("", port))
    if kind == socket.SOCK_STREAM:
        bound.listen()
    return bound


def _serve(who: str, sockets: Collection[socket.socket]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # runs in a child only
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        # Readable when the parent is gone, even by kill -9.
        selector.register(parent.sentinel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == parent.sentinel:
                    return
                assert isinstance(key.fileobj, socket.socket)
                with suppress(OSError):  # a client that went away is no reason to stop
                    if key.fileobj.type == socket.SOCK_STREAM:
                        _answer_tcp(who, key.fileobj)
                    else:
                        _answer_udp(who, key.fileobj)


def _answer_tcp(who: str, bound: socket.socket) -> None:
    connection, peer = bound.accept()
    with connection:
        local = Endpoint(*connection.getsockname()[:2])
        answer = Answer(who, local, Endpoint(*peer[:2]), _original(connection))
        connection.settimeout(1)
        connection.sendall(answer.line())


def _answer_udp(who: str, bound: socket.socket) -> None:
    _, ((level, kind, info), *_), _, peer = bound.recvmsg(4096, socket.CMSG_SPACE(20))
    # IPv4: interface, source for a reply, destination; IPv6: destination, interface. A reply
    # goes out from the address that the client wrote to, by whatever interface leads back.
    if bound.family == socket.AF_INET:
        address, reply = info[8:12], bytes(4) + info[4:]
    else:
        address, reply = info[:16], info[:16] + bytes(4)
    local = Endpoint(socket.inet_ntop(bound.family, address), bound.getsockname()[1])
    answer = Answer(who, local, Endpoint(*peer[:2]))
    bound.sendmsg([answer.line()], [(level, kind, reply)], 0, peer)


def _original(connection: socket.socket) -> Endpoint | None:
    level, size, form = (
        (socket.IPPROTO_IP, 16, "!2xH4s")
        if connection.family == socket.AF_INET
        else (socket.IPPROTO_IPV6, 28, "!2xH4x16s")
    )
    try:
        raw: Any = connection.getsockopt(level, SO_ORIGINAL_DST, size)
    except OSError:
        return None
    port, address = struct.unpack_from(form, raw)
    return Endpoint(socket.inet_ntop(connection.family, address), port)
