"""The nouns of the project: families, rules, chains, tables, and what routing goes with them.

Everything here is a frozen value that knows nothing of the machine. What a rule asks and does is
in matches.py and targets.py.
"""

from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_network

from ..frozen import frozen
from .matches import Destination, InInterface, Match, OutInterface, Source
from .networks import Network
from .targets import Target


class Family(Enum):
    """An address family, with what the rules need to know of it."""

    V4 = 4
    V6 = 6

    @property
    def title(self) -> str:
        """How people write it: IPv4 or IPv6."""
        return f"IPv{self.value}"

    @property
    def passthrough(self) -> Network:
        """The source address with which a proxy hands inbound connections to the application."""
        return ip_network("127.0.0.6/32" if self is Family.V4 else "::6/128")

    @property
    def any_address(self) -> str:
        """The address that stands for all of the machine's own."""
        return "0.0.0.0" if self is Family.V4 else "::"


BUILT_IN: dict[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
"""The tables in the order in which a packet meets them, and the kernel's own chains in each."""


@frozen
class Rule:
    """One row of a chain, and why it stands there.

    Matches stand in the order in which iptables-save prints them. One that every packet passes
    (-d 0.0.0.0/0, -i +) is dropped, as the kernel does.
    """

    matches: tuple[Match, ...]
    target: Target
    why: str = ""

    def __init__(self, matches: Iterable[Match], target: Target, why: str = "") -> None:
        kept = tuple(match for match in matches if not _matches_all(match))
        self.__dict__.update(matches=kept, target=target, why=why)

    def __eq__(self, other: object) -> bool:
        # For another reason, it is the same rule.
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


@frozen
class Chain:
    """A chain and its rules.

    In a built-in chain of a wanted table, the first `top` rules go above all foreign ones and the
    others below. `policy` is what the kernel does at a built-in chain's end.
    """

    name: str
    rules: tuple[Rule, ...]
    top: int = 0
    policy: str | None = None


@frozen
class Table:
    """A table: of a Ruleset, what it must hold of ours; of the kernel, all that it holds."""

    name: str
    chains: tuple[Chain, ...]

    @classmethod
    def empty(cls, name: str) -> "Table":
        """The table as a new network namespace has it."""
        return cls(name, tuple(Chain(chain, (), policy="ACCEPT") for chain in BUILT_IN[name]))

    def chain(self, name: str) -> Chain | None:
        """The chain of that name, if it is here."""
        return next((chain for chain in self.chains if chain.name == name), None)


@frozen
class PolicyRoute:
    """Packets with the fwmark `mark` are looked up in routing table `table`, which holds one local
    route for everything: whatever their destination, they are this machine's own."""

    mark: int
    table: int


@frozen
class Routing:
    """What one family needs besides rules: a policy route, and ::6/128 on lo, so that a proxy can
    hand connections to the application from there (IPv4 has all of 127.0.0.0/8)."""

    policy_route: PolicyRoute | None = None
    passthrough_address: bool = False


@frozen
class Ruleset:
    """All that one family must hold of ours; without tables: nothing."""

    family: Family
    tables: tuple[Table, ...] = ()
    routing: Routing = Routing()

    def table(self, name: str) -> Table:
        """The table of that name, empty where nothing of ours belongs there."""
        empty = Table(name, ())
        return next((table for table in self.tables if table.name == name), empty)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, in table and chain order."""
        return tuple(
            rule for table in self.tables for chain in table.chains for rule in chain.rules
        )
