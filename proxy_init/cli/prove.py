"""`prove`: do the rules keep the promises of the flags, for all packets?"""

import json
import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..analysis.packet_classes import CLIENT, POD, Sample
from ..analysis.packet_walk import PodNetwork, Walk, sentence
from ..analysis.promises import known_weakness
from ..analysis.prove import Counterexample, Difference, Proof, compare, prove
from ..config import values
from ..config.config import Config, settle
from ..config.flags import Flag
from ..config.read import read_config
from ..errors import BadCall, Mistake
from ..frozen import replace
from ..kernel.routing.addresses import global_addresses
from ..kernel.system.host import Host
from ..rules.iptables_save import rule_text
from ..rules.model import Family, Rule
from .explain import explain_call, flags_of
from .pod_network import LIVE, live_rules, pod_network_of
from .session import print_text, session, wanted_rulesets
from .terminal import WIDTH

BROKEN = 3

OPTIONS = (
    LIVE,
    Flag(
        "against",
        "--against",
        "",
        "",
        "FLAGS",
        "Show which packets these other flags treat differently, instead of a proof.",
    ),
)

_Found = TypeVar("_Found")


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the result; returns 0, or 3 if there are counterexamples or differences."""
    with session(words, environ, OPTIONS) as config:
        live = "live" in config.own and values.switch(config.own["live"].text)
        pod_networks = _pod_networks(config, live)
        explain = _ExplainCall((*flags_of(words, OPTIONS), *(["--live"] if live else [])))
        if "against" in config.own:
            other_words = _other_words(config.own["against"].text)
            other = _other_config(other_words, environ)
            classes, differences = compare(
                [config, other], pod_networks, _pod_networks(other, live=False)
            )
            explain_other = _ExplainCall(tuple(flags_of(other_words, OPTIONS)))
            found = _differences(classes, differences, explain, explain_other)
            status = BROKEN if differences else 0
        else:
            proof = prove(config, pod_networks)
            found = _proof(config, proof, explain)
            status = BROKEN if proof.counterexamples else 0
        print_text(json.dumps(found, indent=2) + "\n" if config.output == "json" else _text(found))
    return status


def _pod_networks(config: Config, live: bool) -> Mapping[Family, PodNetwork]:
    backends, rulesets = live_rules(config) if live else ((), wanted_rulesets(config))
    return {ruleset.family: pod_network_of(ruleset, frozenset(), *backends) for ruleset in rulesets}


def _other_config(words: Sequence[str], environ: Mapping[str, str]) -> Config:
    try:
        return settle(read_config(words, environ, Host()), global_addresses())
    except BadCall as wrong:
        where = (replace(m, source=f"--against: {m.source}") for m in wrong.mistakes)
        raise BadCall([*where]) from wrong


def _other_words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        expected = f"expected flags, quoted as in a shell: {error}"
        raise BadCall([Mistake("--against", text, expected)]) from error
    return words[1:] if words[:1] == ["istio-iptables"] else words


@dataclass(frozen=True)
class _ExplainCall:
    """Makes calls of `explain` with the same flags."""

    flags: tuple[str, ...]

    def __call__(self, sample: Sample) -> str:
        """The call that shows the way of a sample's packet."""
        packet, pod = sample.packet, sample.packet.destination
        if not sample.journey.local:
            pod = next(a[packet.family] for a in (POD, CLIENT) if a[packet.family] != pod)
        return explain_call(self.flags, packet, "--pod-address", str(pod))


def _grouped(
    found: Iterable[_Found], key: Callable[[_Found], Hashable]
) -> list[tuple[_Found, int]]:
    """The first item for each key, and the number of items with that key."""
    first: dict[Hashable, _Found] = {}
    times: Counter[Hashable] = Counter()
    for each in found:
        first.setdefault(key(each), each)
        times[key(each)] += 1
    return [(each, times[group]) for group, each in first.items()]


def _proof(config: Config, proof: Proof, explain: _ExplainCall) -> dict[str, Any]:
    """The result of `prove` as JSON."""

    def weakness(each: Counterexample) -> str | None:
        return known_weakness(config, each.sample.journey, each.sample.packet)

    def key(each: Counterexample) -> Hashable:
        return each.promise, each.sample.journey, _decisive(each.walk), weakness(each)

    return {
        "holds": not proof.counterexamples,
        "classes": proof.classes,
        "counterexamples": [
            {
                "promise": each.promise.sentence,
                "known_weakness": weakness(each),
                "classes": times,
                **_verdict(each.sample, each.walk),
                "explain": explain(each.sample),
            }
            for each, times in _grouped(proof.counterexamples, key)
        ],
        "unreached": [
            {
                "family": each.family.title,
                "table": each.table,
                "chain": each.chain,
                "number": each.number,
                "rule": f"-A {each.chain}{rule_text(each.rule)}",
                "why": each.rule.why,
                "taken_by": each.by.why if each.by else None,
                "explain": explain(each.taken) if each.taken else None,
            }
            for each in proof.unreached
        ],
    }


def _differences(
    classes: int,
    differences: Iterable[Difference],
    explain: _ExplainCall,
    explain_other: _ExplainCall,
) -> dict[str, Any]:
    """The result of `prove --against` as JSON."""

    def key(each: Difference) -> Hashable:
        return each.sample.journey, *((w.verdict, _decisive(w)) for w in (each.ours, each.theirs))

    return {
        "classes": classes,
        "differences": [
            {
                "classes": times,
                "these": {**_verdict(each.sample, each.ours), "explain": explain(each.sample)},
                "those": {
                    **_verdict(each.sample, each.theirs),
                    "explain": explain_other(each.sample),
                },
            }
            for each, times in _grouped(differences, key)
        ],
    }


def _decisive(found: Walk) -> Rule | None:
    return found.decided_by.rule if found.decided_by else None


def _verdict(sample: Sample, found: Walk) -> dict[str, Any]:
    return {
        "verdict": found.outcome.value,
        "by": found.by,
        "port": found.port,
        "sentence": sentence(sample.packet, found),
    }


def _text(found: Mapping[str, Any]) -> str:
    lines = _difference_lines(found) if "differences" in found else _proof_lines(found)
    return "\n".join(lines) + "\n"


def _proof_lines(found: Mapping[str, Any]) -> Iterator[str]:
    tried = f"{found['classes']} classes of packets, one of each tried"
    if found["holds"]:
        yield f"Every promise holds for all packets ({tried})."
    else:
        yield f"Not every promise holds for all packets ({tried})."
    for each in found["counterexamples"]:
        yield ""
        classes = f"{each['classes']} class{'' if each['classes'] == 1 else 'es'}"
        yield from _wrapped(f"Broken for {classes}: {each['promise']}.")
        yield from _wrapped(each["sentence"])
        if each["known_weakness"]:
            yield from _wrapped(f"A known weakness: {each['known_weakness']}.")
        yield f"  {each['explain']}"
    if found["unreached"]:
        yield from ("", "No packet ever matches these rules:")
    for each in found["unreached"]:
        place = f"{each['family']} {each['table']} {each['chain']} {each['number']}:"
        rule = each["rule"].removeprefix(f"-A {each['chain']} ")
        yield from _wrapped(f"{place} {rule}")
        if each["taken_by"]:
            yield from _wrapped(f"  Its packets match an earlier rule: {each['taken_by']}.")
        if each["explain"]:
            yield f"  {each['explain']}"
        else:
            yield "  No packet that it would match reaches its chain."


def _difference_lines(found: Mapping[str, Any]) -> Iterator[str]:
    different = sum(each["classes"] for each in found["differences"])
    count = f"{different} of {found['classes']} classes of packets"
    if different:
        yield f"These flags and --against differ for {count}."
    else:
        tried = f"{found['classes']} classes, one of each tried"
        yield f"These flags and --against agree on all packets ({tried})."
    for each in found["differences"]:
        yield ""
        for side, flags in (("these", "These flags"), ("those", "--against")):
            yield from _wrapped(f"{flags}: {each[side]['sentence']}")
            yield f"  {each[side]['explain']}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
