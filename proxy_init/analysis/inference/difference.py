"""How the rules of a network namespace differ from those that flags make.

A difference says which rule it is about, so that it can be shown with the reason of that rule. The
sum of their weights is the distance of the flags from what is there.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from enum import Enum
from itertools import takewhile

from ...frozen import Frozen, replace
from ...rules.matches import InInterface, OutInterface
from ...rules.model import BUILT_IN, PREFIX, Chain, Family, PolicyRoute, Rule, Ruleset, Table
from ...rules.ownership import numbers_of_ours
from ...rules.targets import Jump, Verdict
from .held import Held, comment_of, without_comments


class Kind(Enum):
    """What is the matter with a rule, a policy route or the address ::6."""

    MISSING = "missing"
    ADDED = "added"
    CHANGED = "changed"
    MOVED = "moved"
    OTHER_COMMENT = "other comment"


# Of two ways to explain a rule, that one counts which takes less for granted: that a rule is lost
# rather than that somebody added one of our form; that one was added rather than moved far.
_WEIGHTS = {Kind.MISSING: 1.0, Kind.ADDED: 1.01, Kind.OTHER_COMMENT: 0.0}
_CHANGED, _REPLACED, _MOVED, _MOVED_FAR = 1.005, 1.5, 1.0, 1.05
_FAR = 2
"""A rule is moved far if it has passed more rules than these."""


class Difference(Frozen):
    """One difference of a rule. `number` is its place in its chain, from 1, if it is there, and
    `place` the one that it should have, if it is wanted.

    Rules are without comments.
    """

    kind: Kind
    family: Family
    table: str
    chain: str
    number: int | None
    place: int | None
    wanted: Rule | None
    present: Rule | None

    @property
    def weight(self) -> float:
        """How much it counts."""
        if self.kind is Kind.MOVED:
            by = abs((self.number or 0) - (self.place or 0))
            return _MOVED if by <= _FAR else _MOVED_FAR
        if self.kind is Kind.CHANGED:
            alike = self.wanted and self.present and _alike(self.wanted, self.present)
            return _CHANGED if alike else _REPLACED
        return _WEIGHTS[self.kind]


def _alike(rule: Rule, other: Rule) -> bool:
    """Whether the rules differ in one match only, or in the target."""
    if len(rule.matches) != len(other.matches):
        return False
    differ = [pair for pair in zip(rule.matches, other.matches, strict=True) if pair[0] != pair[1]]
    of_one_kind = all(type(one) is type(two) for one, two in differ)
    return of_one_kind and len(differ) + (rule.target != other.target) == 1


class RoutingDifference(Frozen):
    """A policy route that is missing or not wanted, or without one, the address ::6 on lo."""

    kind: Kind
    family: Family
    policy_route: PolicyRoute | None

    @property
    def weight(self) -> float:
        """How much it counts."""
        return _WEIGHTS[self.kind]


Differences = Sequence[Difference | RoutingDifference]


def distance(differences: Iterable[Difference | RoutingDifference]) -> float:
    """How far flags are from the rules that are there; 0 if they make just these."""
    return sum(each.weight for each in differences)


class _Held(Frozen):
    """One chain: its rules without comments, their comments, and the numbers of ours, from 0."""

    rules: Sequence[Rule]
    comments: Sequence[str | None]
    ours: frozenset[int]


class Present:
    """What is held, prepared for many comparisons."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.chains: dict[tuple[Family, str], dict[str, _Held]] = {
            (family, name): dict(self._prepared(table))
            for family, tables in held.tables.items()
            for name, table in tables.items()
        }
        comments = [comment for *_, comment in self.ours()]
        self.is_commented = 2 * sum(each is not None for each in comments) > len(comments)
        """Whether most rules of ours have comments."""

    def _prepared(self, table: Table) -> Iterator[tuple[str, _Held]]:
        own = {} if self.held.native else dict(_ours(table))
        for chain in table.chains:
            everything = self.held.native or chain.name.startswith(PREFIX)
            ours = frozenset(range(len(chain.rules))) if everything else own.get(chain.name)
            rules = tuple(map(without_comments, chain.rules))
            comments = tuple(map(comment_of, chain.rules))
            yield chain.name, _Held(rules, comments, ours or frozenset())

    def rules(self, family: Family, table: str, chain: str) -> Sequence[Rule]:
        """The rules of a chain, without comments."""
        found = self.chains.get((family, table), {}).get(chain)
        return found.rules if found else ()

    def chain_names(self, family: Family, table: str) -> Iterable[str]:
        """The chains of a table."""
        return self.chains.get((family, table), {})

    def unexplained(self, rulesets: Mapping[Family, Ruleset]) -> int:
        """How many RETURNs for interfaces at the top of nat PREROUTING these rules do not have.

        They count as foreign, since -k makes a capture for each; but if nothing is captured by -i,
        it makes just these.
        """
        count = 0
        for family in self.held.tables:
            chain = rulesets[family].table("nat").chain("PREROUTING")
            wanted = Counter(chain.rules if chain else ())
            leading = takewhile(_is_return_for_interface, self.rules(family, "nat", "PREROUTING"))
            count += (Counter(leading) - wanted).total()
        return count

    def without_negations(self) -> "Present":
        """The same, with each match that is negated as if it were not: a damaged rule may still
        name what its flag did."""

        def plain(rule: Rule) -> Rule:
            matches = (
                replace(m, negated=False) if getattr(m, "negated", False) else m
                for m in rule.matches
            )
            return Rule(matches, rule.target, rule.why)

        tables = {
            family: {
                name: replace(
                    table,
                    chains=tuple(
                        replace(chain, rules=tuple(map(plain, chain.rules)))
                        for chain in table.chains
                    ),
                )
                for name, table in of.items()
            }
            for family, of in self.held.tables.items()
        }
        return Present(replace(self.held, tables=tables))

    def ours(self) -> Iterator[tuple[Family, str, str, Rule, str | None]]:
        """Every rule of ours: family, table, chain, the rule and its comment."""
        for (family, table), chains in self.chains.items():
            for name, chain in chains.items():
                for number in sorted(chain.ours):
                    yield family, table, name, chain.rules[number], chain.comments[number]

    def differences(
        self, rulesets: Mapping[Family, Ruleset], commented: Mapping[Family, Ruleset] | None = None
    ) -> Differences:
        """How what is held differs from these rules, which have no comments.

        Comments count only if there is `commented`, the same rules with the comments they must
        have.
        """
        found: list[Difference | RoutingDifference] = []
        for family in self.held.tables:
            ruleset = rulesets[family]
            for name in BUILT_IN:
                found += _of_table(family, ruleset.table(name), self.chains.get((family, name), {}))
            found += self._of_routing(ruleset)
        if commented is not None:
            found += self._of_comments(commented, found)
        return found

    def _of_routing(self, ruleset: Ruleset) -> Iterator[RoutingDifference]:
        family, wanted = ruleset.family, ruleset.routing.policy_route
        there = self.held.policy_routes.get(family)
        if there is not None:
            if wanted and wanted not in there:
                yield RoutingDifference(Kind.MISSING, family, wanted)
            for route in there:
                if route != wanted:
                    yield RoutingDifference(Kind.ADDED, family, route)
        if family is Family.V6 and self.held.passthrough is not None:
            if ruleset.routing.passthrough_address and not self.held.passthrough:
                yield RoutingDifference(Kind.MISSING, family, None)
            if self.held.passthrough and not ruleset.routing.passthrough_address:
                yield RoutingDifference(Kind.ADDED, family, None)

    def _of_comments(
        self,
        commented: Mapping[Family, Ruleset],
        found: Sequence[Difference | RoutingDifference],
    ) -> Iterator[Difference]:
        others = {
            (each.family, each.table, each.chain, each.number)
            for each in found
            if isinstance(each, Difference) and each.kind in (Kind.ADDED, Kind.CHANGED)
        }
        for family in self.held.tables:
            for table in commented[family].tables:
                for chain in table.chains:
                    held = self.chains.get((family, table.name), {}).get(chain.name)
                    if held is None:
                        continue
                    left = deque(sorted(held.ours))
                    for at, wanted in enumerate(chain.rules, start=1):
                        rule = without_comments(wanted)
                        place = next((n for n in left if held.rules[n] == rule), None)
                        if place is None:
                            continue
                        left.remove(place)
                        where = (family, table.name, chain.name, place + 1)
                        if held.comments[place] != comment_of(wanted) and where not in others:
                            rules = rule, held.rules[place]
                            yield Difference(Kind.OTHER_COMMENT, *where, at, *rules)


def _ours(table: Table) -> Iterator[tuple[str, frozenset[int]]]:
    """By built-in chain, the numbers of our rules, and of those that stand like our RETURNs for
    interfaces right above them: somebody may have removed their twins."""
    chains = {chain.name: chain for chain in table.chains}
    built_in = {name: chains.get(name, Chain(name, ())) for name in BUILT_IN[table.name]}
    whole = Table(table.name, tuple({**built_in, **chains}.values()))
    for name, numbers in numbers_of_ours(whole).items():
        rules = chains[name].rules
        own = [n for n in numbers if not _is_capture_on_arrival(rules[n])]
        first = min(own, default=0)
        while first and _is_return_for_interface(rules[first - 1]):
            first -= 1
        yield name, numbers | frozenset(range(first, min(own, default=0)))


def _is_capture_on_arrival(rule: Rule) -> bool:
    return rule.target == Jump("ISTIO_REDIRECT")


def _is_return_for_interface(rule: Rule) -> bool:
    kinds = {type(match) for match in without_comments(rule).matches}
    return rule.target == Verdict("RETURN") and kinds <= {InInterface, OutInterface}


class _Lost(Frozen):
    """A wanted rule that is not where it should be: at `place` of its chain, from 1. Of rules and
    others at one point of a chain, `point` is the same."""

    point: int
    chain: str
    place: int
    rule: Rule


class _Surplus(Frozen):
    """A rule of ours that is not wanted where it is."""

    point: int
    chain: str
    number: int
    rule: Rule


def _of_table(family: Family, wanted: Table, present: Mapping[str, _Held]) -> Iterator[Difference]:
    lost: list[_Lost] = []
    surplus: list[_Surplus] = []
    chains = {chain.name: chain.rules for chain in wanted.chains}
    point = 0
    for name in {**chains, **present}:
        held = present.get(name, _Held((), (), frozenset()))
        rules = chains.get(name, ())
        for missing, more in _blocks(rules, held):
            point += 1
            lost += [_Lost(point, name, n + 1, rules[n]) for n in missing]
            surplus += [_Surplus(point, name, n + 1, held.rules[n]) for n in more]
    for kind, one, other in _paired(lost, surplus):
        where = family, wanted.name, other.chain, other.number
        yield Difference(kind, *where, one.place, one.rule, other.rule)
    for one in lost:
        yield Difference(
            Kind.MISSING, family, wanted.name, one.chain, None, one.place, one.rule, None
        )
    for other in surplus:
        yield Difference(
            Kind.ADDED, family, wanted.name, other.chain, other.number, None, None, other.rule
        )


def _blocks(wanted: Sequence[Rule], held: _Held) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """The points at which a chain differs: the numbers of the wanted rules that are not there, and
    the numbers of ours that are not wanted."""
    begin, end = 0, 0
    shorter = min(len(wanted), len(held.rules))
    while begin < shorter and wanted[begin] == held.rules[begin]:
        begin += 1
    while end < shorter - begin and wanted[-1 - end] == held.rules[-1 - end]:
        end += 1
    left = wanted[begin : len(wanted) - end]
    right = held.rules[begin : len(held.rules) - end]
    # The matcher is slow, and nothing is alike if there is nothing on one side.
    matcher = SequenceMatcher(
        None, *((left, right) if left and right else ((), ())), autojunk=False
    )
    codes = matcher.get_opcodes() or [("replace", 0, len(left), 0, len(right))]
    for tag, i, j, k, m in codes:
        surplus = [n for n in range(begin + k, begin + m) if n in held.ours]
        if tag != "equal" and (i < j or surplus):
            yield range(begin + i, begin + j), surplus


_MOST_PAIRS = 1_000_000
"""More are not compared: then lists of thousands have little in common."""


def _paired(lost: list[_Lost], surplus: list[_Surplus]) -> Iterator[tuple[Kind, _Lost, _Surplus]]:
    """Rules that are elsewhere in the table, and rules with another at their point. Takes them out
    of the lists."""
    if len(lost) * len(surplus) > _MOST_PAIRS:
        return
    for kind in (Kind.MOVED, Kind.CHANGED):
        for one in [*lost]:
            if kind is Kind.MOVED:
                others = [each for each in surplus if each.rule == one.rule]
                others.sort(key=lambda each: each.chain != one.chain)
            else:
                others = [each for each in surplus if each.point == one.point]
                others.sort(key=lambda each: not _alike(each.rule, one.rule))
            if others:
                lost.remove(one)
                surplus.remove(others[0])
                yield kind, one, others[0]
