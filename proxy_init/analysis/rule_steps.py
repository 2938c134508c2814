"""Compiles rules for the walk of sets of packets: a run of similar rules becomes one step.

A step splits a set by one field at once, as a lookup table would, and not rule by rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple, TypeAlias

from ..rules.model import Chain, Rule
from ..rules.targets import (
    NON_TERMINATING,
    Goto,
    Redirect,
    Reject,
    Target,
    Tproxy,
    UnknownTarget,
    Verdict,
)
from .number_sets import NOTHING, Numbers, first_come, union
from .packet_sets import asked
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
    matches. `own` holds, for each rule, the values of the field that it decides; `every` is their
    union.
    """

    def __init__(
        self, places: Sequence[RulePlace], asking: Sequence[Asking], field: int | None
    ) -> None:
        first = asking[0]
        self.places = places
        self.field = field
        self.unknown = first.unknown
        self.conditions = tuple(each for each in first.conditions.items() if each[0] != field)
        self.targets: Mapping[Target, Numbers] = {first.target: NOTHING}
        if field is not None:
            self.own = first_come([each.conditions[field] for each in asking])
            of_target: dict[Target, list[Numbers]] = {}
            for each, own in zip(asking, self.own, strict=True):
                of_target.setdefault(each.target, []).append(own)
            self.targets = {target: union(numbers) for target, numbers in of_target.items()}
            self.every = union(self.targets.values())


class _Group:
    """Collects the rules of one step."""

    def __init__(self, place: RulePlace, first: Asking) -> None:
        self._places = [place]
        self._asking = [first]
        self._field: int | None = None
        # The ranges of rules that do not end the traversal, sorted and disjoint.
        self._starts: list[int] = []
        self._ends: list[int] = []

    def takes(self, place: RulePlace, asking: Asking) -> bool:
        """Add a rule if it fits into the step; returns whether it did."""
        first = self._asking[0]
        field = first.other_than(asking)
        if field is None or self._field not in (None, field):
            return False
        if self._field is None and not first.ends:
            self._set_aside(first.conditions[field])
        self._field = field
        if self._is_met(asking.conditions[field]):
            return False
        if not asking.ends:
            self._set_aside(asking.conditions[field])
        self._places.append(place)
        self._asking.append(asking)
        return True

    def step(self) -> Step:
        """The step of the collected rules."""
        return Step(self._places, self._asking, self._field)

    def _is_met(self, numbers: Numbers) -> bool:
        return any(
            (place := bisect_left(self._ends, start)) < len(self._ends)
            and self._starts[place] <= end
            for start, end in numbers
        )

    def _set_aside(self, numbers: Numbers) -> None:
        for start, end in numbers:
            place = bisect_left(self._ends, start)
            self._starts.insert(place, start)
            self._ends.insert(place, end)


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
        group: _Group | None = None
        for number, rule in enumerate(chain.rules if chain else (), start=1):
            place, asking = (title, name, number), Asking.of(rule, sends)
            if group and group.takes(place, asking):
                continue
            if group:
                yield group.step()
            group = _Group(place, asking)
        if group:
            yield group.step()
