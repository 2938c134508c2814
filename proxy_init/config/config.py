"""The checked configuration of one call.

read.py builds it from flags, variables and files. `settle` decides the one part that depends on
the pod's addresses: whether IPv6 is captured.
"""

from __future__ import annotations

from ..errors import BadCall, Mistake
from ..frozen import Frozen, replace
from ..light import Enum
from ..rules.matches import Destination
from ..rules.model import Family, PolicyRoute
from ..rules.networks import Address, Network, read_network
from .command_line import Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final, TypeAlias


class Everything(Enum):
    """The `*` of -b, -i and the owner groups."""

    EVERYTHING = "*"


LOOPBACK_V4, LOOPBACK_V6 = read_network("127.0.0.1/32"), read_network("::1/128")
EVERYTHING: Final = Everything.EVERYTHING
Ports: TypeAlias = tuple[int, ...]
Networks: TypeAlias = tuple[Network, ...]

OLD_RULES = "1.0"
TPROXY_OUTBOUND_MARK = 1338
"""The fwmark of packets from the proxy to its own pod."""
DNS_PORT = 15053
"""The port on which the agent answers captured DNS queries."""


class Mode(Enum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"
    NONE = "NONE"


class Config(Frozen):
    """The configuration of one call. Ports, uids, gids, marks and tables are plain numbers."""

    outbound_port: int
    inbound_port: int
    tunnel_port: int
    proxy_uids: tuple[int, ...]
    proxy_gids: tuple[int, ...]
    mode: Mode
    inbound_ports: Ports | Everything
    inbound_excluded_ports: Ports
    outbound_networks: Networks | Everything
    captures_loopback: bool
    """Whether -i names a loopback address, so that connections inside the pod are captured too."""
    outbound_excluded_networks: Networks
    outbound_ports: Ports
    outbound_excluded_ports: Ports
    excluded_interfaces: tuple[str, ...]
    virtual_interfaces: tuple[str, ...]
    owner_groups: tuple[int, ...] | Everything
    owner_groups_excluded: tuple[int, ...]
    ipv4_loopback: Network
    tproxy_mark: int
    tproxy_route_table: int
    redirect_dns: bool
    capture_all_dns: bool
    dns_servers: Networks
    """Each is a single address."""
    drop_invalid: bool
    ipv6: bool | None
    """None until `settle` decides by the pod's addresses."""
    dual_stack: bool
    dry_run: bool
    printed_families: tuple[Family, ...]
    """The families that a dry run prints."""
    network_namespace: str | None
    network_namespace_source: str
    """The flag or variable that names it."""
    pod: str | None
    """NAMESPACE/NAME of a pod on this node, in whose network namespace to work."""
    reconcile: bool
    force_apply: bool
    cleanup_only: bool
    skip_rule_apply: bool
    run_validation: bool
    probe_port: int
    probe_timeout: int
    """Milliseconds."""
    ruleset: str
    comments: bool
    log_level: str
    log_as_json: bool
    backend: str
    cidr_tree: str
    wait: int
    """Seconds."""
    lock_file: str
    strict: bool
    output: str
    about_rules: bool = False
    """Whether any flag or variable says which rules there must be, see flags.ABOUT_RULES."""
    ipv6_reason: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Settings that were accepted without effect or with another meaning, one line each."""
    own: Mapping[str, Setting] = {}
    """The given options that only this command has, checked, by the flag's name."""

    def networks(self, networks: Networks, family: Family) -> Networks:
        """Those of `networks` that belong to `family`."""
        return tuple(network for network in networks if network.version == family.value)

    @property
    def policy_route(self) -> PolicyRoute:
        """The policy route of mode TPROXY."""
        return PolicyRoute(self.tproxy_mark, self.tproxy_route_table)

    @property
    def depends_on_ipv4(self) -> bool:
        """Whether `settle` must know if the pod's first address is IPv4."""
        return self.ipv6 is None and not self.dual_stack

    @property
    def captures_dns(self) -> bool:
        """Whether DNS is captured: requested, and either for all servers or for at least one."""
        return self.redirect_dns and (self.capture_all_dns or bool(self.dns_servers))

    def loopback(self, family: Family) -> Destination:
        """The destinations that stay inside the pod."""
        return Destination(self.ipv4_loopback if family is Family.V4 else LOOPBACK_V6)


def settle(config: Config, addresses: Sequence[Address]) -> Config:
    """Decide whether IPv6 is captured, by the namespace's global addresses in the kernel's order.

    Raises BadCall with --strict if the pod has an IPv6 address that is not captured.
    """
    considered = addresses if config.dual_stack else addresses[:1]
    ipv6 = any(address.version == 6 for address in considered)
    if config.ipv6 is not None:
        ipv6, reason = config.ipv6, "as configured"
    elif not addresses:
        reason = "the namespace has no global IPv6 address"
    elif ipv6:
        reason = "the namespace has a global IPv6 address"
    else:
        reason = "the namespace's first global address is IPv4"
    settled = replace(config, ipv6=ipv6, ipv6_reason=reason)
    if (not ipv6 or config.ruleset == OLD_RULES) and any(
        address.version == 6 for address in addresses
    ):
        leak = "the pod has a global IPv6 address, but IPv6 is not captured"
        if config.ruleset != OLD_RULES:
            leak += "; use --dual-stack or --ipv6 to capture it"
        settled = replace(settled, warnings=(*config.warnings, leak))
        if config.strict:
            raise BadCall([Mistake("--strict", None, leak)])
    return settled
