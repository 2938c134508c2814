"""What the log says of a run, in words."""

from collections.abc import Iterable, Iterator
from itertools import islice

from ..config.config import DNS_PORT, EVERYTHING, OLD_RULES, Config, Mode
from ..rules.iptables_save import rule_text
from ..rules.model import Ruleset

MOST_RULES_LOGGED = 200


def decisions(config: Config) -> Iterator[str]:
    """What was decided, and where it was not asked for, why."""
    yield f"mode {config.mode.value}, rule set {config.ruleset}"
    if config.mode is Mode.NONE:
        return
    yield (
        f"the proxy is uid {_listed(config.proxy_uids)}, gid {_listed(config.proxy_gids)}: "
        "what it sends is not captured"
    )
    yield f"outbound TCP to {_outbound(config)} goes to port {config.outbound_port}"
    yield f"inbound TCP to {_inbound(config)} goes to port {_inbound_port(config)}"
    if config.captures_dns:
        servers = "any server" if config.capture_all_dns else _listed(config.dns_servers)
        yield f"DNS to {servers} goes to port {DNS_PORT}"
    yield f"IPv4 yes; IPv6 {'yes' if config.ipv6 else 'no'}: {config.ipv6_reason}"


def _outbound(config: Config) -> str:
    if config.outbound_networks is EVERYTHING:
        captured = "every address"
    else:
        captured = _listed(config.outbound_networks) or "no address"
    if config.outbound_ports:
        captured += f", and to port {_listed(config.outbound_ports)} of any"
    excluded = (*config.outbound_excluded_networks, *_ports(config.outbound_excluded_ports))
    return captured + (f" (but not {_listed(excluded)})" if excluded else "")


def _inbound(config: Config) -> str:
    if config.inbound_ports is not EVERYTHING:
        return f"port {_listed(config.inbound_ports)}" if config.inbound_ports else "no port"
    excluded = f" (but not {_listed(config.inbound_excluded_ports)})"
    return "every port" + (excluded if config.inbound_excluded_ports else "")


def _inbound_port(config: Config) -> str:
    if config.mode is not Mode.TPROXY:
        return str(config.inbound_port)
    # The image of 1.0.0 had one port for both directions there.
    port = config.outbound_port if config.ruleset == OLD_RULES else config.inbound_port
    mark, table = config.tproxy_mark, config.tproxy_route_table
    return f"{port}, transparently (mark {mark:#x}, routing table {table})"


def _ports(ports: Iterable[int]) -> Iterator[str]:
    return (f"port {port}" for port in ports)


def _listed(items: Iterable[object], most: int = 10) -> str:
    words = list(map(str, items))
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def rules(ruleset: Ruleset) -> Iterator[str]:
    """Each rule, as iptables-save spells it."""
    lines = (
        f"{ruleset.family.title} {table.name}: -A {chain.name}{rule_text(rule)}"
        for table in ruleset.tables
        for chain in table.chains
        for rule in chain.rules
    )
    yield from islice(lines, MOST_RULES_LOGGED)
    more = len(ruleset.rules) - MOST_RULES_LOGGED
    if more > 0:
        yield f"{ruleset.family.title}: and {more} more rules"
