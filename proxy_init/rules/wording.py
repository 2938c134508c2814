"""Describes a rule in a few words: which packets it matches, and what it does with them.

Every command that shows rules to people uses these descriptions, next to the reason of the rule.
They hold no control characters, so they are safe for terminals and logs.
"""

from collections.abc import Iterable
from typing import assert_never

from .matches import (
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
from .model import Rule
from .networks import Network
from .options import Option
from .targets import (
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


def matches_in_words(rule: Rule) -> str:
    """The packets that a rule matches: `TCP, to port 22`."""
    # The protocol comes first, as people write it, and only once: port matches repeat it.
    protocols = [match for match in rule.matches if isinstance(match, Protocol)]
    others = [match for match in rule.matches if not isinstance(match, Protocol | Comment)]
    words = [_match(match) for match in (*protocols, *others)]
    if not others:
        return f"any {words[0]}" if words else "any packet"
    return ", ".join(words)


def target_in_words(target: Target) -> str:
    """What a target does with a packet: `passes`, `→ ISTIO_REDIRECT`, `dropped`."""
    match target:
        case Verdict(name):
            return {"RETURN": "passes", "ACCEPT": "accepted", "DROP": "dropped"}[name]
        case Jump(name):
            return f"→ {printable(name)}"
        case Redirect(port) | Tproxy(port):
            return f"captured ({target.name}) → port {port}"
        case SetMark(value):
            return f"marked {value:#x}"
        case SaveMark():
            return "mark copied to the connection"
        case RestoreMark():
            return "mark copied from the connection"
        case ConntrackZone(zone):
            return f"conntrack zone {zone}"
        case Reject():
            return "rejected"
        case Goto(name):
            return f"continues in {printable(name)}"
        case UnknownTarget(name, options):
            return printable(f"{name}{_spelled(options)}") or "counted only"
        case _:
            assert_never(target)


def printable(text: str) -> str:
    """`text` with unprintable characters escaped: names in the kernel may hold any character."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def address(network: Network) -> str:
    """A network as text; a single address without its prefix length."""
    text = str(network)
    return text.partition("/")[0] if network.prefixlen == network.max_prefixlen else text


def _match(match: Match) -> str:
    match match:
        case Protocol(name, negated):
            return _not(negated) + printable(name.upper())
        case Source(network, negated):
            return f"{_not(negated)}from {address(network)}"
        case Destination(network, negated):
            return f"{_not(negated)}to {address(network)}"
        case InInterface(name, negated):
            return f"{_not(negated)}arriving on {printable(name)}"
        case OutInterface(name, negated):
            return f"{_not(negated)}leaving on {printable(name)}"
        case DestinationPort(_, port, negated):
            return f"{_not(negated)}to port {port}"
        case SourcePort(_, port, negated):
            return f"{_not(negated)}from port {port}"
        case DestinationPorts(ports, negated):
            return f"{_not(negated)}to port {_either(map(str, ports))}"
        case OwnerUid(uid, negated):
            return f"{_not(negated)}sent by uid {uid}"
        case OwnerGid(gid, negated):
            return f"{_not(negated)}sent by gid {gid}"
        case Mark(value, negated):
            return f"{_not(negated)}marked {value:#x}"
        case ConnectionMark(value, negated):
            return f"{_not(negated)}of a connection marked {value:#x}"
        case Socket():
            return "for an open socket"
        case State(states) | ConntrackState(states):
            return f"state {_either(states)}"
        case DestinationSet(_, _, ranges):
            return f"to one of {len(ranges):,} networks"
        case Comment(text):
            return f"comment {printable(text)}"
        case UnknownMatch(name, options):
            return printable(f"{name}{_spelled(options)}")
        case _:
            assert_never(match)


def _not(negated: bool) -> str:
    return "not " if negated else ""


def _either(items: Iterable[str]) -> str:
    return " or ".join(items)


def _spelled(options: Iterable[Option]) -> str:
    return "".join(
        f" {_not(option.negated)}{option.name} {option.value}".rstrip() for option in options
    )
