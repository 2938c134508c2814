"""Sets of packets in closed form: the product of one set of numbers for each field.

All fields are numbers here. TCP is 6; the name of an interface is its 15 bytes read as one number,
so that a prefix is a range of numbers. Rules and promises only test whether single fields are in
given sets. `asked` returns these sets for a match; `asks_for` in packet_walk.py tests one packet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, assert_never

from ..frozen import Frozen
from ..rules.matches import (
    Comment,
    ConnectionMark,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Socket,
    Source,
    SourcePort,
    State,
    UnknownMatch,
)
from ..rules.model import Family
from ..rules.networks import Address, Network, read_address, read_network
from .number_sets import NOTHING, Numbers, from_networks, union
from .packet_walk import Direction, Packet

(
    PROTOCOL,
    SOURCE,
    SOURCE_PORT,
    DESTINATION,
    DESTINATION_PORT,
    INTERFACE,
    UID,
    GID,
    MARK,
    STATE,
    CONNECTION_MARK,
) = FIELDS = range(11)

Box: TypeAlias = tuple[Numbers, ...]
"""The packets whose fields are all in the set of that field. No set is empty."""

PROTOCOLS = {"tcp": 6, "udp": 17}
STATES = ("NEW", "RELATED", "ESTABLISHED", "INVALID")
NEW, RELATED, ESTABLISHED, INVALID = range(4)
UNTRACKED = 4
"""The state of packets after a rule with NOTRACK; none has it before."""
_STATES = (*STATES, "UNTRACKED")
_NAME_BYTES = 15

PORTS = Numbers.between(1, 65535)
IDS = Numbers.between(0, 2**32 - 2)
"""The largest number is no id: in system calls it means "no change"."""
MARKS = Numbers.between(0, 2**32 - 1)
ADDRESSES = {
    family: Numbers.between(0, 2**bits - 1) for family, bits in zip(Family, (32, 128), strict=True)
}

LOOPBACK: Mapping[Family, Network] = {
    Family.V4: read_network("127.0.0.0/8"),
    Family.V6: read_network("::1/128"),
}
LOOPBACK_ADDRESS: Mapping[Family, Address] = {
    Family.V4: read_address("127.0.0.1"),
    Family.V6: read_address("::1"),
}
# The addresses in examples, if the set allows them.
POD = {Family.V4: read_address("192.0.2.2"), Family.V6: read_address("2001:db8::2")}
CLIENT = {Family.V4: read_address("192.0.2.1"), Family.V6: read_address("2001:db8::1")}
SERVER = {Family.V4: read_address("198.51.100.7"), Family.V6: read_address("2001:db8:ffff::7")}


class Journey(Frozen):
    """The family and direction of packets; `local` if their destination is the pod itself."""

    family: Family
    direction: Direction
    local: bool

    @property
    def inside(self) -> bool:
        """Whether the packets never leave the pod."""
        return self.local and self.direction is Direction.OUT


def journeys(family: Family) -> Iterator[Journey]:
    """All journeys of a family."""
    for direction in Direction:
        for local in (False, True):
            yield Journey(family, direction, local)


def everything(journey: Journey) -> Box:
    """All TCP and UDP packets of a journey. Nothing else is ever captured.

    Loopback addresses and the interface lo occur only inside the pod, owners only on packets that
    the pod sends; other packets have owner 0, which no rule can test.
    """
    addresses = ADDRESSES[journey.family]
    loopback = Numbers.of(name_number("lo"))
    if not journey.inside:
        reserved = [LOOPBACK[journey.family]]
        if journey.family is Family.V6:
            reserved.append(Family.V6.passthrough)
        addresses -= from_networks(reserved)
    owners = IDS if journey.direction is Direction.OUT else Numbers.of(0)
    return (
        Numbers.of(*PROTOCOLS.values()),
        addresses,
        PORTS,
        addresses,
        PORTS,
        loopback if journey.inside else interfaces("+") - loopback,
        owners,
        owners,
        MARKS,
        Numbers.of(*range(len(STATES))),
        MARKS,
    )


# The conditions of rules and promises.


class Condition(NamedTuple):
    """A field is in a set."""

    field: int
    numbers: Numbers


NEVER = (Condition(PROTOCOL, NOTHING),)


def where(field: int, numbers: Numbers, negated: bool = False) -> tuple[Condition, ...]:
    """The condition that a field is in a set, or is not."""
    return (Condition(field, ~numbers if negated else numbers),)


def asked(match: Match, sends: bool) -> tuple[Condition, ...] | None:
    """The conditions of a match in the hook OUTPUT (`sends`), or in another hook; None if they are
    not known here."""
    match match:
        case Source(network, negated):
            return where(SOURCE, from_networks([network]), negated)
        case Destination(network, negated):
            return where(DESTINATION, from_networks([network]), negated)
        case InInterface(name, negated):
            return where(INTERFACE, NOTHING if sends else interfaces(name), negated)
        case OutInterface(name, negated):
            return where(INTERFACE, interfaces(name) if sends else NOTHING, negated)
        case Protocol(name, negated):
            return where(PROTOCOL, protocol(name), negated)
        case DestinationPort(name, port, negated):
            return (
                *where(PROTOCOL, protocol(name)),
                *where(DESTINATION_PORT, Numbers.of(port), negated),
            )
        case SourcePort(name, port, negated):
            return (
                *where(PROTOCOL, protocol(name)),
                *where(SOURCE_PORT, Numbers.of(port), negated),
            )
        case DestinationPorts(ports, negated):
            return where(DESTINATION_PORT, Numbers.of(*ports), negated)
        case OwnerUid(uid, negated):
            return where(UID, Numbers.of(uid), negated) if sends else NEVER
        case OwnerGid(gid, negated):
            return where(GID, Numbers.of(gid), negated) if sends else NEVER
        case Mark(value, negated):
            return where(MARK, Numbers.of(value), negated)
        case ConnectionMark(value, negated):
            return where(CONNECTION_MARK, Numbers.of(value), negated)
        case Socket():
            return where(STATE, Numbers.of(ESTABLISHED))
        case State(states) | ConntrackState(states):
            return where(STATE, Numbers.of(*(_STATES.index(s) for s in states if s in _STATES)))
        case DestinationSet(ranges=ranges):
            return where(DESTINATION, Numbers.joined(ranges))
        case Comment():
            return ()
        case UnknownMatch():
            return None
        case _:
            assert_never(match)


def protocol(name: str) -> Numbers:
    """A protocol by the name that iptables prints; empty if it is neither TCP nor UDP."""
    return Numbers.of(PROTOCOLS[name]) if name in PROTOCOLS else NOTHING


def name_number(name: str) -> int:
    """The name of an interface as a number."""
    return int.from_bytes(os.fsencode(name).ljust(_NAME_BYTES, b"\0"))


def interfaces(pattern: str) -> Numbers:
    """The interfaces that a name in a rule matches; a trailing + makes it a prefix."""
    name = os.fsencode(pattern)
    if not name.endswith(b"+"):
        return Numbers.of(name_number(pattern))
    prefix = name[:-1]
    ends = (int.from_bytes(prefix.ljust(_NAME_BYTES, filler)) for filler in (b"\0", b"\xff"))
    return Numbers.between(*ends)


# Boxes.


def with_field(box: Box, field: int, numbers: Numbers) -> Box:
    """The box with another set for one field."""
    return (*box[:field], numbers, *box[field + 1 :])


def split(box: Box, conditions: Iterable[Condition]) -> tuple[Box | None, list[Box]]:
    """The part of a box that meets all conditions, and the rest as disjoint boxes."""
    rest = []
    inside = box
    for field, numbers in conditions:
        met = inside[field] & numbers
        if not met:
            return None, [box]
        if met is not inside[field]:
            rest.append(with_field(inside, field, inside[field] - numbers))
            inside = with_field(inside, field, met)
    return inside, rest


def common(one: Box, other: Box) -> Box | None:
    """The packets in both boxes."""
    # Addresses come last, because their sets may be long.
    if not all(one[field].meets(other[field]) for field in _SHORT_FIRST):
        return None
    return tuple(a & b for a, b in zip(one, other, strict=True))


_SHORT_FIRST = (*(f for f in FIELDS if f not in (SOURCE, DESTINATION)), SOURCE, DESTINATION)


def without(boxes: Iterable[Box], taken: Iterable[Box]) -> list[Box]:
    """The packets of some boxes that are in none of the `taken` ones."""
    left = list(boxes)
    for each in taken:
        conditions = [Condition(field, each[field]) for field in FIELDS]
        left = [
            part
            for box in left
            for part in (split(box, conditions)[1] if common(box, each) else [box])
        ]
    return left


def merged(boxes: Sequence[Box]) -> list[Box]:
    """The same packets in fewer boxes: boxes that differ in only one field are joined."""
    left = list(boxes)
    before = 0
    while len(left) > 1 and len(left) != before:
        before = len(left)
        for field in FIELDS:
            if any(box[field] is not left[0][field] for box in left):
                left = _merged_by(field, left)
    return left


def _merged_by(field: int, boxes: Sequence[Box]) -> list[Box]:
    groups: dict[Box, list[Box]] = {}
    for box in boxes:
        groups.setdefault(box[:field] + box[field + 1 :], []).append(box)
    if len(groups) == len(boxes):
        return list(boxes)
    return [
        with_field(group[0], field, union(box[field] for box in group))
        if len(group) > 1
        else group[0]
        for group in groups.values()
    ]


# Single packets.


def point(packet: Packet) -> tuple[int, ...]:
    """The fields of a packet as numbers."""
    return (
        PROTOCOLS[packet.protocol],
        int(packet.source),
        packet.source_port,
        int(packet.destination),
        packet.destination_port,
        name_number(packet.interface),
        packet.uid,
        packet.gid,
        packet.mark,
        STATES.index(packet.state),
        packet.connection_mark,
    )


def meets(packet: Packet, conditions: Iterable[Condition]) -> bool:
    """Whether a packet meets all conditions."""
    numbers = point(packet)
    return all(numbers[field] in wanted for field, wanted in conditions)


def example(journey: Journey, box: Box) -> Packet | None:
    """A readable packet of the box; None if no valid name of an interface is in it."""
    family, out = journey.family, journey.direction is Direction.OUT
    interface = interface_name(box[INTERFACE])
    if interface is None:
        return None
    here, sender = (POD if journey.local else SERVER)[family], (POD if out else CLIENT)[family]
    return Packet(
        journey.direction,
        "tcp" if PROTOCOLS["tcp"] in box[PROTOCOL] else "udp",
        _an_address(box[SOURCE], sender),
        _a_number(box[SOURCE_PORT], 40000),
        _an_address(box[DESTINATION], here),
        _a_number(box[DESTINATION_PORT], 80),
        interface,
        _a_number(box[UID], 1000),
        _a_number(box[GID], 1000),
        _a_number(box[MARK], 0),
        STATES[_a_number(box[STATE], NEW)],
        _a_number(box[CONNECTION_MARK], 0),
    )


def _a_number(numbers: Numbers, usual: int) -> int:
    if usual in numbers:
        return usual
    unreserved = numbers & Numbers.between(1024, 2**32)
    return (unreserved or numbers).first


def _an_address(numbers: Numbers, usual: Address) -> Address:
    """The usual address, or else the second one of the first range, which reads best."""
    number = int(usual)
    if number not in numbers:
        first, last = next(iter(numbers))
        number = min(first + 1, last)
    return Address(number.to_bytes(len(usual.packed)))


def interface_name(names: Numbers) -> str | None:
    """A valid name of an interface in the set: lo or eth0 if possible."""
    for usual in ("lo", "eth0", "eth1", "net0"):
        if name_number(usual) in names:
            return usual
    for start, end in names:
        for name in _names_from(start.to_bytes(_NAME_BYTES)):
            if start <= int.from_bytes(name.ljust(_NAME_BYTES, b"\0")) <= end:
                return os.fsdecode(name)
    return None


def _names_from(start: bytes) -> Iterator[bytes]:
    """Candidates for names from `start` on, readable ones first."""
    name, _, behind = start.partition(b"\0")
    is_name = bool(name) and not behind.strip(b"\0")
    if is_name and os.fsdecode(name).isprintable():
        yield name
    for length in range(len(name), -1, -1):
        for character in b"0123456789abcdefghijklmnopqrstuvwxyz\x01\x7f":
            yield name[:length] + bytes([character])
    if is_name:
        yield name
