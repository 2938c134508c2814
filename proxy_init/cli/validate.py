"""`validate`: do real packets go where the flags send them?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ..analysis.packet_walk import Direction
from ..analysis.probe_plan import Judged, Result, destinations, in_words, ports, probes, the_proxy
from ..config.config import Config
from ..errors import ValidationFailed
from ..kernel.enforce import wanted_rulesets
from ..log import logger
from ..rules.model import Ruleset
from .explain import explain_call, flags_of
from .inferred import with_flags_of_the_rules
from .pod_network import pod_network_of
from .session import print_text, session
from .terminal import on_screen

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {Result.PASSED: "green", Result.FAILED: "bold red"}


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the result of each probe. Raises ValidationFailed if one failed."""
    with session(words, environ) as config:
        config, _ = with_flags_of_the_rules(config)
        judged = _validated(config, wanted_rulesets(config))
        if config.output == "json":
            print_text(json.dumps(_json(judged, words), indent=2) + "\n")
        elif judged:
            failed = (each for each in judged if each.result is Result.FAILED)
            why = [f"To see why: {_explain_call(words, each)}\n" for each in failed]
            print_text(on_screen(*_tables(judged)) + "".join(why))
        _judge(judged)
    return 0


def after_applying(config: Config, rulesets: Sequence[Ruleset], words: Sequence[str]) -> None:
    """Validate for --run-validation, and log the results. Raises ValidationFailed."""
    judged = _validated(config, rulesets)
    for each in judged:
        log = logger.error if each.result is Result.FAILED else logger.info
        family = each.probe.packet.family.title
        log("%s probe %s: %s", family, each.result.value, _in_words(each))
        if each.result is Result.FAILED:
            log("to see why: %s", _explain_call(words, each))
    _judge(judged)


def _validated(config: Config, rulesets: Sequence[Ruleset]) -> list[Judged]:
    """Make the probes of all families. Raises ApplyFailed."""
    from ..kernel.probing.probe import make, surroundings

    wanted = [ruleset for ruleset in rulesets if ruleset.tables]
    if not wanted:
        logger.info("the flags ask for no rules, so there is nothing to validate")
        return []
    around = surroundings([to for each in wanted for to in destinations(config, each.family)])
    own = frozenset(around.addresses)
    pod_networks = {each.family: pod_network_of(each, own) for each in wanted}
    planned = [
        p
        for family, pod_network in pod_networks.items()
        for p in probes(config, family, pod_network, around)
    ]
    listening = {family: ports(config, pod_network) for family, pod_network in pod_networks.items()}
    return make(planned, listening, the_proxy(config, around.own), config.probe_timeout)


def _judge(judged: Sequence[Judged]) -> None:
    failed = [each for each in judged if each.result is Result.FAILED]
    if failed:
        family, words = failed[0].probe.packet.family.title, _in_words(failed[0])
        share = f"{len(failed)} of {len(judged)} probes"
        raise ValidationFailed(f"validation failed: {share}, the first over {family}: {words}")
    if judged and not any(each.result is Result.PASSED for each in judged):
        logger.warning("no probe could be made here, so nothing was validated")


def _in_words(each: Judged) -> str:
    packet, expected = each.probe.packet, each.probe.expected
    if each.result is Result.NOT_MADE:
        return f"{each.probe.name}: {each.seen}"
    who = f"uid {packet.uid}, gid {packet.gid}, " if packet.direction is Direction.OUT else ""
    mark = f" with mark {packet.mark:#x}" if packet.mark else ""
    path = f"from {packet.source} to {packet.destination} port {packet.destination_port}{mark}"
    words = f"{each.probe.name}: {packet.protocol.upper()}, {who}{path}: {each.seen}"
    if each.result is Result.FAILED:
        words += f" (expected: {in_words(expected.outcome, expected.port)})"
    return words


def _explain_call(words: Sequence[str], each: Judged) -> str:
    """The call that shows what the rules in the kernel do with the packet of a probe."""
    return explain_call([*flags_of(words), "--live"], each.probe.packet)


def _tables(judged: Sequence[Judged]) -> Iterator["RenderableType"]:
    """A table for each family, and the number of probes with each result."""
    from rich.table import Table
    from rich.text import Text

    for family, group in groupby(judged, key=lambda each: each.probe.packet.family):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        not_made: dict[str, dict[str, None]] = {}
        for each in group:
            if each.result is Result.NOT_MADE:
                not_made.setdefault(each.seen, {})[each.probe.name] = None
            else:
                table.add_row(Text(each.result.value, _STYLES[each.result]), _in_words(each))
        for reason, names in not_made.items():
            table.add_row(Text(Result.NOT_MADE.value, "yellow"), f"{reason}: {'; '.join(names)}")
        yield family.title
        yield table
    results = [each.result for each in judged]
    yield ", ".join(f"{results.count(result)} {result.value}" for result in Result) + "."


def _json(judged: Sequence[Judged], words: Sequence[str]) -> dict[str, object]:
    """The shape of schemas/validate.json."""
    failed = any(each.result is Result.FAILED for each in judged)
    return {"failed": failed, "probes": [_fields(each, words) for each in judged]}


def _fields(each: Judged, words: Sequence[str]) -> dict[str, object]:
    packet, expected = each.probe.packet, each.probe.expected
    sent = packet.direction is Direction.OUT
    return {
        "name": each.probe.name,
        "family": packet.family.title,
        "direction": packet.direction.value,
        "protocol": packet.protocol,
        "uid": packet.uid if sent else None,
        "gid": packet.gid if sent else None,
        "from": str(packet.source),
        "to": str(packet.destination),
        "port": packet.destination_port,
        "mark": packet.mark,
        "expected": {"verdict": expected.outcome.value, "port": expected.port},
        "result": each.result.value,
        "seen": each.seen,
        "explain": _explain_call(words, each) if each.result is Result.FAILED else None,
    }
