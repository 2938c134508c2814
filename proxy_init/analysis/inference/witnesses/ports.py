"""What rules say about the ports of the proxy."""

from collections.abc import Iterator, Sequence

from ....rules.matches import DestinationPort, DestinationPorts
from ....rules.targets import Redirect, Tproxy
from .reading import TO_IN_REDIRECT, Choice, Reading, ranked, returned_port, values


def ports(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-p, -z and -e."""
    outbound = [*_redirected(reading, "ISTIO_REDIRECT")]
    inbound = [*_redirected(reading, "ISTIO_IN_REDIRECT")]
    transparent = [
        rule.target.port
        for chain in ("ISTIO_TPROXY", "ISTIO_INBOUND")
        for rule in reading.each("mangle", chain)
        if isinstance(rule.target, Tproxy)
    ]
    if reading.is_old:
        outbound += transparent
    else:
        inbound += transparent
    either = dict.fromkeys([*ranked(outbound), *ranked(inbound), 15001])
    yield [{"outbound_port": port} for port in either]
    either = dict.fromkeys([*ranked(inbound), *ranked(outbound), 15006])
    yield [{"inbound_port": port} for port in either]
    if not reading.is_old:
        yield [{"tunnel_port": port} for port in ranked(_tunnel_ports(reading)) or [15008]]


def _redirected(reading: Reading, chain: str) -> Iterator[int]:
    for rule in reading.each("nat", chain):
        if isinstance(rule.target, Redirect):
            yield rule.target.port


def _tunnel_ports(reading: Reading) -> Iterator[int]:
    for rules in reading.rules("nat", "ISTIO_INBOUND"):
        yield from values(rules, returned_port("tcp"))[:1]
    for rules in reading.output():
        for rule in rules:
            for match in rule.matches:
                match match:
                    case DestinationPort("tcp", port, True) if rule.target == TO_IN_REDIRECT:
                        yield port
                    case DestinationPorts((*ports,), True) if rule.target == TO_IN_REDIRECT:
                        yield from [port for port in ports if port != 53] or [53]
