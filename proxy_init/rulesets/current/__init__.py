"""The rule set `current`: what today's sidecars expect. A module a table.

Read a chain's function from top to bottom: it yields the rules in the order in which the kernel
tries them. Every rule says why it is there.
"""

from ...config.config import Config, Mode
from ...rules.model import Family, Routing, Ruleset
from . import mangle, nat, raw


def build(config: Config, family: Family) -> Ruleset:
    """All that `family` must hold of ours under `config`; nothing where it is left alone."""
    if family is Family.V6 and not config.ipv6:
        return Ruleset(family)
    tables = (table.table(config, family) for table in (raw, mangle, nat))
    transparent = config.mode is Mode.TPROXY and bool(config.inbound_ports)
    route = config.policy_route if transparent else None
    return Ruleset(
        family,
        tuple(table for table in tables if table.chains),
        Routing(route, passthrough_address=family is Family.V6),
    )
