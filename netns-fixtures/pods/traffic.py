"""Connections, and listeners that tell what they saw of one: an answer is one line of JSON.

Application, outside world and proxy are the same listener under different names, users and ports;
a forwarder is a transparent proxy that goes on to where the client wanted.
"""

import json
import multiprocessing
import selectors
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from ipaddress import ip_address
from threading import Thread
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from pods import namespace

Protocol = Literal["tcp", "udp"]

# Who answers when nobody does.
REFUSED = "refused"
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
GARBLED = "garbled"  # the connection ended early, or brought back something else

# linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h, in.h, in6.h: not in Python's socket module.
SO_ORIGINAL_DST = 80
IP_PKTINFO = 8
IPV6_TRANSPARENT = 75

LONGEST_TALK = 10.0  # seconds that one end of a connection waits for the other


class Endpoint(NamedTuple):
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else "{}:{}".format(*self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a connection.

    `who` is the listener's name; or REFUSED, TIMEOUT, UNREACHABLE, GARBLED, and the rest is None.
    `local` is where the listener was reached, `peer` who it thinks it talks to, `original` what
    SO_ORIGINAL_DST says (None if the kernel keeps no record: conntrack off, or UDP). `via` is what
    the forwarder in between saw, if there was one.
    """

    who: str
    local: Endpoint | None = None
    peer: Endpoint | None = None
    original: Endpoint | None = None
    via: Self | None = None

    @classmethod
    def read(cls, line: bytes) -> Self:
        """The answer that a listener wrote."""
        return cls._of(json.loads(line))

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> Self:
        ends = {name: Endpoint(*end) for name, end in fields.items() if isinstance(end, list)}
        return cls(who=fields["who"], via=fields["via"] and cls._of(fields["via"]), **ends)

    def line(self) -> bytes:
        """The answer as a listener writes it."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def destination(self) -> Endpoint | None:
        """Where the client wanted to go, as far as the listener can know."""
        return self.original or self.local


Converse: TypeAlias = Callable[[socket.socket, Answer], None]
"""What to do with a TCP connection, and what its answer is."""


@contextmanager
def listener(
    name: str,
    who: str,
    ports: Collection[int],
    *,
    uid: int = 0,
    gid: int = 0,
    transparent: bool = False,
) -> Iterator[None]:
    """Somebody listening in a namespace, ready when the block starts, gone when it ends.

    On each port: TCP and UDP, IPv4 and IPv6, every address. TCP gets an answer, then all it sends
    back. With `transparent` it takes what the target TPROXY brings, for addresses that are not its
    own. Raises OSError if a port is taken.
    """
    with _serving(name, who, ports, uid, gid, transparent, _echo):
        yield


@contextmanager
def forwarder(
    name: str, who: str, port: int, *, uid: int = 0, gid: int = 0, mark: int | None = None
) -> Iterator[None]:
    """A transparent proxy that connects onward to where the client wanted, and passes on all data.

    With a `mark` its own connections have that fwmark and the client's address; without, neither.
    A connection from itself, a loop, it answers as a listener does.
    """
    with _serving(name, who, [port], uid, gid, True, partial(_forward, mark, set())):
        yield


@contextmanager
def _serving(
    name: str,
    who: str,
    ports: Collection[int],
    uid: int,
    gid: int,
    transparent: bool,
    converse: Converse,
) -> Iterator[None]:
    def work(tell: namespace.Tell) -> None:
        sockets = [
            _bound(family, kind, port, transparent)
            for port in ports
            for family in (socket.AF_INET, socket.AF_INET6)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
        tell("ready")
        _serve(who, sockets, converse)

    with namespace.process(name, work, uid=uid, gid=gid, privileged=transparent):
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
    source_port: int = 0,
    interface: str | None = None,
    messages: Sequence[bytes] = (),
    timeout: float = 2.0,
) -> Answer:
    """Connect from a namespace as some user and return what the one who was reached answered.

    `source`, `source_port` and `interface` are what the socket is bound to, `timeout` is in
    seconds. Over TCP `messages` are sent then, each when the one before has come back. A refusal or
    silence is an answer too; only a call that makes no sense raises OSError.
    """
    bind = Endpoint(source or "", source_port)
    work = partial(_ask, Endpoint(address, port), protocol, bind, interface, messages, timeout)
    return namespace.call(name, work, uid=uid, gid=gid, timeout=timeout + 10)


def _ask(
    to: Endpoint,
    protocol: Protocol,
    source: Endpoint,
    interface: str | None,
    messages: Sequence[bytes],
    timeout: float,
) -> Answer:
    family = socket.AF_INET6 if ip_address(to.address).version == 6 else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(timeout)
        if interface:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if any(source):
            client.bind(source)
        try:
            client.connect(to)
            if protocol == "udp":
                client.send(b"?")
            # A line fits in one segment, and is written at once.
            line = client.recv(4096)
            with client.makefile("rb") as echo:
                for message in messages:
                    client.sendall(message)
                    if echo.read(len(message)) != message:
                        return Answer(GARBLED)
            return Answer.read(line) if line else Answer(GARBLED)
        except ConnectionError:
            return Answer(REFUSED)
        except TimeoutError:
            return Answer(TIMEOUT)
        except OSError:
            return Answer(UNREACHABLE)


def _bound(
    family: socket.AddressFamily, kind: socket.SocketKind, port: int, transparent: bool
) -> socket.socket:
    bound = socket.socket(family, kind)
    if transparent:
        _make_transparent(bound)
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


def _make_transparent(any_socket: socket.socket) -> None:
    if any_socket.family == socket.AF_INET:
        any_socket.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
    else:
        any_socket.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


def _serve(who: str, sockets: Collection[socket.socket], converse: Converse) -> None:
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
                        _answer_tcp(who, key.fileobj, converse)
                    else:
                        _answer_udp(who, key.fileobj)


def _answer_tcp(who: str, bound: socket.socket, converse: Converse) -> None:
    connection, peer = bound.accept()
    local = Endpoint(*connection.getsockname()[:2])
    answer = Answer(who, local, Endpoint(*peer[:2]), _original(connection))

    def work() -> None:
        with connection, suppress(OSError):
            connection.settimeout(LONGEST_TALK)
            converse(connection, answer)

    Thread(target=work, daemon=True).start()


def _echo(connection: socket.socket, answer: Answer) -> None:
    connection.sendall(answer.line())
    _pass_on(connection, connection)


def _forward(mark: int | None, own: set[int], connection: socket.socket, answer: Answer) -> None:
    assert answer.local is not None and answer.peer is not None  # a listener's answer
    if answer.peer.port in own:
        _echo(connection, answer)
        return
    with socket.socket(connection.family) as onward:
        onward.settimeout(LONGEST_TALK)
        if mark is not None:
            onward.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            _make_transparent(onward)
        # Not the client's port too: Linux gives odd ones to bind() and even ones to connect().
        onward.bind(("" if mark is None else answer.peer.address, 0))
        own.add(onward.getsockname()[1])
        onward.connect(answer.local)
        answered = Answer.read(onward.recv(4096))
        connection.sendall(replace(answered, via=answer).line())
        back = Thread(target=_pass_on, args=(onward, connection), daemon=True)
        back.start()
        _pass_on(connection, onward)
        back.join()


def _pass_on(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)


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
