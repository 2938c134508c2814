"""From a Config to the words of a command line that makes its rules, wherever it is called.

Settings that depend on the machine (users, name servers, addresses) are written out. Other settings
are left out if they have their default, except for the ports and users of the proxy.
"""

from collections.abc import Iterable, Iterator, Sequence

from ...config.config import EVERYTHING, LOOPBACK_V4, OLD_RULES, Config, Everything, Mode
from ...rules.networks import Network, read_address


def words_of(config: Config) -> tuple[str, ...]:
    """The flags that make the rules of `config`, which is settled: whether IPv6 is captured is
    known."""
    if config.mode is Mode.NONE:
        return ("-m", "NONE")
    return tuple(word for words in _flags(config) for word in words)


def _flags(config: Config) -> Iterator[Sequence[str]]:
    old = config.ruleset == OLD_RULES
    yield "-p", str(config.outbound_port)
    if not old or config.inbound_port != config.outbound_port:
        yield "-z", str(config.inbound_port)
    yield "-u", _listed(config.proxy_uids)
    if config.proxy_gids != config.proxy_uids:
        yield "-g", _listed(config.proxy_gids)
    if config.tunnel_port != 15008:
        yield "-e", str(config.tunnel_port)
    transparent = config.mode is Mode.TPROXY
    if transparent:
        yield "-m", config.mode.value
    yield from _list("-i", _captured(config))
    yield from _list("-x", config.outbound_excluded_networks)
    yield from _list("-b", config.inbound_ports)
    if config.inbound_ports is EVERYTHING:
        yield from _list("-d", config.inbound_excluded_ports)
    yield from _list("-q", config.outbound_ports)
    yield from _list("-o", config.outbound_excluded_ports)
    yield from _list("-c", config.excluded_interfaces)
    yield from _list("-k", config.virtual_interfaces)
    if transparent and config.tproxy_mark != 1337:
        yield "-t", str(config.tproxy_mark)
    if transparent and config.inbound_ports and config.tproxy_route_table != 133:
        yield "-r", str(config.tproxy_route_table)
    if config.owner_groups is not EVERYTHING:
        yield from _list("--istio-outbound-owner-groups", config.owner_groups)
    yield from _list("--istio-outbound-owner-groups-exclude", config.owner_groups_excluded)
    if config.ipv4_loopback != LOOPBACK_V4:
        yield "--istio-outbound-ipv4-loopback-cidr", str(config.ipv4_loopback)
    if config.captures_dns:
        yield ("--redirect-dns",)
        if config.capture_all_dns:
            yield ("--capture-all-dns",)
        else:
            servers = (network.network_address for network in config.dns_servers)
            yield "--dns-servers", _listed(servers)
    if config.drop_invalid:
        yield ("--drop-invalid",)
    if old:
        yield "--ruleset", OLD_RULES
    if config.ipv6 or not old:
        yield ("--ipv6" if config.ipv6 else "--no-ipv6",)
    if config.cidr_tree != "auto":
        yield "--cidr-tree", config.cidr_tree
    if config.comments:
        yield ("--comments",)
    if config.backend == "nft":
        yield "--backend", "nft"


def _list(flag: str, items: Iterable[object] | Everything) -> Iterator[Sequence[str]]:
    text = "*" if isinstance(items, Everything) else _listed(items)
    if text:
        yield flag, text


def _listed(items: Iterable[object]) -> str:
    return ",".join(map(str, items))


def _captured(config: Config) -> Iterable[object] | Everything:
    """The items of -i. What is captured inside the pod depends on how they are written: whether
    one of them is written with a loopback address."""
    networks = config.outbound_networks
    if isinstance(networks, Everything) or not config.captures_loopback:
        return networks
    if any(network.is_loopback for network in networks):
        return networks
    for number, network in enumerate(networks):
        loopback = read_address("127.0.0.1" if network.version == 4 else "::1")
        if loopback in network:
            written = f"{loopback}/{network.prefixlen}"
            return [*networks[:number], written, *networks[number + 1 :]]
    # Only a loopback address of IPv6, which is not captured, can leave no other trace.
    return [*networks, Network(read_address("::1"), 128)]
