"""`explain`: where a packet goes, and why."""

import json
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from ..analysis.packet_walk import (
    Direction,
    Packet,
    PodNetwork,
    Visit,
    Walk,
    alternatives,
    endpoint_text,
    sentence,
    walk,
)
from ..config import values
from ..config.command_line import split
from ..config.config import Config
from ..config.flags import Flag
from ..errors import BadCall, Mistake
from ..kernel.routing.addresses import addresses, is_global
from ..rules.iptables_save import rule_text
from ..rules.networks import Address, read_address
from .pod_network import LIVE, SAVED, live_rules, pod_network_of, saved_pod_networks
from .session import print_text, session, wanted_rulesets
from .terminal import WIDTH

INDENT = " " * 6
SOME_PORT = 40000
POD = {4: "192.0.2.2", 6: "2001:db8::2"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8::1"}


def endpoint(item: str) -> tuple[Address, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. Raises BadValue."""
    expected = "ADDRESS:PORT, such as 198.51.100.7:80 or [2001:db8::7]:80"
    matched = re.fullmatch(r"\[([^\]]+)\]:([0-9]+)|([^:]+):([0-9]+)", item)
    try:
        if matched:
            address = values.address(matched[1] or matched[3])
            return address, values.port(matched[2] or matched[4])
    except values.BadValue:
        pass
    raise values.BadValue(item, expected)


def source(item: str) -> tuple[Address, int]:
    """ADDRESS or ADDRESS:PORT. Raises BadValue."""
    try:
        return values.address(item), SOME_PORT
    except values.BadValue:
        return endpoint(item)


def address_list(text: str) -> frozenset[Address]:
    """A comma list of addresses. Raises BadValue."""
    return frozenset(values.cidr(item)[1] for item in values.items(text))


def _among(*allowed: str) -> Callable[[str], str]:
    return lambda item: values.choice(item, *allowed)


# fmt: off
OPTIONS: tuple[Flag, ...] = (
    Flag("to", "--to", "", "", "ADDR:PORT", "Destination of the packet; required.", check=endpoint),
    Flag("sender", "--from", "", "the pod, or a client", "ADDR[:PORT]", "Source of the packet.",
         check=source),
    Flag("direction", "--direction", "", "out", "[out|in]",
         "A process in the pod sends it, or it arrives from outside.", check=_among("out", "in")),
    Flag("protocol", "--protocol", "", "tcp", "[tcp|udp]", "Transport protocol of the packet.",
         check=_among("tcp", "udp")),
    Flag("uid", "--uid", "", "1000", "UID", "User that owns the sending socket.",
         check=values.number_of_owner),
    Flag("gid", "--gid", "", "1000", "GID", "Group that owns the sending socket.",
         check=values.number_of_owner),
    Flag("pod_address", "--pod-address", "", "this namespace's", "ADDR",
         "Address of the pod; may be repeated.", check=address_list, repeats=True),
    Flag("interface", "--interface", "", "lo for the pod's own addresses, else eth0", "NAME",
         "Network interface on which it leaves or arrives.", check=values.interface),
    Flag("mark", "--mark", "", "0", "MARK", "fwmark of the packet.", check=values.any_mark),
    Flag("state", "--state", "", "NEW", "[NEW|ESTABLISHED|RELATED|INVALID]",
         "conntrack state of its connection.",
         check=_among("NEW", "ESTABLISHED", "RELATED", "INVALID")),
    LIVE,
    SAVED,
)
# fmt: on
_CHECKS = {flag.name: flag.check for flag in OPTIONS}


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print where the packet goes, and the rules on its way."""
    with session(words, environ, OPTIONS) as config:
        packet, own = _packet(config)
        is_live = _given(config, "live", False)
        backends, rulesets = live_rules(config) if is_live else ((), wanted_rulesets(config))
        wanted = next(r for r in rulesets if r.family is packet.family)
        if "saved" in config.own:
            saved = saved_pod_networks(config.own["saved"].text, rulesets, own)
            pod_network = saved.get(packet.family, PodNetwork({}, own))
        else:
            pod_network = pod_network_of(wanted, own, *backends)
        result = walk(pod_network, packet)
        others = alternatives(pod_network, packet)
        as_text = _json if config.output == "json" else _text
        print_text(as_text(packet, result, others))
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


def _given(config: Config, name: str, default: Any) -> Any:
    """The value of one of the command's own options."""
    if name not in config.own:
        return default
    text = config.own[name].text.strip()
    check = _CHECKS[name]
    return check(text) if check else values.switch(text)


def _packet(config: Config) -> tuple[Packet, frozenset[Address]]:
    """The packet that the options describe, and the pod's own addresses."""
    if "to" not in config.own:
        hint = "such as --to 198.51.100.7:80"
        raise BadCall([Mistake("--to", None, "expected the destination of the packet", hint)])
    destination, port = _given(config, "to", None)
    own: frozenset[Address] = _given(config, "pod_address", None) or frozenset(addresses())
    direction = Direction(_given(config, "direction", "out"))
    local = destination.is_loopback or destination in own
    usual = _usual_sender(direction, destination, own, local)
    sender, sender_port = _given(config, "sender", (usual, SOME_PORT))
    if sender.version != destination.version:
        expected = f"expected an IPv{destination.version} address, like that of --to"
        raise BadCall([Mistake("--from", str(sender), expected)])
    return (
        Packet(
            direction,
            _given(config, "protocol", "tcp"),
            sender,
            sender_port,
            destination,
            port,
            _given(config, "interface", "lo" if local and direction is Direction.OUT else "eth0"),
            _given(config, "uid", 1000),
            _given(config, "gid", 1000),
            _given(config, "mark", 0),
            _given(config, "state", "NEW"),
        ),
        own,
    )


def _usual_sender(
    direction: Direction, destination: Address, own: frozenset[Address], local: bool
) -> Address:
    """The default source. Inbound: a client outside the pod. Outbound: the destination if that is
    local, or else the first global address of the pod."""
    if direction is Direction.IN:
        return read_address(CLIENT[destination.version])
    if local:
        return destination
    mine = [a for a in own if a.version == destination.version and is_global(a)]
    return min(mine, key=int) if mine else read_address(POD[destination.version])


def _text(packet: Packet, result: Walk, others: Sequence[tuple[Visit, Walk]]) -> str:
    lines = textwrap.wrap(sentence(packet, result), WIDTH)
    for visit, other in others:
        unknown = f"If rule {visit.number} of {visit.chain} ({visit.table}) matches, which is "
        lines += textwrap.wrap(f"{unknown}not known here: {sentence(packet, other)}", WIDTH)
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


def _json(packet: Packet, result: Walk, others: Sequence[tuple[Visit, Walk]]) -> str:
    found = {
        "verdict": result.outcome.value,
        "by": result.by,
        "port": result.port,
        "sentence": sentence(packet, result),
        "path": [_visit_fields(visit) for visit in result.path],
        "either": [
            {"if": _visit_fields(visit), "verdict": other.outcome.value, "port": other.port}
            for visit, other in others
        ],
    }
    return json.dumps(found, indent=2) + "\n"


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
