"""Matches: the conditions under which a rule applies to a packet.

`options` gives the iptables spelling of a match, and `read_match` parses it. So the text format,
libiptc and every reader of the kernel share one definition of each match.
"""

from __future__ import annotations

from ..frozen import Frozen
from .networks import Address, Network
from .options import Option, read_spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from .options import Spellings

# Header matches: every rule has these fields.


class Source(Frozen):
    """-s: the source address is in `network`."""

    network: Network
    negated: bool = False


class Destination(Frozen):
    """-d: the destination address is in `network`."""

    network: Network
    negated: bool = False


class InInterface(Frozen):
    """-i: the interface that the packet arrives on; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


class OutInterface(Frozen):
    """-o: the interface that the packet leaves on; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


class Protocol(Frozen):
    """-p: the transport protocol."""

    name: str
    negated: bool = False


# Extension matches (man 8 iptables-extensions).


class DestinationPort(Frozen):
    """-m tcp|udp --dport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("dport", str(self.port), self.negated),)


class SourcePort(Frozen):
    """-m tcp|udp --sport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("sport", str(self.port), self.negated),)


class DestinationPorts(Frozen):
    """-m multiport --dports."""

    ports: tuple[int, ...]
    negated: bool = False
    name = "multiport"

    def options(self) -> tuple[Option, ...]:
        return (Option("dports", ",".join(map(str, self.ports)), self.negated),)


class OwnerUid(Frozen):
    """-m owner --uid-owner: the uid that owns the sending socket."""

    uid: int
    negated: bool = False
    name = "owner"

    def options(self) -> tuple[Option, ...]:
        return (Option("uid-owner", str(self.uid), self.negated),)


class OwnerGid(Frozen):
    """-m owner --gid-owner: the gid that owns the sending socket."""

    gid: int
    negated: bool = False
    name = "owner"

    def options(self) -> tuple[Option, ...]:
        return (Option("gid-owner", str(self.gid), self.negated),)


class Mark(Frozen):
    """-m mark: the fwmark of the packet equals `value`."""

    value: int
    negated: bool = False
    name = "mark"

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


class ConnectionMark(Frozen):
    """-m connmark: the mark of the connection, which conntrack keeps, equals `value`."""

    value: int
    negated: bool = False
    name = "connmark"

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


class Socket(Frozen):
    """-m socket: a lookup finds an open socket for the packet."""

    name = "socket"

    def options(self) -> tuple[Option, ...]:
        return ()


class State(Frozen):
    """-m state --state: the older spelling of `ConntrackState`."""

    states: tuple[str, ...]
    name = "state"

    def options(self) -> tuple[Option, ...]:
        return (Option("state", ",".join(self.states)),)


class ConntrackState(Frozen):
    """-m conntrack --ctstate: the state that conntrack gives the packet."""

    states: tuple[str, ...]
    name = "conntrack"

    def options(self) -> tuple[Option, ...]:
        return (Option("ctstate", ",".join(self.states)),)


class Comment(Frozen):
    """-m comment: a text shown with the rule; matches every packet."""

    text: str
    name = "comment"

    def options(self) -> tuple[Option, ...]:
        return (Option("comment", self.text),)


class DestinationSet(Frozen):
    """A set of nf_tables: the destination address is in one of its networks.

    `ranges` are the first and last addresses of the networks as numbers, sorted and disjoint.
    """

    title: str
    version: int
    ranges: tuple[tuple[int, int], ...]
    name = "set"

    @classmethod
    def of(cls, title: str, networks: Sequence[Network]) -> DestinationSet:
        """A set of networks of one family, without those that are inside others; each of its
        ranges is one network."""
        bits = networks[0].max_prefixlen
        starts = ((int(each.network_address), bits - each.prefixlen) for each in networks)
        ranges: list[tuple[int, int]] = []
        for start, minus_hosts in sorted((start, -hosts) for start, hosts in starts):
            if not ranges or start > ranges[-1][1]:
                ranges.append((start, start + (1 << -minus_hosts) - 1))
        return cls(title, networks[0].version, tuple(ranges))

    @property
    def comment(self) -> str:
        """The comment of the set in the kernel."""
        flag = {"captured": "-i", "excluded": "-x"}.get(self.title.split("-")[1], "")
        count = len(self.ranges)
        return f"{count:,} network{'s' * (count != 1)} of {flag}"

    def networks(self) -> Iterator[Network]:
        """Its networks, if every range is one."""
        bits = 32 if self.version == 4 else 128
        for first, last in self.ranges:
            yield Network(Address(first.to_bytes(bits // 8)), bits - (last - first).bit_length())

    def __contains__(self, address: Address) -> bool:
        from bisect import bisect_right

        place = bisect_right(self.ranges, (int(address), 1 << 128)) - 1
        return (
            address.version == self.version and place >= 0 and int(address) <= self.ranges[place][1]
        )

    def options(self) -> tuple[Option, ...]:
        from zlib import crc32

        content = crc32(repr(self.ranges).encode())
        return (
            Option("match-set", f"{self.title} dst"),
            Option("networks", str(len(self.ranges))),
            Option("checksum", f"{content:08x}"),
        )


class UnknownMatch(Frozen):
    """An extension that we do not use, or do not use in this form; keeps its iptables spelling."""

    name: str
    spelling: tuple[Option, ...]

    def options(self) -> tuple[Option, ...]:
        return self.spelling


HeaderMatch: TypeAlias = Source | Destination | InInterface | OutInterface | Protocol
ExtensionMatch: TypeAlias = (
    DestinationPort
    | SourcePort
    | DestinationPorts
    | OwnerUid
    | OwnerGid
    | Mark
    | ConnectionMark
    | Socket
    | State
    | ConntrackState
    | Comment
    | DestinationSet
    | UnknownMatch
)
Match: TypeAlias = HeaderMatch | ExtensionMatch


_SPELLINGS: Spellings[ExtensionMatch] = {
    ("tcp", ("dport",)): lambda o: DestinationPort("tcp", o.number, o.negated),
    ("udp", ("dport",)): lambda o: DestinationPort("udp", o.number, o.negated),
    ("tcp", ("sport",)): lambda o: SourcePort("tcp", o.number, o.negated),
    ("udp", ("sport",)): lambda o: SourcePort("udp", o.number, o.negated),
    ("multiport", ("dports",)): lambda o: DestinationPorts(
        tuple(map(int, o.value.split(","))), o.negated
    ),
    ("owner", ("uid-owner",)): lambda o: OwnerUid(o.number, o.negated),
    ("owner", ("gid-owner",)): lambda o: OwnerGid(o.number, o.negated),
    ("mark", ("mark",)): lambda o: Mark(o.number, o.negated),
    ("connmark", ("mark",)): lambda o: ConnectionMark(o.number, o.negated),
    ("socket", ()): Socket,
    ("state", ("state",)): lambda o: State(tuple(o.value.split(","))),
    ("conntrack", ("ctstate",)): lambda o: ConntrackState(tuple(o.value.split(","))),
    ("comment", ("comment",)): lambda o: Comment(o.value),
}


def read_match(name: str, options: Sequence[Option]) -> ExtensionMatch:
    """The match that iptables spells `-m name options`; unknown ones keep their spelling."""
    return read_spelling(_SPELLINGS, name, options, UnknownMatch(name, tuple(options)))
