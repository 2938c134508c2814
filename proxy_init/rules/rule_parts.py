"""Builds a rule of the model from what a rule of nf_tables consists of: matches and targets, one
by one, in their order there.

nf_tables compares one port at a time, where the model has a list; it tests the family of packets;
and it needs three statements for TPROXY.
"""

from __future__ import annotations

from .inet_tables import Families, Placed
from .matches import (
    Destination,
    DestinationPort,
    DestinationPorts,
    InInterface,
    Match,
    OutInterface,
    Protocol,
    Source,
    SourcePort,
    UnknownMatch,
)
from .model import Family, Rule
from .options import Option
from .targets import SetMark, Target, Tproxy, UnknownTarget, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
"""The states of conntrack, in the order in which a match has them."""

_HEADER = (Source, Destination, InInterface, OutInterface, Protocol)


class RuleParts:
    """The parts of one rule so far. `families` are those to which it applies."""

    def __init__(self, families: Families) -> None:
        self.families = families
        self.matches: list[Match] = []
        self.targets: list[Target] = []
        self._of_table = families

    @property
    def family(self) -> Family:
        """A family to which the rule applies, or would if it could match."""
        return (self.families or self._of_table)[0]

    def test_family(self, families: Families) -> None:
        """The rule applies to no other families than these."""
        self.families = tuple(family for family in self.families if family in families)

    def test_port(self, kind: type[SourcePort | DestinationPort], port: int, negated: bool) -> None:
        """A comparison of a port. Raises ValueError if the protocol has not been tested."""
        match self.matches[-1:]:
            case [DestinationPort(_, before, True)] if kind is DestinationPort and negated:
                self.matches[-1] = DestinationPorts((before, port), True)
            case [DestinationPorts(before, True)] if kind is DestinationPort and negated:
                self.matches[-1] = DestinationPorts((*before, port), True)
            case _:
                protocols = [m for m in self.matches if isinstance(m, Protocol) and not m.negated]
                (protocol,) = protocols
                self.matches.append(kind(protocol.name, port, negated))

    def placed(self) -> Placed:
        """The rule, and its families."""
        # A rule that tests for one family and then for the other matches no packet.
        never = () if self.families else (UnknownMatch("never", ()),)
        rule = Rule((*_in_order(self.matches), *never), self._target())
        return Placed(self.families or self._of_table, rule)

    def _target(self) -> Target:
        match self.targets:
            case []:
                return UnknownTarget("")
            case [Tproxy(any_address="any")]:  # without a verdict; the target TPROXY has its own
                return UnknownTarget("tproxy")
            case [target]:
                return target
            case [Tproxy(port), SetMark(mark), Verdict("ACCEPT")] | [
                SetMark(mark),
                Tproxy(port),
                Verdict("ACCEPT"),
            ]:
                return Tproxy(port, mark, self.family.any_address)
        return UnknownTarget("several", tuple(Option(target.name) for target in self.targets))


def _in_order(matches: list[Match]) -> Iterator[Match]:
    """Header matches first and in the order of iptables, as the model has them."""
    for kind in _HEADER:
        yield from (match for match in matches if type(match) is kind)
    yield from (match for match in matches if type(match) not in _HEADER)
