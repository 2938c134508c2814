"""Whether this kernel takes what rules need of nf_tables: each expression tried alone.

What is tried is a transaction without an end, which the kernel checks and takes back
(net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).
"""

from __future__ import annotations

import errno
import os

from ...frozen import Frozen
from ...rules.inet_tables import BOTH, INET, hook_of, name_in_kernel
from ...rules.matches import DestinationPort, DestinationPorts, Protocol, SourcePort
from ...rules.model import Family, Rule, Ruleset
from ...rules.targets import RETURN, Goto, Jump, Reject
from ..system.netlink import (
    NETFILTER,
    MessageRefused,
    connected,
)
from . import expressions as nft
from .batches import new_chain, new_rule, new_table, transaction
from .codec import expressions_of
from .snapshot import RawRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ALWAYS_THERE = frozenset({"meta", "cmp", "payload", "immediate", "bitwise", "lookup"})
"""Of nf_tables themselves: net/netfilter/nf_tables_core.c."""
_MODULES = {
    "nat": ("nf_tables", "nft_chain_nat"),
    "reject": ("nft_reject_inet",),
}


class Trial(Frozen):
    """What is tried: a table, or one expression in a rule of a table."""

    kind: str
    name: str
    table: str
    modules: tuple[str, ...]
    expressions: bytes = b""


def trials_of(rulesets: Sequence[Ruleset]) -> Iterator[Trial]:
    """What the rules need: their tables, and each expression that is not part of nf_tables."""
    tried: set[str] = set()
    for name in dict.fromkeys(table.name for each in rulesets for table in each.tables):
        yield Trial("table", name, name, _MODULES.get(name, ("nf_tables",)))
    for ruleset in rulesets:
        for table in ruleset.tables:
            rules = (rule for chain in table.chains for rule in chain.rules)
            for part in dict.fromkeys(part for rule in rules for part in _parts(rule)):
                data = _written(part, ruleset.family)
                for name, _ in nft.each_expression(data):
                    if name not in _ALWAYS_THERE and name not in tried:
                        tried.add(name)
                        modules = _MODULES.get(name, (f"nft_{name}",))
                        yield Trial("expression", name, table.name, modules, data)


def _written(rule: Rule, family: Family) -> bytes:
    families = (family,) if isinstance(rule.target, Reject) else BOTH
    return expressions_of(rule, families, name_in_kernel)


def _parts(rule: Rule) -> Iterator[Rule]:
    """A rule for each thing that a rule asks or does; ports and targets with their protocol."""
    protocols = [match for match in rule.matches if isinstance(match, Protocol)]
    for match in rule.matches:
        if not hasattr(match, "network"):
            ports = isinstance(match, SourcePort | DestinationPort | DestinationPorts)
            yield Rule((*(protocols if ports else ()), match), RETURN)
    if not isinstance(rule.target, Jump | Goto):
        yield Rule(protocols, rule.target)


def refusal_of(trial: Trial) -> int:
    """The errno with which the kernel refuses it, 0 where it does not."""
    title = f"proxy-init-check-{os.getpid()}"
    base = "OUTPUT" if trial.name == "redir" or trial.table == "nat" else "PREROUTING"
    if trial.table == "filter":
        base = "INPUT"
    messages = [
        new_table(INET, title),
        new_chain(INET, title, "base", hook_of(trial.table, base)),
    ]
    if trial.expressions:
        messages.append(new_rule(INET, title, "base", RawRule(0, trial.expressions, b"")))
    *batch, _ = transaction(messages, None)
    try:
        with connected(NETFILTER) as connection:
            connection.tell(batch)
    except MessageRefused as refused:
        return refused.errno or errno.EIO
    except OSError as error:
        return error.errno or errno.EIO
    return 0
