"""What rules say about the mode, and about the inbound ports."""

from collections.abc import Iterator, Sequence

from ....config.config import Mode
from ....rules.matches import DestinationPort
from ....rules.model import Rule
from ....rules.targets import Jump
from .reading import (
    TO_DIVERT,
    TO_IN_REDIRECT,
    Choice,
    Reading,
    led_port,
    lists,
    returned_port,
    values,
)

_SSH = 22


def inbound(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-m, -b and -d."""
    found: list[Choice] = []
    for mode, table in ((Mode.TPROXY, "mangle"), (Mode.REDIRECT, "nat")):
        chains = [*reading.rules(table, "ISTIO_INBOUND")]
        led = [*reading.rules(table, "PREROUTING")] if mode is Mode.TPROXY else []
        if chains or reading.is_transparent() == (mode is Mode.TPROXY) or any(led):
            found += _inbound(reading, mode, chains)
    found.sort(key=lambda each: (each["mode"] is Mode.TPROXY) != reading.is_transparent())
    yield [*found, {"mode": Mode.REDIRECT, "inbound_ports": ()}]


def _inbound(reading: Reading, mode: Mode, chains: Sequence[Sequence[Rule]]) -> Iterator[Choice]:
    leads = [Jump("ISTIO_TPROXY"), TO_DIVERT]
    if mode is Mode.REDIRECT:
        leads = [TO_IN_REDIRECT]
    listed = lists(
        values(rules, led_port(lead))[:: 2 if reading.is_old and lead == TO_DIVERT else 1]
        for rules in chains
        for lead in leads
    )
    returned = []
    for rules in chains:
        ports = values(rules, returned_port("tcp"))
        if reading.is_old:
            returned += [ports[1:] if ports[:1] == (_SSH,) else ports]
        elif mode is Mode.REDIRECT:
            returned += [ports[1:], ports]
        else:
            returned.append(ports)
    all_ports: list[Choice] = [
        {"mode": mode, "inbound_ports": None, "inbound_excluded_ports": each}
        for each in lists(returned)
    ]
    some_ports: list[Choice] = [
        {"mode": mode, "inbound_ports": each, "inbound_excluded_ports": ()} for each in listed
    ]
    starred = any(
        rule.target in leads and not any(isinstance(m, DestinationPort) for m in rule.matches)
        for rules in chains
        for rule in rules
    )
    yield from [*all_ports, *some_ports] if starred else [*some_ports, *all_ports]
    yield {"mode": mode, "inbound_ports": (), "inbound_excluded_ports": ()}
