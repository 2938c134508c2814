"""Targets: what a rule does with a packet that it matches.

`options` gives the iptables spelling of a target, and `read_target` parses it.
"""

from __future__ import annotations

from ..frozen import Frozen
from .options import Option, read_spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from .options import Spellings


class Verdict(Frozen):
    """ACCEPT, DROP or RETURN."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


ACCEPT, DROP, RETURN = Verdict("ACCEPT"), Verdict("DROP"), Verdict("RETURN")
VERDICTS = {verdict.name: verdict for verdict in (ACCEPT, DROP, RETURN)}


class Jump(Frozen):
    """-j CHAIN: continue in another chain, and return here at its end."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


class Goto(Frozen):
    """-g CHAIN: continue in another chain, and at its end return to the caller of this one."""

    name: str

    def options(self) -> tuple[Option, ...]:
        return ()


class Redirect(Frozen):
    """REDIRECT: to `port` on this host; conntrack keeps the original destination."""

    port: int
    name = "REDIRECT"

    def options(self) -> tuple[Option, ...]:
        return (Option("to-ports", str(self.port)),)


_EVERY_BIT = "0xffffffff"


class SetMark(Frozen):
    """MARK: set the packet's fwmark to `value`."""

    value: int
    name = "MARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("set-xmark", f"{self.value:#x}/{_EVERY_BIT}"),)


class SaveMark(Frozen):
    """CONNMARK: copy the packet's fwmark to its connection."""

    name = "CONNMARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("save-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


class RestoreMark(Frozen):
    """CONNMARK: copy the connection's mark to the packet's fwmark."""

    name = "CONNMARK"

    def options(self) -> tuple[Option, ...]:
        return (Option("restore-mark"), Option("nfmask", _EVERY_BIT), Option("ctmask", _EVERY_BIT))


class Tproxy(Frozen):
    """TPROXY: deliver the packet unchanged to a transparent listener on `port` of any address."""

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


class ConntrackZone(Frozen):
    """CT: track the packet's connection separately, in the conntrack zone `zone`."""

    zone: int
    name = "CT"

    def options(self) -> tuple[Option, ...]:
        return (Option("zone", str(self.zone)),)


class Reject(Frozen):
    """REJECT: drop the packet, and send the ICMP error `message` to the sender."""

    message: str
    name = "REJECT"

    def options(self) -> tuple[Option, ...]:
        return (Option("reject-with", self.message),)


class UnknownTarget(Frozen):
    """A target that we do not use, or none (name ""); keeps its iptables spelling."""

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
NON_TERMINATING = frozenset({
    "", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP",
    "ECN", "HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK",
    "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL",
    "ULOG",
})
# fmt: on
"""Names of targets after which the next rule is tried (man 8 iptables-extensions)."""

_SETTING_MARKS = frozenset({"MARK", "CONNMARK"})
UNTRACKED = UnknownTarget("NOTRACK")


def is_untracking(target: Target) -> bool:
    """Whether conntrack, and so nat, ignores the packets: NOTRACK, or CT --notrack."""
    return target == UNTRACKED or (
        isinstance(target, UnknownTarget)
        and any(option.name in ("notrack", UNTRACKED.name) for option in target.spelling)
    )


def sets_marks(target: UnknownTarget) -> bool:
    """Whether an unknown target changes the fwmark or the mark of the connection: with a mask, or
    as one statement of several in a rule of nf_tables."""
    names = [option.name for option in target.spelling] if target.name == "several" else []
    return not _SETTING_MARKS.isdisjoint([target.name, *names])


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
    """The target that iptables spells `-j name options`; unknown ones keep their spelling."""
    return read_spelling(_SPELLINGS, name, options, UnknownTarget(name, tuple(options)))
