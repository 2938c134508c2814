"""The bytes of x_tables that iptables-nft leaves in rules of nf_tables, as matches and targets.

Only what rule sets like ours are made of is read; everything else is kept as unknown, bytes and
all. Sources: linux/netfilter/xt_*.h, linux/netfilter/nf_nat.h, linux/netfilter_ipv6/ip6t_REJECT.h.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop
from struct import error as too_short
from struct import unpack_from

from ...rules.matches import (
    Comment,
    ConnectionMark,
    ConntrackState,
    DestinationPort,
    DestinationPorts,
    ExtensionMatch,
    Mark,
    OwnerGid,
    OwnerUid,
    Socket,
    SourcePort,
    State,
    UnknownMatch,
)
from ...rules.model import Family
from ...rules.options import Option
from ...rules.targets import (
    ConntrackZone,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Target,
    Tproxy,
    UnknownTarget,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EVERY_BIT = 0xFFFFFFFF
_STATES = {"INVALID": 1, "NEW": 8, "RELATED": 4, "ESTABLISHED": 2}
_STATE_ASKED, _STATE_ALIAS = 0x0001, 0x2000
_PORT_GIVEN = 2  # NF_NAT_RANGE_PROTO_SPECIFIED
_PORT_UNREACHABLE = 4  # IP6T_ICMP6_PORT_UNREACH


def match_of(name: str, revision: int, info: bytes) -> ExtensionMatch:
    """The match that an expression `match` holds."""
    try:
        found = _MATCHES.get((name, revision), _no_match)(info)
    except too_short:
        found = None
    return found or UnknownMatch(name, _unknown(revision, info))


def target_of(name: str, revision: int, info: bytes, family: Family) -> Target:
    """The target that an expression `target` holds in a table of the family."""
    try:
        found = _TARGETS.get((name, revision), _no_target)(info, family)
    except too_short:
        found = None
    return found or UnknownTarget(name, _unknown(revision, info))


def _unknown(revision: int, info: bytes) -> tuple[Option, ...]:
    return (Option("revision", str(revision)), Option("bytes", info.hex()))


def _no_match(_: bytes) -> None:
    return None


def _no_target(_: bytes, __: Family) -> None:
    return None


def _owner(info: bytes) -> OwnerUid | OwnerGid | None:
    uid, last_uid, gid, last_gid, asked, inverted = unpack_from("=4I2B", info)
    if asked == 1 and uid == last_uid:
        return OwnerUid(uid, inverted == 1)
    if asked == 2 and gid == last_gid:
        return OwnerGid(gid, inverted == 2)
    return None


def _ports(protocol: str, inverted_at: int) -> Callable[[bytes], ExtensionMatch | None]:
    """struct xt_tcp or xt_udp; between the ports and what is inverted stand a TCP's flags."""

    def read(info: bytes) -> ExtensionMatch | None:
        source, last_source, destination, last_destination = unpack_from("=4H", info)
        (inverted,) = unpack_from("=B", info, inverted_at)
        if any(info[8:inverted_at]):
            return None
        every = (0, 0xFFFF)
        if (
            (source, last_source) == every
            and destination == last_destination
            and inverted in (0, 2)
        ):
            return DestinationPort(protocol, destination, inverted == 2)
        if (
            (destination, last_destination) == every
            and source == last_source
            and inverted in (0, 1)
        ):
            return SourcePort(protocol, source, inverted == 1)
        return None

    return read


def _multiport(info: bytes) -> DestinationPorts | None:
    kind, count, *ports = unpack_from("=2B15H", info)
    *ranges, inverted = unpack_from("=16B", info, 32)
    if kind != 1 or any(ranges):  # XT_MULTIPORT_DESTINATION
        return None
    return DestinationPorts(tuple(ports[:count]), bool(inverted))


def _mark(info: bytes) -> Mark | None:
    value, mask, inverted = unpack_from("=2IB", info)
    return Mark(value, bool(inverted)) if mask == _EVERY_BIT else None


def _connection_mark(info: bytes) -> ConnectionMark | None:
    value, mask, inverted = unpack_from("=2IB", info)
    return ConnectionMark(value, bool(inverted)) if mask == _EVERY_BIT else None


def _state(info: bytes) -> State | ConntrackState | None:
    # Before them stand four addresses and masks, a time and five numbers of a protocol and ports.
    asked, inverted, bits = unpack_from("=3H", info, 146)
    names = tuple(name for name, bit in _STATES.items() if bit & bits)
    if inverted or bits & ~sum(_STATES.values()) or asked & ~_STATE_ALIAS != _STATE_ASKED:
        return None
    return State(names) if asked & _STATE_ALIAS else ConntrackState(names)


def _socket(info: bytes) -> Socket | None:
    return None if any(info[:1]) else Socket()


def _comment(info: bytes) -> Comment:
    return Comment(info.partition(b"\0")[0].decode("utf-8", "surrogateescape"))


def _redirect(info: bytes, family: Family) -> Redirect | None:
    # Before IPv4's range stands how many there are.
    start, address = (4, 4) if family is Family.V4 else (0, 16)
    (flags,) = unpack_from("=I", info, start)
    first, last = unpack_from("!2H", info, start + 4 + 2 * address)
    return Redirect(first) if flags == _PORT_GIVEN and first == last else None


def _set_mark(info: bytes, _: Family) -> SetMark | None:
    value, mask = unpack_from("=2I", info)
    return SetMark(value) if mask == _EVERY_BIT else None


def _connection_mark_changed(mode_at: int) -> Callable[[bytes, Family], Target | None]:
    """struct xt_connmark_tginfo1, or 2, which has a shift before the mode."""

    def read(info: bytes, _: Family) -> Target | None:
        _, connection_mask, packet_mask = unpack_from("=3I", info)
        (mode,) = unpack_from("=B", info, mode_at)
        if (connection_mask, packet_mask) != (_EVERY_BIT,) * 2 or any(info[12:mode_at]):
            return None
        kinds: dict[int, Target] = {1: SaveMark(), 2: RestoreMark()}
        return kinds.get(mode)

    return read


def _tproxy(info: bytes, family: Family) -> Tproxy | None:
    mask, mark = unpack_from("=2I", info)
    (port,) = unpack_from("!H", info, 24)
    size, number = (4, AF_INET) if family is Family.V4 else (16, AF_INET6)
    return Tproxy(port, mark, inet_ntop(number, info[8 : 8 + size])) if mask == _EVERY_BIT else None


def _zone(info: bytes, _: Family) -> ConntrackZone | None:
    flags, zone = unpack_from("=2H", info)
    # Behind them: events, and the names of a helper and of a timeout.
    return None if flags or any(info[4:28]) else ConntrackZone(zone)


def _reject(info: bytes, family: Family) -> Reject | None:
    (kind,) = unpack_from("=I", info)
    is_ours = family is Family.V6 and kind == _PORT_UNREACHABLE
    return Reject("icmp6-port-unreachable") if is_ours else None


_MATCHES: Mapping[tuple[str, int], Callable[[bytes], ExtensionMatch | None]] = {
    ("owner", 1): _owner,
    ("tcp", 0): _ports("tcp", 11),
    ("udp", 0): _ports("udp", 8),
    ("multiport", 1): _multiport,
    ("mark", 1): _mark,
    ("connmark", 1): _connection_mark,
    ("conntrack", 3): _state,
    ("socket", 1): _socket,
    ("socket", 2): _socket,
    ("socket", 3): _socket,
    ("comment", 0): _comment,
}
_TARGETS: Mapping[tuple[str, int], Callable[[bytes, Family], Target | None]] = {
    ("REDIRECT", 0): _redirect,
    ("MARK", 2): _set_mark,
    ("CONNMARK", 1): _connection_mark_changed(12),
    ("CONNMARK", 2): _connection_mark_changed(14),
    ("TPROXY", 1): _tproxy,
    ("CT", 1): _zone,
    ("CT", 2): _zone,
    ("REJECT", 0): _reject,
}
