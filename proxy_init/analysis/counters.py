"""What the kernel's rules have counted, beside what these flags want there: pure comparison."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum
from functools import partial

from ..frozen import replace
from ..rules.counts import Count
from ..rules.matches import Comment
from ..rules.model import BUILT_IN, Family, Rule, Table
from ..rules.ownership import PREFIX, numbers_of_ours


class Standing(Enum):
    """How a rule stands to what these flags want."""

    WANTED = "wanted"
    NOT_WANTED = "not wanted"
    MISSING = "missing"
    GONE = "gone"
    """Not wanted, and no longer there."""


@dataclass(frozen=True)
class Counted:
    """A rule, its number from 1 in its chain of the kernel, and what it has counted there.

    A rule that is missing has neither. `more` is what came since the counts were read before.
    """

    family: Family
    table: str
    chain: str
    rule: Rule
    standing: Standing
    why: str
    number: int | None = None
    count: Count | None = None
    more: Count | None = None


Counts = Mapping[str, Sequence[Count]]
"""By chain, what each of its rules has counted."""


def counted(family: Family, wanted: Table, present: Table, counts: Counts) -> Iterator[Counted]:
    """Our rules in one table of the kernel, and those that are missing, chain by chain."""
    own = numbers_of_ours(present, wanted)
    names = {chain.name for table in (present, wanted) for chain in table.chains}
    for name in sorted(names, key=partial(_place, present.name)):
        chain = present.chain(name)
        ours = [
            (number, rule)
            for number, rule in enumerate(chain.rules if chain else ())
            if name.startswith(PREFIX) or number in own.get(name, ())
        ]
        wished = wanted.chain(name)
        for standing, number, rule, why in _aligned(wished.rules if wished else (), ours):
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
    """The kernel's own chains first, in its order; then ours, by name."""
    built_in = BUILT_IN[table]
    return (built_in.index(name), "") if name in built_in else (len(built_in), name)


_Line = tuple[Standing, int | None, Rule, str]


def _aligned(wanted: Sequence[Rule], ours: Sequence[tuple[int, Rule]]) -> Iterator[_Line]:
    """Wanted and present rules of one chain in one order, each of them once.

    Comments do not count: with or without, it is the same rule.
    """
    matcher = SequenceMatcher(
        None,
        [_without_comment(rule) for rule in wanted],
        [_without_comment(rule) for _, rule in ours],
        autojunk=False,
    )
    for tag, first, last, begin, end in matcher.get_opcodes():
        if tag == "equal":
            for wish, (number, rule) in zip(wanted[first:last], ours[begin:end], strict=True):
                yield Standing.WANTED, number, rule, wish.why
            continue
        for wish in wanted[first:last]:
            yield Standing.MISSING, None, wish, wish.why
        for number, rule in ours[begin:end]:
            yield Standing.NOT_WANTED, number, rule, _comment(rule)


def _without_comment(rule: Rule) -> Rule:
    return Rule(
        tuple(match for match in rule.matches if not isinstance(match, Comment)), rule.target
    )


def _comment(rule: Rule) -> str:
    return next((match.text for match in rule.matches if isinstance(match, Comment)), "")


def changes(before: Iterable[Counted], now: Iterable[Counted]) -> Iterator[Counted]:
    """What is new or other in `now`, with what came since `before`; and what is gone."""
    old = _by_identity(before)
    for identity, line in _by_identity(now).items():
        past = old.pop(identity, None)
        if past is None or past.standing is not line.standing:
            yield line
        elif line.count and past.count and line.count != past.count:
            packets, size = (new - gone for new, gone in zip(line.count, past.count, strict=True))
            # Who writes a rule anew lets it count from 0 again.
            more = line.count if packets < 0 else Count(packets, size)
            yield replace(line, more=more)
    for past in old.values():
        if past.standing is Standing.NOT_WANTED:  # a wanted one is among the missing now
            yield replace(past, standing=Standing.GONE)


def _by_identity(lines: Iterable[Counted]) -> dict[object, Counted]:
    """By what tells rules apart whatever their number: two alike in a chain, by their order."""
    seen: Counter[object] = Counter()
    found: dict[object, Counted] = {}
    for line in lines:
        there = line.standing is not Standing.MISSING
        identity = (line.family, line.table, line.chain, line.rule, there)
        seen[identity] += 1
        found[identity, seen[identity]] = line
    return found
