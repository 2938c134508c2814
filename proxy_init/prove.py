"""That rules keep their promises: shown for all packets, not for samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .config import Config
from .explain import Scene, Visit, Walk
from .frozen import replace
from .model import Family, Rule
from .promises import Promise, promised
from .trials import Trial, searches


@dataclass(frozen=True)
class Counterexample:
    """A packet that shows a promise to be broken."""

    promise: Promise
    trial: Trial
    walk: Walk


@dataclass(frozen=True)
class Unreached:
    """A rule that no packet matches where it stands.

    `taken` is one that it asks for and that comes to its chain, if there is one, and `by` the rule
    there that matches it before.
    """

    family: Family
    table: str
    chain: str
    number: int
    rule: Rule
    taken: Trial | None = None
    by: Visit | None = None


@dataclass(frozen=True)
class Proof:
    """What trying one packet of every class has shown."""

    classes: int
    counterexamples: tuple[Counterexample, ...]
    unreached: tuple[Unreached, ...]


@dataclass(frozen=True)
class Difference:
    """A packet that two sets of rules treat differently."""

    trial: Trial
    ours: Walk
    theirs: Walk


def prove(config: Config, scenes: Mapping[Family, Scene]) -> Proof:
    """Hold each family's rules against what the flags promise.

    Only rules that have a reason must be reached by some packet: others are foreign.
    """
    classes = 0
    broken: list[Counterexample] = []
    unreached: list[Unreached] = []
    for family, scene in scenes.items():
        idle = {place: rule for place, rule in scene.rules() if rule.why}
        for search in searches([config], [scene], family):
            for trial in search:
                classes += 1
                walks = trial.walks(scene)
                for found in walks:
                    search.follow(found)
                    for visit in found.path:
                        if visit.matched:
                            idle.pop((visit.table, visit.chain, visit.number), None)
                if trial.packet.state != "NEW":
                    continue
                promise = promised(config, trial.journey, search.ask)
                broken += [
                    Counterexample(promise, trial, found)
                    for found in walks
                    if promise and not promise.is_kept(found)
                ]
        for (table, name, number), rule in idle.items():
            place = Unreached(family, table, name, number, rule)
            unreached.append(_with_what_takes_its_packets(config, scene, place))
    return Proof(classes, tuple(broken), tuple(unreached))


def compare(
    configs: Sequence[Config], ours: Mapping[Family, Scene], theirs: Mapping[Family, Scene]
) -> tuple[int, tuple[Difference, ...]]:
    """How many classes of packets two sets of rules make, and those treated differently.

    Both sides have the same families.
    """
    classes = 0
    differences: list[Difference] = []
    for family in ours:
        for search in searches(configs, [ours[family], theirs[family]], family):
            for trial in search:
                classes += 1
                one, other = (trial.walks(scenes[family])[0] for scenes in (ours, theirs))
                search.follow(one)
                search.follow(other)
                if one.verdict != other.verdict and trial.packet.state == "NEW":
                    differences.append(Difference(trial, one, other))
    return classes, tuple(differences)


def _with_what_takes_its_packets(config: Config, scene: Scene, unreached: Unreached) -> Unreached:
    for search in searches([config], [scene], unreached.family):
        for trial in search:
            if all(search.ask(match) for match in unreached.rule.matches):
                found = trial.walks(scene)[0]
                search.follow(found)
                place = (unreached.table, unreached.chain)
                seen = [each for each in found.path if (each.table, each.chain) == place]
                if seen:
                    before = (visit for visit in reversed(seen) if visit.matched)
                    return replace(unreached, taken=trial, by=next(before, None))
    return unreached
