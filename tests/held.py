"""What a network namespace would hold after rules were applied, as readers of the kernel give it:
through the text of iptables-save, or through the expressions of nf_tables."""

from collections.abc import Mapping, Sequence

from proxy_init.analysis.inference.held import Held
from proxy_init.config.config import Config
from proxy_init.frozen import replace
from proxy_init.kernel.nftables.codec import expressions_of, reading_of, userdata_of
from proxy_init.rules.inet_tables import Placed, merged, name_in_kernel, name_in_model, split
from proxy_init.rules.iptables_save import table_text
from proxy_init.rules.iptables_save_parser import read_table
from proxy_init.rules.matches import DestinationSet
from proxy_init.rules.model import BUILT_IN, Family, Rule, Ruleset, Table
from proxy_init.rulesets import build


def made(config: Config, native: bool) -> list[Ruleset]:
    """The rules of both families for tables of iptables, or for nf_tables natively."""
    config = replace(config, backend="nft" if native else "legacy")
    return [build(config, family) for family in Family]


def held(rulesets: Sequence[Ruleset], native: bool) -> Held:
    """These rules as they are read back."""
    routes = {ruleset.family: ruleset.routing.policy_route for ruleset in rulesets}
    return Held(
        native,
        _through_nf_tables(rulesets) if native else _through_text(rulesets),
        {family: [route] if route else [] for family, route in routes.items()},
        any(ruleset.routing.passthrough_address for ruleset in rulesets),
    )


def _through_text(rulesets: Sequence[Ruleset]) -> Mapping[Family, Mapping[str, Table]]:
    return {
        ruleset.family: {
            name: read_table(name, table_text(ruleset.table(name)))[0] for name in BUILT_IN
        }
        for ruleset in rulesets
    }


def _through_nf_tables(rulesets: Sequence[Ruleset]) -> Mapping[Family, Mapping[str, Table]]:
    found: dict[Family, dict[str, Table]] = {ruleset.family: {} for ruleset in rulesets}
    for name in BUILT_IN:
        placed = {
            chain: [_read_back(each) for each in rules]
            for chain, rules in merged({r.family: r.table(name) for r in rulesets}).items()
        }
        for family, tables in found.items():
            tables[name] = split(placed, name, family)
    return found


def _read_back(placed: Placed) -> Placed:
    rule = placed.rule
    expressions = expressions_of(rule, placed.families, name_in_kernel)
    reading = reading_of(expressions, userdata_of(rule), None, name_in_model, _sets_of(rule))
    return Placed(reading.families, reading.rule)


def _sets_of(rule: Rule) -> dict[str, tuple[tuple[bytes, bytes], ...]]:
    return {
        match.title: tuple(
            (first.to_bytes(size, "big"), last.to_bytes(size, "big"))
            for first, last in match.ranges
        )
        for match in rule.matches
        if isinstance(match, DestinationSet)
        for size in (4 if match.version == 4 else 16,)
    }
