"""Rules as the program nft lists them: the same bytes, except for counters and handles.

The spelling follows nft 1.0 (src/rule.c, src/expression.c). It does not print what a match implies:
`tcp dport 80` implies TCP, `ip daddr` implies IPv4.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop  # the C part of socket, a tenth of its load time

from .inet_tables import TABLES, Placed, hook_of, merged, name_in_kernel
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
)
from .model import BUILT_IN, Family, Ruleset, Table
from .networks import Network
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
    Verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PRIORITIES = {"raw": "raw", "mangle": "mangle", "filter": "filter"}
_STATES = ("INVALID", "ESTABLISHED", "RELATED", "NEW", "UNTRACKED")
_FAMILIES = {Family.V4: "ip", Family.V6: "ip6"}
_OF_A_FAMILY = (Source, Destination, DestinationSet)


def rulesets_text(rulesets: Sequence[Ruleset]) -> str:
    """The tables of the families that hold rules of proxy-init."""
    return "".join(
        _table_text(name, {ruleset.family: ruleset.table(name) for ruleset in rulesets})
        for name in BUILT_IN
    )


def _table_text(name: str, tables: Mapping[Family, Table]) -> str:
    chains = merged(tables)
    if not chains:
        return ""
    parts = [*_sets(chains), *(_chain(name, chain, rules) for chain, rules in chains.items())]
    return f"table inet {TABLES[name]} {{\n" + "\n".join(parts) + "}\n"


def _sets(chains: Mapping[str, Sequence[Placed]]) -> Iterator[str]:
    rules = (each.rule for rules in chains.values() for each in rules)
    sets = (m for rule in rules for m in rule.matches if isinstance(m, DestinationSet))
    for each in {each.title: each for each in sets}.values():
        a_line = 2 if each.version == 4 else 1
        items = [_address(network) for network in each.networks()]
        lines = [", ".join(items[n : n + a_line]) for n in range(0, len(items), a_line)]
        yield (
            f"\tset {each.title} {{\n\t\ttype ipv{each.version}_addr\n\t\tflags interval\n"
            f'\t\tcomment "{each.comment}"\n'
            f"\t\telements = {{ {(',' + chr(10) + _INDENT).join(lines)} }}\n\t}}\n"
        )


_INDENT = "\t\t\t     "


def _chain(table: str, name: str, rules: Sequence[Placed]) -> str:
    lines = [f"chain {name_in_kernel(name)} {{"]
    hook = hook_of(table, name)
    if hook:
        # In OUTPUT, nft 1.1 lists -100 as dstnat, which nft 1.0.6 does not read there.
        at = _PRIORITIES.get(table) or ("dstnat" if name == "PREROUTING" else hook.priority)
        lines.append(f"\ttype {hook.kind} hook {name.lower()} priority {at}; policy accept;")
    lines += (f"\t{_rule_text(each)}" for each in rules)
    return "".join(f"\t{line}\n" for line in (*lines, "}"))


def _rule_text(placed: Placed) -> str:
    rule, families = placed.rule, placed.families
    words: list[str] = []
    implied = any(isinstance(match, _OF_A_FAMILY) for match in rule.matches)
    if len(families) == 1 and not implied:
        words.append(f"meta nfproto ipv{families[0].value}")
    ports = any(
        isinstance(m, SourcePort | DestinationPort | DestinationPorts) for m in rule.matches
    )
    protocol = next((m.name for m in rule.matches if isinstance(m, Protocol)), "")
    for match in rule.matches:
        if not (isinstance(match, Protocol) and ports):
            words += _match(match, protocol)
    words += ["counter packets 0 bytes 0", _target(rule.target, families)]
    words += (f'comment "{match.text}"' for match in rule.matches if isinstance(match, Comment))
    return " ".join(words)


def _match(match: Match, protocol: str) -> Iterator[str]:
    match match:
        case Source(network, negated):
            yield f"{_family(network)} saddr {_not(negated)}{_address(network)}"
        case Destination(network, negated):
            yield f"{_family(network)} daddr {_not(negated)}{_address(network)}"
        case DestinationSet(title, version, _):
            yield f"ip{'6' * (version == 6)} daddr @{title}"
        case InInterface(name, negated):
            yield f"iifname {_not(negated)}{_interface(name)}"
        case OutInterface(name, negated):
            yield f"oifname {_not(negated)}{_interface(name)}"
        case Protocol(name, negated):
            yield f"meta l4proto {_not(negated)}{name}"
        case SourcePort(name, port, negated):
            yield f"{name} sport {_not(negated)}{port}"
        case DestinationPort(name, port, negated):
            yield f"{name} dport {_not(negated)}{port}"
        case DestinationPorts(ports, True):
            yield from (f"{protocol} dport != {port}" for port in ports)
        case OwnerUid(uid, negated):
            yield f"meta skuid {_not(negated)}{uid}"
        case OwnerGid(gid, negated):
            yield f"meta skgid {_not(negated)}{gid}"
        case Mark(value, negated):
            yield f"meta mark {_not(negated)}{value:#010x}"
        case ConnectionMark(value, negated):
            yield f"ct mark {_not(negated)}{value:#010x}"
        case ConntrackState(states):
            yield f"ct state {','.join(s.lower() for s in _STATES if s in states)}"
        case Socket():
            yield "socket wildcard 0"
        case Comment():
            pass
        case _:
            raise ValueError(f"{match} has no spelling in nftables")


def _target(target: Target, families: Sequence[Family]) -> str:
    match target:
        case Verdict(name):
            return name.lower()
        case Jump(name):
            return f"jump {name_in_kernel(name)}"
        case Goto(name):
            return f"goto {name_in_kernel(name)}"
        case Redirect(port):
            return f"redirect to :{port}"
        case SetMark(value):
            return f"meta mark set {value:#010x}"
        case SaveMark():
            return "ct mark set meta mark"
        case RestoreMark():
            return "meta mark set ct mark"
        case Tproxy(port, mark, _):
            family = f"{_FAMILIES[families[0]]} " if len(families) == 1 else ""
            return f"tproxy {family}to :{port} meta mark set {mark:#010x} accept"
        case ConntrackZone(zone):
            return f"ct zone set {zone}"
        case Reject("icmp6-port-unreachable"):
            return "reject with icmpv6 port-unreachable"
        case _:
            raise ValueError(f"{target} has no spelling in nftables")


def _not(negated: bool) -> str:
    return "!= " if negated else ""


def _family(network: Network) -> str:
    return "ip" if network.version == 4 else "ip6"


def _address(network: Network) -> str:
    """A network as text; a single address without its prefix length."""
    if network.prefixlen == network.max_prefixlen:
        family = AF_INET if network.version == 4 else AF_INET6
        return inet_ntop(family, network.network_address.packed)
    return str(network)


def _interface(name: str) -> str:
    if name.endswith("+"):
        return f'"{name[:-1]}*"'
    return f'"{name[:-1]}\\*"' if name.endswith("*") else f'"{name}"'
