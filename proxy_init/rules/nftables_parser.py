"""Parses the text that the program nft lists: the reverse of nftables_text.py.

Other programs write tests and statements that the model does not have. Those are kept as unknown: a
rule may match, or may end here. If it is not known where such a test ends, the rest of the rule up
to its verdict is unknown, too.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import shown
from ..frozen import Frozen
from .inet_tables import BOTH, HOOKS, Families, Hook, Placed
from .matches import (
    Comment,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
    DestinationSet,
    InInterface,
    Match,
    OutInterface,
    Protocol,
    Socket,
    SourcePort,
    UnknownMatch,
)
from .model import Family
from .native_tables import NativeChain, NativeTable
from .networks import read_address, read_network
from .nftables_spelling import MATCHES, TARGETS
from .options import Option
from .rule_parts import STATES, RuleParts
from .targets import UNTRACKED, VERDICTS, Goto, Jump, Reject, Target, Tproxy, UnknownTarget, Verdict

Sets: TypeAlias = Mapping[str, Sequence[str] | None]
"""The elements of sets and maps by name; None if packets may change them."""

_FAMILIES: Mapping[str, Families] = {"inet": BOTH, "ip": (Family.V4,), "ip6": (Family.V6,)}
_NOT_OF_IP = frozenset({"arp", "bridge", "netdev"})
_PRIORITIES = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_INGRESS = 5  # NF_INET_INGRESS
_OTHER_OBJECTS = frozenset(
    {"counter", "ct", "flowtable", "limit", "quota", "secmark", "synproxy", "tunnel"}
)


class NotNft(ValueError):
    """The text is not what the program nft lists."""


def read_tables(text: str) -> list[NativeTable]:
    """The tables of IPv4 and IPv6 in the order of the text. Raises NotNft."""
    tables: dict[tuple[str, ...], NativeTable] = {}
    for statement in _statements(text):
        table = _table(statement)
        if statement.words in tables:
            raise NotNft(f"line {statement.line}: the {statement.text} is repeated")
        if table:
            tables[statement.words] = table
    return [*tables.values()]


# Statements and blocks.


class _Statement(Frozen):
    """Words up to the end of a line, or up to a block."""

    line: int
    words: tuple[str, ...]
    block: tuple[_Statement, ...] | None = None

    @property
    def text(self) -> str:
        """The words with one space between them."""
        return " ".join(self.words)

    def refused(self) -> NotNft:
        """The error that the statement is unexpected."""
        return NotNft(f"line {self.line}: not a line of `nft list`: {shown(self.text, 60)}")


_TOKEN = re.compile(
    r"(?P<skipped>[ \t\r]+|\\\n|\#[^\n]*)|(?P<end>[;\n])|(?P<brace>[{}])"
    r'|(?P<word>"[^"\n]*"|[^\s{};"\#]+)'
)
_BLOCKS = 2
"""Tables hold chains and sets; braces inside these are values."""


def _statements(text: str) -> tuple[_Statement, ...]:
    opened: list[tuple[int, list[str], list[_Statement]]] = []
    statements: list[_Statement] = []
    words: list[str] = []
    in_value = 0
    line, place = 1, 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            rest = text[place:].partition("\n")[0]
            raise NotNft(f"line {line}: not a line of `nft list`: {shown(rest, 60)}")
        place = token.end()
        if token["word"] or (token["brace"] and (in_value or len(opened) == _BLOCKS)):
            in_value += {"{": 1, "}": -1}.get(token[0], 0)
            if in_value >= 0:
                words.append(token[0])
                continue
            in_value = 0
        if token["end"] and not in_value and words:
            statements.append(_Statement(line, tuple(words)))
            words = []
        if token["brace"] == "{":
            opened.append((line, words, statements))
            statements, words = [], []
        elif token["brace"]:
            if not opened:
                raise NotNft(f"line {line}: there is no block that this }} ends")
            if words:
                statements.append(_Statement(line, tuple(words)))
            block = tuple(statements)
            begun, words, statements = opened.pop()
            statements.append(_Statement(begun, tuple(words), block))
            words = []
        line += token[0].count("\n")
    if words and not opened:
        statements.append(_Statement(line, tuple(words)))
    if opened:
        begun, words, _ = opened[-1]
        raise NotNft(f"line {begun}: the block of {' '.join(words)!r} does not end")
    return tuple(statements)


# Tables, sets and chains.


def _table(statement: _Statement) -> NativeTable | None:
    """A table; None if it is not one of IP. A dormant one has no chains."""
    match statement.words:
        case ("table", family, name) if statement.block is not None:
            if family in _NOT_OF_IP:
                return None
            if family not in _FAMILIES:
                raise statement.refused()
        case _:
            raise statement.refused()
    chains: dict[str, _Statement] = {}
    sets: dict[str, Sequence[str] | None] = {}
    dormant = False
    for each in statement.block:
        match each.words:
            case ("chain", chain) if each.block is not None and chain not in chains:
                chains[chain] = each
            case ("set" | "map", of_set) if each.block is not None:
                sets[of_set] = _elements(each.block)
            case ("flags", *flags) if each.block is None:
                dormant = "dormant" in " ".join(flags)
            case ("comment", _) if each.block is None:
                pass
            case (kind, *_) if kind in _OTHER_OBJECTS and each.block is not None:
                pass
            case _:
                raise each.refused()
    families = _FAMILIES[family]
    found = tuple(_chain(each, families, sets, chains.keys()) for each in chains.values())
    return NativeTable(families, name, () if dormant else found)


_ELEMENT = re.compile(r'(?:"[^"]*"|[^,"])+')
_BESIDE_ELEMENT = re.compile(r' (?:counter packets \d+ bytes \d+|comment "[^"]*")')


def _elements(block: Sequence[_Statement]) -> Sequence[str] | None:
    elements: list[str] = []
    for each in block:
        match each.words:
            case ("flags", *_) if {"dynamic", "timeout"} & {*re.split("[ ,]+", each.text)}:
                return None
            case ("elements", "=", "{", *_, "}"):
                elements = _listed(" ".join(each.words[2:]))
            case _:
                pass
    return elements


def _listed(value: str) -> list[str]:
    """The elements in braces."""
    found = _ELEMENT.findall(value[1:-1])
    return [_BESIDE_ELEMENT.sub("", each).strip() for each in found if each.strip()]


_HOOK = re.compile(r"type (\w+) hook (\w+)(?: devices? .*)? priority ([^ ]+)(?: ([+-]) (\d+))?")


def _chain(
    statement: _Statement, families: Families, sets: Sets, chains: Container[str]
) -> NativeChain:
    hook = policy = None
    rules: list[Placed] = []
    for each in statement.block or ():
        match each.words:
            case ("type", *_):
                hook, policy = _hook(each), "ACCEPT"
            case ("policy", ("accept" | "drop") as verdict):
                policy = verdict.upper()
            case ("comment", _) | ("flags", "offload"):
                pass
            case _ if each.block is None:
                placed = list(_rules(each.text, families, sets))
                for to in (p.rule.target for p in placed):
                    if isinstance(to, Jump | Goto) and to.name not in chains:
                        raise NotNft(f"line {each.line}: the table has no chain {to.name!r}")
                rules += placed
            case _:
                raise each.refused()
    return NativeChain(statement.words[1], hook, policy, tuple(rules))


def _hook(statement: _Statement) -> Hook:
    found = _HOOK.fullmatch(statement.text)
    try:
        if found:
            kind, name, priority, sign, offset = found.groups()
            number = _PRIORITIES[priority] if priority in _PRIORITIES else int(priority)
            by = int(f"{sign}{offset}") if sign else 0
            hooks = {each.lower(): n for each, n in HOOKS.items()} | {"ingress": _INGRESS}
            return Hook(hooks[name], number + by, kind)
    except (KeyError, ValueError):
        pass
    raise statement.refused()


# Rules.

_VALUE = r'("[^"]*"|\{[^{}]*\}|(?!(?:set|map|vmap|and|or|xor|[.&|^/<>])(?: |$))[^ ]+)'
_ENDS = r"(?: |$)(?!(?:map|vmap|and|or|xor|<<|>>|[.&|^/])(?: |$))"
"""After a value: no operator that makes it a part of something larger."""

_IN_MODEL: Mapping[str, tuple[type[Any], Any]] = {e.words: key for key, e in MATCHES.items()}
_SYNONYMS = {"skuid": "meta skuid", "skgid": "meta skgid", "mark": "meta mark"}
"""The words that nft uses for rules of iptables-nft."""
_OF_MODEL = "|".join([*_IN_MODEL, *_SYNONYMS, "iif", "oif", "meta nfproto", "socket wildcard"])
_OF_OTHERS = r"(?:meta|ct|ip|ip6|tcp|udp|th|icmp|icmpv6|socket|rt|ether) [a-z0-9-]+|xt match"
_TEST = re.compile(rf"({_OF_MODEL}|{_OF_OTHERS})(?: (==|!=|<=|>=|<|>))? {_VALUE}{_ENDS}")
_TARGETS = [
    (kind, each.read, re.compile(re.escape(each.words).replace(r"\{\}", "([^ ]+)") + _ENDS))
    for kind, each in TARGETS.items()
    if kind is not Verdict
]
_VERDICT = re.compile(r"(accept|drop|return)$")
_TPROXY = re.compile(rf"tproxy (?:(ip6?) )?to :(\d+){_ENDS}")
_REJECT = re.compile(r"reject(?: with (.*))?$")
_PASSES = re.compile(
    r"(?:counter(?: packets \d+ bytes \d+| name [^ ]+)?|continue"
    r'|log(?: (?:prefix "[^"]*"|(?:group|snaplen|queue-threshold|level|flags) [^ ]+))*)(?: |$)'
)
"""Statements without an effect on the way of a packet."""
_UNTRACKED = re.compile(r"notrack(?: |$)")
_LIMIT = re.compile(r"(limit rate (?:over )?[^ ]+(?: burst \d+ [a-z]+)?)(?: |$)")
_COMMENT = re.compile(r'(?:^| )comment "([^"]*)"$')
_VERDICT_MAP = re.compile(r"vmap (\{[^{}]*\}|@[^ ]+)$")
_SETS_MARK = re.compile(r"(?:meta|ct) mark set [^{}]*")
_ENDING = re.compile(r"(?:dnat|snat|masquerade|redirect|tproxy|queue)(?: |$)")
"""Statements after which the next rule is not tried, whatever follows them."""
_LAST = re.compile(r"(?:^| )(accept|drop|return|(?:jump|goto) [^ ]+)$")


def _rules(text: str, families: Families, sets: Sets) -> Iterator[Placed]:
    """What a rule is in the model: one rule, or with a verdict map one for each verdict."""
    reader = _RuleReader(families, sets)
    comment = _COMMENT.search(text)
    reader.take(text[: comment.start()] if comment else text)
    if comment:
        reader.parts.matches.append(Comment(comment[1]))
    before = reader.parts.targets
    if not reader.verdicts:
        yield reader.parts.placed()
    for target in reader.verdicts:
        reader.parts.targets = [*before, target]
        yield reader.parts.placed()


class _RuleReader:
    """Takes the text of one rule apart from its start."""

    def __init__(self, families: Families, sets: Sets) -> None:
        self.parts = RuleParts(families)
        self.verdicts: list[Target] = []
        """Those of a verdict map."""
        self._sets = sets

    def take(self, text: str) -> None:
        """Read the matches and targets of a rule without its comment."""
        while text:
            length = self._statement(text)
            if not length:
                self._unknown(text)
                return
            text = text[length:]

    def _statement(self, text: str) -> int:
        """Read the first match or target; returns its length, 0 if it is not known."""
        if found := _PASSES.match(text):
            pass
        elif found := _LIMIT.match(text):
            self.parts.matches.append(_unknown_match(found[1]))
        elif found := _VERDICT.match(text):
            self.parts.targets.append(VERDICTS[found[1].upper()])
        elif found := _REJECT.match(text):
            self._reject(found[1] or "")
        elif found := _UNTRACKED.match(text):
            self.parts.targets.append(UNTRACKED)
        elif found := _TPROXY.match(text):
            if found[1]:
                self.parts.test_family(_FAMILIES[found[1]])
            self.parts.targets.append(Tproxy(int(found[2]), 0, "any"))
        elif found := self._target(text):
            pass
        elif found := _TEST.match(text):
            try:
                self._test(found[1], found[2] or "==", found[3])
            except (ValueError, KeyError):
                self.parts.matches.append(_unknown_match(found[0].strip()))
        return found.end() if found else 0

    def _target(self, text: str) -> re.Match[str] | None:
        for kind, read, pattern in _TARGETS:
            if found := pattern.match(text):
                try:
                    self.parts.targets.append(kind(*map(read, found.groups())))
                except ValueError:
                    return None
                return found
        return None

    def _reject(self, how: str) -> None:
        """The messages of the model depend on the family; the packet is dropped with any."""
        if not how:
            icmp = "icmp" if self.parts.family is Family.V4 else "icmpv6"
            how = f"{'icmpx' if self.parts.families == BOTH else icmp} port-unreachable"
        kind, _, message = how.partition(" ")
        if kind in ("icmp", "icmpv6"):
            self.parts.test_family(_FAMILIES["ip" if kind == "icmp" else "ip6"])
        prefix = {"icmp": "icmp", "icmpv6": "icmp6"}.get(kind, kind)
        self.parts.targets.append(Reject(f"{prefix}-{message.removeprefix('type ')}"))

    def _test(self, words: str, operator: str, value: str) -> None:
        """Add the match of a test. Raises ValueError or KeyError if the model has none."""
        negated = {"==": False, "!=": True}[operator]
        words = _SYNONYMS.get(words, words)
        if words == "meta nfproto":
            families = _FAMILIES[{"ipv4": "ip", "ipv6": "ip6"}[value]]
            self.parts.test_family(tuple(f for f in BOTH if (f in families) != negated))
        elif words == "ct state" and not negated:
            self.parts.matches.append(_states(value))
        elif (words, operator, value) == ("socket wildcard", "==", "0"):
            self.parts.matches.append(Socket())
        elif words in ("iif", "oif") and value == '"lo"':  # others may change their names
            on_loopback = InInterface("lo", negated), OutInterface("lo", negated)
            self.parts.matches.append(on_loopback[words == "oif"])
        else:
            self._compare(words, negated, value)

    def _compare(self, words: str, negated: bool, value: str) -> None:
        kind, of = _IN_MODEL[words]
        if kind in (SourcePort, DestinationPort):
            self._compare_port(kind, of, negated, value)
            return
        if of is not None:
            self.parts.test_family((Family(of),))
        elements = self._elements(value)
        if elements is None:
            self.parts.matches.append(kind(MATCHES[kind, of].read(value), negated))
        elif kind is Destination and not negated:
            ranges = tuple(sorted(map(_range, elements)))
            self.parts.matches.append(DestinationSet(value.removeprefix("@"), of, ranges))
        else:
            raise ValueError("a list")

    def _compare_port(
        self, kind: type[SourcePort | DestinationPort], protocol: str, negated: bool, value: str
    ) -> None:
        if Protocol(protocol) not in self.parts.matches:
            self.parts.matches.append(Protocol(protocol))
        elements = self._elements(value)
        if elements is None:
            self.parts.test_port(kind, int(value), negated)
        elif kind is DestinationPort:
            self.parts.matches.append(DestinationPorts(tuple(map(int, elements)), negated))
        else:
            raise ValueError("a list of source ports")

    def _elements(self, value: str) -> Sequence[str] | None:
        """The elements of a set; None for a single value. Raises ValueError if they may change."""
        if value.startswith("{"):
            return _listed(value)
        if not value.startswith("@"):
            return None
        found = self._sets.get(value[1:])
        if found is None:
            raise ValueError("a set that packets change, or none of this table")
        return found

    def _unknown(self, text: str) -> None:
        """Keep the rest of a rule as unknown, but for its verdict."""
        if found := _VERDICT_MAP.search(text):
            self.verdicts = list(dict.fromkeys(self._mapped(found[1])))
            self.parts.matches.append(_unknown_match(text))
        elif found := _LAST.search(text):
            self.parts.matches.append(_unknown_match(text[: found.start()]))
            self._statement(found[1])
        elif _SETS_MARK.fullmatch(text):
            self.parts.targets.append(UnknownTarget("MARK", (Option("text", text),)))
        else:
            if not _ENDING.match(text):
                self.parts.matches.append(_unknown_match(text))
            self.parts.targets.append(UnknownTarget("nft", (Option("text", text),)))

    def _mapped(self, value: str) -> Iterator[Target]:
        """The verdicts of a map; an unknown one if packets may change it."""
        try:
            elements = self._elements(value) or ()
        except ValueError:
            elements = [f": {value}"]
        for each in elements:
            verdict = each.rpartition(" : ")[2].removeprefix(": ")
            reader = _RuleReader(BOTH, {})
            reader.take(verdict)
            yield from reader.parts.targets


def _states(value: str) -> ConntrackState:
    """Raises ValueError."""
    words = [word.strip().upper() for word in value.strip("{} ").split(",")]
    if not set(words) <= set(STATES):
        raise ValueError("a number")
    return ConntrackState(tuple(state for state in STATES if state in words))


def _range(element: str) -> tuple[int, int]:
    """The first and the last address of an element of a set. Raises ValueError."""
    first, dash, last = element.partition("-")
    if dash:
        return int(read_address(first)), int(read_address(last))
    network = read_network(element)
    return int(network[0]), int(network[-1])


def _unknown_match(text: str) -> Match:
    return UnknownMatch("nft", (Option("text", text),))
