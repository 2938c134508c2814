"""Compiles rules for the walk of sets of packets: a run of similar rules becomes one step.

A step splits a set by one field at once, as a lookup table would, and not rule by rule.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import chain as chain_of
from itertools import combinations, groupby
from typing import NamedTuple, TypeAlias

from ..rules.matches import UnknownMatch
from ..rules.model import Chain, Rule
from ..rules.targets import (
    NON_TERMINATING,
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
from .number_sets import NOTHING, Numbers, first_come, union
from .packet_sets import CONNECTION_MARK, DESTINATION, MARK, asked
from .packet_walk import PodNetwork

RulePlace: TypeAlias = tuple[str, str, int]
"""Table, chain and number, from 1."""


class Asking(NamedTuple):
    """The conditions of a rule by field, and its target."""

    conditions: Mapping[int, Numbers]
    unknown: bool
    target: Target

    @classmethod
    def of(cls, rule: Rule, sends: bool) -> Asking:
        """The conditions in the hook OUTPUT (`sends`), or in another hook."""
        conditions: dict[int, Numbers] = {}
        unknown = False
        for match in rule.matches:
            known = asked(match, sends)
            unknown |= known is None
            for field, numbers in known or ():
                before = conditions.get(field)
                conditions[field] = numbers if before is None else before & numbers
        return cls(conditions, unknown, rule.target)

    def other_than(self, other: Asking) -> int | None:
        """The single field whose condition differs; None if it is not exactly one."""
        if self.unknown or other.unknown or self.conditions.keys() != other.conditions.keys():
            return None
        fields = [f for f, numbers in self.conditions.items() if numbers != other.conditions[f]]
        return fields[0] if len(fields) == 1 else None

    @property
    def ends(self) -> bool:
        """Whether a match ends the traversal of the chain."""
        match self.target:
            case Verdict() | Reject() | Goto() | Redirect() | Tproxy():
                return True
            case UnknownTarget(name):
                return name not in NON_TERMINATING
            case _:
                return False


class Step:
    """One rule, or consecutive rules whose conditions differ in one field only.

    Of these, no packet is decided by two: the first match ends the traversal, or no other rule
    matches, or the others would do the same once more. For each rule, `asked` holds the values of
    the field that it matches, and `own` those that it is the first to match; `every` is their
    union. A packet that comes back from a chain matches each rule whose `asked` has its value.
    """

    def __init__(
        self, places: Sequence[RulePlace], asking: Sequence[Asking], field: int | None
    ) -> None:
        first = asking[0]
        self.places = places
        self.asking = asking
        self.field = field
        self.unknown = first.unknown
        self.conditions = tuple(each for each in first.conditions.items() if each[0] != field)
        self.targets: Mapping[Target, Numbers] = {first.target: NOTHING}
        if field is not None:
            self.asked = [each.conditions[field] for each in asking]
            self.own = first_come(self.asked)
            of_target: dict[Target, list[Numbers]] = {}
            for each, own in zip(asking, self.own, strict=True):
                of_target.setdefault(each.target, []).append(own)
            self.targets = {target: union(numbers) for target, numbers in of_target.items()}
            self.every = union(self.targets.values())


class _Group:
    """Collects the rules of one step. At most one of their targets, `passing`, does not end the
    traversal."""

    def __init__(self, place: RulePlace, first: Asking, repeatable: bool) -> None:
        self._places = [place]
        self._asking = [first]
        self._field: int | None = None
        self._passing = None if first.ends else first.target
        self._repeatable = repeatable
        self._passed = _Ranges()

    def takes(self, place: RulePlace, asking: Asking) -> bool:
        """Add a rule if it fits into the step; returns whether it did."""
        first = self._asking[0]
        field = first.other_than(asking)
        if field is None or self._field not in (None, field):
            return False
        if self._passing and not self._repeatable and field in (MARK, CONNECTION_MARK):
            return False  # the packet may match the next rule by its new mark
        if self._field is None and self._passing:
            self._passed.add(first.conditions[field])
        self._field = field
        numbers = asking.conditions[field]
        if asking.target != self._passing:
            if not asking.ends or self._passed.meet(numbers):
                return False
        elif not self._repeatable and self._passed.meet(numbers):
            return False
        else:
            self._passed.add(numbers)
        self._places.append(place)
        self._asking.append(asking)
        return True

    def step(self) -> Step:
        """The step of the collected rules."""
        return Step(self._places, self._asking, self._field)


class _Ranges:
    """A set of numbers that grows."""

    def __init__(self) -> None:
        # Sorted and disjoint.
        self._starts: list[int] = []
        self._ends: list[int] = []

    def meet(self, numbers: Numbers) -> bool:
        """Whether one of the numbers is in the set."""
        return any(
            (place := bisect_left(self._ends, start)) < len(self._ends)
            and self._starts[place] <= end
            for start, end in numbers
        )

    def add(self, numbers: Numbers) -> None:
        """Add numbers."""
        for start, end in numbers:
            first, after = bisect_left(self._ends, start), bisect_right(self._starts, end)
            if first < after:
                start, end = min(start, self._starts[first]), max(end, self._ends[after - 1])
            self._starts[first:after] = [start]
            self._ends[first:after] = [end]


def _by_list(
    rules: Sequence[tuple[RulePlace, Asking]],
) -> Sequence[tuple[RulePlace, Asking]]:
    """Rules with one target, a list of destinations after the other, if several lists alternate (-k
    with several interfaces) and no packet matches rules of two lists."""
    lists: dict[frozenset[tuple[int, Numbers]], list[tuple[RulePlace, Asking]]] = {}
    for place, asking in rules:
        others = frozenset(each for each in asking.conditions.items() if each[0] != DESTINATION)
        lists.setdefault(others, []).append((place, asking))
    few = 1 < len(lists) <= _MOST_LISTS
    if few and all(_are_apart(*map(dict, pair)) for pair in combinations(lists, 2)):
        return [*chain_of.from_iterable(lists.values())]
    return rules


def _are_apart(conditions: Mapping[int, Numbers], others: Mapping[int, Numbers]) -> bool:
    return any(not conditions[field].meets(others[field]) for field in conditions.keys() & others)


_MOST_LISTS = 64


class Compiled:
    """The compiled rules of a pod in one family, shared by the walks of all journeys."""

    def __init__(self, pod_network: PodNetwork) -> None:
        self.pod_network = pod_network
        self._chains = {
            (title, chain.name): chain
            for title, table in pod_network.tables.items()
            for chain in table.chains
        }
        self._steps: dict[tuple[str, str, bool], list[Step]] = {}
        self._orders: dict[str, Mapping[str, int]] = {}
        self._repeatable: dict[tuple[str, str], bool] = {}

    def chain(self, title: str, name: str) -> Chain | None:
        """The chain of that name, if there is one."""
        return self._chains.get((title, name))

    def steps(self, title: str, name: str, sends: bool) -> Sequence[Step]:
        """The steps of a chain in the hook OUTPUT (`sends`), or in another hook."""
        key = (title, name, sends)
        if key not in self._steps:
            self._steps[key] = list(self._compiled(*key))
        return self._steps[key]

    def rank(self, title: str, name: str) -> int:
        """A number that is lower than that of every chain that this one goes to (-g)."""
        if title not in self._orders:
            self._orders[title] = self._order(title)
        return self._orders[title].get(name, 0)

    def _order(self, title: str) -> Mapping[str, int]:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for chain in self.pod_network.tables[title].chains:
            for rule in chain.rules:
                if isinstance(rule.target, Goto):
                    sorter.add(rule.target.name, chain.name)
        return {name: place for place, name in enumerate(sorter.static_order())}

    def _compiled(self, title: str, name: str, sends: bool) -> Iterator[Step]:
        chain = self.chain(title, name)
        rules = [
            ((title, name, number), Asking.of(rule, sends))
            for number, rule in enumerate(chain.rules if chain else (), start=1)
        ]
        group: _Group | None = None
        for target, run in groupby(rules, key=lambda each: each[1].target):
            repeatable = self._is_repeatable(title, target)
            for place, asking in _by_list([*run]) if repeatable else run:
                if group and group.takes(place, asking):
                    continue
                if group:
                    yield group.step()
                group = _Group(place, asking, repeatable)
        if group:
            yield group.step()

    def _is_repeatable(self, title: str, target: Target) -> bool:
        """Whether a packet that comes back from a chain comes back unchanged, and would again."""
        if not isinstance(target, Jump | Goto):
            return not isinstance(target, SetMark | SaveMark | RestoreMark)
        key = (title, target.name)
        if key not in self._repeatable:
            chain = self.chain(*key)
            self._repeatable[key] = all(
                self._is_repeatable(title, rule.target)
                and not any(isinstance(match, UnknownMatch) for match in rule.matches)
                for rule in (chain.rules if chain else ())
            )
        return self._repeatable[key]
