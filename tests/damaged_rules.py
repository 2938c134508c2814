"""Rules damaged on purpose: one lost, two swapped, a wrong uid."""

from collections.abc import Iterator

from proxy_init.frozen import replace
from proxy_init.rules.matches import OwnerUid
from proxy_init.rules.model import Rule, Ruleset


def damaged(ruleset: Ruleset) -> Iterator[Ruleset]:
    """The rules with each single damage."""
    for table in ruleset.tables:
        for chain in table.chains:
            for rules in _damages(chain.rules):
                chains = tuple(
                    replace(each, rules=rules) if each is chain else each for each in table.chains
                )
                tables = tuple(
                    replace(table, chains=chains) if each is table else each
                    for each in ruleset.tables
                )
                yield replace(ruleset, tables=tables)


def _damages(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, ...]]:
    for n, rule in enumerate(rules):
        before, behind = rules[:n], rules[n + 1 :]
        yield before + behind
        if behind:
            yield (*before, behind[0], rule, *behind[1:])
        other = tuple(
            OwnerUid(m.uid + 1, m.negated) if isinstance(m, OwnerUid) else m for m in rule.matches
        )
        if other != rule.matches:
            yield (*before, Rule(other, rule.target, rule.why), *behind)
