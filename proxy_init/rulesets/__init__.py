"""The rule sets: each builds, from a Config, the ruleset of one family."""

from ..config.config import Config, Mode
from ..frozen import replace
from ..rules.matches import Comment
from ..rules.model import Chain, Family, Rule, Ruleset, Table
from . import current, istio_1_0


def build(config: Config, family: Family) -> Ruleset:
    """The ruleset that `config` asks for in `family`; empty if nothing is captured there.

    For the backend nft, the rules are in the form that nf_tables needs.
    """
    if config.mode is Mode.NONE or config.cleanup_only:
        return Ruleset(family)
    rules = istio_1_0 if config.ruleset == "1.0" else current
    ruleset: Ruleset = rules.build(config, family)
    if config.comments:
        ruleset = _with_comments(ruleset)
    if config.backend != "nft":
        return ruleset
    from .native import for_nf_tables

    return for_nf_tables(ruleset)


def _with_comments(ruleset: Ruleset) -> Ruleset:
    """The same rules, each with its reason as a comment match."""

    def commented(rule: Rule) -> Rule:
        return Rule((*rule.matches, Comment(rule.why)), rule.target, rule.why)

    return replace(
        ruleset,
        tables=tuple(
            Table(
                table.name,
                tuple(
                    Chain(chain.name, tuple(map(commented, chain.rules)), chain.top)
                    for chain in table.chains
                ),
            )
            for table in ruleset.tables
        ),
    )
