"""A long list of CIDRs as a tree of chains, so that a packet passes tens of rules, not thousands.

The kernel tries the rules of a chain one by one, for the first packet of each connection. In the
tree a chain has few rules, each for a CIDR, or for the range that several CIDRs lie in; that one
goes over to a chain of the same kind. Going over, and not jumping, makes a RETURN leave the whole
tree and the chain that it grows from. List and tree decide alike: what overlaps or makes up a
larger CIDR is merged first, so that ranges never overlap, and all CIDRs of a list decide the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import collapse_addresses, ip_network
from itertools import count

from ..frozen import frozen
from ..rules.matches import Destination
from ..rules.model import Rule
from ..rules.networks import Network
from ..rules.targets import Goto

LONG = 500
"""What is longer is a tree. As a list, so many cost each new connection 2 µs, a tenth of what it
takes without them; as a tree, they cost the program's run 5 ms (tests/bench)."""
WIDTH = 32
"""The most rules of a chain of a tree, but for one that is for all that none of them is for."""

Chains = Mapping[str, tuple[Rule, ...]]


@frozen
class Tree:
    """The rules that stand in one chain, and the chains that these go over to, by name."""

    rules: tuple[Rule, ...]
    chains: Chains


def listed(
    when: str,
    networks: Sequence[Network],
    stem: str,
    rule_for: Callable[[Network], Rule],
    last: Sequence[Rule] = (),
) -> Tree:
    """One rule for each of a family's networks: in this order, or as a tree, if there are many of
    them; `when` is the choice of --cidr-tree.

    The chains of a tree are named `stem`_1, `stem`_2 and so on, and each ends with `last`.
    """
    longest = {"auto": LONG, "always": WIDTH, "never": len(networks)}[when]
    if len(networks) <= longest:
        return Tree(tuple(map(rule_for, networks)), {})
    merged = list(collapse_addresses(networks))  # type: ignore[type-var]  # all of one family
    cut = _Cut(merged)
    names = (f"{stem}_{number}" for number in count(1))
    chains: dict[str, tuple[Rule, ...]] = {}
    left = deque([("", range(len(merged)))])
    while left:
        name, within = left.popleft()
        rules = []
        for part in cut.parts(within):
            if len(part) == 1:
                rules.append(rule_for(merged[part[0]]))
                continue
            around, below = cut.around(part), next(names)
            why = f"{len(part):,} of the CIDRs lie in {around}: the chain {below} has them"
            rules.append(Rule((Destination(around),), Goto(below), why))
            left.append((below, part))
        chains[name] = (*rules, *last) if name else tuple(rules)
    return Tree(chains.pop(""), chains)


class _Cut:
    """Cuts networks that are apart and in order into parts, each in a range of its own. A part is
    told by the places of its networks.

    netaddr's spanning_cidr would say the same in fewer words, but takes 25 ms to load: with 1,000
    CIDRs half as long as the whole run.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._starts = [int(network.network_address) for network in networks]
        self._bits = networks[0].max_prefixlen

    def parts(self, within: range) -> list[range]:
        """The parts in order: at most WIDTH, and no more than needed."""
        room = 1  # for how many there is in what is below each rule
        while room * WIDTH < len(within):
            room *= WIDTH
        parts = [within]
        while len(parts) < WIDTH:
            largest = max(parts, key=len)
            if len(largest) <= room:
                break
            at = parts.index(largest)
            parts[at : at + 1] = self._halves(largest)
        return parts

    def around(self, part: range) -> Network:
        """The smallest network that holds all of a part."""
        start, bits = self._common(part)
        return ip_network((start.to_bytes(self._bits // 8), self._bits - bits))

    def _halves(self, part: range) -> tuple[range, range]:
        start, bits = self._common(part)
        upper_half = start + (1 << bits - 1)
        middle = bisect_left(self._starts, upper_half, part.start, part.stop)
        return range(part.start, middle), range(middle, part.stop)

    def _common(self, part: range) -> tuple[int, int]:
        """Where the smallest network around a part starts, and its number of host bits."""
        first, last = self._starts[part[0]], self._starts[part[-1]]
        bits = (first ^ last).bit_length()
        return first >> bits << bits, bits
