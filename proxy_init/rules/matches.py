"""Matches: what a rule asks of a packet.

Each says how iptables spells it (`options`), and `read_match` takes the same spelling back, so that
text, libiptc and every reader of the kernel share one definition of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..frozen import frozen
from .networks import Network
from .options import Option, read_spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .options import Spellings

# Matches that stand in every rule's header.


@frozen
class Source:
    """-s: the packet's source lies in `network`."""

    network: Network
    negated: bool = False


@frozen
class Destination:
    """-d: the packet's destination lies in `network`."""

    network: Network
    negated: bool = False


@frozen
class InInterface:
    """-i: the interface it arrived on; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


@frozen
class OutInterface:
    """-o: the interface it leaves by; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


@frozen
class Protocol:
    """-p: the transport protocol."""

    name: str
    negated: bool = False


# Matches that are extensions (man 8 iptables-extensions).


@frozen
class DestinationPort:
    """-m tcp|udp --dport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("dport", str(self.port), self.negated),)


@frozen
class SourcePort:
    """-m tcp|udp --sport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("sport", str(self.port), self.negated),)


@frozen
class DestinationPorts:
    """-m multiport --dports."""

    ports: tuple[int, ...]
    negated: bool = False
    name = "multiport"

    def options(self) -> tuple[Option, ...]:
        return (Option("dports", ",".join(map(str, self.ports)), self.negated),)


@frozen
class OwnerUid:
    """-m owner --uid-owner: the user id of the socket that sent it."""

    uid: int
    negated: bool = False
    name = "owner"

    def options(self) -> tuple[Option, ...]:
        return (Option("uid-owner", str(self.uid), self.negated),)


@frozen
class OwnerGid:
    """-m owner --gid-owner: the group id of the socket that sent it."""

    gid: int
    negated: bool = False
    name = "owner"

    def options(self) -> tuple[Option, ...]:
        return (Option("gid-owner", str(self.gid), self.negated),)


@frozen
class Mark:
    """-m mark: the packet's fwmark is just `value`."""

    value: int
    negated: bool = False
    name = "mark"

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


@frozen
class ConnectionMark:
    """-m connmark: the mark that connection tracking keeps for the connection is just `value`."""

    value: int
    negated: bool = False
    name = "connmark"

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


@frozen
class Socket:
    """-m socket: some socket of this machine is there for the packet."""

    name = "socket"

    def options(self) -> tuple[Option, ...]:
        return ()


@frozen
class State:
    """-m state --state: the old spelling of `ConntrackState`."""

    states: tuple[str, ...]
    name = "state"

    def options(self) -> tuple[Option, ...]:
        return (Option("state", ",".join(self.states)),)


@frozen
class ConntrackState:
    """-m conntrack --ctstate: what connection tracking calls the packet."""

    states: tuple[str, ...]
    name = "conntrack"

    def options(self) -> tuple[Option, ...]:
        return (Option("ctstate", ",".join(self.states)),)


@frozen
class Comment:
    """-m comment: a remark for whoever lists the rules."""

    text: str
    name = "comment"

    def options(self) -> tuple[Option, ...]:
        return (Option("comment", self.text),)


@frozen
class UnknownMatch:
    """A foreign extension, or a foreign use of one that we know; kept as iptables spells it."""

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
    """The match that iptables spells as `-m name options`; unknown ones keep their spelling."""
    return read_spelling(_SPELLINGS, name, options, UnknownMatch(name, tuple(options)))
