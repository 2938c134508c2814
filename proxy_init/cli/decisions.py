"""The log lines that describe a run."""

from __future__ import annotations

from itertools import islice

from ..config.config import DNS_PORT, EVERYTHING, OLD_RULES, Config, Mode
from ..rules.iptables_save import rule_text
from ..rules.model import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_RULES_LOGGED = 200


def decisions(config: Config) -> Iterator[str]:
    """What was decided, and the reason where no flag decides."""
    yield f"mode {config.mode.value}, rule set {config.ruleset}"
    if config.mode is Mode.NONE:
        return
    yield (
        f"the proxy is uid {_listed(config.proxy_uids)}, gid {_listed(config.proxy_gids)}: "
        "its own traffic is not captured"
    )
    yield _outbound(config)
    yield _inbound(config)
    if config.captures_dns:
        servers = "any server" if config.capture_all_dns else _listed(config.dns_servers)
        yield f"DNS to {servers} goes to port {DNS_PORT}"
    if config.ruleset == OLD_RULES:
        fate = "accepted" if config.ipv6 else "rejected"
        yield f"IPv4 is captured; IPv6 is not captured, and inbound IPv6 is {fate}"
    else:
        ipv6 = "captured" if config.ipv6 else "not captured"
        yield f"IPv4 is captured; IPv6 is {ipv6}: {config.ipv6_reason}"


def _outbound(config: Config) -> str:
    captured = []
    if config.outbound_networks is EVERYTHING:
        captured.append("to every address")
    elif config.outbound_networks:
        captured.append(f"to {_listed(config.outbound_networks)}")
    if config.outbound_ports:
        captured.append(f"to port {_listed(config.outbound_ports)} of every address")
    if not captured:
        return "outbound TCP is not captured"
    excluded = (*config.outbound_excluded_networks, *_ports(config.outbound_excluded_ports))
    but = f" (except {_listed(excluded)})" if excluded else ""
    return f"outbound TCP {' and '.join(captured)}{but} goes to port {config.outbound_port}"


def _inbound(config: Config) -> str:
    if not config.inbound_ports:
        return "inbound TCP is not captured"
    if config.inbound_ports is not EVERYTHING:
        captured = f"port {_listed(config.inbound_ports)}"
    elif config.inbound_excluded_ports:
        captured = f"every port (except {_listed(config.inbound_excluded_ports)})"
    else:
        captured = "every port"
    return f"inbound TCP to {captured} goes to port {_inbound_port(config)}"


def _inbound_port(config: Config) -> str:
    if config.mode is not Mode.TPROXY:
        return str(config.inbound_port)
    # In mode TPROXY, the image of 1.0.0 used one port for both directions.
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
    yield from islice(lines, MAX_RULES_LOGGED)
    more = len(ruleset.rules) - MAX_RULES_LOGGED
    if more > 0:
        yield f"{ruleset.family.title}: and {more} more rules"
