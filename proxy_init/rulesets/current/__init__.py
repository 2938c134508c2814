"""The rule set `current`: the rules that today's sidecars expect. One module per table.

A chain is a function that yields its rules in the order in which the kernel tries them, each with
its reason.
"""

from ...config.config import Config, Mode
from ...rules.model import Family, Routing, Ruleset
from . import mangle, nat, raw


def build(config: Config, family: Family) -> Ruleset:
    """The ruleset that `config` asks for in `family`; empty if nothing is captured there."""
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
