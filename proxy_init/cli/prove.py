"""`prove`: do the rules keep the promises of the flags, or treat all packets like other rules?"""

import json
import shlex
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..analysis.packet_sets import CLIENT, POD, Box, Journey
from ..analysis.packet_walk import Decision, PodNetwork, Walk, sentence
from ..analysis.packet_words import values as packet_values
from ..analysis.packet_words import words as packet_words
from ..analysis.promises import NOT_PROVEN, PROMISES
from ..analysis.prove import (
    Counterexample,
    Decisions,
    Difference,
    Proof,
    Sample,
    Unreached,
    compare,
    prove,
)
from ..config import values
from ..config.config import Config, settle
from ..config.flags import Flag, FlagKind
from ..config.read import read_config
from ..errors import BadCall, Mistake
from ..frozen import replace
from ..kernel.enforce import wanted_rulesets
from ..kernel.routing.addresses import global_addresses
from ..kernel.system.host import Host
from ..rules.iptables_save import rule_text
from ..rules.model import Family
from .explain import explain_call, flags_of
from .inferred import with_flags_of_the_rules
from .pod_network import LIVE, SAVED, live_rules, pod_network_of, saved_pod_networks
from .session import print_text, session
from .terminal import WIDTH

if TYPE_CHECKING:
    from ..kernel.backend import Backend

BROKEN = 3
_MOST_SETS = 6
"""The most sets that text shows for one result; JSON has them all."""

_MOST_RULES = 20
"""The most unreached rules that text shows."""
_AS_FIRST = "as the first packet of the connection"

_OF_A_SIDE = (LIVE, SAVED)
OPTIONS = (
    *_OF_A_SIDE,
    Flag(
        "against",
        "--against",
        "",
        "",
        "FLAGS",
        "Show which packets other rules treat differently, instead of a proof: the rules of these "
        'flags, or with "--live" those in the kernel, or with "--saved FILE" those in a file.',
        may_be_empty=True,
    ),
    Flag(
        "list",
        "--list",
        "",
        "off",
        "",
        "Print what is proven and what is not, instead of a proof.",
        FlagKind.SWITCH,
    ),
)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the result; returns 0, or 3 if there are counterexamples or differences."""
    with session(words, environ, OPTIONS) as config:
        if _is_on(config, "list"):
            found = _promises()
            status = 0
        elif "against" in config.own:
            found = _comparison(
                _Side.of(config, words), _other_side(config.own["against"].text, environ)
            )
            status = 0 if found["alike"] else BROKEN
        else:
            side = _Side.of(config, words)
            found = _proof(prove(side.config, side.pod_networks), side)
            status = 0 if found["holds"] else BROKEN
        print_text(json.dumps(found, indent=2) + "\n" if config.output == "json" else _text(found))
    return status


def _is_on(config: Config, name: str) -> bool:
    return name in config.own and values.switch(config.own[name].text)


@dataclass(frozen=True)
class _Side:
    """The rules to prove or compare, and the flags that stand for them."""

    config: Config
    pod_networks: Mapping[Family, PodNetwork]
    flags: Sequence[str]

    @classmethod
    def of(cls, config: Config, words: Sequence[str]) -> "_Side":
        """The rules of a call: those of its flags, of a file or of the kernel. Raises BadCall."""
        flags = flags_of(words, OPTIONS)
        live, own = _is_on(config, "live"), frozenset[Any]()
        if "saved" in config.own:
            path = config.own["saved"].text
            if live:
                raise BadCall([Mistake("--saved", path, "cannot be combined with --live")])
            pod_networks = saved_pod_networks(path, wanted_rulesets(config), own)
            return cls(config, pod_networks, (*flags, "--saved", path))
        backends: Sequence[Backend] = ()
        if live:
            config, there = with_flags_of_the_rules(config)
            backends, rulesets = live_rules(config, there)
        else:
            rulesets = wanted_rulesets(config)
        pod_networks = {each.family: pod_network_of(each, own, *backends) for each in rulesets}
        return cls(config, pod_networks, (*flags, *(["--live"] if live else [])))

    def explain(self, sample: Sample) -> str:
        """The call that shows the way of a sample's packet."""
        packet, pod = sample.packet, sample.packet.destination
        if not sample.journey.local:
            pod = next(a[packet.family] for a in (POD, CLIENT) if a[packet.family] != pod)
        return explain_call(self.flags, packet, "--pod-address", str(pod))


def _other_side(text: str, environ: Mapping[str, str]) -> _Side:
    try:
        words = shlex.split(text)
    except ValueError as error:
        expected = f"expected flags, quoted as in a shell: {error}"
        raise BadCall([Mistake("--against", text, expected)]) from error
    words = words[1:] if words[:1] == ["istio-iptables"] else words
    try:
        config = settle(read_config(words, environ, Host(), _OF_A_SIDE), global_addresses())
        return _Side.of(config, words)
    except BadCall as wrong:
        where = (replace(m, source=f"--against: {m.source}") for m in wrong.mistakes)
        raise BadCall([*where]) from wrong


# The result as JSON.


def _promises() -> dict[str, Any]:
    return {
        "promises": [
            {"name": each.name, "promise": each.sentence, "meaning": each.meaning}
            for each in PROMISES
        ],
        "not_proven": [*NOT_PROVEN],
    }


def _proof(proof: Proof, side: _Side) -> dict[str, Any]:
    return {
        "holds": not proof.counterexamples,
        "families": [family.title for family in side.pod_networks],
        "classes": proof.classes,
        "counterexamples": [_counterexample(each, side) for each in proof.counterexamples],
        "unreached": [_unreached(each, side) for each in proof.unreached],
    }


def _counterexample(each: Counterexample, side: _Side) -> dict[str, Any]:
    by = each.skipped_by
    return {
        "promise": each.promise.sentence,
        "known_weakness": each.weakness,
        "foreign_rule": by and f"{by.table}: -A {by.chain}{rule_text(by.rule)}",
        **_sets(each.sample.journey, each.boxes),
        **_verdict(each.decision),
        **_example(each.sample, each.walk, side),
    }


def _unreached(each: Unreached, side: _Side) -> dict[str, Any]:
    return {
        "family": each.family.title,
        "table": each.table,
        "chain": each.chain,
        "number": each.number,
        "rule": f"-A {each.chain}{rule_text(each.rule)}",
        "why": each.rule.why,
        "taken_by": each.by.why if each.by else None,
        "explain": side.explain(each.taken) if each.taken else None,
    }


def _comparison(these: _Side, those: _Side) -> dict[str, Any]:
    families = [family for family in these.pod_networks if family in those.pod_networks]
    if not families:
        expected = "expected rules for a family that is on the other side, too"
        raise BadCall([Mistake("--against", None, expected)])
    classes, differences = compare(
        *({f: side.pod_networks[f] for f in families} for side in (these, those))
    )

    def of_side(each: Difference, side: _Side, decisions: Decisions) -> dict[str, Any]:
        found = each.sample.walk(side.pod_networks[each.sample.journey.family])
        usual = found.verdict if found.verdict in decisions else None
        others = [_verdict(other) for other in decisions if other != usual]
        return {**_verdict(usual), **_example(each.sample, found, side), "or": others}

    return {
        "alike": not differences,
        "families": [family.title for family in families],
        "classes": classes,
        "differences": [
            {
                **_sets(each.sample.journey, each.boxes),
                "these": of_side(each, these, each.ours),
                "those": of_side(each, those, each.theirs),
            }
            for each in differences
        ],
    }


def _sets(journey: Journey, boxes: Collection[Box]) -> dict[str, Any]:
    return {
        "packets": [packet_words(journey, box) for box in boxes],
        "sets": [packet_values(journey, box) for box in boxes],
    }


def _verdict(decision: Decision | None) -> dict[str, Any]:
    outcome, by, port = decision or (None, None, None)
    return {"verdict": outcome and outcome.value, "by": by, "port": port}


def _example(sample: Sample, found: Walk, side: _Side) -> dict[str, Any]:
    return {"sentence": sentence(sample.packet, found), "explain": side.explain(sample)}


# The result as text.


def _text(found: Mapping[str, Any]) -> str:
    if "promises" in found:
        lines = _promise_lines(found)
    else:
        lines = _difference_lines(found) if "differences" in found else _proof_lines(found)
    return "\n".join(lines) + "\n"


def _promise_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield from _wrapped(
        "Proven for every TCP and UDP packet that the pod sends or receives, IPv4 and IPv6:"
    )
    for number, each in enumerate(found["promises"], start=1):
        yield ""
        yield from _wrapped(f"{number}. {each['promise'][0].upper()}{each['promise'][1:]}.")
        yield from _wrapped(f"   {each['meaning']}", "   ")
    yield from ("", "Not proven:")
    for each in found["not_proven"]:
        yield from _wrapped(f"- {each}")


def _proof_lines(found: Mapping[str, Any]) -> Iterator[str]:
    walked = _walked(found)
    if found["holds"]:
        yield f"Every promise holds for all packets ({walked})."
    else:
        yield f"Not every promise holds for all packets ({walked})."
    for each in found["counterexamples"]:
        yield ""
        yield from _wrapped(f"Broken: {each['promise']}.")
        yield from _set_lines(each)
        yield from _wrapped(each["sentence"])
        if each["foreign_rule"]:
            yield from _wrapped(f"The foreign rule: {each['foreign_rule']}")
        if each["known_weakness"]:
            yield from _wrapped(f"A known weakness: {each['known_weakness']}.")
        yield f"  {each['explain']}"
    if found["unreached"]:
        yield from ("", "No packet ever matches these rules:")
    for each in found["unreached"][:_MOST_RULES]:
        place = f"{each['family']} {each['table']} {each['chain']} {each['number']}:"
        rule = each["rule"].removeprefix(f"-A {each['chain']} ")
        yield from _wrapped(f"{place} {rule}")
        if each["taken_by"]:
            yield from _wrapped(f"  Its packets match an earlier rule: {each['taken_by']}.")
        if each["explain"]:
            yield f"  {each['explain']}"
        else:
            yield "  No packet that it would match reaches its chain."
    if len(found["unreached"]) > _MOST_RULES:
        yield f"And {len(found['unreached']) - _MOST_RULES:,} more rules; -O json lists them."


def _difference_lines(found: Mapping[str, Any]) -> Iterator[str]:
    agree = "agree on all packets" if found["alike"] else "differ for some packets"
    yield f"These rules and --against {agree} ({_walked(found)})."
    for each in found["differences"]:
        yield ""
        yield from _set_lines(each)
        for side, rules in (("these", "These rules"), ("those", "--against")):
            result = each[side]["sentence"] if each[side]["verdict"] else _AS_FIRST
            yield from _wrapped(f"{rules}: {result}")
            for other in each[side]["or"]:
                yield from _wrapped(
                    f"  Or {_verdict_words(other)}, if rules match whose result is not known here."
                )
            yield f"  {each[side]['explain']}"


def _walked(found: Mapping[str, Any]) -> str:
    return f"{' and '.join(found['families'])}, {found['classes']:,} classes"


def _verdict_words(verdict: Mapping[str, Any]) -> str:
    if verdict["verdict"] is None:
        return _AS_FIRST
    port = f" by port {verdict['port']}" if verdict["port"] else ""
    return f"{verdict['verdict']}{port}"


def _set_lines(found: Mapping[str, Any]) -> Iterator[str]:
    packets: Sequence[str] = found["packets"]
    for each in packets[:_MOST_SETS]:
        yield from _wrapped(f"- {each}")
    if len(packets) > _MOST_SETS:
        yield f"- and {len(packets) - _MOST_SETS:,} more sets; -O json lists them"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
