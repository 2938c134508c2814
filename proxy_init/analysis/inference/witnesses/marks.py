"""What rules and routes say about marks, INVALID packets and families."""

from collections.abc import Iterator, Sequence

from ....config.config import TPROXY_OUTBOUND_MARK
from ....rules.matches import ConnectionMark, Mark, State
from ....rules.model import Family
from ....rules.targets import Jump, SetMark, Tproxy
from .reading import Choice, Reading, ranked


def marks(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-t, -r and --drop-invalid."""
    marks: list[int] = []
    chains = ("PREROUTING", "OUTPUT", "ISTIO_INBOUND", "ISTIO_DIVERT", "ISTIO_TPROXY")
    for chain in chains:
        for rule in reading.each("mangle", chain):
            match rule.target:
                case Tproxy(_, mark, _) | SetMark(mark):
                    marks.append(mark)
            for match in rule.matches:
                if isinstance(match, Mark | ConnectionMark):
                    marks.append(match.value)
    routes = [
        route
        for family in reading.families
        for route in reading.present.held.policy_routes.get(family, ())
    ]
    marks += (route.mark for route in routes)
    marks = [mark for mark in marks if mark != TPROXY_OUTBOUND_MARK and mark]
    yield [{"tproxy_mark": mark} for mark in ranked(marks) or [1337]]
    tables = ranked(route.table for route in routes)
    yield [{"tproxy_route_table": table} for table in tables or [133]]
    dropping = any(reading.each("mangle", "ISTIO_DROP")) or any(
        rule.target == Jump("ISTIO_DROP") for rule in reading.each("mangle", "PREROUTING")
    )
    if dropping and not reading.is_old:
        yield [{"drop_invalid": True}, {"drop_invalid": False}]


def families(reading: Reading) -> Iterator[Sequence[Choice]]:
    """Whether IPv6 is captured."""
    ours = {family for family, *_ in reading.present.ours()}
    there = Family.V6 in ours or bool(reading.present.held.passthrough)
    if reading.is_old:
        closed = any(
            isinstance(match, State)
            for rule in reading.present.rules(Family.V6, "filter", "INPUT")
            for match in rule.matches
        )
        there = not closed and Family.V6 in reading.families
    yield [{"ipv6": there}, {"ipv6": not there}]
