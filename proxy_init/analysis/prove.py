"""Proves that rules keep their promises, for all packets instead of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config.config import Config
from ..frozen import replace
from ..rules.model import Family, Rule
from .packet_classes import Sample, searches
from .packet_walk import PodNetwork, Visit, Walk
from .promises import Promise, promised


@dataclass(frozen=True)
class Counterexample:
    """A packet for which a promise is broken."""

    promise: Promise
    sample: Sample
    walk: Walk


@dataclass(frozen=True)
class Unreached:
    """A rule that no packet ever matches in its place.

    `taken` is a packet that reaches its chain and would match it, if there is one; `by` is the rule
    of the chain that matches this packet before.
    """

    family: Family
    table: str
    chain: str
    number: int
    rule: Rule
    taken: Sample | None = None
    by: Visit | None = None


@dataclass(frozen=True)
class Proof:
    """The result of trying one packet of every class."""

    classes: int
    counterexamples: tuple[Counterexample, ...]
    unreached: tuple[Unreached, ...]


@dataclass(frozen=True)
class Difference:
    """A packet that two sets of rules treat differently."""

    sample: Sample
    ours: Walk
    theirs: Walk


def prove(config: Config, pod_networks: Mapping[Family, PodNetwork]) -> Proof:
    """Check the rules of each family against the promises of the flags.

    Rules that no packet matches are reported only if they have a reason: others are foreign.
    """
    classes = 0
    broken: list[Counterexample] = []
    unreached: list[Unreached] = []
    for family, pod_network in pod_networks.items():
        unmatched = {place: rule for place, rule in pod_network.rules() if rule.why}
        for search in searches([config], [pod_network], family):
            for sample in search:
                classes += 1
                walks = sample.walks(pod_network)
                for found in walks:
                    search.follow(found)
                    for visit in found.path:
                        if visit.matched:
                            unmatched.pop((visit.table, visit.chain, visit.number), None)
                if sample.packet.state != "NEW":
                    continue
                promise = promised(config, sample.journey, search.ask)
                broken += [
                    Counterexample(promise, sample, found)
                    for found in walks
                    if promise and not promise.is_kept(found)
                ]
        for (table, name, number), rule in unmatched.items():
            place = Unreached(family, table, name, number, rule)
            unreached.append(_with_what_takes_its_packets(config, pod_network, place))
    return Proof(classes, tuple(broken), tuple(unreached))


def compare(
    configs: Sequence[Config],
    ours: Mapping[Family, PodNetwork],
    theirs: Mapping[Family, PodNetwork],
) -> tuple[int, tuple[Difference, ...]]:
    """The number of classes of packets, and the packets that two sets of rules treat differently.

    Both sets have the same families.
    """
    classes = 0
    differences: list[Difference] = []
    for family in ours:
        for search in searches(configs, [ours[family], theirs[family]], family):
            for sample in search:
                classes += 1
                one, other = (
                    sample.walks(pod_networks[family])[0] for pod_networks in (ours, theirs)
                )
                search.follow(one)
                search.follow(other)
                if one.verdict != other.verdict and sample.packet.state == "NEW":
                    differences.append(Difference(sample, one, other))
    return classes, tuple(differences)


def _with_what_takes_its_packets(
    config: Config, pod_network: PodNetwork, unreached: Unreached
) -> Unreached:
    for search in searches([config], [pod_network], unreached.family):
        for sample in search:
            if all(search.ask(match) for match in unreached.rule.matches):
                found = sample.walks(pod_network)[0]
                search.follow(found)
                place = (unreached.table, unreached.chain)
                seen = [each for each in found.path if (each.table, each.chain) == place]
                if seen:
                    before = (visit for visit in reversed(seen) if visit.matched)
                    return replace(unreached, taken=sample, by=next(before, None))
    return unreached
