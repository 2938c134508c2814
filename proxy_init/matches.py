"""Matches and targets: what a rule asks of a packet, and what becomes of it then.

Each says how iptables spells it (`options`), and `read_match` and `read_target` take the same
spelling back, so that text, libiptc and every reader of the kernel share one definition of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, TypeAlias, TypeVar
from typing import Protocol as Interface

Network: TypeAlias = IPv4Network | IPv6Network


class Option(NamedTuple):
    """One option of a match or target extension, as iptables spells it: `! --name value`."""

    name: str
    value: str = ""
    negated: bool = False


# Matches that stand in every rule's header.


@dataclass(frozen=True, slots=True)
class Source:
    """-s: the packet's source lies in `network`."""

    network: Network
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """-d: the packet's destination lies in `network`."""

    network: Network
    negated: bool = False


@dataclass(frozen=True, slots=True)
class InInterface:
    """-i: the interface it arrived on; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class OutInterface:
    """-o: the interface it leaves by; a trailing + makes `name` a prefix."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """-p: the transport protocol."""

    name: str
    negated: bool = False


# Matches that are extensions (man 8 iptables-extensions).


@dataclass(frozen=True, slots=True)
class DestinationPort:
    """-m tcp|udp --dport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("dport", str(self.port), self.negated),)


@dataclass(frozen=True, slots=True)
class SourcePort:
    """-m tcp|udp --sport."""

    name: str
    port: int
    negated: bool = False

    def options(self) -> tuple[Option, ...]:
        return (Option("sport", str(self.port), self.negated),)


@dataclass(frozen=True, slots=True)
class DestinationPorts:
    """-m multiport --dports."""

    ports: tuple[int, ...]
    negated: bool = False
    name: str = field(default="multiport", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("dports", ",".join(map(str, self.ports)), self.negated),)


@dataclass(frozen=True, slots=True)
class OwnerUid:
    """-m owner --uid-owner: the user id of the socket that sent it."""

    uid: int
    negated: bool = False
    name: str = field(default="owner", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("uid-owner", str(self.uid), self.negated),)


@dataclass(frozen=True, slots=True)
class OwnerGid:
    """-m owner --gid-owner: the group id of the socket that sent it."""

    gid: int
    negated: bool = False
    name: str = field(default="owner", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("gid-owner", str(self.gid), self.negated),)


@dataclass(frozen=True, slots=True)
class Mark:
    """-m mark: the packet's fwmark is just `value`."""

    value: int
    negated: bool = False
    name: str = field(default="mark", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


@dataclass(frozen=True, slots=True)
class ConnectionMark:
    """-m connmark: the mark that connection tracking keeps for the connection is just `value`."""

    value: int
    negated: bool = False
    name: str = field(default="connmark", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("mark", hex(self.value), self.negated),)


@dataclass(frozen=True, slots=True)
class Socket:
    """-m socket: some socket of this machine is there for the packet."""

    name: str = field(default="socket", init=False)

    def options(self) -> tuple[Option, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class State:
    """-m state --state: the old spelling of `ConntrackState`."""

    states: tuple[str, ...]
    name: str = field(default="state", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("state", ",".join(self.states)),)


@dataclass(frozen=True, slots=True)
class ConntrackState:
    """-m conntrack --ctstate: what connection tracking calls the packet."""

    states: tuple[str, ...]
    name: str = field(default="conntrack", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("ctstate", ",".join(self.states)),)


@dataclass(frozen=True, slots=True)
class Comment:
    """-m comment: a remark for whoever lists the rules."""

    text: str
    name: str = field(default="comment", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("comment", self.text),)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """ACCEPT, DROP or RETURN."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


ACCEPT, DROP, RETURN = Verdict("ACCEPT"), Verdict("DROP"), Verdict("RETURN")


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in another chain, and come back at its end."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """REDIRECT: to `port` of the machine itself; conntrack remembers where it was going."""

    port: int
    name: str = field(default="REDIRECT", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("to-ports", str(self.port)),)


_EVERY_BIT = "0xffffffff"


@dataclass(frozen=True, slots=True)
class SetMark:
    """MARK: the packet's fwmark becomes `value`."""

    value: int
    name: str = field(default="MARK", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("set-xmark", f"{self.value:#x}/{_EVERY_BIT}"),)


@dataclass(frozen=True, slots=True)
class SaveMark:
    """CONNMARK: the connection takes the packet's fwmark."""

    name: str = field(default="CONNMARK", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("save-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


@dataclass(frozen=True, slots=True)
class RestoreMark:
    """CONNMARK: the packet takes the connection's mark as its fwmark."""

    name: str = field(default="CONNMARK", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("restore-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


@dataclass(frozen=True, slots=True)
class Tproxy:
    """TPROXY: to a transparent listener on `port` of any address; the packet stays as it is."""

    port: int
    mark: int
    any_address: str
    name: str = field(default="TPROXY", init=False)

    def options(self) -> tuple[Option, ...]:
        return (
            Option("on-port", str(self.port)),
            Option("on-ip", self.any_address),
            Option("tproxy-mark", f"{self.mark:#x}/{_EVERY_BIT}"),
        )


@dataclass(frozen=True, slots=True)
class ConntrackZone:
    """CT: connection tracking keeps the packet's connection apart, in a zone."""

    zone: int
    name: str = field(default="CT", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("zone", str(self.zone)),)


@dataclass(frozen=True, slots=True)
class Reject:
    """REJECT: dropped, and the sender is told by an ICMP message."""

    message: str
    name: str = field(default="REJECT", init=False)

    def options(self) -> tuple[Option, ...]:
        return (Option("reject-with", self.message),)


@dataclass(frozen=True, slots=True)
class UnknownTarget:
    """A foreign target, or none (name ""), or a goto; kept as iptables spells it."""

    name: str
    spelling: tuple[Option, ...] = ()
    goto: bool = False

    def options(self) -> tuple[Option, ...]:
        return self.spelling


Target: TypeAlias = (
    Verdict
    | Jump
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
