"""What rules say about DNS capture."""

from collections.abc import Iterator, Sequence

from ....config.config import DNS_PORT
from ....rules.matches import (
    Destination,
    DestinationPort,
    DestinationPorts,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
    SourcePort,
)
from ....rules.model import Family, Rule
from ....rules.networks import Network
from ....rules.targets import ConntrackZone, Redirect
from .reading import EVERYWHERE, Choice, Reading, lists, per_family, values


def dns(reading: Reading) -> Iterator[Sequence[Choice]]:
    """--redirect-dns, --capture-all-dns and --dns-servers."""
    if reading.is_old:
        return
    witnesses = sum(
        any(True for _ in reading.each(table, chain))
        for table, chain in (
            *(("raw", "ISTIO_OUTPUT_DNS"), ("raw", "ISTIO_INBOUND")),
            ("nat", "ISTIO_OUTPUT_DNS"),
        )
    )
    witnesses += any(
        isinstance(match, DestinationPorts)
        for rules in reading.output()
        for rule in rules
        for match in rule.matches
    )
    servers: dict[Family, list[tuple[Network, ...]]] = {}
    everything = False
    for family in reading.families:
        runs = [*_dns_runs(reading, family)]
        everything = everything or any(EVERYWHERE[family] in run for run in runs)
        servers[family] = lists(runs)
    off: Choice = {"redirect_dns": False, "capture_all_dns": False}
    every: Choice = {"redirect_dns": True, "capture_all_dns": True}
    some: Choice = {"redirect_dns": True, "capture_all_dns": False}
    if not witnesses:
        yield [off]
    elif everything:
        yield [every, off, some]
    else:
        yield [some, off, every]
    for family, some_lists in servers.items():
        yield [{per_family("dns_servers", family): each} for each in some_lists]


def _dns_runs(reading: Reading, family: Family) -> Iterator[tuple[Network, ...]]:
    """The servers in each run of rules that has one for each."""
    nat = reading.present.rules(family, "nat", "ISTIO_OUTPUT_DNS")
    raw = reading.present.rules(family, "raw", "ISTIO_OUTPUT_DNS")
    replies = reading.present.rules(family, "raw", "ISTIO_INBOUND")
    for protocol in ("tcp", "udp"):
        of_protocol = [rule for rule in nat if Protocol(protocol) in rule.matches]
        yield values(of_protocol, lambda rule: _server(rule, family, Redirect(DNS_PORT)))
    owned = (OwnerUid, OwnerGid)
    unowned = [r for r in raw if not any(isinstance(m, owned) for m in r.matches)]
    yield values(unowned, lambda rule: _server(rule, family, ConntrackZone(2)))
    yield values(replies, lambda rule: _server(rule, family, ConntrackZone(1)))


def _server(rule: Rule, family: Family, target: object) -> Network | None:
    if rule.target != target:
        return None
    if not any(isinstance(m, DestinationPort | SourcePort) for m in rule.matches):
        return None
    found = (m.network for m in rule.matches if isinstance(m, Destination | Source))
    return next(found, EVERYWHERE[family])
