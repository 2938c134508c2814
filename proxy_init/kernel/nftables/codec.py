"""One rule of the model in nf_tables' expressions, and back.

Most matches load one thing and compare it: `_FIELDS` is the one table of these, for both
directions. What is not known here is kept as unknown, under its name.
"""

from __future__ import annotations

from struct import pack, unpack

from ...frozen import Frozen
from ...rules.inet_tables import BOTH, LONGEST_COMMENT, Families
from ...rules.matches import (
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
    UnknownMatch,
)
from ...rules.model import Family, Rule
from ...rules.networks import Address, Network, network_around
from ...rules.options import Option
from ...rules.rule_parts import STATES, RuleParts
from ...rules.targets import (
    UNTRACKED,
    VERDICTS,
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Target,
    Tproxy,
    UnknownTarget,
    Verdict,
)
from ..system.netlink import Attributes, attribute, to_number, to_text
from . import expressions as nft
from .expressions import Load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeAlias

    from ...rules.counts import Count

    Sets: TypeAlias = Mapping[str, tuple[tuple[bytes, bytes], ...]]
    """By the name of a set, the first and the last of each of its ranges of values."""

NUMBERS = {Family.V4: 2, Family.V6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6, linux/netfilter.h."""

PROTOCOLS = {
    "icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "esp": 50, "ah": 51, "ipv6-icmp": 58,
    "sctp": 132, "udplite": 136,
}  # fmt: skip
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_STATES = dict(zip(STATES, (1, 8, 4, 2, 64), strict=True))
_INTERFACE_SIZE = 16  # IFNAMSIZ
_PORTS: Mapping[Load, type[SourcePort | DestinationPort]] = {
    ("payload", nft.TRANSPORT_HEADER, 0, 2): SourcePort,
    ("payload", nft.TRANSPORT_HEADER, 2, 2): DestinationPort,
}
_ADDRESSES: Mapping[tuple[type[Source | Destination], int], int] = {
    (Source, 4): 12,
    (Destination, 4): 16,
    (Source, 6): 8,
    (Destination, 6): 24,
}
"""Where in the network header they stand, by the version of IP."""
_ADDRESS_SIZES = {Family.V4: 4, Family.V6: 16}
_NFPROTO: Load = ("meta", nft.META_NFPROTO)
_PORT_UNREACHABLE = {"icmp6-port-unreachable": 4, "icmp-port-unreachable": 3}
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT of libnftnl


class CannotSay(Exception):
    """A rule asks or does what is not known how to write natively."""


class Reading(Frozen):
    """A rule as it was read: the families that it is for, and what it has counted."""

    families: Families
    rule: Rule
    count: Count | None


# Fields: what a match's value looks like where it is loaded.


def _host_number(value: int) -> bytes:
    return pack("=I", value)


def _read_host_number(data: bytes) -> int:
    (value,) = unpack("=I", data)
    return int(value)


def _interface(name: str) -> bytes:
    """A whole name with its final zeros; a prefix is compared with no more than itself."""
    written = name.encode("utf-8", "surrogateescape")
    return written[:-1] if written.endswith(b"+") else written.ljust(_INTERFACE_SIZE, b"\0")


def _read_interface(data: bytes) -> str:
    name, zero, rest = data.partition(b"\0")
    if any(rest):
        raise ValueError("no name")
    return name.decode("utf-8", "surrogateescape") + ("" if zero else "+")


def _protocol(name: str) -> bytes:
    return bytes([PROTOCOLS[name] if name in PROTOCOLS else int(name)])


def _read_protocol(data: bytes) -> str:
    (number,) = data
    return _PROTOCOL_NAMES.get(number, str(number))


def _read_index(data: bytes) -> str:
    if _read_host_number(data) != 1:  # lo in every namespace; others may change their names
        raise ValueError("an interface by its number")
    return "lo"


_FIELDS: tuple[tuple[Load, type[Any], Callable[[Any], bytes], Callable[[bytes], Any]], ...] = (
    (("meta", nft.META_IIFNAME), InInterface, _interface, _read_interface),
    (("meta", nft.META_OIFNAME), OutInterface, _interface, _read_interface),
    (("meta", nft.META_L4PROTO), Protocol, _protocol, _read_protocol),
    (("meta", nft.META_MARK), Mark, _host_number, _read_host_number),
    (("meta", nft.META_SKUID), OwnerUid, _host_number, _read_host_number),
    (("meta", nft.META_SKGID), OwnerGid, _host_number, _read_host_number),
    (("ct", nft.CT_MARK), ConnectionMark, _host_number, _read_host_number),
)
"""What is loaded, the match that compares it, and the match's value as bytes and back."""
_WRITTEN = {kind: (load, write) for load, kind, write, _ in _FIELDS}
_READ = {load: (kind, read) for load, kind, _, read in _FIELDS} | {
    ("meta", nft.META_IIF): (InInterface, _read_index),
    ("meta", nft.META_OIF): (OutInterface, _read_index),
}


# From the model.


def userdata_of(rule: Rule) -> bytes:
    """The rule's comment, as the program nft keeps it beside a rule."""
    texts = [match.text for match in rule.matches if isinstance(match, Comment)]
    if not texts:
        return b""
    data = texts[-1].encode("utf-8", "surrogateescape")[:LONGEST_COMMENT] + b"\0"
    return bytes([_COMMENT, len(data)]) + data


def expressions_of(rule: Rule, families: Families, chain_name: Callable[[str], str]) -> bytes:
    """The list of expressions of a rule that is for these families.

    `chain_name` gives the name in the kernel of a chain that it leads to. Raises CannotSay.
    """
    parts = []
    if len(families) == 1:
        number = bytes([NUMBERS[families[0]]])
        parts += [nft.load(_NFPROTO), nft.compared(nft.EQUAL, number)]
    for match in rule.matches:
        parts += _asked(match)
    family = NUMBERS[families[0]] if len(families) == 1 else 0
    parts += [nft.counter(), *_done(rule.target, family, chain_name)]
    return b"".join(parts)


def _asked(match: Match) -> list[bytes]:
    kind: Any = type(match)
    if kind in _WRITTEN:
        load, write = _WRITTEN[kind]
        value, negated = (getattr(match, name) for name in kind.__match_args__)
        return [nft.load(load), nft.compared(negated, write(value))]
    match match:
        case Source(network, negated) | Destination(network, negated):
            return _network_asked(kind, network, negated)
        case SourcePort(_, port, negated):
            return _port_asked(0, port, negated)
        case DestinationPort(_, port, negated):
            return _port_asked(2, port, negated)
        case DestinationPorts(ports, True):
            return [part for port in ports for part in _port_asked(2, port, True)]
        case DestinationSet(title, version, _):
            size = 4 if version == 4 else 16
            where: Load = ("payload", nft.NETWORK_HEADER, _ADDRESSES[Destination, version], size)
            return [nft.load(where), nft.looked_up(title)]
        case ConntrackState(states):
            bits = _host_number(sum(_STATES[state] for state in states))
            state: Load = ("ct", nft.CT_STATE)
            return [nft.load(state), nft.masked(bits), nft.compared(nft.NOT_EQUAL, bytes(4))]
        case Socket():
            return [nft.load(("socket", nft.SOCKET_WILDCARD)), nft.compared(nft.EQUAL, b"\0")]
        case Comment():  # beside the expressions, see `userdata_of`
            return []
    raise CannotSay(str(match))


def _port_asked(offset: int, port: int, negated: bool) -> list[bytes]:
    where: Load = ("payload", nft.TRANSPORT_HEADER, offset, 2)
    return [nft.load(where), nft.compared(negated, pack("!H", port))]


def _network_asked(kind: type[Any], network: Network, negated: bool) -> list[bytes]:
    offset = _ADDRESSES[kind, network.version]
    address = network.network_address.packed
    size, rest = divmod(network.prefixlen, 8)
    if size and not rest:
        where: Load = ("payload", nft.NETWORK_HEADER, offset, size)
        return [nft.load(where), nft.compared(negated, address[:size])]
    where = ("payload", nft.NETWORK_HEADER, offset, len(address))
    mask = network.netmask.packed
    return [nft.load(where), nft.masked(mask), nft.compared(negated, address)]


def _done(target: Target, family: int, chain_name: Callable[[str], str]) -> list[bytes]:
    mark = ("meta", nft.META_MARK)
    connection_mark = ("ct", nft.CT_MARK)
    match target:
        case Verdict(name):
            return [nft.judged(name)]
        case Jump(name):
            return [nft.led(nft.JUMP, chain_name(name))]
        case Goto(name):
            return [nft.led(nft.GOTO, chain_name(name))]
        case Redirect(port):
            return [nft.constant(pack("!H", port)), nft.redirected()]
        case SetMark(value):
            return [nft.constant(_host_number(value)), nft.store(mark)]
        case SaveMark():
            return [nft.load(mark), nft.store(connection_mark)]
        case RestoreMark():
            return [nft.load(connection_mark), nft.store(mark)]
        case Tproxy(port, value, _):
            return [
                *(nft.constant(pack("!H", port)), nft.transparently(family)),
                *(nft.constant(_host_number(value)), nft.store(mark)),
                nft.judged("ACCEPT"),
            ]
        case ConntrackZone(zone):
            return [nft.constant(pack("=H", zone)), nft.store(("ct", nft.CT_ZONE))]
        case Reject(message) if message in _PORT_UNREACHABLE:
            return [nft.rejected(_PORT_UNREACHABLE[message])]
    raise CannotSay(str(target))


# To the model.


class _Test(Frozen):
    """A comparison: of what is loaded, under a mask or not, with data."""

    load: Load
    mask: bytes | None
    operator: int
    data: bytes


def reading_of(
    data: bytes,
    userdata: bytes,
    family: Family | None,
    chain_name: Callable[[str], str],
    sets: Sets = {},  # noqa: B006  never changed
) -> Reading:
    """What a rule's list of expressions and its userdata mean.

    `family` is that of a table that is for one only; `chain_name` gives the model's name of a
    chain that a rule leads to; `sets` are those of its table.
    """
    reader = _RuleReader(family, chain_name, sets)
    for name, parts in nft.each_expression(data):
        reader.take(name, parts)
    for kind, value in _user_attributes(userdata):
        if kind == _COMMENT:
            text = value.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            reader.parts.matches.append(Comment(text))
    return reader.reading()


def _user_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """libnftnl's own, of one byte each: a kind and a length before each value."""
    place = 0
    while place + 2 <= len(data):
        kind, length = data[place : place + 2]
        yield kind, data[place + 2 : place + 2 + length]
        place += 2 + length


class _RuleReader:
    """Takes a rule's expressions in their order."""

    def __init__(self, family: Family | None, chain_name: Callable[[str], str], sets: Sets) -> None:
        self._sets = sets
        self.parts = RuleParts((family,) if family else BOTH)
        self._chain_name = chain_name
        self._loaded: dict[int, tuple[Load, bytes | None] | bytes] = {}
        self._count: Count | None = None

    def reading(self) -> Reading:
        """What all of it means."""
        placed = self.parts.placed()
        return Reading(placed.families, placed.rule, self._count)

    def take(self, name: str, parts: Attributes) -> None:
        """One more expression."""
        if loaded := nft.loaded(name, parts):
            register, load = loaded
            self._loaded[register] = (load, None)
        elif name == "bitwise" and self._mask(parts):
            pass
        elif name == "cmp":
            self._compare(parts)
        elif name == "lookup" and self._look_up(parts):
            pass
        elif name == "counter":
            from ...rules.counts import Count  # comes with typing, which is slow to load

            self._count = Count(to_number(parts[2]), to_number(parts[1]))
        elif name == "match":
            from .x_tables import match_of  # only iptables-nft leaves such

            self.parts.matches.append(match_of(*_extension(parts)))
        else:
            self._act(name, parts)

    def _mask(self, parts: Attributes) -> bool:
        source = self._loaded.get(to_number(parts.get(1, b"")))
        simple = not any(nft.value(parts.get(5, b""))) and not any(parts.get(6, b""))
        if not (isinstance(source, tuple) and source[1] is None and simple and 4 in parts):
            return False
        self._loaded[to_number(parts[2])] = (source[0], nft.value(parts[4]))
        return True

    def _look_up(self, parts: Attributes) -> bool:
        """Whether it is known what is looked up in which set."""
        title, negated = to_text(parts[1]), bool(to_number(parts.get(5, b"")))
        source = self._loaded.get(to_number(parts.get(2, b"")))
        ranges = self._sets.get(title)
        if not isinstance(source, tuple) or source[1] is not None or ranges is None or 3 in parts:
            return False
        match source[0]:
            case ("payload", nft.TRANSPORT_HEADER, 2, 2) if all(a == b for a, b in ranges):
                ports = tuple(int.from_bytes(first, "big") for first, _ in ranges)
                self.parts.matches.append(DestinationPorts(ports, negated))
            case ("payload", nft.NETWORK_HEADER, offset, size) if not negated:
                version = {4: 4, 16: 6}.get(size, 0)
                if _ADDRESSES.get((Destination, version)) != offset:
                    return False
                numbers = tuple((to_number(first), to_number(last)) for first, last in ranges)
                self.parts.matches.append(DestinationSet(title, version, numbers))
            case _:
                return False
        return True

    def _compare(self, parts: Attributes) -> None:
        source = self._loaded.get(to_number(parts[1]))
        operator = to_number(parts[2])
        if isinstance(source, tuple) and operator in (nft.EQUAL, nft.NOT_EQUAL):
            test = _Test(*source, operator, nft.value(parts[3]))
            try:
                self._add(test)
                return
            except (ValueError, KeyError):
                pass
        self._unknown("cmp", parts, source)

    def _add(self, test: _Test) -> None:
        """Raises ValueError or KeyError where it asks for something unknown."""
        negated = test.operator == nft.NOT_EQUAL
        if test.mask is not None:
            self.parts.matches.append(self._masked(test, negated))
        elif test.load == _NFPROTO:
            (number,) = test.data
            self.parts.test_family(
                tuple(family for family in BOTH if (NUMBERS[family] == number) != negated)
            )
        elif test.load == ("socket", nft.SOCKET_WILDCARD) and test.data == b"\0" and not negated:
            self.parts.matches.append(Socket())
        elif test.load in _PORTS:
            self.parts.test_port(_PORTS[test.load], int.from_bytes(test.data, "big"), negated)
        elif test.load[0] == "payload":
            self.parts.matches.append(self._network(test, negated))
        else:
            kind, read = _READ[test.load]
            self.parts.matches.append(kind(read(test.data), negated))

    def _masked(self, test: _Test, negated: bool) -> Match:
        assert test.mask is not None
        if test.load == ("ct", nft.CT_STATE) and negated and not any(test.data):
            bits = _read_host_number(test.mask)
            states = tuple(name for name, bit in _STATES.items() if bit & bits)
            if sum(_STATES[name] for name in states) == bits:
                return ConntrackState(states)
        return self._network(test, negated)

    def _network(self, test: _Test, negated: bool) -> Match:
        (family,) = self.parts.families
        size = _ADDRESS_SIZES[family]
        _, base, offset, length = test.load  # type: ignore[misc]
        kinds = {_ADDRESSES[kind, family.value]: kind for kind in (Source, Destination)}
        kind = kinds[offset]
        mask = test.mask or b"\xff" * length
        hosts = int.from_bytes(mask.ljust(size, b"\0"), "big") ^ ((1 << 8 * size) - 1)
        if base != nft.NETWORK_HEADER or hosts & (hosts + 1) or len(test.data) != length:
            raise ValueError("no network")
        address = Address(test.data.ljust(size, b"\0"))
        network = network_around(address, 8 * size - hosts.bit_length())
        if network.network_address != address:
            raise ValueError("host bits")
        return kind(network, negated)

    def _act(self, name: str, parts: Attributes) -> None:
        """What is no match; and what is unknown."""
        source: object = None
        if stored := nft.stored(name, parts):
            source = self._loaded.get(stored[0])
            if target := _stored(stored[1], source):
                self.parts.targets.append(target)
                return
        elif name == "immediate" and to_number(parts[1]) != nft.VERDICT_REGISTER:
            self._loaded[to_number(parts[1])] = nft.value(parts[2])
            return
        elif name == "notrack":
            self.parts.targets.append(UNTRACKED)
            return
        elif name == "immediate":
            self.parts.targets.append(self._verdict(parts[2]))
            return
        elif name == "target":
            from .x_tables import target_of

            self.parts.targets.append(target_of(*_extension(parts), self.parts.family))
            return
        elif name == "redir" and parts.get(1) == parts.get(2, parts.get(1)):
            source = self._loaded.get(to_number(parts.get(1, b"")))
            if isinstance(source, bytes) and not to_number(parts.get(3, b"")) & ~2:
                self.parts.targets.append(Redirect(int.from_bytes(source[:2], "big")))
                return
        elif name == "tproxy" and 2 not in parts:
            source = self._loaded.get(to_number(parts.get(3, b"")))
            if isinstance(source, bytes):
                self.parts.targets.append(Tproxy(int.from_bytes(source[:2], "big"), 0, "any"))
                return
        elif name == "reject" and parts.get(1) == bytes(4):
            family = self.parts.family
            code = to_number(parts.get(2, b""))
            messages = {
                Family.V4: (3, "icmp-port-unreachable"),
                Family.V6: (4, "icmp6-port-unreachable"),
            }
            if len(self.parts.families) == 1 and messages[family][0] == code:
                self.parts.targets.append(Reject(messages[family][1]))
                return
        self._unknown(name, parts, source)

    def _verdict(self, data: bytes) -> Target:
        code, chain = nft.verdict(data)
        if code in nft.VERDICTS:
            return VERDICTS[nft.VERDICTS[code]]
        if code == nft.JUMP:
            return Jump(self._chain_name(chain))
        if code == nft.GOTO:
            return Goto(self._chain_name(chain))
        return UnknownTarget("verdict", (Option("code", str(code)),))

    def _unknown(self, name: str, parts: Attributes, source: object) -> None:
        loaded = source[0] if isinstance(source, tuple) else ()
        words = " ".join(map(str, loaded))
        raw = b"".join(attribute(kind, value) for kind, value in parts.items())
        self._loaded.clear()  # it may have changed what was loaded
        of = [Option("of", words)] if words else []
        options = (*of, Option("bytes", raw.hex()))
        if name in _ENDING:
            self.parts.targets.append(UnknownTarget(name, options))
            return
        stored = nft.stored(name, parts)
        if stored and stored[1] in (("meta", nft.META_MARK), ("ct", nft.CT_MARK)):
            self.parts.targets.append(UnknownTarget("MARK", options))
            return
        self.parts.matches.append(UnknownMatch(name, options))
        if name == "lookup" and not any(parts.get(3, b"\1")):  # into the register of verdicts
            self.parts.targets.append(UnknownTarget("vmap", options))


_ENDING = frozenset({"nat", "masq", "redir", "tproxy", "reject", "queue", "fwd", "synproxy"})
"""Expressions after which a rule's packet is not shown to the next rule."""


def _stored(what: Load, source: object) -> Target | None:
    if isinstance(source, bytes):
        if what == ("meta", nft.META_MARK):
            return SetMark(_read_host_number(source))
        if what == ("ct", nft.CT_ZONE):
            return ConntrackZone(int(unpack("=H", source[:2])[0]))
    if what == ("ct", nft.CT_MARK) and source == (("meta", nft.META_MARK), None):
        return SaveMark()
    if what == ("meta", nft.META_MARK) and source == (("ct", nft.CT_MARK), None):
        return RestoreMark()
    return None


def _extension(parts: Attributes) -> tuple[str, int, bytes]:
    return to_text(parts[1]), to_number(parts[2]), parts[3]
