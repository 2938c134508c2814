"""Warnings about valid flags that were probably not intended, one line each."""

from __future__ import annotations

from .command_line import Setting
from .config import EVERYTHING, OLD_RULES, Config, Networks
from .values import items

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OWNER_GROUPS = "ISTIO_OUTBOUND_OWNER_GROUPS"


def warnings_of(
    config: Config, given: Mapping[str, Setting], environ: Mapping[str, str]
) -> Iterator[str]:
    """The warnings about the flags of one call, in the order of the table of flags."""
    if config.inbound_ports and "inbound_port" not in given and config.ruleset != OLD_RULES:
        yield (
            f"{given['inbound_ports'].source} without -z: captured inbound TCP goes to port "
            f"{config.inbound_port}, the -p port, as in Istio 1.0; Istio's programs since 1.3 use "
            "15006, so set the port with -z"
        )
    if 0 in config.proxy_uids and "proxy_uids" not in given:
        yield "uid 0 is not captured by default; set the users of the proxy with -u"
    if config.redirect_dns and not config.captures_dns and "dns_servers" not in given:
        source = given["redirect_dns"].source
        yield f"{source}: /etc/resolv.conf lists no name server, so DNS is not captured"
    own_ports = {config.outbound_port, config.inbound_port}
    for name, ports in (
        ("inbound_ports", () if config.inbound_ports is EVERYTHING else config.inbound_ports),
        ("inbound_excluded_ports", config.inbound_excluded_ports),
        ("outbound_ports", config.outbound_ports),
        ("outbound_excluded_ports", config.outbound_excluded_ports),
    ):
        for port in sorted(own_ports.intersection(ports)):
            yield f"{given[name].source}: the proxy itself listens on port {port}"
    if config.inbound_excluded_ports and config.inbound_ports is not EVERYTHING:
        yield f"{given['inbound_excluded_ports'].source}: has an effect only with -b '*'"
    if config.outbound_ports and config.outbound_networks is EVERYTHING:
        yield f"{given['outbound_ports'].source}: no effect, since -i '*' captures every port"
    if config.outbound_networks is not EVERYTHING and config.outbound_networks:
        yield from _overlaps(given["outbound_networks"].source, config.outbound_networks)
    if config.outbound_excluded_networks:
        source = given["outbound_excluded_networks"].source
        yield from _overlaps(source, config.outbound_excluded_networks)
        for network in config.outbound_excluded_networks:
            if network.prefixlen == 0:
                yield f"{source}: {network} excludes every destination"
    groups = given.get("owner_groups")
    if (groups is None or groups.is_variable) and items(environ.get(OWNER_GROUPS, "*")) == []:
        yield (
            f"{OWNER_GROUPS} is empty, so processes of all groups are captured; Istio's program "
            "would capture none: unset the variable, or set it to *"
        )
    if config.owner_groups is not EVERYTHING and set(config.owner_groups) <= set(config.proxy_gids):
        source = given["owner_groups"].source
        yield f"{source} names only groups of the proxy, so no outbound traffic is captured"


def _overlaps(source: str, networks: Networks) -> Iterator[str]:
    """Networks of a list that another one in it already covers."""
    ordered = sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    widest = None
    for network in ordered:
        # In this order a network comes right before all networks that it contains.
        if widest is None or widest.version != network.version:
            widest = network
        elif widest == network:
            yield f"{source}: {network} is given twice"
        elif network.network_address in widest:
            yield f"{source}: {network} is inside {widest}"
        else:
            widest = network
