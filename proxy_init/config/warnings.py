"""What is well formed but hardly meant, a line each."""

from collections.abc import Iterator, Mapping

from .command_line import Setting
from .config import EVERYTHING, OLD_RULES, Config, Networks
from .values import items

OWNER_GROUPS = "ISTIO_OUTBOUND_OWNER_GROUPS"


def warnings_of(
    config: Config, given: Mapping[str, Setting], environ: Mapping[str, str]
) -> Iterator[str]:
    """The warnings about one call's flags, in the order of the flags' table."""
    if config.inbound_ports and "inbound_port" not in given and config.ruleset != OLD_RULES:
        yield (
            f"{given['inbound_ports'].source} without -z: captured inbound TCP goes to port "
            f"{config.inbound_port}, the -p port, as in Istio 1.0; Istio's programs since 1.3 take "
            "15006, so name the port with -z"
        )
    if 0 in config.proxy_uids and "proxy_uids" not in given:
        yield "uid 0 is not captured, by default: -u says which users are the proxy's"
    if config.redirect_dns and not config.captures_dns:
        source = given["redirect_dns"].source
        yield f"{source}: /etc/resolv.conf names no server, so DNS is not captured"
    own_ports = {config.outbound_port, config.inbound_port}
    for name, ports in (
        ("inbound_ports", () if config.inbound_ports is EVERYTHING else config.inbound_ports),
        ("inbound_excluded_ports", config.inbound_excluded_ports),
        ("outbound_ports", config.outbound_ports),
        ("outbound_excluded_ports", config.outbound_excluded_ports),
    ):
        for port in sorted(own_ports.intersection(ports)):
            yield f"{given[name].source}: {port} is a port that the proxy itself listens on"
    if config.inbound_excluded_ports and config.inbound_ports is not EVERYTHING:
        yield f"{given['inbound_excluded_ports'].source}: counts only with -b '*'"
    if config.outbound_ports and config.outbound_networks is EVERYTHING:
        yield f"{given['outbound_ports'].source}: -i '*' captures every port already"
    if config.outbound_networks is not EVERYTHING and config.outbound_networks:
        yield from _overlaps(given["outbound_networks"].source, config.outbound_networks)
    if config.outbound_excluded_networks:
        source = given["outbound_excluded_networks"].source
        yield from _overlaps(source, config.outbound_excluded_networks)
        for network in config.outbound_excluded_networks:
            if network.prefixlen == 0:
                yield f"{source}: {network} excludes every destination"
    if OWNER_GROUPS in environ and not items(environ[OWNER_GROUPS]):
        yield (
            f"{OWNER_GROUPS} is empty, so processes of all groups are captured; Istio's program "
            "would capture none: leave the variable out, or say *"
        )
    if config.owner_groups is not EVERYTHING and set(config.owner_groups) <= set(config.proxy_gids):
        yield (f"{OWNER_GROUPS} names only groups of the proxy, so nobody's traffic is captured")


def _overlaps(source: str, networks: Networks) -> Iterator[str]:
    """Networks that say again what another of the list says."""
    ordered = sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    widest = None
    for network in ordered:
        # In this order a network that contains others stands right before all of them.
        if widest is None or widest.version != network.version:
            widest = network
        elif widest == network:
            yield f"{source}: {network} is given twice"
        elif network.network_address in widest:
            yield f"{source}: {network} lies inside {widest}"
        else:
            widest = network
