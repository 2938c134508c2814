"""Proves that rules keep their promises, or compares two sets of rules, for all packets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import NamedTuple

from ..config.config import Config
from ..frozen import Frozen, replace
from ..rules.model import PREFIX, Chain, Family, Rule, Table
from .number_sets import Numbers
from .packet_sets import (
    CONNECTION_MARK,
    NEW,
    STATE,
    Box,
    Condition,
    Journey,
    common,
    example,
    journeys,
    merged,
    split,
    with_field,
    without,
)
from .packet_walk import Decision, Outcome, Packet, Place, PodNetwork, Visit, Walk, walk
from .promises import SKIPPED, Promise, clauses, weaknesses
from .rule_steps import Compiled
from .set_walk import SetWalk

MOST_EXPLAINED = 50
"""The number of unreached rules that get an example of the packets they would match. An example
takes a walk, and a list may hold thousands of CIDRs that are inside others."""

_FIRST = (Condition(STATE, Numbers.of(NEW)),)


class Sample(Frozen):
    """One packet that represents a set."""

    journey: Journey
    packet: Packet
    assumed: frozenset[Place] = frozenset()
    """The places of rules whose result is not known and that must match."""

    def walk(self, pod_network: PodNetwork) -> Walk:
        """The walk in a pod with these rules."""
        own = frozenset([self.packet.destination] if self.journey.local else [])
        pod = PodNetwork(pod_network.tables, own, pod_network.policy_route)
        return walk(pod, self.packet, self.assumed)


class Counterexample(Frozen):
    """Packets for which a promise is broken, all in the same way."""

    promise: Promise
    ends: frozenset[int | None]
    """The ports of the proxy that may capture them; None means that none captures them."""
    boxes: tuple[Box, ...]
    decision: Decision
    weakness: str | None
    """Why the prescribed rules break the promise, if they are known to."""
    sample: Sample
    walk: Walk

    @property
    def skipped_by(self) -> Visit | None:
        """The foreign rule by which the sample bypasses ours, if that is the promise."""
        foreign = (v for v in reversed(self.walk.path) if v.matched is not False and not v.why)
        return next(foreign, None) if self.promise is SKIPPED else None


class Unreached(Frozen):
    """A rule that no packet ever matches in its place.

    `taken` is a packet that reaches its chain and would match it, if there is one; `by` is the rule
    of the chain that matches this packet before. Only the first MOST_EXPLAINED rules have them.
    """

    family: Family
    table: str
    chain: str
    number: int
    rule: Rule
    taken: Sample | None = None
    by: Visit | None = None


class Proof(Frozen):
    """The result of walking all packets."""

    classes: int
    """The number of sets of packets that are treated differently, or may be."""
    counterexamples: tuple[Counterexample, ...]
    unreached: tuple[Unreached, ...]


Decisions = frozenset[Decision | None]
"""The possible results for packets: several if the result of a rule is not known. None stands for
that of the first packet of their connection."""


class Difference(Frozen):
    """Packets that two sets of rules treat differently, all in the same way."""

    boxes: tuple[Box, ...]
    ours: Decisions
    theirs: Decisions
    sample: Sample


def prove(config: Config, pod_networks: Mapping[Family, PodNetwork]) -> Proof:
    """Check the rules of each family against the promises of the flags.

    Rules that no packet matches are reported only if they have a reason: others are foreign.
    """
    classes = 0
    broken: list[Counterexample] = []
    unreached: list[Unreached] = []
    for family, pod_network in pod_networks.items():
        compiled = Compiled(pod_network)
        ours_alone = _without_foreign(pod_network)
        alone = Compiled(ours_alone) if ours_alone else None
        unmatched = {place: rule for place, rule in pod_network.rules() if rule.why}
        walks = [SetWalk(compiled, journey) for journey in journeys(family)]
        for found in walks:
            classes += len(found.fates)
            for place in found.matched():
                unmatched.pop(place, None)
            groups = [_broken(config, found)]
            if alone:
                groups.append(_skipped(found, SetWalk(alone, found.journey)))
            for how, boxes in chain.from_iterable(group.items() for group in groups):
                broken += _examples(config, pod_network, found.journey, how, boxes)
        for place, rule in unmatched.items():
            each = Unreached(family, *place, rule)
            if len(unreached) < MOST_EXPLAINED:
                each = _with_what_takes_its_packets(pod_network, walks, each)
            unreached.append(each)
    return Proof(classes, tuple(broken), tuple(unreached))


def compare(
    ours: Mapping[Family, PodNetwork], theirs: Mapping[Family, PodNetwork]
) -> tuple[int, tuple[Difference, ...]]:
    """The number of classes of packets, and the packets that two sets of rules treat differently.

    Both sets have the same families.
    """
    classes = 0
    differences: list[Difference] = []
    for family in ours:
        one, other = Compiled(ours[family]), Compiled(theirs[family])
        for journey in journeys(family):
            groups: dict[tuple[Decisions, Decisions], list[Box]] = {}
            others = _possible(SetWalk(other, journey))
            for box, here in _possible(SetWalk(one, journey)):
                for other_box, there in others:
                    both = common(box, other_box)
                    classes += both is not None
                    if both and here != there:
                        groups.setdefault((here, there), []).append(both)
            for (here, there), boxes in groups.items():
                shown = _shown(journey, boxes)
                if shown:
                    kept, packet = shown
                    differences.append(Difference(kept, here, there, Sample(journey, packet)))
    return classes, tuple(differences)


class _Broken(NamedTuple):
    """The way in which a promise is broken."""

    promise: Promise
    ends: frozenset[int | None]
    decision: Decision
    assumed: frozenset[Place]


def _broken(config: Config, found: SetWalk) -> Mapping[_Broken, list[Box]]:
    """The packets for which the rules break a promise of the flags."""
    promises = tuple(clauses(config, found.journey))
    groups: dict[_Broken, list[Box]] = {}
    for fate in found.fates:
        first, _ = split(fate.box, _FIRST)
        left = [first] if first and fate.decision else []
        for clause in promises:
            met, left = _sorted_out(left, clause.conditions)
            if met and clause.promise and fate.decision and not clause.is_kept(fate.decision):
                how = _Broken(clause.promise, clause.ends, fate.decision, fate.assumed)
                groups.setdefault(how, []).extend(met)
    return groups


def _skipped(found: SetWalk, alone: SetWalk) -> Mapping[_Broken, list[Box]]:
    """The packets that foreign rules treat differently than ours `alone` do. Dropped packets do not
    count: they bypass nothing."""
    groups: dict[_Broken, list[Box]] = {}
    for fate, other in product(found.fates, alone.fates):
        decision, wanted = fate.decision, other.decision
        if not decision or not wanted or wanted == decision or decision[0] is Outcome.DROPPED:
            continue
        both = common(fate.box, other.box)
        first = both and split(both, _FIRST)[0]
        if first:
            how = _Broken(SKIPPED, frozenset({wanted[2]}), decision, fate.assumed)
            groups.setdefault(how, []).append(first)
    return groups


def _examples(
    config: Config, pod_network: PodNetwork, journey: Journey, how: _Broken, boxes: Sequence[Box]
) -> Iterator[Counterexample]:
    """One for each known weakness that explains some of the packets, and one for the others."""
    left = list(boxes)
    for weakness, conditions in (*weaknesses(config, journey), (None, ())):
        met, left = _sorted_out(left, conditions)
        shown = _shown(journey, met)
        if shown:
            kept, packet = shown
            sample = Sample(journey, packet, how.assumed)
            way = sample.walk(pod_network)
            yield Counterexample(how.promise, how.ends, kept, how.decision, weakness, sample, way)


def _sorted_out(
    boxes: Iterable[Box], conditions: Sequence[Condition]
) -> tuple[list[Box], list[Box]]:
    """The packets of some boxes that meet conditions, and the rest."""
    met, left = [], []
    for box in boxes:
        inside, rest = split(box, conditions)
        met += [inside] if inside else []
        left += rest
    return met, left


def _shown(journey: Journey, boxes: Sequence[Box]) -> tuple[tuple[Box, ...], Packet] | None:
    """The packets in fewer boxes, and one packet of the first box; None if there is no packet.

    Packets of related connections are left out if new ones are treated in the same way.
    """
    first, later = _sorted_out(boxes, _FIRST)
    unmarked = Numbers.of(0)
    later = [
        box
        for box in later
        if without(
            [with_field(with_field(box, STATE, Numbers.of(NEW)), CONNECTION_MARK, unmarked)], first
        )
    ]
    kept = [
        (box, packet)
        for box in (*merged(first), *merged(later))
        if (packet := example(journey, box))
    ]
    return (tuple(box for box, _ in kept), kept[0][1]) if kept else None


def _possible(found: SetWalk) -> list[tuple[Box, Decisions]]:
    """The possible results of all packets, by disjoint sets."""
    known = [(f.box, frozenset([f.decision])) for f in found.fates if not f.assumed]
    for fate in found.fates:
        if fate.assumed:
            known = list(_with_possibility(known, fate.box, fate.decision))
    return known


def _with_possibility(
    known: Iterable[tuple[Box, Decisions]], box: Box, decision: Decision | None
) -> Iterator[tuple[Box, Decisions]]:
    for each, decisions in known:
        both = common(each, box)
        if both is None or decision in decisions:
            yield each, decisions
            continue
        yield both, decisions | {decision}
        for rest in without([each], [both]):
            yield rest, decisions


def _without_foreign(pod_network: PodNetwork) -> PodNetwork | None:
    """Our rules alone; None if there are no others."""

    def is_ours(chain: Chain, rule: Rule) -> bool:
        return bool(rule.why) or any(
            name.startswith(PREFIX) for name in (chain.name, rule.target.name)
        )

    def ours(chain: Chain) -> Chain:
        return replace(chain, rules=tuple(r for r in chain.rules if is_ours(chain, r)))

    tables = {
        title: Table(table.name, tuple(map(ours, table.chains)))
        for title, table in pod_network.tables.items()
    }
    alone = replace(pod_network, tables=tables)
    return None if tables == pod_network.tables else alone


def _with_what_takes_its_packets(
    pod_network: PodNetwork, walks: Iterable[SetWalk], unreached: Unreached
) -> Unreached:
    place = (unreached.table, unreached.chain)
    for found in walks:
        for arrival in found.arriving(*place, unreached.rule):
            packet = example(arrival.journey, arrival.box)
            if packet:
                sample = Sample(arrival.journey, packet, arrival.assumed)
                path = sample.walk(pod_network).path
                before = [each for each in path if (each.table, each.chain) == place]
                by = next((visit for visit in reversed(before) if visit.matched), None)
                return replace(unreached, taken=sample, by=by)
    return unreached
