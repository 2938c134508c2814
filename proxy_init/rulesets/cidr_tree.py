"""Builds a tree of chains from a long list of CIDRs: a packet passes tens of rules, not thousands.

The kernel tries the rules of a chain one by one, for the first packet of each connection. In the
tree a chain has few rules. Each is for one CIDR, or for a network that contains several CIDRs; the
latter has a goto to a chain of the same kind. With a goto instead of a jump, a RETURN leaves the
whole tree and the chain at its root. List and tree decide alike: overlapping and adjacent CIDRs are
merged first, so the networks never overlap, and all CIDRs of a list have the same verdict.
"""

from __future__ import annotations

from ..frozen import Frozen
from ..rules.matches import Destination
from ..rules.model import Rule
from ..rules.networks import Address, Network
from ..rules.targets import Goto

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    Chains: TypeAlias = Mapping[str, tuple[Rule, ...]]

LONG = 500
"""Longer lists become trees. This many as a list cost each new connection 2 µs, a tenth of its time
without them; as a tree, they cost the program's run 5 ms (tests/bench)."""
WIDTH = 32
"""The most rules in a chain of a tree, not counting the one for all other destinations."""


class Tree(Frozen):
    """The rules at the root, for a chain of the caller, and the chains below it, by name."""

    rules: tuple[Rule, ...]
    chains: Chains


def list_or_tree(
    when: str,
    networks: Sequence[Network],
    prefix: str,
    rule_for: Callable[[Network], Rule],
    last: Sequence[Rule] = (),
) -> Tree:
    """One rule for each network, all of one family: as a list in this order; or if there are many,
    also after merging, as a tree. `when` is the value of --cidr-tree.

    The chains of a tree are named `prefix`_1, `prefix`_2 and so on; each ends with `last`.
    """
    longest = {"auto": LONG, "always": WIDTH, "never": len(networks)}[when]
    if len(networks) <= longest:
        return Tree(tuple(map(rule_for, networks)), {})
    from collections import deque  # loaded only for long lists
    from itertools import count

    merged = _merged(networks)
    if len(merged) <= longest:
        return Tree(tuple(map(rule_for, merged)), {})
    splitter = _Splitter(merged)
    names = (f"{prefix}_{number}" for number in count(1))
    chains: dict[str, tuple[Rule, ...]] = {}
    left = deque([("", range(len(merged)))])
    while left:
        name, within = left.popleft()
        rules = []
        for part in splitter.parts(within):
            if len(part) == 1:
                rules.append(rule_for(merged[part[0]]))
                continue
            parent, below = splitter.parent(part), next(names)
            why = f"{len(part):,} of the CIDRs are in {parent}: the chain {below} checks them"
            rules.append(Rule((Destination(parent),), Goto(below), why))
            left.append((below, part))
        chains[name] = (*rules, *last) if name else tuple(rules)
    return Tree(chains.pop(""), chains)


def _merged(networks: Sequence[Network]) -> list[Network]:
    """The fewest networks of one family that have the same addresses, in order."""
    bits = networks[0].max_prefixlen
    merged: list[tuple[int, int]] = []  # the first address, and the number of host bits
    wider_first = ((int(each.network_address), each.prefixlen - bits) for each in networks)
    for first, minus_hosts in sorted(wider_first):
        if merged and first >> merged[-1][1] == merged[-1][0] >> merged[-1][1]:
            continue
        merged.append((first, -minus_hosts))
        while len(merged) > 1:
            (low, hosts), (high, other_hosts) = merged[-2:]
            if hosts != other_hosts or low ^ high != 1 << hosts:
                break
            merged[-2:] = [(low, hosts + 1)]
    return [Network(Address(first.to_bytes(bits // 8)), bits - hosts) for first, hosts in merged]


class _Splitter:
    """Splits disjoint, sorted networks into parts, each inside a network of its own. A part is a
    range of indices.

    netaddr's cidr_merge and spanning_cidr would make this and `_merged` shorter, but netaddr takes
    25 ms to load: with 1,000 CIDRs, half as long as the whole run.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._starts = [int(network.network_address) for network in networks]
        self._bits = networks[0].max_prefixlen

    def parts(self, within: range) -> list[range]:
        """The parts of `within` in order: at most WIDTH, and no more than needed."""
        capacity = 1  # of the subtree below one rule
        while capacity * WIDTH < len(within):
            capacity *= WIDTH
        parts = [within]
        while len(parts) < WIDTH:
            largest = max(parts, key=len)
            if len(largest) <= capacity:
                break
            at = parts.index(largest)
            parts[at : at + 1] = self._halves(largest)
        return parts

    def parent(self, part: range) -> Network:
        """The smallest network that contains a part."""
        start, bits = self._common(part)
        return Network(Address(start.to_bytes(self._bits // 8)), self._bits - bits)

    def _halves(self, part: range) -> tuple[range, range]:
        from bisect import bisect_left

        start, bits = self._common(part)
        upper_half = start + (1 << bits - 1)
        middle = bisect_left(self._starts, upper_half, part.start, part.stop)
        return range(part.start, middle), range(middle, part.stop)

    def _common(self, part: range) -> tuple[int, int]:
        """The first address of the smallest network that contains a part, and its host bits."""
        first, last = self._starts[part[0]], self._starts[part[-1]]
        bits = (first ^ last).bit_length()
        return first >> bits << bits, bits
