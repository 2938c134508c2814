"""Decides which rules in a table are ours; no other module does.

Ours are the chains named ISTIO_…, every rule that jumps to one, and the few other rules that a rule
set adds to built-in chains. Those are recognised by their exact form, with any interface, mark or
uid. This finds the rules of other flags, of the other rule set, and of the programs that proxy-init
replaces. All other rules are foreign, even if they look similar.
"""

from __future__ import annotations

from itertools import pairwise

from ..frozen import Frozen
from ..light import partial
from .matches import (
    Comment,
    ConnectionMark,
    Destination,
    InInterface,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    State,
    UnknownMatch,
)
from .model import BUILT_IN, PREFIX, Chain, Rule, Table
from .targets import NON_TERMINATING, Goto, Jump, Reject, RestoreMark, SaveMark, SetMark, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set


class Positioned(Frozen):
    """One of our rules in a chain that is not ours, below `behind` foreign rules."""

    behind: int
    rule: Rule


class Ours(Frozen):
    """What is ours in one table: our chains, and our rules in other chains, by chain name."""

    chains: Mapping[str, tuple[Rule, ...]] = {}
    placed: Mapping[str, tuple[Positioned, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.chains or self.placed)


def ours_in(table: Table, expected: Table | None = None) -> Ours:
    """The part of a table that is ours. For `expected`, see `numbers_of_ours`."""
    numbers = numbers_of_ours(table, expected)
    placed: dict[str, tuple[Positioned, ...]] = {}
    for chain in table.chains:
        own = numbers.get(chain.name, frozenset())
        if own:
            placed[chain.name] = tuple(
                Positioned(number - sum(1 for other in own if other < number), chain.rules[number])
                for number in sorted(own)
            )
    return Ours(
        {chain.name: chain.rules for chain in table.chains if chain.name.startswith(PREFIX)}, placed
    )


def numbers_of_ours(table: Table, expected: Table | None = None) -> Mapping[str, frozenset[int]]:
    """The positions of our rules, from 0, in each chain that is not ours, by chain name.

    A -k interface from which nothing is captured has a RETURN without a twin, which looks like a
    foreign rule. It counts as ours only if `expected` wants exactly that rule.
    """
    found = {
        chain.name: {number for number, rule in enumerate(chain.rules) if _jumps_to_ours(rule)}
        for chain in table.chains
        if not chain.name.startswith(PREFIX)
    }
    if table.name == "mangle":
        for name in ("PREROUTING", "OUTPUT"):
            found[name].update(_marking(name, table.chain(name)))
    if table.name == "filter":
        found["INPUT"].update(_closing_ipv6(table.chain("INPUT")))
    beside_ours = any(found.get(name) for name in BUILT_IN[table.name])
    if table.name in ("mangle", "nat") and beside_ours:
        own = {name: frozenset(numbers) for name, numbers in found.items()}
        for name, number in _returns_for_interfaces(table, own, expected):
            found[name].add(number)
        found["PREROUTING"].update(_expected_returns(table, expected, found["PREROUTING"]))
    return {name: frozenset(numbers) for name, numbers in found.items() if numbers}


def numbers_for_virtual_interfaces(table: Table, expected: Table | None = None) -> frozenset[int]:
    """The positions of the -k rules, which stand at the top of PREROUTING. For `expected`, see
    `numbers_of_ours`."""
    captures = dict(_numbered(_prerouting(table), _capture_on_arrival))
    behind = frozenset(_behind_captures(table, captures, expected))
    own = numbers_of_ours(table).get("PREROUTING", frozenset())
    alone = numbers_of_ours(table, expected).get("PREROUTING", frozenset()) - own
    return behind | captures.keys() | alone


def _jumps_to_ours(rule: Rule) -> bool:
    return isinstance(rule.target, Jump | Goto) and rule.target.name.startswith(PREFIX)


def _marking(name: str, chain: Chain | None) -> Iterator[int]:
    """The positions of the rules of mode TPROXY in mangle PREROUTING or OUTPUT."""
    for number, rule in enumerate(chain.rules if chain else ()):
        match name, _without_comment(rule), rule.target:
            case (
                ("PREROUTING", (Protocol("tcp", False), Mark(_, False)), SaveMark())
                | ("OUTPUT", (Protocol("tcp", False), ConnectionMark(_, False)), RestoreMark())
                | (
                    "OUTPUT",
                    (OutInterface("lo", False), Protocol("tcp", False), Mark(_, False)),
                    Verdict("RETURN"),
                )
                | (
                    "OUTPUT",
                    (
                        Destination(_, True),
                        OutInterface("lo", False),
                        Protocol("tcp", False),
                        OwnerUid(_, False) | OwnerGid(_, False),
                    ),
                    SetMark(1338),
                )
            ):
                yield number


def _closing_ipv6(chain: Chain | None) -> Iterator[int]:
    """The two rules of 1.0 in IPv6 filter INPUT; only as a pair, since each alone is common."""
    rules = chain.rules if chain else ()
    for number, pair in enumerate(pairwise(rules)):
        match [(_without_comment(rule), rule.target) for rule in pair]:
            case [
                ((State(("ESTABLISHED",)),), Verdict("ACCEPT")),
                ((), Reject("icmp6-port-unreachable")),
            ]:
                yield from (number, number + 1)


def _returns_for_interfaces(
    table: Table, own: Mapping[str, Set[int]], expected: Table | None
) -> Iterator[tuple[str, int]]:
    """-c and -k: a RETURN for an interface is ours only together with its twin.

    The twin of a -c rule is in the other of PREROUTING and OUTPUT. The twin of a -k rule is the
    jump to ISTIO_REDIRECT for the same interface, its capture. If foreign rules look the same, ours
    are the ones nearest to our jumps: the RETURN of -k is below the captures, that of -c is above
    the jump to ISTIO_INBOUND or ISTIO_OUTPUT, or above the position where that jump belongs.
    """
    arriving = list(_numbered(_prerouting(table), _return_on_arrival))
    if not arriving:
        return
    from collections import Counter  # here and below: few rules name interfaces, and it takes 1 ms

    leaving = list(_numbered(table.chain("OUTPUT"), _return_on_departure))
    captures = dict(_numbered(_prerouting(table), _capture_on_arrival))
    behind_captures = set(_behind_captures(table, captures, expected))
    yield from (("PREROUTING", number) for number in behind_captures)
    arriving = [(number, name) for number, name in arriving if number not in behind_captures]
    twins = Counter(name for _, name in arriving) & Counter(name for _, name in leaving)
    for chain, returns in (("PREROUTING", arriving), ("OUTPUT", leaving)):
        jumps = own[chain] - captures.keys() if chain == "PREROUTING" else own[chain]
        # Our own RETURNs for every interface, from -k and -c, do not limit where the jump belongs.
        own_returns = {number for number, name in returns if name == "+" and twins[name]}
        own_returns |= behind_captures if chain == "PREROUTING" else set()
        rules = _rules(table, chain)
        jump = min(jumps, default=number_reachable(rules, table.name, own_returns))
        left = Counter(twins)
        for number, name in sorted(returns, key=partial(_distance, jump)):
            if left[name]:
                left[name] -= 1
                yield chain, number


def _distance(jump: int, numbered: tuple[int, str]) -> tuple[bool, int]:
    """A sort key: the distance of a rule from the jump; rules above it come before those below."""
    number, _ = numbered
    return number > jump, abs(number - jump)


def number_reachable(rules: Sequence[Rule], table: str, ignored: Set[int] = frozenset()) -> int:
    """How many rules of a built-in chain a packet can get past, if it is one that our rules in this
    table are for: all rules above the first that ends the chain for its whole protocol. Rules at
    the positions `ignored` do not count."""
    protocol = "udp" if table == "raw" else "tcp"
    matched_by_all = {Protocol(protocol), UnknownMatch(protocol, ())}
    for number, rule in enumerate(rules):
        ends = rule.target.name not in NON_TERMINATING and not isinstance(rule.target, Jump)
        asked = set(_without_comment(rule)) - matched_by_all
        if ends and not asked and number not in ignored:
            return number
    return len(rules)


def _behind_captures(
    table: Table, captures: Mapping[int, str], expected: Table | None
) -> Iterator[int]:
    """The positions of the RETURNs of -k: for an interface as many as -k names it, which is how
    often each of its captures is present.

    A CIDR that -i lists twice is captured twice, too. So if all captures are for CIDRs (`*` cannot
    be listed twice), RETURNs with a twin in OUTPUT are left to -c, unless `expected` has the same
    captures, and with them the number.
    """
    if not captures:
        return
    arriving = list(_numbered(_prerouting(table), _return_on_arrival))
    leaving = _counted(table, "OUTPUT", _return_on_departure)
    for name in set(captures.values()):
        captured = _captured(table, name)
        times = min(captured.values())
        behind = [n for n, other in arriving if other == name and n > _last(captures, name)]
        if expected and captured == _captured(expected, name):
            returns = _counted(expected, "PREROUTING", _return_on_arrival)[name]
            times = returns - _counted(expected, "OUTPUT", _return_on_departure)[name]
        elif all(any(isinstance(m, Destination) for m in matches) for matches in captured):
            times = min(times, max(1, len(behind) - leaving[name]))
        yield from behind[:times]


def _last(captures: Mapping[int, str], name: str) -> int:
    return max(number for number, other in captures.items() if other == name)


def _captured(table: Table, name: str) -> Counter[tuple[object, ...]]:
    """The captures of an interface that -k names, each with how often it is present."""
    from collections import Counter

    rules = _rules(table, "PREROUTING")
    return Counter(_without_comment(rule) for rule in rules if _capture_on_arrival(rule) == name)


def _counted(table: Table, chain: str, name_of: Callable[[Rule], str | None]) -> Counter[str]:
    from collections import Counter

    return Counter(name for _, name in _numbered(table.chain(chain), name_of))


def _rules(table: Table, name: str) -> tuple[Rule, ...]:
    chain = table.chain(name)
    return chain.rules if chain else ()


def _expected_returns(table: Table, expected: Table | None, known: Set[int]) -> Iterator[int]:
    """The positions of the RETURNs of -k without a twin that `expected` wants without one, too."""
    here = list(_numbered(_prerouting(table), _return_on_arrival))
    if not here:
        return
    from collections import Counter

    chain = _prerouting(expected)
    wanted = Counter(name for _, name in _numbered(chain, _return_on_arrival))
    top = chain.rules[: chain.top] if chain else ()
    wanted -= Counter(name for number, name in here if number in known)
    captured = set(map(_capture_on_arrival, top))
    alone = (name for name in map(_return_on_arrival, top) if name not in captured)
    wanted &= Counter(name for name in alone if name is not None)
    for number, name in here:
        if number not in known and wanted[name]:
            wanted[name] -= 1
            yield number


def _prerouting(table: Table | None) -> Chain | None:
    return table.chain("PREROUTING") if table else None


def _numbered(
    chain: Chain | None, name_of: Callable[[Rule], str | None]
) -> Iterator[tuple[int, str]]:
    for number, rule in enumerate(chain.rules if chain else ()):
        name = name_of(rule)
        if name is not None:
            yield number, name


def _return_on_arrival(rule: Rule) -> str | None:
    match _without_comment(rule), rule.target:
        case (InInterface(name, False),), Verdict("RETURN"):
            return name
        case (), Verdict("RETURN"):
            return "+"
    return None


def _return_on_departure(rule: Rule) -> str | None:
    match _without_comment(rule), rule.target:
        case (OutInterface(name, False),), Verdict("RETURN"):
            return name
        case (), Verdict("RETURN"):
            return "+"
    return None


def _capture_on_arrival(rule: Rule) -> str | None:
    match _without_comment(rule), rule.target:
        case (*_, InInterface(name, False)), Jump("ISTIO_REDIRECT"):
            return name
        case _, Jump("ISTIO_REDIRECT"):
            return "+"
    return None


def _without_comment(rule: Rule) -> tuple[object, ...]:
    return tuple(match for match in rule.matches if not isinstance(match, Comment))
