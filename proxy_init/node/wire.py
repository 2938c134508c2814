"""Messages on the runtime's socket: ttrpc in the frames of NRI's multiplexer.

The socket carries two connections, one for the calls of each side, in frames: the connection's
number and a length, then bytes. The bytes of a connection are ttrpc: a length, the number of the
call, the kind of message and flags, then the message. All numbers are big endian. Sources:
pkg/net/multiplex in containerd/nri, PROTOCOL.md in containerd/ttrpc.
"""

from collections.abc import Iterator
from struct import Struct

from ..errors import ProxyInitError
from ..frozen import Frozen

CALLS_TO_US = 1
"""The connection on which the runtime calls us; we answer on the same."""
CALLS_TO_RUNTIME = 2
"""The connection on which we call the runtime."""
REQUEST, RESPONSE = 1, 2
MOST_BYTES = 4 << 20
"""Of a message, in ttrpc."""

_FRAME = Struct(">II")
_HEADER = Struct(">IIBB")


class BadMessage(ProxyInitError):
    """The other side does not speak the protocol."""


class Message(Frozen):
    """A call or its answer: on which connection, the number of the call, and what it says."""

    connection: int
    call: int
    kind: int
    payload: bytes


def encode(message: Message) -> bytes:
    """The bytes of a message.

    The runtime reads a frame at once, first for the header and then for what follows it, so each
    has a frame of its own.
    """
    header = _HEADER.pack(len(message.payload), message.call, message.kind, 0)
    parts = (header, message.payload) if message.payload else (header,)
    return b"".join(_FRAME.pack(message.connection, len(part)) + part for part in parts)


class Decoder:
    """Puts messages together from bytes as they arrive."""

    def __init__(self) -> None:
        self._frames = bytearray()
        self._streams = {CALLS_TO_US: bytearray(), CALLS_TO_RUNTIME: bytearray()}

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with these bytes. Raises BadMessage."""
        self._frames += data
        while len(self._frames) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._frames)
            if connection not in self._streams or length > _HEADER.size + MOST_BYTES:
                raise BadMessage(f"the runtime sent no frame of NRI: {self._frames[:8].hex()}")
            end = _FRAME.size + length
            if len(self._frames) < end:
                return
            self._streams[connection] += self._frames[_FRAME.size : end]
            del self._frames[:end]
            yield from self._messages(connection)

    def _messages(self, connection: int) -> Iterator[Message]:
        stream = self._streams[connection]
        while len(stream) >= _HEADER.size:
            length, call, kind, _ = _HEADER.unpack_from(stream)
            if length > MOST_BYTES:
                raise BadMessage(f"the runtime sent a message of {length} bytes")
            end = _HEADER.size + length
            if len(stream) < end:
                return
            payload = bytes(stream[_HEADER.size : end])
            del stream[:end]
            yield Message(connection, call, kind, payload)
