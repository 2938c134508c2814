"""What should become of a connection under given flags: the demo's own judgement.

It is told from what the flags mean and shares nothing with the code that builds the rules. It
covers TCP, the mode REDIRECT and the rule set `current`, without DNS capture and owner groups.
"""

from ipaddress import ip_address, ip_network

from pods import Endpoint
from proxy_init.config import EVERYTHING, Config, Mode


def judges(config: Config) -> bool:
    """Whether these flags are within what this module covers."""
    return (
        config.mode is not Mode.TPROXY and config.ruleset == "current" and not config.redirect_dns
    )


def outbound(config: Config, to: Endpoint, interface: str, uid: int, gid: int) -> int | None:
    """The proxy's port that gets what a process in the pod sends; None if it goes straight there.

    `interface` is the one it leaves by: lo for the pod's own addresses.
    """
    address = ip_address(to.address)
    if not _in_force(config, address.version) or named(interface, config.excluded_interfaces):
        return None
    if to.port in config.outbound_excluded_ports:
        return None

    loopback = config.ipv4_loopback if address.version == 4 else ip_network("::1/128")
    proxy = [uid == own for own in config.proxy_uids] + [gid == own for own in config.proxy_gids]
    if interface == "lo":
        if not config.captures_loopback:
            # A known weakness: what is not the first uid's leaves before the others are asked.
            proxy = proxy[:1]
        if any(proxy):
            # The proxy calls its own pod: this has to pass inbound, as if it came from outside.
            direct = address in loopback or to.port == config.tunnel_port
            return None if direct else config.inbound_port
        if not config.captures_loopback:
            return None
    elif any(proxy):
        return None

    if address in loopback or any(address in each for each in config.outbound_excluded_networks):
        return None
    if (
        to.port in config.outbound_ports
        or config.outbound_networks is EVERYTHING
        or any(address in each for each in config.outbound_networks)
    ):
        return config.outbound_port
    return None


def inbound(config: Config, to: Endpoint, interface: str) -> int | None:
    """The proxy's port that gets what comes to the pod by an interface; None as in `outbound`."""
    address = ip_address(to.address)
    if not _in_force(config, address.version):
        return None
    if named(interface, config.virtual_interfaces):
        # A virtual machine lives behind it: what it sends is the pod's own outbound traffic.
        captured = config.outbound_networks is EVERYTHING or any(
            address in each for each in config.outbound_networks
        )
        return config.outbound_port if captured else None
    if named(interface, config.excluded_interfaces) or to.port == config.tunnel_port:
        return None
    if config.inbound_ports is EVERYTHING:
        return None if to.port in config.inbound_excluded_ports else config.inbound_port
    return config.inbound_port if to.port in config.inbound_ports else None


def _in_force(config: Config, version: int) -> bool:
    writes = config.mode is Mode.REDIRECT and not (config.dry_run or config.skip_rule_apply)
    return writes and (version == 4 or bool(config.ipv6))


def named(interface: str, names: tuple[str, ...]) -> bool:
    """Whether an interface is among those that -c or -k lists."""
    return any(
        interface.startswith(name[:-1]) if name.endswith("+") else interface == name
        for name in names
    )
