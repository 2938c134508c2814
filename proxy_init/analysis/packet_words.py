"""Describes sets of packets in words, and as values for JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice

from ..rules.model import Family
from .number_sets import Numbers
from .packet_sets import (
    CONNECTION_MARK,
    DESTINATION,
    DESTINATION_PORT,
    FIELDS,
    GID,
    INTERFACE,
    MARK,
    NEW,
    PROTOCOL,
    PROTOCOLS,
    SOURCE,
    SOURCE_PORT,
    STATE,
    STATES,
    UID,
    Box,
    Journey,
    everything,
)
from .packet_walk import Direction

_MOST = 4
"""The most items of a list in a sentence."""

_NAMES = {
    PROTOCOL: "protocols",
    SOURCE: "sources",
    SOURCE_PORT: "source_ports",
    DESTINATION: "destinations",
    DESTINATION_PORT: "ports",
    INTERFACE: "interfaces",
    UID: "uids",
    GID: "gids",
    MARK: "marks",
    STATE: "states",
    CONNECTION_MARK: "connection_marks",
}


def words(journey: Journey, box: Box) -> str:
    """A set of packets in one phrase. Fields that do not matter are left out."""
    return ", ".join(_phrases(journey, box))


def values(journey: Journey, box: Box) -> dict[str, object]:
    """A set of packets by field, without the fields that do not matter."""
    whole = everything(journey)
    fields = {
        _NAMES[field]: list(_items(field, journey.family, box[field]))
        for field in FIELDS
        if box[field] != whole[field]
    }
    return {
        "family": journey.family.title,
        "direction": journey.direction.value,
        "to_the_pod": journey.local,
        **fields,
    }


def _phrases(journey: Journey, box: Box) -> Iterator[str]:
    whole = everything(journey)

    def one_of(field: int, these: str, all_but: str, anything: str = "") -> str:
        """The field in words, after `these` or `all_but`; `anything` if it does not matter."""
        if box[field] == whole[field]:
            return anything
        others = whole[field] - box[field]
        if len(others) < len(box[field]):
            return f"{all_but} {_listed(field, journey.family, others)}"
        return f"{these} {_listed(field, journey.family, box[field])}"

    protocols = _listed(PROTOCOL, journey.family, box[PROTOCOL])
    out = journey.direction is Direction.OUT
    anywhere = "to any address of the pod" if journey.local else "to any address outside the pod"
    these = "to addresses of the pod in" if journey.local else "to"
    yield f"{journey.family.title} {protocols} " + one_of(
        DESTINATION, these, f"{anywhere} but", anywhere
    )
    yield one_of(DESTINATION_PORT, "port", "any port but", "any port")
    if out:
        yield _sender(box[UID], whole[UID], box[GID], whole[GID])
    else:
        yield "from outside"
    by = "by" if out else "arriving by"
    others = [
        one_of(INTERFACE, by, f"{by} any interface but"),
        one_of(SOURCE, "source address", "any source address but"),
        one_of(SOURCE_PORT, "source port", "any source port but"),
        "unmarked" if box[MARK] == Numbers.of(0) else one_of(MARK, "mark", "any mark but"),
    ]
    if box[STATE] != Numbers.of(NEW):
        others += [
            one_of(STATE, "state", "any state but"),
            one_of(CONNECTION_MARK, "connection mark", "any connection mark but"),
        ]
    yield from filter(None, others)


def _sender(uids: Numbers, all_uids: Numbers, gids: Numbers, all_gids: Numbers) -> str:
    only, but = [], []
    for name, some, every in (("uid", uids, all_uids), ("gid", gids, all_gids)):
        others = every - some
        if others and len(others) < len(some):
            but.append(f"{name} {_listed(UID, Family.V4, others)}")
        elif others:
            only.append(f"{name} {_listed(UID, Family.V4, some)}")
    if only:
        return f"from {' and '.join(only)}" + (f" but not {' or '.join(but)}" if but else "")
    return f"from anyone but {' or '.join(but)}" if but else "from anyone"


def _listed(field: int, family: Family, numbers: Numbers) -> str:
    items = list(islice(_items(field, family, numbers), _MOST + 1))
    if len(items) > _MOST:
        items[_MOST] = f"others ({len(numbers):,} ranges in all)"
    also = "and" if field == PROTOCOL else "or"
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {also} {items[-1]}"


def _items(field: int, family: Family, numbers: Numbers) -> Iterator[str]:
    """The members of a set, in as few items as possible."""
    if field in (SOURCE, DESTINATION):
        yield from _networks(family, numbers)
    elif field == INTERFACE:
        yield from (_interfaces(start, end) for start, end in numbers)
    elif field in (PROTOCOL, STATE):
        names = {number: name.upper() for name, number in PROTOCOLS.items()}
        if field == STATE:
            names = dict(enumerate(STATES))
        yield from (name for number, name in names.items() if number in numbers)
    else:
        say: Callable[[int], str] = hex if field in (MARK, CONNECTION_MARK) else str
        for start, end in numbers:
            yield say(start) if start == end else f"{say(start)}-{say(end)}"


def _networks(family: Family, numbers: Numbers) -> Iterator[str]:
    from netaddr import IPAddress, iprange_to_cidrs

    for start, end in numbers:
        ends = (IPAddress(number, family.value) for number in (start, end))
        yield from map(str, iprange_to_cidrs(*ends))


def _interfaces(start: int, end: int) -> str:
    """A name, or a prefix with + for a range, as in rules."""
    first, last = start.to_bytes(15), end.to_bytes(15)
    if start == end:
        return os.fsdecode(first.rstrip(b"\0"))
    prefix = last.rstrip(b"\xff")
    if first == prefix.ljust(len(first), b"\0"):
        return os.fsdecode(prefix) + "+"
    return f"{_name(first)} to {_name(last)}"


def _name(number: bytes) -> str:
    return os.fsdecode(number.rstrip(b"\0\xff")) or "any"
