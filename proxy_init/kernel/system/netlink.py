"""The part of netlink that is needed here: messages, attributes, requests and transactions.

Sources: linux/netlink.h, linux/netfilter/nfnetlink.h, man 7 netlink.
"""

from __future__ import annotations

import _socket  # what socket is made of, which takes 4 ms to load
import errno
from struct import Struct, pack, unpack_from

from ...frozen import Frozen
from ...light import contextmanager, os, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ACK, CREATE, APPEND = 0x4, 0x400, 0x800
_REQUEST, _DUMP = 0x1, 0x300
NETFILTER = 12
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
_NESTED, _KIND = 0x8000, 0x3FFF
_HEADER, _ATTRIBUTE = Struct("=IHHII"), Struct("=HH")
_BUFFER = 1 << 16  # the kernel's own are at most half as large
_CAP_ACK = 10  # linux/netlink.h: what is refused need not come back with the refusal
_SOL_NETLINK = 270
_SNDBUFFORCE = 32  # asm-generic/socket.h
_SECONDS = 30
_MOST_TRIES = 10
"""How often a list is asked for that changes while the kernel tells it."""

Attributes = dict[int, bytes]


class MessageRefused(OSError):
    """The kernel refused a message; `place` is its number among those sent, from 0."""

    def __init__(self, number: int, place: int) -> None:
        super().__init__(number, os.strerror(number))
        self.place = place


class Message(Frozen):
    """A message without its netlink header: its type, its body and its flags."""

    kind: int
    body: bytes
    flags: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute: its header and its value, up to the next multiple of four bytes."""
    length = 4 + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that is made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that is a string, with its final zero."""
    return attribute(kind, os.fsencode(value) + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits, in network order as netfilter has them."""
    return attribute(kind, pack("!I", value & 0xFFFFFFFF))


def attributes(data: bytes) -> Attributes:
    """The attributes that follow each other in `data`, by their kind."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The same in order, for attributes of which one kind may occur several times."""
    place, end = 0, len(data)
    while place + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < 4:
            return
        yield kind & _KIND, data[place + 4 : place + length]
        place += length + 3 & ~3


def to_text(value: bytes) -> str:
    """The string in an attribute that `text` has made."""
    return os.fsdecode(value.rstrip(b"\0"))


def to_number(value: bytes) -> int:
    """A number in network order, of any size."""
    return int.from_bytes(value, "big")


class _Answer(Frozen):
    """A message of the kernel's: to which of ours, its body, an errno, whether it is the last of
    its kind, and whether what was read changed meanwhile."""

    number: int
    body: bytes
    error: int
    last: bool
    disturbed: bool


class Connection:
    """A netlink socket, see `connected`. Its methods raise OSError where the kernel refuses."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._next = 1

    def ask(self, message: Message) -> bytes:
        """The body of the only answer to a request."""
        self._send([message])
        answer = next(self._answers())
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error))
        return answer.body

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of all answers to a request, from one dump that no change interrupted."""
        for _ in range(_MOST_TRIES):
            self._send([Message(message.kind, message.body, message.flags | _DUMP)])
            bodies, disturbed = [], False
            for answer in self._answers():
                if answer.error:
                    raise OSError(answer.error, os.strerror(answer.error))
                disturbed = disturbed or answer.disturbed
                if answer.last:
                    break
                bodies.append(answer.body)
            if not disturbed:
                return bodies
        raise OSError(errno.EAGAIN, "what is asked for changes all the time")

    def tell(self, messages: Sequence[Message]) -> None:
        """Send messages in one piece. Raises MessageRefused for the first that is refused.

        One of them must have the flag ACK: its acknowledgement, or that the very first is refused,
        ends the kernel's answer.
        """
        acknowledged = max(place for place, m in enumerate(messages) if m.flags & ACK)
        first = self._send(messages)
        refused: MessageRefused | None = None
        for answer in self._answers():
            place = answer.number - first
            if answer.error and (refused is None or place < refused.place):
                refused = MessageRefused(answer.error, place)
            if place == acknowledged or (answer.error and place == 0):
                break
        if refused:
            raise refused

    def _send(self, messages: Sequence[Message]) -> int:
        """Send messages; returns the number of the first one."""
        first = self._next
        self._next += len(messages)
        data = b"".join(
            _HEADER.pack(_HEADER.size + len(m.body), m.kind, _REQUEST | m.flags, number, 0)
            + m.body
            + bytes(-len(m.body) & 3)
            for number, m in enumerate(messages, first)
        )
        if len(data) > _BUFFER:
            # More than a socket usually may send at once; the second takes a privilege.
            for option in (_socket.SO_SNDBUF, _SNDBUFFORCE):
                with suppress(OSError):
                    self._socket.setsockopt(_socket.SOL_SOCKET, option, 2 * len(data))
        self._first = first
        self._socket.send(data)
        return first

    def _answers(self) -> Iterator[_Answer]:
        """The answers of the kernel to the last messages."""
        while True:
            data = self._socket.recv(_BUFFER)
            place = 0
            while place < len(data):
                length, kind, flags, number, _ = _HEADER.unpack_from(data, place)
                body = data[place + _HEADER.size : place + length]
                place += length + 3 & ~3
                if number >= self._first:  # and no late answer to something before
                    error = -unpack_from("=i", body)[0] if kind in (_ERROR, _DONE) else 0
                    yield _Answer(
                        number, body, error, kind in (_ERROR, _DONE), bool(flags & _INTERRUPTED)
                    )


@contextmanager
def connected(protocol: int) -> Iterator[Connection]:
    """A connection to a part of the kernel for as long as the block lasts. Raises OSError."""
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
    socket = _socket.socket(_socket.AF_NETLINK, kind, protocol)
    try:
        socket.settimeout(_SECONDS)
        socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        yield Connection(socket)
    finally:
        socket.close()
