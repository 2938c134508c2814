"""The table raw: conntrack zones for DNS capture."""

from __future__ import annotations

from ...config.config import DNS_PORT, Config
from ...rules.matches import DestinationPort, Match, OwnerGid, OwnerUid, Source, SourcePort
from ...rules.model import Family, Rule, Table
from ...rules.targets import ConntrackZone
from ..common import INBOUND, OUTPUT_DNS, UDP, captured_servers, table_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Conntrack zones: of the application's queries to the agent, and of the agent's own to a server.
AGENT_ZONE, SERVER_ZONE = ConntrackZone(2), ConntrackZone(1)
TO_DNS = DestinationPort("udp", 53)


def table(config: Config, family: Family) -> Table:
    """The table raw, for DNS capture only: two conntrack zones, so that a query to the agent and
    the agent's own query never share a conntrack entry."""
    if not config.captures_dns:
        return Table("raw", ())
    return table_of(
        "raw",
        PREROUTING=prerouting(config, family),
        OUTPUT=[
            Rule(
                (), OUTPUT_DNS, "DNS queries: the chain ISTIO_OUTPUT_DNS sets their conntrack zone"
            )
        ],
        ISTIO_INBOUND=inbound(config, family),
        ISTIO_OUTPUT_DNS=output_dns(config, family),
    )


def prerouting(config: Config, family: Family) -> Iterator[Rule]:
    """raw PREROUTING."""
    if captured_servers(config, family):
        yield Rule((), INBOUND, "DNS replies: the chain ISTIO_INBOUND sets their conntrack zone")


def inbound(config: Config, family: Family) -> Iterator[Rule]:
    """raw ISTIO_INBOUND: replies to the agent's own queries."""
    for server in captured_servers(config, family):
        yield Rule(
            (*(Source(match.network) for match in server), UDP, SourcePort("udp", 53)),
            SERVER_ZONE,
            "a DNS server replies to the agent",
        )


def output_dns(config: Config, family: Family) -> Iterator[Rule]:
    """raw ISTIO_OUTPUT_DNS: the conntrack zones of the pod's own packets."""
    owners: list[Match] = [*map(OwnerUid, config.proxy_uids), *map(OwnerGid, config.proxy_gids)]
    for owner in owners:
        yield Rule((UDP, TO_DNS, owner), SERVER_ZONE, "the agent queries a DNS server")
        yield Rule(
            (UDP, SourcePort("udp", DNS_PORT), owner), AGENT_ZONE, "the agent answers a DNS query"
        )
    for server in captured_servers(config, family):
        yield Rule((*server, UDP, TO_DNS), AGENT_ZONE, "a DNS query, redirected to the agent")
