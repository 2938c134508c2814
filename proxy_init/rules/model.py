"""The model of a ruleset: families, rules, chains, tables, and the routing that they need.

Everything here is a frozen value that does not depend on the machine. Matches and targets are in
matches.py and targets.py.
"""

from __future__ import annotations

from ..frozen import Frozen
from ..light import Enum
from .matches import Destination, InInterface, Match, OutInterface, Source
from .networks import Network, read_network
from .targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PASSTHROUGH_V4, _PASSTHROUGH_V6 = read_network("127.0.0.6/32"), read_network("::6/128")


class Family(Enum):
    """An address family and the addresses of it that rules use."""

    V4 = 4
    V6 = 6

    @property
    def title(self) -> str:
        """The name for people: IPv4 or IPv6."""
        return f"IPv{self.value}"

    @property
    def passthrough(self) -> Network:
        """The source address from which a proxy forwards inbound connections to the application."""
        return _PASSTHROUGH_V4 if self is Family.V4 else _PASSTHROUGH_V6

    @property
    def any_address(self) -> str:
        """The unspecified address, which stands for every local address."""
        return "0.0.0.0" if self is Family.V4 else "::"


PREFIX = "ISTIO_"
"""The prefix of the names of our chains."""

BUILT_IN: dict[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
"""The tables in the order in which a packet traverses them, each with its built-in chains."""


class Rule(Frozen):
    """One rule of a chain, and the reason for it.

    Matches are in the order in which iptables-save prints them. A match that holds for every packet
    (-d 0.0.0.0/0, -i +) is left out, as in the kernel.
    """

    matches: tuple[Match, ...]
    target: Target
    why: str = ""

    def __init__(self, matches: Iterable[Match], target: Target, why: str = "") -> None:
        kept = tuple(match for match in matches if not _matches_all(match))
        self.__dict__.update(matches=kept, target=target, why=why)

    def __eq__(self, other: object) -> bool:
        # Rules that differ only in their reason are equal.
        return isinstance(other, Rule) and (
            (self.matches, self.target) == (other.matches, other.target)
        )

    def __hash__(self) -> int:
        return hash((self.matches, self.target))


def _matches_all(match: Match) -> bool:
    match match:
        case Source(network, False) | Destination(network, False):
            return network.prefixlen == 0
        case InInterface("+", False) | OutInterface("+", False):
            return True
        case _:
            return False


class Chain(Frozen):
    """A chain and its rules.

    In a built-in chain of a wanted table, the first `top` rules go above all foreign rules and the
    others below. `policy` is the verdict at the end of a built-in chain.
    """

    name: str
    rules: tuple[Rule, ...]
    top: int = 0
    policy: str | None = None


class Table(Frozen):
    """A table: in a Ruleset, the rules that it must hold; read from the kernel, all its rules."""

    name: str
    chains: tuple[Chain, ...]

    @classmethod
    def empty(cls, name: str) -> Table:
        """The table as it is in a new network namespace."""
        return cls(name, tuple(Chain(chain, (), policy="ACCEPT") for chain in BUILT_IN[name]))

    def chain(self, name: str) -> Chain | None:
        """The chain of that name, or None."""
        return next((chain for chain in self.chains if chain.name == name), None)


class PolicyRoute(Frozen):
    """Packets with the fwmark `mark` are routed by the routing table `table`. Its only route is a
    local one for every destination, so the packets are delivered on this host."""

    mark: int
    table: int


class Routing(Frozen):
    """What one family needs besides rules: a policy route, and the address ::6/128 on lo, from
    which a proxy connects to the application (for IPv4, all of 127.0.0.0/8 is on lo)."""

    policy_route: PolicyRoute | None = None
    passthrough_address: bool = False


class Ruleset(Frozen):
    """All rules and routing of proxy-init that one family must have; without tables, none."""

    family: Family
    tables: tuple[Table, ...] = ()
    routing: Routing = Routing()

    def table(self, name: str) -> Table:
        """The table of that name, empty if the ruleset has no rules for it."""
        empty = Table(name, ())
        return next((table for table in self.tables if table.name == name), empty)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, in table and chain order."""
        return tuple(
            rule for table in self.tables for chain in table.chains for rule in chain.rules
        )
