"""Compares the rules and counters in the kernel with the rules that the flags want. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum
from functools import partial

from ..frozen import replace
from ..rules.counts import Count
from ..rules.matches import Comment
from ..rules.model import BUILT_IN, PREFIX, Family, Rule, Table
from ..rules.ownership import numbers_of_ours


class Standing(Enum):
    """Whether the flags want a rule, and whether it is in the kernel."""

    WANTED = "wanted"
    NOT_WANTED = "not wanted"
    MISSING = "missing"
    GONE = "gone"
    """Not wanted, and no longer in the kernel."""


@dataclass(frozen=True)
class Counted:
    """A rule, its number in its chain of the kernel, from 1, and its counters there.

    A missing rule has neither. `more` is the increase since the previous reading. Without a
    family, the rule is for both.
    """

    family: Family | None
    table: str
    chain: str
    rule: Rule
    standing: Standing
    why: str
    number: int | None = None
    count: Count | None = None
    more: Count | None = None

    @property
    def title(self) -> str:
        """The name of the family or families."""
        return self.family.title if self.family else " and ".join(each.title for each in Family)


Counts = Mapping[str, Sequence[Count | None]]
"""By chain, the counters of its rules; a rule of nf_tables may have none."""


def counted(
    family: Family, wanted: Table, present: Table, counts: Counts, all_ours: bool = False
) -> Iterator[Counted]:
    """Our rules in one table of the kernel and the missing ones, chain by chain.

    With `all_ours`, every rule of the table is ours.
    """
    own = {} if all_ours else numbers_of_ours(present, wanted)
    names = {chain.name for table in (present, wanted) for chain in table.chains}
    for name in sorted(names, key=partial(_place, present.name)):
        chain = present.chain(name)
        ours = [
            (number, rule)
            for number, rule in enumerate(chain.rules if chain else ())
            if all_ours or name.startswith(PREFIX) or number in own.get(name, ())
        ]
        wanted_chain = wanted.chain(name)
        wanted_rules = wanted_chain.rules if wanted_chain else ()
        for standing, number, rule, why in _aligned(wanted_rules, ours):
            yield Counted(
                family,
                present.name,
                name,
                rule,
                standing,
                why,
                None if number is None else number + 1,
                None if number is None else counts[name][number],
            )


def _place(table: str, name: str) -> tuple[int, str]:
    """A sort key: built-in chains first, in the kernel's order; then ours, by name."""
    built_in = BUILT_IN[table]
    return (built_in.index(name), "") if name in built_in else (len(built_in), name)


_Line = tuple[Standing, int | None, Rule, str]


def _aligned(wanted: Sequence[Rule], ours: Sequence[tuple[int, Rule]]) -> Iterator[_Line]:
    """Merges the wanted and the present rules of one chain into one sequence without repetition.

    Rules that differ only in their comment are the same rule.
    """
    matcher = SequenceMatcher(
        None,
        [_without_comment(rule) for rule in wanted],
        [_without_comment(rule) for _, rule in ours],
        autojunk=False,
    )
    for tag, first, last, begin, end in matcher.get_opcodes():
        if tag == "equal":
            for as_wanted, (number, rule) in zip(wanted[first:last], ours[begin:end], strict=True):
                yield Standing.WANTED, number, rule, as_wanted.why
            continue
        for missing in wanted[first:last]:
            yield Standing.MISSING, None, missing, missing.why
        for number, rule in ours[begin:end]:
            yield Standing.NOT_WANTED, number, rule, _comment(rule)


def _without_comment(rule: Rule) -> Rule:
    return Rule(
        tuple(match for match in rule.matches if not isinstance(match, Comment)), rule.target
    )


def _comment(rule: Rule) -> str:
    return next((match.text for match in rule.matches if isinstance(match, Comment)), "")


def changes(before: Iterable[Counted], now: Iterable[Counted]) -> Iterator[Counted]:
    """The rules that are new or changed in `now`, with their increase; and those that are gone."""
    old = _by_identity(before)
    for identity, line in _by_identity(now).items():
        past = old.pop(identity, None)
        if past is None or past.standing is not line.standing:
            yield line
        elif line.count and past.count and line.count != past.count:
            packets = line.count.packets - past.count.packets
            size = line.count.bytes - past.count.bytes
            # A rule that was written again counts from 0.
            more = line.count if packets < 0 else Count(packets, size)
            yield replace(line, more=more)
    for past in old.values():
        if past.standing is Standing.NOT_WANTED:  # a wanted one is listed as missing instead
            yield replace(past, standing=Standing.GONE)


def _by_identity(lines: Iterable[Counted]) -> dict[object, Counted]:
    """By an identity without the rule's number; equal rules in a chain differ by their order."""
    seen: Counter[object] = Counter()
    found: dict[object, Counted] = {}
    for line in lines:
        there = line.standing is not Standing.MISSING
        identity = (line.family, line.table, line.chain, line.rule, there)
        seen[identity] += 1
        found[identity, seen[identity]] = line
    return found
