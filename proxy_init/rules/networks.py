"""Addresses and networks of both families.

`ipaddress` takes 0.8 ms to load and 15 µs per network, and a plain call would use a tenth of it.
The C library parses and prints the text, as in the programs of iptables.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # loading socket takes 4 ms

from ..frozen import Frozen

_MAPPED = bytes(10) + b"\xff\xff"
"""The first bytes of IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2)."""


class Address(Frozen):
    """An address in network byte order; IPv4 if `packed` has 4 bytes, IPv6 if it has 16."""

    packed: bytes

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.packed) == 4 else 6

    @property
    def max_prefixlen(self) -> int:
        """The prefix length of a single address: 32 or 128."""
        return 8 * len(self.packed)

    @property
    def ipv4_mapped(self) -> Address | None:
        """The IPv4 address in an IPv6 address of ::ffff:0:0/96; None for others."""
        is_mapped = len(self.packed) == 16 and self.packed.startswith(_MAPPED)
        return Address(self.packed[12:]) if is_mapped else None

    @property
    def is_loopback(self) -> bool:
        """Whether it is in 127.0.0.0/8, or ::1."""
        return self.packed[0] == 127 if self.version == 4 else int(self) == 1

    @property
    def is_link_local(self) -> bool:
        """Whether it is in 169.254.0.0/16 or fe80::/10."""
        if self.version == 4:
            return self.packed.startswith(b"\xa9\xfe")
        return self.packed[0] == 0xFE and self.packed[1] & 0xC0 == 0x80

    @property
    def is_multicast(self) -> bool:
        """Whether it is in 224.0.0.0/4 or ff00::/8."""
        return self.packed[0] >> 4 == 14 if self.version == 4 else self.packed[0] == 0xFF

    @property
    def is_unspecified(self) -> bool:
        """Whether it is 0.0.0.0 or ::."""
        return not any(self.packed)

    def __int__(self) -> int:
        return int.from_bytes(self.packed)

    def __str__(self) -> str:
        return inet_ntop(AF_INET if len(self.packed) == 4 else AF_INET6, self.packed)


class Network(Frozen):
    """All addresses with the same first `prefixlen` bits as `network_address`; its other bits are
    0."""

    network_address: Address
    prefixlen: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network_address.version

    @property
    def max_prefixlen(self) -> int:
        """The prefix length of a single address: 32 or 128."""
        return self.network_address.max_prefixlen

    @property
    def num_addresses(self) -> int:
        """The number of its addresses."""
        return 1 << self.max_prefixlen - self.prefixlen

    @property
    def netmask(self) -> Address:
        """The netmask: the first `prefixlen` bits are 1."""
        bits = self.max_prefixlen
        hosts = bits - self.prefixlen
        return Address(((1 << bits) - 1 >> hosts << hosts).to_bytes(bits // 8))

    @property
    def is_loopback(self) -> bool:
        """Whether each of its addresses is a loopback address."""
        longest = 8 if self.version == 4 else 128
        return self.prefixlen >= longest and self.network_address.is_loopback

    def __contains__(self, address: Address) -> bool:
        hosts = self.max_prefixlen - self.prefixlen
        same = len(address.packed) == len(self.network_address.packed)
        return same and (int(address) ^ int(self.network_address)) >> hosts == 0

    def __getitem__(self, index: int) -> Address:
        """The address at `index`; a negative one counts from the end. Raises IndexError."""
        count = self.num_addresses
        if not -count <= index < count:
            raise IndexError(f"{self} has {count} addresses")
        number = int(self.network_address) + index % count
        return Address(number.to_bytes(self.max_prefixlen // 8))

    def __str__(self) -> str:
        return f"{self.network_address}/{self.prefixlen}"


def read_address(text: str) -> Address:
    """Parse an address without a zone. Raises ValueError."""
    try:
        return Address(inet_pton(AF_INET6 if ":" in text else AF_INET, text))
    except OSError:
        raise ValueError(f"{text!r} is not an address") from None


def read_network(text: str) -> Network:
    """Parse ADDRESS/LENGTH or a single address. Raises ValueError, also if host bits are set."""
    spelled, slash, length = text.partition("/")
    address = read_address(spelled)
    if not slash:
        return network_around(address)
    if not (length.isascii() and length.isdigit() and int(length) <= address.max_prefixlen):
        raise ValueError(f"{text!r} has no prefix length")
    network = network_around(address, int(length))
    if network.network_address != address:
        raise ValueError(f"{text!r} has host bits")
    return network


def network_around(address: Address, prefixlen: int | None = None) -> Network:
    """The network with this prefix length that contains an address; by default only the address."""
    bits = address.max_prefixlen
    hosts = 0 if prefixlen is None else bits - prefixlen
    if hosts:
        address = Address((int(address) >> hosts << hosts).to_bytes(bits // 8))
    return Network(address, bits - hosts)
