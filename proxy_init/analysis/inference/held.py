"""What a network namespace holds of one kind of tables, and the rules that flags make for it."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from ...config.config import Config
from ...frozen import Frozen, replace
from ...rules.inet_tables import name_in_model
from ...rules.matches import (
    Comment,
    Destination,
    DestinationPorts,
    DestinationSet,
    Match,
    Source,
)
from ...rules.model import Chain, Family, PolicyRoute, Rule, Ruleset, Table
from ...rules.targets import Goto, Jump, Reject
from ...rulesets import build


class Form(Enum):
    """The form of rules, which depends on the tables and on who writes them."""

    IPTABLES = "iptables"
    """In tables of iptables: the legacy ones, or those that iptables-nft makes."""
    NATIVE = "proxy-init, native nf_tables"
    ISTIO_NATIVE = "istio-iptables, native nf_tables"


class Held(Frozen):
    """The tables of one kind, by family and name, and the routing beside them.

    `native` says that they are our own tables of nf_tables (Istio's have the same names). A family
    that the kernel does not have is missing. `passthrough` is whether lo has ::6; None if unknown.
    """

    native: bool
    tables: Mapping[Family, Mapping[str, Table]]
    policy_routes: Mapping[Family, Sequence[PolicyRoute]] = {}
    passthrough: bool | None = None

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that rules in such tables may have."""
        return (Form.NATIVE, Form.ISTIO_NATIVE) if self.native else (Form.IPTABLES,)

    def normalized(self) -> "Held":
        """The same with the chains of nf_tables under the model's names, also if one is called at
        another hook than ours."""
        if not self.native:
            return self

        def renamed(chain: Chain) -> Chain:
            name = name_in_model(chain.name.partition("@")[0])
            return replace(chain, name=name, rules=tuple(map(retargeted, chain.rules)))

        def retargeted(rule: Rule) -> Rule:
            if not isinstance(rule.target, Jump | Goto):
                return rule
            target = replace(rule.target, name=name_in_model(rule.target.name))
            return Rule(rule.matches, target, rule.why)

        tables = {
            family: {
                name: replace(table, chains=tuple(map(renamed, table.chains)))
                for name, table in of.items()
            }
            for family, of in self.tables.items()
        }
        return replace(self, tables=tables)


def without_comments(rule: Rule) -> Rule:
    """The rule without its comment."""
    if not any(type(match) is Comment for match in rule.matches):
        return rule
    return Rule((m for m in rule.matches if type(m) is not Comment), rule.target, rule.why)


def comment_of(rule: Rule) -> str | None:
    """The rule's comment."""
    return next((m.text for m in rule.matches if isinstance(m, Comment)), None)


def wanted_rulesets(config: Config, form: Form) -> Mapping[Family, Ruleset]:
    """The rules that the flags make in tables of this form, by family."""
    if form is Form.ISTIO_NATIVE:
        return _as_istio_writes_natively(config)
    backend = "nft" if form is Form.NATIVE else "legacy"
    config = replace(config, backend=backend)
    return {family: build(config, family) for family in Family}


def _as_istio_writes_natively(config: Config) -> Mapping[Family, Ruleset]:
    """The rules of iptables one by one. In its tables, which are of both families, a rule without
    an address is for IPv6, too, even if IPv6 is not captured."""
    config = replace(config, backend="legacy", cidr_tree="never", comments=False)
    made = {family: _sorted_ports(build(config, family)) for family in Family}
    if not config.ipv6:
        ipv4 = made[Family.V4]
        tables = tuple(Table(table.name, tuple(_shared(table))) for table in ipv4.tables)
        made[Family.V6] = replace(made[Family.V6], tables=tables)
    return made


def _shared(table: Table) -> Iterator[Chain]:
    """The rules of IPv4 that apply to IPv6, too."""
    for chain in table.chains:
        rules = tuple(rule for rule in chain.rules if not _is_of_a_family(rule))
        if rules:
            yield replace(chain, rules=rules)


def _is_of_a_family(rule: Rule) -> bool:
    return isinstance(rule.target, Reject) or any(
        isinstance(m, Source | Destination | DestinationSet) for m in rule.matches
    )


def _sorted_ports(ruleset: Ruleset) -> Ruleset:
    """The kernel keeps the ports of a rule as a set."""

    def as_set(match: Match) -> Match:
        if isinstance(match, DestinationPorts):
            return replace(match, ports=tuple(sorted(set(match.ports))))
        return match

    def changed(rule: Rule) -> Rule:
        return Rule(map(as_set, rule.matches), rule.target, rule.why)

    tables = tuple(
        Table(t.name, tuple(replace(c, rules=tuple(map(changed, c.rules))) for c in t.chains))
        for t in ruleset.tables
    )
    return replace(ruleset, tables=tables)
