"""Targets: what becomes of a packet that a rule matches.

Each says how iptables spells it (`options`), and `read_target` takes the same spelling back.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..frozen import frozen
from .options import Option, read_spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .options import Spellings


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

_SPELLINGS: Spellings[Target] = {
    ("REDIRECT", ("to-ports",)): lambda o: Redirect(o.number),
    ("MARK", ("set-xmark",)): lambda o: SetMark(o.number),
    ("CONNMARK", ("save-mark", "nfmask", "ctmask")): lambda *_: SaveMark(),
    ("CONNMARK", ("restore-mark", "nfmask", "ctmask")): lambda *_: RestoreMark(),
    ("TPROXY", ("on-port", "on-ip", "tproxy-mark")): lambda port, ip, mark: Tproxy(
        port.number, mark.number, ip.value
    ),
    ("CT", ("zone",)): lambda o: ConntrackZone(o.number),
    ("REJECT", ("reject-with",)): lambda o: Reject(o.value),
}


def read_target(name: str, options: Sequence[Option]) -> Target:
    """The target that iptables spells as `-j name options`, where it is an extension."""
    return read_spelling(_SPELLINGS, name, options, UnknownTarget(name, tuple(options)))
