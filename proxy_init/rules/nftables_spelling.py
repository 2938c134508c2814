"""How the program nft spells what a rule tests and does: one table, to print and to parse.

The spelling follows nft 1.0 (src/rule.c, src/expression.c).
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop  # the C part of socket, a tenth of its load time

from ..frozen import Frozen
from .matches import (
    ConnectionMark,
    Destination,
    DestinationPort,
    InInterface,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
    SourcePort,
)
from .networks import Network, read_network
from .targets import (
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    RestoreMark,
    SaveMark,
    SetMark,
    Tproxy,
    Verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Spelling(Frozen):
    """The words of a match before its value, or of a target around it, where `{}` stands for it;
    and how the value is printed and parsed. `read` raises ValueError."""

    words: str
    write: Callable[[Any], str] = str
    read: Callable[[str], Any] = str


def _number(text: str) -> int:
    return int(text, 0)


def _mark(value: int) -> str:
    return f"{value:#010x}"


def _interface(name: str) -> str:
    if name.endswith("+"):
        return f'"{name[:-1]}*"'
    return f'"{name[:-1]}\\*"' if name.endswith("*") else f'"{name}"'


def _read_interface(text: str) -> str:
    name = text.removeprefix('"').removesuffix('"')
    if name.endswith("\\*"):
        return f"{name[:-2]}*"
    if name.endswith("+"):
        raise ValueError("in the model, a final + makes a prefix")
    return f"{name[:-1]}+" if name.endswith("*") else name


def _protocol(text: str) -> str:
    return PROTOCOLS.get(text, text)


PROTOCOLS = {"icmpv6": "ipv6-icmp", "6": "tcp", "17": "udp"}
"""Other words of nft for protocols, and the model's."""


def address(network: Network) -> str:
    """A network as text; a single address without its prefix length."""
    if network.prefixlen == network.max_prefixlen:
        family = AF_INET if network.version == 4 else AF_INET6
        return inet_ntop(family, network.network_address.packed)
    return str(network)


MATCHES: Mapping[tuple[type[Any], object], Spelling] = {
    (Source, 4): Spelling("ip saddr", address, read_network),
    (Source, 6): Spelling("ip6 saddr", address, read_network),
    (Destination, 4): Spelling("ip daddr", address, read_network),
    (Destination, 6): Spelling("ip6 daddr", address, read_network),
    (InInterface, None): Spelling("iifname", _interface, _read_interface),
    (OutInterface, None): Spelling("oifname", _interface, _read_interface),
    (Protocol, None): Spelling("meta l4proto", str, _protocol),
    (Mark, None): Spelling("meta mark", _mark, _number),
    (ConnectionMark, None): Spelling("ct mark", _mark, _number),
    (OwnerUid, None): Spelling("meta skuid", str, int),
    (OwnerGid, None): Spelling("meta skgid", str, int),
    **{
        (kind, protocol): Spelling(f"{protocol} {field}", str, int)
        for protocol in ("tcp", "udp", "sctp", "dccp", "udplite")
        for kind, field in ((SourcePort, "sport"), (DestinationPort, "dport"))
    },
}
"""By the type of a match, and the version of its addresses or the protocol of its port."""

TARGETS: Mapping[type[Any], Spelling] = {
    Verdict: Spelling("{}", str.lower, str.upper),
    Jump: Spelling("jump {}"),
    Goto: Spelling("goto {}"),
    Redirect: Spelling("redirect to :{}", str, int),
    SaveMark: Spelling("ct mark set meta mark"),
    RestoreMark: Spelling("meta mark set ct mark"),
    SetMark: Spelling("meta mark set {}", _mark, _number),
    ConntrackZone: Spelling("ct zone set {}", str, int),
    Tproxy: Spelling("tproxy to :{}", str, int),
}
