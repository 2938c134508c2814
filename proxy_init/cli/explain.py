"""`explain`: where a packet goes, and why."""

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby

from ..analysis.diagnosis import Finding
from ..analysis.packet_walk import (
    Direction,
    Packet,
    PodNetwork,
    Visit,
    Walk,
    alternatives,
    either_text,
    endpoint_text,
    sentence,
    walk,
)
from ..config.command_line import split
from ..config.flags import Flag
from ..kernel.enforce import wanted_rulesets
from ..rules.iptables_save import rule_text
from .findings import finding_fields, finding_lines, findings, known_services
from .inferred import with_flags_of_the_rules
from .packet_options import PACKET, given_packet
from .picture import chosen_format, drawn, format_option, picture
from .pod_network import (
    LIVE,
    SAVED,
    is_live,
    kernel_pod_network,
    kernel_rules,
    live_rules,
    pod_network_of,
    saved_pod_networks,
)
from .session import print_text, session
from .terminal import WIDTH

INDENT = " " * 6
OPTIONS: tuple[Flag, ...] = (
    *PACKET,
    LIVE,
    SAVED,
    format_option("text", "Draw its way through all rules, instead of listing the rules it meets."),
)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print where the packet goes, and the rules on its way."""
    with session(words, environ, OPTIONS) as config:
        packet, own = given_packet(config)
        kind = chosen_format(config, "text")
        if kind != "text":
            print_text(drawn(picture(config, (packet, own)), kind))
            return 0
        live = is_live(config)
        if live:
            config, there = with_flags_of_the_rules(config)
            backends, rulesets = live_rules(config, there)
        else:
            backends, rulesets = (), wanted_rulesets(config)
        present = {each.family: kernel_rules(each, *backends) for each in rulesets if live}
        if "saved" in config.own:
            saved = saved_pod_networks(config.own["saved"].text, rulesets, own)
            pod_network = saved.get(packet.family, PodNetwork({}, own))
        elif live:
            pod_network = kernel_pod_network(present[packet.family], own)
        else:
            wanted = next(each for each in rulesets if each.family is packet.family)
            pod_network = pod_network_of(wanted, own)
        result = walk(pod_network, packet)
        others = alternatives(pod_network, packet)
        found = findings(present, known_services(config, environ)) if live else ()
        as_text = _json if config.output == "json" else _text
        print_text(as_text(packet, result, others, found))
    return 0


def flags_of(words: Sequence[str], own: Sequence[Flag] = ()) -> list[str]:
    """The flags of a call, without the command's own options and the output format."""
    left_out = {*(flag.name for flag in own), "output"}
    found = []
    for name, given in split(words, own).given.items():
        if name in left_out:
            continue
        if given.source.startswith("--") or given.text in ("true", "false"):
            found.append(f"{given.source}={given.text}")
        else:
            found += [given.source, given.text]
    return found


def explain_call(flags: Sequence[str], packet: Packet, *more: str) -> str:
    """The call of `explain` for a packet; `more` words are appended."""
    options = {
        "--to": endpoint_text(packet.destination, packet.destination_port),
        "--from": endpoint_text(packet.source, packet.source_port),
        "--interface": packet.interface,
    }
    if packet.direction is Direction.IN:
        options["--direction"] = "in"
    else:
        options |= {"--uid": str(packet.uid), "--gid": str(packet.gid)}
    if packet.protocol != "tcp":
        options["--protocol"] = packet.protocol
    if packet.mark:
        options["--mark"] = str(packet.mark)
    if packet.state != "NEW":
        options["--state"] = packet.state
    words = chain.from_iterable(options.items())
    return shlex.join(["proxy-init", "explain", *flags, *words, *more])


def _text(
    packet: Packet,
    result: Walk,
    others: Sequence[tuple[Visit, Walk]],
    found: Sequence[Finding],
) -> str:
    lines = textwrap.wrap(sentence(packet, result), WIDTH)
    for visit, other in others:
        lines += textwrap.wrap(either_text(packet, visit, other), WIDTH)
    for finding in found:
        lines += ["", *finding_lines(finding)]
    for (hook, table), visits in groupby(result.path, lambda visit: (visit.hook, visit.table)):
        lines += ["", f"{hook}, table {table}"]
        for visit in visits:
            lines += _visit_lines(visit)
    return "\n".join(lines) + "\n"


def _visit_lines(visit: Visit) -> Iterator[str]:
    sign = {True: "->", False: "  ", None: "??"}[visit.matched]
    rule = f"{sign} {visit.chain} {visit.number}:{rule_text(visit.rule)}"
    yield from textwrap.wrap(rule, WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)
    if visit.matched and visit.why:
        yield from textwrap.wrap(
            visit.why, WIDTH, initial_indent="      ", subsequent_indent="      "
        )


def _json(
    packet: Packet,
    result: Walk,
    others: Sequence[tuple[Visit, Walk]],
    found: Sequence[Finding],
) -> str:
    fields = {
        "verdict": result.outcome.value,
        "by": result.by,
        "port": result.port,
        "sentence": sentence(packet, result),
        "path": [_visit_fields(visit) for visit in result.path],
        "either": [
            {"if": _visit_fields(visit), "verdict": other.outcome.value, "port": other.port}
            for visit, other in others
        ],
        "findings": [finding_fields(finding) for finding in found],
    }
    return json.dumps(fields, indent=2) + "\n"


def _visit_fields(visit: Visit) -> dict[str, object]:
    return {
        "family": visit.packet.family.title,
        "hook": visit.hook,
        "table": visit.table,
        "chain": visit.chain,
        "number": visit.number,
        "rule": f"-A {visit.chain}{rule_text(visit.rule)}",
        "matched": visit.matched,
        "why": visit.why,
    }
