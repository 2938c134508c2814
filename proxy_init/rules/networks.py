"""The types of networks and addresses in rules, and their text."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop  # the C part of socket, a tenth of its load time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def network_text(network: Network) -> str:
    """ADDRESS/LENGTH, spelled like the C library does: ::127.0.0.53 keeps its dotted tail."""
    family = AF_INET if network.version == 4 else AF_INET6
    return f"{inet_ntop(family, network.network_address.packed)}/{network.prefixlen}"
