"""Packets that reach the pod like those from outside, made inside it. Needs CAP_NET_RAW.

What a process sends to its own pod is not asked about nat again when it comes back over lo, since
connection tracking knows it from OUTPUT. Two ways lead to PREROUTING as a stranger. IPv4: a raw
socket with IP_NODEFRAG sends fragments, which connection tracking lets pass on the way out and
sees as a whole on the way in (net/netfilter/nf_conntrack_proto.c, ipv4_conntrack_local). IPv6: a
packet socket puts a frame on lo, past OUTPUT (man 7 packet).
"""

import socket
import struct
from contextlib import ExitStack, suppress

from ...rules.networks import Address
from .sockets import fresh_ports

SYN, RST, ACK = 0x02, 0x04, 0x10
_IP_NODEFRAG = 22  # linux/in.h
_ETHERTYPE_IPV6 = 0x86DD  # linux/if_ether.h
_FIRST_FRAGMENT = 24  # bytes: a TCP header with one option


class Forger:
    """Sends from an unused address to one of the pod, and receives the answers.

    What it opens is closed with `stack`. Raises OSError where the kernel refuses.
    """

    def __init__(self, stack: ExitStack, source: Address, destination: Address, mark: int) -> None:
        self._ends = source.packed + destination.packed
        self._destination = destination
        self._is_ipv4 = source.version == 4
        self._numbers = fresh_ports()
        self._heard: dict[int, int] = {}
        self._arrived = False
        family = socket.AF_INET if self._is_ipv4 else socket.AF_INET6
        self._answers = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
        stack.enter_context(self._answers).bind((str(source), 0))
        self._control = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self._control.bind((str(destination), 0))
        if self._is_ipv4:
            self._raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            stack.enter_context(self._raw).setsockopt(socket.IPPROTO_IP, _IP_NODEFRAG, 1)
        else:
            self._raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        if mark:
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)

    def segment(self, port: int, flags: int) -> int:
        """Send a TCP segment without a connection, and give the port that it came from.

        And a datagram, which no rule of ours keeps from its port: it shows that such packets
        arrive at all.
        """
        source_port = next(self._numbers)
        words = (source_port, port, 1, 1 if flags & ACK else 0, 6 << 4, flags, 1024, 0, 0)
        # The option tells the usual largest segment; the data make a second fragment.
        segment = struct.pack("!HHIIBBHHH", *words) + b"\x02\x04\x05\xb4" + bytes(8)
        self._send(socket.IPPROTO_TCP, segment, checksum_at=16)
        control_port = self._control.getsockname()[1]
        datagram = struct.pack("!HHHH", source_port, control_port, 32, 0) + bytes(24)
        self._send(socket.IPPROTO_UDP, datagram, checksum_at=6)
        return source_port

    def arrived(self) -> bool:
        """Whether a datagram has arrived."""
        with suppress(BlockingIOError):
            self._arrived = bool(self._control.recv(64, socket.MSG_DONTWAIT)) or self._arrived
        return self._arrived

    def answer(self, port: int) -> int | None:
        """The TCP flags of the last answer to a port, if any came."""
        with suppress(BlockingIOError):
            while True:
                packet = self._answers.recv(4096, socket.MSG_DONTWAIT)
                header = 4 * (packet[0] & 0x0F) if self._is_ipv4 else 0
                self._heard[struct.unpack_from("!H", packet, header + 2)[0]] = packet[header + 13]
        return self._heard.get(port)

    def _send(self, protocol: int, payload: bytes, checksum_at: int) -> None:
        # The pseudo header is in either family as long as its sum needs it to be: RFC 8200, 8.1.
        pseudo = self._ends + struct.pack("!II", len(payload), protocol)
        checksum = struct.pack("!H", _internet_checksum(pseudo + payload))
        payload = payload[:checksum_at] + checksum + payload[checksum_at + 2 :]
        if not self._is_ipv4:
            header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 1) + self._ends
            self._raw.sendto(header + payload, ("lo", _ETHERTYPE_IPV6, 0, 0, bytes(6)))
            return
        identity = next(self._numbers)
        pieces = (payload[:_FIRST_FRAGMENT], payload[_FIRST_FRAGMENT:])
        for offset, more, piece in zip((0, _FIRST_FRAGMENT // 8), (1, 0), pieces, strict=True):
            words = (0x45, 0, 20 + len(piece), identity, more << 13 | offset, 1, protocol, 0)
            header = struct.pack("!BBHHHBBH", *words) + self._ends
            self._raw.sendto(header + piece, (str(self._destination), 0))


def _internet_checksum(octets: bytes) -> int:
    """RFC 1071, of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
