"""`describe`: what is in this network namespace, without knowing any flag."""

import json
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.description import Found, other_meshes
from ..analysis.diagnosis import Finding
from ..analysis.inference.difference import Difference, Kind, RoutingDifference
from ..analysis.inference.held import Form
from ..analysis.kernel_rules import TableKind
from ..analysis.listeners import Listener
from ..analysis.pod_facts import FamilyRules, is_global_address
from ..config.command_line import split
from ..config.config import DNS_PORT, OLD_RULES, Config, Mode
from ..config.flags import ABOUT_RULES, FLAGS, Flag
from ..errors import BadCall, Mistake
from ..kernel.listeners import listeners
from ..kernel.present_rules import all_rules
from ..kernel.routing.addresses import addresses
from ..rules.iptables_save import rule_text
from ..rules.model import Family, Rule
from ..rules.networks import Address
from ..rules.wording import matches_in_words, printable, target_in_words
from .findings import finding_fields, finding_lines, findings, known_services
from .inferred import found_in
from .session import print_text, session
from .terminal import WIDTH

DIFFERENT, CANNOT = 3, 4
_MOST_LINES = 12
"""The most differences that text shows; JSON has them all."""
_LONGEST_LINE = 2000
"""Of flags in text; JSON has all of them."""
_COLUMN = 15
_VARIABLES = ("NETWORK_NAMESPACE", "LOG_LEVEL", "LOG_AS_JSON")
"""The others are about rules, and were set for whom the container is about."""
_WRITERS = {
    Form.IPTABLES: "proxy-init or istio-iptables",
    Form.NATIVE: "proxy-init",
    Form.ISTIO_NATIVE: "istio-iptables in its native mode",
}
_PLACES = {
    TableKind.LEGACY: "the legacy tables",
    TableKind.IPTABLES_NFT: "nf_tables, through iptables-nft",
    TableKind.NATIVE: "nf_tables, natively",
}
_KINDS = {
    TableKind.LEGACY: "legacy",
    TableKind.IPTABLES_NFT: "iptables-nft",
    TableKind.NATIVE: "nf_tables",
}


@dataclass(frozen=True)
class _Description:
    """All that is printed."""

    found: Sequence[Found]
    meshes: Mapping[str, Sequence[str]]
    addresses: Sequence[Address]
    listeners: Sequence[Listener] | None
    findings: Sequence[Finding]
    unseen: Sequence[str]

    @property
    def is_sound(self) -> bool:
        """Whether the rules are just those of their flags, in one kind of tables."""
        return len(self.found) <= 1 and all(each.inferred.exact for each in self.found)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print what is here; returns 0 if it is sound or nothing of ours, 3 if it differs from every
    flag, and 4 if no tables can be read."""
    given = split(words).given.values()
    about_rules = {word for flag in FLAGS if flag.name in ABOUT_RULES for word in _words(flag)}
    expected = "expected no flag about rules: describe finds them; status compares with them"
    mistakes = [Mistake(e.source, None, expected) for e in given if e.source in about_rules]
    if mistakes:
        raise BadCall(mistakes)
    kept = {name: environ[name] for name in _VARIABLES if name in environ}
    with session(words, kept) as config:
        found = _described(config, environ)
        if config.output == "json":
            print_text(json.dumps(_json(found), indent=2) + "\n")
        else:
            print_text("".join(f"{line}\n" for line in _text(found)))
    if not found.is_sound:
        return DIFFERENT
    return CANNOT if found.unseen and not found.found else 0


def _words(flag: Flag) -> list[str]:
    return f"{flag.spellings} {flag.opposite}".split()


def _described(config: Config, environ: Mapping[str, str]) -> _Description:
    present, unseen = all_rules()
    rules = {
        family: FamilyRules(family, each.tables, each.policy_routes)
        for family, each in present.items()
    }
    found = found_in(present)
    try:
        there = listeners()
    except OSError as error:
        there = None
        unseen.append(f"who listens: {error.strerror}")
    return _Description(
        found,
        other_meshes(rules),
        tuple(filter(is_global_address, addresses())),
        there,
        findings(present, known_services(config, environ)) if found else (),
        unseen,
    )


# As text.


def _text(found: _Description) -> Iterator[str]:
    if not found.found:
        if found.unseen:
            yield "The rules cannot be read here."
        else:
            yield "Nothing of ours is here: no rule of proxy-init or Istio in any table."
        yield ""
    for each in found.found:
        yield from _found(each)
    yield from _surroundings(found)
    for unseen in found.unseen:
        yield from _row("not seen", unseen)
    for finding in found.findings:
        yield ""
        yield from finding_lines(finding)
    if found.found:
        yield ""
        if found.is_sound:
            yield "To see where a connection goes:"
            yield "  proxy-init explain --live --to ADDRESS:PORT"
        else:
            yield "To put the rules right:"
            yield f"  {_shortened(command_line(found.found[0].inferred.words))}"


def _found(found: Found) -> Iterator[str]:
    inferred = found.inferred
    writer, place = _WRITERS[inferred.form], _PLACES[found.kind]
    if inferred.exact:
        yield f"Rules of {writer} in {place}, made by these flags:"
    else:
        yield f"Rules of {writer} in {place}. The nearest flags:"
    yield ""
    yield f"  {_shortened(command_line(inferred.words))}"
    yield ""
    if inferred.exact:
        yield from _row("rules", f"just those of the flags: {_count(found)}")
    else:
        other = [each for each in inferred.differences if each.kind is Kind.OTHER_COMMENT]
        lines = [*_differences(each for each in inferred.differences if each not in other)]
        if other:
            lines.append(
                ("comment", f"of {len(other)} rules", "is another than these flags make", "")
            )
        yield from _row("rules", f"{_count(found)}, of which these differ:")
        for kind, where, rule, why in lines[:_MOST_LINES]:
            yield from textwrap.wrap(
                f"  {kind:<8} {where}: {rule}",
                WIDTH,
                subsequent_indent=" " * 11,
                break_on_hyphens=False,
            )
            if why:
                yield from textwrap.wrap(
                    why, WIDTH, initial_indent=" " * 11, subsequent_indent=" " * 11
                )
        if len(lines) > _MOST_LINES:
            yield f"  and {len(lines) - _MOST_LINES} more; -O json lists them"


def command_line(words: Sequence[str]) -> str:
    """A call with these flags, to paste into a shell."""
    return shlex.join(["proxy-init", *words])


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[:_LONGEST_LINE]}… ({len(line):,} characters; -O json has all)"


def _row(name: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, WIDTH - _COLUMN, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        yield f"{'' if number else name:<{_COLUMN}}{line}"


def _count(found: Found) -> str:
    counts = ((family, found.rules(family)) for family in Family)
    return ", ".join(f"{number:,} for {family.title}" for family, number in counts if number)


def _differences(
    differences: Iterable[Difference | RoutingDifference],
) -> Iterator[tuple[str, str, str, str]]:
    """What differs, where, the rule and what it is for; what both families share comes once."""
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for each in differences:
        kind, where, rule, why = _difference(each)
        seen.setdefault((kind, where, rule, why), []).append(each.family.title)
    for (kind, where, rule, why), families in seen.items():
        title = " and ".join(dict.fromkeys(families))
        yield kind, f"{title} {where}".strip(), rule, why


def _difference(each: Difference | RoutingDifference) -> tuple[str, str, str, str]:
    kind = each.kind.value
    if isinstance(each, RoutingDifference):
        if each.policy_route is None:
            return kind, "address", "::6/128 on lo", "from which the proxy connects to the pod"
        mark, table = each.policy_route.mark, each.policy_route.table
        rule = f"ip rule fwmark {mark:#x} lookup {table}, with a local route in that table"
        return kind, "policy route", rule, "packets with this mark stay local, for the proxy"
    number = each.number or each.place or 0
    where = f"{each.table} {printable(each.chain)} {number}"
    present = rule_text(each.present).strip() if each.present else ""
    wanted = rule_text(each.wanted).strip() if each.wanted else ""
    why = each.wanted.why if each.wanted else ""
    if each.kind is Kind.ADDED and each.present:
        why = f"{matches_in_words(each.present)}: {target_in_words(each.present.target)}"
        return kind, where, printable(present), why
    if each.kind is Kind.CHANGED:
        return kind, where, f"{printable(present)} (instead of {wanted})", why
    if each.kind is Kind.MOVED:
        return kind, where, f"{printable(present)} (its place is {each.place})", why
    return kind, where, printable(wanted or present), why


def _surroundings(found: _Description) -> Iterator[str]:
    for each in found.found[:1]:
        config = each.inferred.config
        if config.mode is Mode.TPROXY and config.inbound_ports:
            wanted = config.policy_route
            routes = each.held.policy_routes
            states = (
                f"{family.title} {'there' if wanted in routes.get(family, ()) else 'missing'}"
                for family in each.captured_families
            )
            text = f"fwmark {wanted.mark:#x} lookup {wanted.table}: {', '.join(states)}"
            yield from _row("policy route", text)
    own = ", ".join(map(str, found.addresses)) or "none but loopback"
    yield from _row("addresses", own)
    for each in found.found[:1]:
        captured = each.captured_families
        words = (f"{f.title} {'captured' if f in captured else 'not captured'}" for f in Family)
        yield from _row("families", ", ".join(words))
        for port in _ports(each.inferred.config):
            yield from _row(f"port {port.port}", f"{port.what}: {_who(found, port)}")
        outbound, inbound = map(each.counted, ("ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"))
        yield from _row("counted", f"{outbound:,} outbound captured, {inbound:,} inbound captured")
    for mesh, chains in found.meshes.items():
        yield from _row("other mesh", f"{mesh}: {', '.join(map(printable, chains))}")


@dataclass(frozen=True)
class _Port:
    """A port of the proxy to which rules send packets."""

    port: int
    protocol: str
    what: str
    transparent: bool = False

    def listeners(self, found: _Description) -> list[Listener]:
        """Who listens there."""
        there = found.listeners or ()
        return [
            each
            for each in there
            if any(each.takes(self.protocol, self.port, family) for family in Family)
        ]


def _ports(config: Config) -> Iterator[_Port]:
    if config.outbound_networks or config.outbound_ports:
        yield _Port(config.outbound_port, "tcp", "outbound")
    if config.inbound_ports:
        transparent = config.mode is Mode.TPROXY
        old = transparent and config.ruleset == OLD_RULES
        port = config.outbound_port if old else config.inbound_port
        yield _Port(port, "tcp", "inbound", transparent)
    if config.captures_dns:
        yield _Port(DNS_PORT, "udp", "DNS")


def _who(found: _Description, port: _Port) -> str:
    if found.listeners is None:
        return "who listens cannot be seen"
    users: dict[int, list[str]] = {}
    for each in port.listeners(found):
        users.setdefault(each.uid, []).append(str(each.address))
    if not users:
        return "nobody listens"
    return "; ".join(f"uid {uid} listens on {', '.join(on)}" for uid, on in users.items())


# As JSON.


def _json(found: _Description) -> dict[str, Any]:
    """The shape of schemas/describe.json."""
    first = found.found[0] if found.found else None
    ports = [*_ports(first.inferred.config)] if first else []
    return {
        "sound": found.is_sound,
        "flags": [*first.inferred.words] if first else None,
        "exact": first.inferred.exact if first else None,
        "found": [_found_fields(each) for each in found.found],
        "addresses": [str(each) for each in found.addresses],
        "ports": [_port_fields(found, port) for port in ports],
        "other_meshes": {mesh: [*chains] for mesh, chains in found.meshes.items()},
        "findings": [finding_fields(each) for each in found.findings],
        "unseen": [*found.unseen],
    }


def _found_fields(found: Found) -> dict[str, Any]:
    inferred = found.inferred
    return {
        "tables": _KINDS[found.kind],
        "written_by": _WRITERS[inferred.form],
        "flags": [*inferred.words],
        "exact": inferred.exact,
        "captured": [family.title for family in found.captured_families],
        "policy_routes": [
            {"family": family.title, "mark": route.mark, "table": route.table}
            for family, routes in found.held.policy_routes.items()
            for route in routes
        ],
        "differences": [_difference_fields(each) for each in inferred.differences],
    }


def _difference_fields(each: Difference | RoutingDifference) -> dict[str, Any]:
    kind, _, text, why = _difference(each)
    of_rule = each if isinstance(each, Difference) else None
    return {
        "kind": kind,
        "family": each.family.title,
        "table": of_rule.table if of_rule else None,
        "chain": of_rule.chain if of_rule else None,
        "number": of_rule.number if of_rule else None,
        "present": _spelled(of_rule.present) if of_rule else None,
        "wanted": _spelled(of_rule.wanted) if of_rule else None,
        "routing": None if of_rule else text,
        "why": why,
    }


def _spelled(rule: Rule | None) -> str | None:
    return rule_text(rule).strip() if rule else None


def _port_fields(found: _Description, port: _Port) -> dict[str, Any]:
    return {
        "port": port.port,
        "protocol": port.protocol,
        "what": port.what,
        "transparent": port.transparent,
        "listeners": [
            {"address": str(each.address), "uid": each.uid, "transparent": each.transparent}
            for each in port.listeners(found)
        ],
    }
