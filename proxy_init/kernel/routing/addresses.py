"""The addresses of this process's network namespace. Changes nothing."""

from __future__ import annotations

import _socket  # what socket is made of, which takes 4 ms to load

from ...errors import ApplyFailed, NodeCannot
from ...light import os, suppress
from ...rules.networks import Address, read_address
from ..system.proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_IPV6_ADDRESSES = "/proc/self/net/if_inet6"


def addresses() -> tuple[Address, ...]:
    """All of this namespace's addresses, IPv4 first, as the kernel lists them.

    Raises ApplyFailed.
    """
    from .rtnetlink import connected

    try:
        with connected() as netlink:
            return tuple(
                Address(message.get("local") or message["address"])
                for family in (_socket.AF_INET, _socket.AF_INET6)
                for message in netlink.get("address", family)
            )
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ApplyFailed(f"this namespace's addresses can't be read: {reason}") from error


def global_addresses(ipv4: bool = True) -> tuple[Address, ...]:
    """This namespace's addresses of more than link scope, IPv4 first, as the kernel lists them.

    Where there is no IPv6 address, nothing depends on the others, and none is given. Without
    `ipv4`, those of IPv6 may be all: finding others takes 10 ms.
    Our own ::6 on lo does not count: it is there for the proxy, and no way into the pod.
    Raises ApplyFailed.
    """
    with suppress(OSError, NodeCannot):
        there = tuple(address for address, _ in ipv6_addresses() if is_global(address))
        if not (there and ipv4):
            return there
    return tuple(address for address in addresses() if is_global(address))


def ipv6_addresses() -> Iterator[tuple[Address, str]]:
    """This namespace's IPv6 addresses, each with its interface, man 5 proc_net.

    Raises OSError, and NodeCannot without /proc.
    """
    with suppress(FileNotFoundError):  # the kernel has no IPv6
        for line in read(_IPV6_ADDRESSES).splitlines():
            words = line.split()
            yield Address(bytes.fromhex(words[0])), words[-1]


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all. Raises NodeCannot without /proc."""
    try:
        read(_IPV6_ADDRESSES)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def is_global(address: Address) -> bool:
    """Whether others can reach the pod at this address."""
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address == read_address("::6")
    )
