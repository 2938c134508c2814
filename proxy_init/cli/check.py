"""`check`: would applying these flags work on this node? It changes nothing."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..config.config import Config
from ..errors import NodeCannot
from ..frozen import replace
from ..kernel.backend import Backend
from ..kernel.choice import choose
from ..kernel.enforce import wanted_rulesets
from ..kernel.needs import Need, needs, routing_needs, tasks_for
from ..kernel.routing.addresses import has_ipv6
from ..kernel.system.lock import state_of_lock
from ..kernel.system.modules import State
from ..kernel.system.workers import Worker
from ..rules.model import Family, Ruleset
from .session import print_text, session
from .terminal import WIDTH


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print what these flags need, and whether the node has it; returns 0, or 4 if not."""
    with session(words, environ) as config:
        rulesets = wanted_rulesets(replace(config, backend="legacy"))
        routing = [need for ruleset in rulesets for need in routing_needs(ruleset)]
        backends = {backend: _needs(backend, rulesets) for backend in Backend}
        try:
            chosen = choose(config.backend, rulesets, write=False).backend
        except NodeCannot:
            chosen = None
        found = _found(config, rulesets, backends, routing, chosen)
        as_json = config.output == "json"
        print_text(json.dumps(found, indent=2) + "\n" if as_json else _text(found))
        return 0 if found["works"] else NodeCannot.exit_status


def _needs(backend: Backend, rulesets: Sequence[Ruleset]) -> list[Need]:
    """What the rulesets need of a backend, what both families need once."""

    def ask() -> Iterator[list[Need]]:
        tasks = tasks_for(rulesets, backend)
        yield list(dict.fromkeys(need for task in tasks for need in needs(task, write=False)))

    # In a child: it loads libraries of either backend.
    with Worker(backend.value, ask) as worker:
        worker.ask()
        return worker.answer()


def _found(
    config: Config,
    rulesets: Sequence[Ruleset],
    backends: Mapping[Backend, Sequence[Need]],
    routing: Sequence[Need],
    chosen: Backend | None,
) -> dict[str, Any]:
    """The shape of schemas/check.json."""
    working = [backend.value for backend, all_of_it in backends.items() if _are_there(all_of_it)]
    captured = [ruleset.family for ruleset in rulesets if ruleset.tables]
    return {
        "works": chosen is not None and _are_there((*backends[chosen], *routing)),
        "backend": chosen.value if chosen else None,
        "lock_file": {"path": config.lock_file, "state": state_of_lock(config.lock_file)},
        "families": [
            {
                "family": family.title,
                "in_kernel": family is Family.V4 or has_ipv6(),
                "captured": family in captured,
            }
            for family in Family
        ],
        "routing": [_fields(need) for need in routing],
        "backends": [
            {
                "backend": backend.value,
                "works": backend.value in working,
                "needs": [_fields(need) for need in all_of_it],
            }
            for backend, all_of_it in backends.items()
        ],
    }


def _are_there(all_of_it: Sequence[Need]) -> bool:
    # What is not known is taken to be there: most kernels load it when they are asked for it.
    return not any(need.state is State.MISSING for need in all_of_it)


def _fields(need: Need) -> dict[str, object]:
    return {
        "kind": need.kind,
        "name": need.name,
        "family": need.family.title if need.family else None,
        "there": {State.THERE: True, State.MISSING: False}.get(need.state),
        "state": need.state.value,
        "revision": need.revision,
        "remedy": None if need.state is State.THERE else need.remedy,
    }


def _text(found: Mapping[str, Any]) -> str:
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    if found["works"]:
        yield f"These flags will work here, through the backend {found['backend']}."
    else:
        through = f" through the backend {found['backend']}" if found["backend"] else ""
        yield f"These flags can't work here{through}."
    yield ""
    lock = found["lock_file"]
    yield from textwrap.wrap(f"lock file {lock['path']}: {lock['state']}", WIDTH)
    for each in found["families"]:
        in_kernel = "in this kernel" if each["in_kernel"] else "not in this kernel"
        captured = "captured" if each["captured"] else "not captured"
        yield f"{each['family']}: {in_kernel}, {captured}"
    yield from _need_lines(found["routing"])
    for each in found["backends"]:
        yield ""
        yield f"backend {each['backend']}: {'works' if each['works'] else 'does not work'}"
        yield from _need_lines(each["needs"])


def _need_lines(all_of_it: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for need in all_of_it:
        family = f" for {need['family']}" if need["family"] else ""
        state = "not loaded yet" if need["state"] == "not loaded" else need["state"]
        revision = "" if need["revision"] is None else f" (revision {need['revision']})"
        remedy = f"; {need['remedy']}" if need["remedy"] else ""
        line = f"  {need['kind']} {need['name']}{family}: {state}{revision}{remedy}"
        yield from textwrap.wrap(line, WIDTH, subsequent_indent="    ")
