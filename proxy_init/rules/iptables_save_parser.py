"""Parses the text of iptables-save into a table: the reverse of iptables_save.py.

Unknown matches and targets keep their spelling, so that nothing is lost.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence

from .counts import Count
from .matches import (
    Destination,
    InInterface,
    Match,
    OutInterface,
    Protocol,
    Source,
    UnknownMatch,
    read_match,
)
from .model import Chain, Rule, Table
from .networks import read_network
from .options import Option
from .targets import VERDICTS, Goto, Jump, Target, UnknownTarget, read_target

# A word, or a quoted string in which a backslash escapes ", ' and itself.
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|\S+')
_CHAIN = re.compile(r":(\S+) (\S+)")
_RULE = re.compile(r"(?:\[(\d+):(\d+)\] )?-A (\S+)(.*)")
_NETWORKS: Mapping[str, type[Source | Destination]] = {"-s": Source, "-d": Destination}
_NAMES: Mapping[str, type[InInterface | OutInterface | Protocol]] = {
    "-i": InInterface,
    "-o": OutInterface,
    "-p": Protocol,
}
_EXTENSIONS = ("-m", "-j")
_PARTS = (*_EXTENSIONS, "-g")
"""Flags that may follow the options of an extension."""
_FREE_TEXT = frozenset({"--comment", "--log-prefix", "--nflog-prefix", "--ulog-prefix"})
"""Options whose value may look like an option: iptables quotes only what is special to a shell."""


class BadLine(ValueError):
    """A line of the text that cannot be read; `index` is its place in the text, from 0."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def read_table(name: str, text: str) -> tuple[Table, dict[str, tuple[Count, ...]]]:
    """A table, and by chain the counters of its rules, which are 0 where the text has none.

    `text` is the output of `iptables-save -t NAME`, with or without -c. Raises BadLine.
    """
    # Not splitlines(): a comment may hold other characters that end a line in Python.
    lines = text.split("\n")
    policies = {declared[1]: declared[2] for declared in map(_CHAIN.match, lines) if declared}
    rules: dict[str, list[Rule]] = {chain: [] for chain in policies}
    counts: dict[str, list[Count]] = {chain: [] for chain in policies}
    for index, added in enumerate(map(_RULE.fullmatch, lines)):
        if not added:
            continue
        packets, size, chain, words = added.groups()
        if chain not in policies:
            raise BadLine(index, f"the chain {chain!r} is not declared")
        try:
            rules[chain].append(_read_rule(words, policies.keys()))
        except (IndexError, KeyError, ValueError) as error:
            raise BadLine(index, "not a rule of iptables-save") from error
        counts[chain].append(Count(int(packets or 0), int(size or 0)))
    chains = tuple(
        Chain(chain, tuple(rules[chain]), policy=None if policy == "-" else policy)
        for chain, policy in policies.items()
    )
    return Table(name, chains), {chain: tuple(each) for chain, each in counts.items()}


def _read_rule(text: str, chains: Container[str]) -> Rule:
    matches: list[Match] = []
    target: Target = UnknownTarget("")
    for kind, name, negated, words in _parts(_WORD.findall(text)):
        match kind:
            case "-m":
                matches.append(read_match(name, tuple(_options(words))))
            case "-j" | "-g":
                target = _target(name, tuple(_options(words)), kind == "-g", chains)
            case "-f":
                matches.append(UnknownMatch("fragment", (Option("f", negated=negated),)))
            case _:
                matches.append(_header(kind, name, negated))
    return Rule(tuple(matches), target)


def _parts(words: Sequence[str]) -> Iterator[tuple[str, str, bool, Sequence[str]]]:
    """A rule's header fields, extensions and target: the flag, its value, whether `!` precedes it,
    and the words of an extension's options."""
    place = 0
    while place < len(words):
        negated = words[place] == "!"
        place += negated
        kind = words[place]
        name = "" if kind == "-f" else words[place + 1]
        place += 1 if kind == "-f" else 2
        begin = place
        while kind in _EXTENSIONS and place < len(words) and words[place] not in _PARTS:
            place += 2 if words[place] in _FREE_TEXT else 1
        yield kind, name, negated, words[begin:place]


def _options(words: Sequence[str]) -> Iterator[Option]:
    place = 0
    while place < len(words):
        negated = words[place] == "!"
        place += negated
        name = words[place].removeprefix("--")
        begin = place + 1
        place += 2 if words[place] in _FREE_TEXT else 1
        while place < len(words) and words[place] != "!" and not words[place].startswith("--"):
            place += 1
        value = " ".join(words[begin:place])
        yield Option(name, _unquoted(value) if name == "comment" else value, negated)


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word


def _header(flag: str, value: str, negated: bool) -> Match:
    if flag in _NAMES:
        return _NAMES[flag](value, negated)
    kind = _NETWORKS[flag]
    try:
        return kind(read_network(value), negated)
    except ValueError:  # a netmask that is not a prefix
        return UnknownMatch(kind.__name__, (Option("network", "!" * negated + value),))


def _target(name: str, options: tuple[Option, ...], goto: bool, chains: Container[str]) -> Target:
    if goto:
        return Goto(name)
    if name in VERDICTS:
        return VERDICTS[name]
    if name in chains:
        return Jump(name)
    return read_target(name, options)
