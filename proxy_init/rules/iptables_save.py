"""Rules as iptables-save prints them: the same bytes, except for counters and comment lines.

The spelling follows iptables 1.8 (iptables/iptables.c `print_rule4`, libxtables/xtables.c
`xtables_save_string`).
"""

from __future__ import annotations

from .matches import Comment, Destination, InInterface, Match, OutInterface, Protocol, Source
from .model import BUILT_IN, Family, Rule, Ruleset, Table
from .options import Option
from .targets import Goto

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def ruleset_text(ruleset: Ruleset) -> str:
    """The tables of a family that hold rules of proxy-init, in the order in which packets traverse
    them."""
    return "".join(
        table_text(ruleset.table(name)) for name in BUILT_IN if ruleset.table(name).chains
    )


def routing_text(ruleset: Ruleset) -> str:
    """What the family needs besides rules, as comment lines with the commands of iproute2."""
    ip = "# ip" if ruleset.family is Family.V4 else "# ip -6"
    lines = []
    if ruleset.routing.policy_route:
        mark, table = ruleset.routing.policy_route.mark, ruleset.routing.policy_route.table
        lines.append(f"{ip} rule add fwmark {mark:#x} lookup {table}")
        lines.append(f"{ip} route add local default dev lo table {table}")
    if ruleset.routing.passthrough_address:
        lines.append(f"{ip} address add {ruleset.family.passthrough} dev lo")
    return "".join(f"{line}\n" for line in lines)


def table_text(table: Table) -> str:
    """What `iptables-save -t TABLE` prints if the kernel's table holds exactly `table`."""
    return "".join(f"{line}\n" for line in _table_lines(table))


def _table_lines(table: Table) -> Iterator[str]:
    built_in = BUILT_IN[table.name]
    # libiptc keeps user-defined chains sorted by name.
    chains = {chain.name: chain for chain in table.chains}
    user_defined = sorted(name for name in chains if name not in built_in)
    yield f"*{table.name}"
    for name in built_in:
        chain = chains.get(name)
        yield f":{name} {chain.policy if chain and chain.policy else 'ACCEPT'} [0:0]"
    for name in user_defined:
        yield f":{name} - [0:0]"
    for name in (*built_in, *user_defined):
        chain = chains.get(name)
        for rule in chain.rules if chain else ():
            yield f"-A {name}{rule_text(rule)}"
    yield "COMMIT"


def rule_text(rule: Rule) -> str:
    """A rule's matches and target, with a space before each word."""
    words = [_match_text(match) for match in rule.matches]
    target = rule.target
    if target.name:
        flag = "-g" if isinstance(target, Goto) else "-j"
        words.append(f" {flag} {target.name}{_options_text(target.options())}")
    return "".join(words)


def _match_text(match: Match) -> str:
    match match:
        case Source(network, negated):
            return _header("-s", str(network), negated)
        case Destination(network, negated):
            return _header("-d", str(network), negated)
        case InInterface(name, negated):
            return _header("-i", name, negated)
        case OutInterface(name, negated):
            return _header("-o", name, negated)
        case Protocol(name, negated):
            return _header("-p", name, negated)
        case Comment(text):
            return f" -m comment --comment {_quoted(text)}"
        case _:
            return f" -m {match.name}{_options_text(match.options())}"


def _header(flag: str, value: str, negated: bool) -> str:
    return f" ! {flag} {value}" if negated else f" {flag} {value}"


def _options_text(options: Iterable[Option]) -> str:
    return "".join(
        _header(f"--{option.name}", option.value, option.negated).rstrip() for option in options
    )


def _quoted(text: str) -> str:
    if text and _UNQUOTED.issuperset(text):
        return text
    return '"' + "".join(f"\\{char}" if char in "\"\\'" else char for char in text) + '"'
