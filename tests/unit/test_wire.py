"""The frames of the runtime's socket, and messages of whatever bytes."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_init.node import wire
from proxy_init.node.wire import BadMessage, Decoder, Message, encode
from tests.unit.fakes import bounded

messages = st.builds(
    Message,
    st.sampled_from([wire.CALLS_TO_US, wire.CALLS_TO_RUNTIME]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([wire.REQUEST, wire.RESPONSE]),
    st.binary(max_size=300),
)


def decoded(*parts: bytes) -> list[Message]:
    decoder = Decoder()
    return [message for part in parts for message in decoder.feed(part)]


@bounded
@given(st.lists(messages, max_size=5), st.integers(1, 40))
def test_what_is_encoded_is_decoded_however_it_is_cut(sent: list[Message], size: int) -> None:
    data = b"".join(map(encode, sent))
    assert decoded(*(data[at : at + size] for at in range(0, len(data), size))) == sent


@bounded
@given(st.lists(st.tuples(messages, st.integers(1, 50)), max_size=5))
def test_a_message_may_lie_in_many_frames_and_a_frame_hold_many_messages(
    sent: list[tuple[Message, int]],
) -> None:
    frames = b""
    for message, size in sent:
        plain = struct.pack(">IIBB", len(message.payload), message.call, message.kind, 0)
        plain += message.payload
        for at in range(0, len(plain), size):
            part = plain[at : at + size]
            frames += struct.pack(">II", message.connection, len(part)) + part
    assert decoded(frames) == [message for message, _ in sent]


def test_header_and_payload_have_frames_of_their_own() -> None:
    """Go's reader drops what a frame holds beyond what it asks for."""
    data = encode(Message(2, 7, wire.REQUEST, b"abc"))
    assert struct.unpack(">IIIIBBII", data[:26]) == (2, 10, 3, 7, 1, 0, 2, 3)
    assert data[26:] == b"abc"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 0, 10),
        struct.pack(">II", 3, 10),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">II", 1, 11 + (4 << 20)),
        struct.pack(">II", 1, 10) + struct.pack(">IIBB", (4 << 20) + 1, 1, 1, 0),
    ],
    ids=["connection 0", "connection 3", "HTTP", "a long frame", "a long message"],
)
def test_what_is_no_frame_ends_it_at_once(data: bytes) -> None:
    with pytest.raises(BadMessage, match="the runtime sent"):
        decoded(data)


@bounded
@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    with suppress(BadMessage):
        decoded(data)
