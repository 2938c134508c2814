"""From one kind of tables with TPROXY to the other, so that no connection breaks on the way.

Two chains with TPROXY must never see the same packet: the second would take the mark of the first
for one that the proxy has set, the connection would keep it, and the answers would come back over
lo. So while the one has gone and the other has not come, nat captures inbound connections: it sends
them to the same port, and leaves alone what is marked.
"""

from __future__ import annotations

from ...frozen import replace
from ...rules.matches import Mark, Protocol
from ...rules.model import Chain, Family, Rule, Ruleset, Table
from ...rules.targets import RETURN, Jump, Redirect, Tproxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BRIDGE, _REDIRECT = "ISTIO_BRIDGE", "ISTIO_BRIDGE_REDIRECT"
_TCP = Protocol("tcp")


def is_transparent(ruleset: Ruleset) -> bool:
    """Whether a family's packets go to the proxy by TPROXY."""
    return any(isinstance(rule.target, Tproxy) for rule in ruleset.rules)


def nat_with_bridge(rulesets: Sequence[Ruleset]) -> Mapping[Family, Table]:
    """By family, the table nat as it is wanted, and the bridge for what mangle captures."""
    return {ruleset.family: _with_bridge(ruleset) for ruleset in rulesets}


def _with_bridge(ruleset: Ruleset) -> Table:
    nat, mangle = ruleset.table("nat"), ruleset.table("mangle")
    inbound, captures = mangle.chain("ISTIO_INBOUND"), mangle.chain("ISTIO_TPROXY")
    if not (inbound and captures):
        return nat
    chains = {chain.name: chain for chain in nat.chains}
    before = chains.get("PREROUTING", Chain("PREROUTING", ()))
    over = Rule((_TCP,), Jump(_BRIDGE), "what mangle does not capture for the moment")
    chains["PREROUTING"] = replace(before, rules=(*before.rules, over))
    marks = [rule.target.mark for rule in captures.rules if isinstance(rule.target, Tproxy)]
    captured = [Rule((_TCP, Mark(mark)), RETURN, "mangle has captured it") for mark in marks]
    chains[_BRIDGE] = Chain(_BRIDGE, (*captured, *_like_mangle(inbound.rules)))
    chains[_REDIRECT] = Chain(
        _REDIRECT,
        tuple(
            Rule(rule.matches, Redirect(rule.target.port), rule.why)
            for rule in captures.rules
            if isinstance(rule.target, Tproxy)
        ),
    )
    return Table("nat", tuple(chains.values()))


def _like_mangle(rules: Sequence[Rule]) -> Iterator[Rule]:
    """What mangle does with inbound connections, of which nat sees the first packet alone."""
    for rule in rules:
        if rule.target == Jump("ISTIO_TPROXY"):
            yield Rule(rule.matches, Jump(_REDIRECT), rule.why)
        elif rule.target != Jump("ISTIO_DIVERT"):
            yield rule
