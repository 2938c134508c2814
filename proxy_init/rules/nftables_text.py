"""Rules as the program nft lists them: the same bytes, except for counters and handles.

It does not print what a match implies: `tcp dport 80` implies TCP, `ip daddr` implies IPv4.
"""

from __future__ import annotations

from .inet_tables import TABLES, Placed, hook_of, merged, name_in_kernel, sets_of
from .matches import (
    Comment,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    Match,
    Protocol,
    Socket,
    Source,
    SourcePort,
)
from .model import BUILT_IN, Family, Ruleset, Table
from .networks import Network
from .nftables_spelling import MATCHES, TARGETS, address
from .targets import (
    Goto,
    Jump,
    Reject,
    SetMark,
    Target,
    Tproxy,
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
    for each in sets_of(chains).values():
        a_line = 2 if each.version == 4 else 1
        items = [address(network) for network in each.networks()]
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
        case DestinationSet(title, version, _):
            yield f"{MATCHES[Destination, version].words} @{title}"
        case DestinationPorts(ports, True):
            for port in ports:
                yield from _match(DestinationPort(protocol, port, True), protocol)
        case ConntrackState(states):
            yield f"ct state {','.join(s.lower() for s in _STATES if s in states)}"
        case Socket():
            yield "socket wildcard 0"
        case Comment():
            pass
        case _:
            *of, value, negated = (getattr(match, name) for name in match.__match_args__)
            of += [value.version] if isinstance(value, Network) else []
            spelling = MATCHES.get((type(match), of[0] if of else None))
            if spelling is None:
                raise ValueError(f"{match} has no spelling in nftables")
            yield f"{spelling.words} {'!= ' if negated else ''}{spelling.write(value)}"


def _target(target: Target, families: Sequence[Family]) -> str:
    match target:
        case Jump(name) | Goto(name):
            return TARGETS[type(target)].words.format(name_in_kernel(name))
        case Tproxy(port, mark, _):
            text = TARGETS[Tproxy].words.format(port)
            if len(families) == 1:
                text = text.replace("tproxy", f"tproxy {_FAMILIES[families[0]]}", 1)
            return f"{text} {_target(SetMark(mark), families)} accept"
        case Reject("icmp6-port-unreachable"):
            return "reject with icmpv6 port-unreachable"
        case _:
            spelling = TARGETS.get(type(target))
            if spelling is None:
                raise ValueError(f"{target} has no spelling in nftables")
            values = (getattr(target, name) for name in target.__match_args__)
            return spelling.words.format(*map(spelling.write, values))
