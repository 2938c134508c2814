"""A rule in short words: what it asks of a packet, and what it then does with it.

Whoever shows rules to people says them like this; why a rule is there, it says itself. Nothing
here is printed that a terminal or a log could take for more than text.
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
from .networks import Network, network_text
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
    """What packets the rule is for: `TCP, to port 22`."""
    # The protocol first, as people say it; and once, where a port names it again.
    protocols = [match for match in rule.matches if isinstance(match, Protocol)]
    others = [match for match in rule.matches if not isinstance(match, Protocol | Comment)]
    words = [_match(match) for match in (*protocols, *others)]
    if not others:
        return f"any {words[0]}" if words else "anything"
    return ", ".join(words)


def target_in_words(target: Target) -> str:
    """What becomes of such a packet: `passes`, `→ ISTIO_REDIRECT`, `dropped`."""
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
            return "marks its connection"
        case RestoreMark():
            return "marked like its connection"
        case ConntrackZone(zone):
            return f"conntrack zone {zone}"
        case Reject():
            return "refused"
        case Goto(name):
            return f"goes over to {printable(name)}"
        case UnknownTarget(name, options):
            return printable(f"{name}{_spelled(options)}") or "only counted"
        case _:
            assert_never(target)


def printable(text: str) -> str:
    """`text` with what is no visible character escaped: names in the kernel may hold anything."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def address(network: Network) -> str:
    """A network; a single address without its length."""
    text = network_text(network)
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
            return f"{_not(negated)}leaving by {printable(name)}"
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
            return "for a socket that is here"
        case State(states) | ConntrackState(states):
            return f"state {_either(states)}"
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
