"""Matches and targets: what a rule asks of a packet, and what becomes of it then.

Each says how iptables spells it (`options`), and `read_match` and `read_target` take the same
spelling back, so that text, libiptc and every reader of the kernel share one definition of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

from .frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol as Interface
    from typing import TypeAlias, TypeVar

Network: TypeAlias = IPv4Network | IPv6Network


@frozen
class Option:
    """One option of a match or target extension, as iptables spells it: `! --name value`."""

    name: str
    value: str = ""
    negated: bool = False


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


# Targets.


@frozen
class Verdict:
    """ACCEPT, DROP or RETURN."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


ACCEPT, DROP, RETURN = Verdict("ACCEPT"), Verdict("DROP"), Verdict("RETURN")
VERDICTS = {verdict.name: verdict for verdict in (ACCEPT, DROP, RETURN)}


@frozen
class Jump:
    """Go on in another chain, and come back at its end."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


@frozen
class Goto:
    """Go on in another chain, and from its end come back to where the last jump came from."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


@frozen
class Redirect:
    """REDIRECT: to `port` of the machine itself; conntrack remembers where it was going."""

    port: int
    name = "REDIRECT"

    def options(self) -> tuple[Option, ...]:
        return (Option("to-ports", str(self.port)),)


_EVERY_BIT = "0xffffffff"


@frozen
class SetMark:
    """MARK: the packet's fwmark becomes `value`."""

    value: int
    name = "MARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("set-xmark", f"{self.value:#x}/{_EVERY_BIT}"),)


@frozen
class SaveMark:
    """CONNMARK: the connection takes the packet's fwmark."""

    name = "CONNMARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("save-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


@frozen
class RestoreMark:
    """CONNMARK: the packet takes the connection's mark as its fwmark."""

    name = "CONNMARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("restore-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


@frozen
class Tproxy:
    """TPROXY: to a transparent listener on `port` of any address; the packet stays as it is."""

    port: int
    mark: int
    any_address: str
    name = "TPROXY"

    def options(self) -> tuple[Option, ...]:
        return (
            Option("on-port", str(self.port)),
            Option("on-ip", self.any_address),
            Option("tproxy-mark", f"{self.mark:#x}/{_EVERY_BIT}"),
        )


@frozen
class ConntrackZone:
    """CT: connection tracking keeps the packet's connection apart, in a zone."""

    zone: int
    name = "CT"

    def options(self) -> tuple[Option, ...]:
        return (Option("zone", str(self.zone)),)


@frozen
class Reject:
    """REJECT: dropped, and the sender is told by an ICMP message."""

    message: str
    name = "REJECT"

    def options(self) -> tuple[Option, ...]:
        return (Option("reject-with", self.message),)


@frozen
class UnknownTarget:
    """A foreign target, or none (name ""); kept as iptables spells it."""

    name: str
    spelling: tuple[Option, ...] = ()

    def options(self) -> tuple[Option, ...]:
        return self.spelling


Target: TypeAlias = (
    Verdict
    | Jump
    | Goto
    | Redirect
    | SetMark
    | SaveMark
    | RestoreMark
    | Tproxy
    | ConntrackZone
    | Reject
    | UnknownTarget
)


# fmt: off
GO_ON = frozenset({
    "", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP",
    "ECN", "HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK",
    "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL",
    "ULOG",
})
# fmt: on
"""Names of targets after which the next rule is tried: man 8 iptables-extensions."""


def _number(option: Option) -> int:
    return int(option.value, 0)


def _masked_number(option: Option) -> int:
    return int(option.value.partition("/")[0], 0)


_MATCHES: dict[tuple[str, tuple[str, ...]], Callable[..., ExtensionMatch]] = {
    ("tcp", ("dport",)): lambda o: DestinationPort("tcp", _number(o), o.negated),
    ("udp", ("dport",)): lambda o: DestinationPort("udp", _number(o), o.negated),
    ("tcp", ("sport",)): lambda o: SourcePort("tcp", _number(o), o.negated),
    ("udp", ("sport",)): lambda o: SourcePort("udp", _number(o), o.negated),
    ("multiport", ("dports",)): lambda o: DestinationPorts(
        tuple(map(int, o.value.split(","))), o.negated
    ),
    ("owner", ("uid-owner",)): lambda o: OwnerUid(_number(o), o.negated),
    ("owner", ("gid-owner",)): lambda o: OwnerGid(_number(o), o.negated),
    ("mark", ("mark",)): lambda o: Mark(_number(o), o.negated),
    ("connmark", ("mark",)): lambda o: ConnectionMark(_number(o), o.negated),
    ("socket", ()): Socket,
    ("state", ("state",)): lambda o: State(tuple(o.value.split(","))),
    ("conntrack", ("ctstate",)): lambda o: ConntrackState(tuple(o.value.split(","))),
    ("comment", ("comment",)): lambda o: Comment(o.value),
}
_TARGETS: dict[tuple[str, tuple[str, ...]], Callable[..., Target]] = {
    ("REDIRECT", ("to-ports",)): lambda o: Redirect(_number(o)),
    ("MARK", ("set-xmark",)): lambda o: SetMark(_masked_number(o)),
    ("CONNMARK", ("save-mark", "nfmask", "ctmask")): lambda *_: SaveMark(),
    ("CONNMARK", ("restore-mark", "nfmask", "ctmask")): lambda *_: RestoreMark(),
    ("TPROXY", ("on-port", "on-ip", "tproxy-mark")): lambda port, ip, mark: Tproxy(
        _number(port), _masked_number(mark), ip.value
    ),
    ("CT", ("zone",)): lambda o: ConntrackZone(_number(o)),
    ("REJECT", ("reject-with",)): lambda o: Reject(o.value),
}


def read_match(name: str, options: Sequence[Option]) -> ExtensionMatch:
    """The match that iptables spells as `-m name options`; unknown ones keep their spelling."""
    unknown: ExtensionMatch = UnknownMatch(name, tuple(options))
    read = _MATCHES.get((name, tuple(option.name for option in options)))
    return _exactly(read, unknown) if read else unknown


def read_target(name: str, options: Sequence[Option]) -> Target:
    """The target that iptables spells as `-j name options`, where it is an extension."""
    unknown: Target = UnknownTarget(name, tuple(options))
    read = _TARGETS.get((name, tuple(option.name for option in options)))
    return _exactly(read, unknown) if read else unknown


if TYPE_CHECKING:

    class _Spelled(Interface):
        def options(self) -> tuple[Option, ...]: ...

    _Known = TypeVar("_Known", bound=_Spelled)


def _exactly(read: Callable[..., _Known], unknown: _Known) -> _Known:
    """What `read` makes of the spelling, if that spells the same again (no range, no mask)."""
    try:
        known = read(*unknown.options())
    except ValueError:
        return unknown
    return known if known.options() == unknown.options() else unknown
