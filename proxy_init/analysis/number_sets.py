"""Sets of numbers: addresses, ports, ids and marks are all numbers here.

A set is an inversion list, the sorted numbers at which its ranges begin and end. The complement is
almost the same list, and a short list intersects a long one by bisection, so lists of thousands of
CIDRs stay cheap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, pairwise

from ..rules.networks import Network

END = 2**128


class Numbers:
    """A set of numbers from 0 to END - 1. An immutable value, compared by its contents.

    `bounds` holds, in order, the first number of a range, the first number after it, and so on.
    """

    __slots__ = ("_hash", "bounds")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self._hash: int | None = None

    @classmethod
    def of(cls, *numbers: int) -> Numbers:
        """The set of these numbers."""
        return cls.joined((number, number) for number in numbers)

    @classmethod
    def between(cls, first: int, last: int) -> Numbers:
        """The numbers from `first` to `last`, inclusive."""
        return cls((first, last + 1))

    @classmethod
    def joined(cls, ranges: Iterable[tuple[int, int]]) -> Numbers:
        """The union of ranges, given by their first and last numbers, in any order."""
        bounds: list[int] = []
        for first, last in sorted(ranges):
            if bounds and first <= bounds[-1]:
                bounds[-1] = max(bounds[-1], last + 1)
            else:
                bounds += (first, last + 1)
        return cls(tuple(bounds))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Numbers) and self.bounds == other.bounds)

    def __hash__(self) -> int:
        if self._hash is None:  # most sets are never hashed, long ones many times
            self._hash = hash(self.bounds)
        return self._hash

    def __repr__(self) -> str:
        return f"Numbers({', '.join(f'{first}-{last}' for first, last in self)})"

    def __len__(self) -> int:
        """The number of ranges."""
        return len(self.bounds) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges in order, as their first and last numbers."""
        for first, after in zip(self.bounds[::2], self.bounds[1::2], strict=True):
            yield first, after - 1

    def __contains__(self, number: int) -> bool:
        return bisect_right(self.bounds, number) % 2 == 1

    @property
    def first(self) -> int:
        """The smallest number. Raises IndexError if the set is empty."""
        return self.bounds[0]

    def __invert__(self) -> Numbers:
        bounds = self.bounds
        bounds = bounds[1:] if bounds[:1] == (0,) else (0, *bounds)
        return Numbers(bounds[:-1] if bounds[-1:] == (END,) else (*bounds, END))

    def __and__(self, other: Numbers) -> Numbers:
        few, many = (self.bounds, other.bounds)
        if len(few) > len(many):
            few, many = many, few
        bounds: list[int] = []
        for first, after in zip(few[::2], few[1::2], strict=True):
            begin, end = bisect_right(many, first), bisect_left(many, after)
            if begin % 2:
                bounds.append(first)
            bounds += many[begin:end]
            if end % 2:
                bounds.append(after)
        # Often nothing is removed; returning the same object makes later comparisons cheap.
        found = tuple(bounds)
        return self if found == self.bounds else Numbers(found)

    def __sub__(self, other: Numbers) -> Numbers:
        return self & ~other

    def __or__(self, other: Numbers) -> Numbers:
        return ~(~self & ~other)

    def meets(self, other: Numbers) -> bool:
        """Whether a number is in both sets."""
        few, many = (self.bounds, other.bounds)
        if len(few) > len(many):
            few, many = many, few
        return any(
            begin % 2 or begin < bisect_left(many, after)
            for first, after in zip(few[::2], few[1::2], strict=True)
            for begin in (bisect_right(many, first),)
        )


NOTHING = Numbers(())
ANYTHING = Numbers((0, END))


def union(sets: Iterable[Numbers]) -> Numbers:
    """The numbers that are in any of the sets."""
    several = list(sets)
    if len(several) == 2:
        return several[0] | several[1]
    return Numbers.joined(chain.from_iterable(several))


def from_networks(networks: Iterable[Network]) -> Numbers:
    """The addresses of networks of one family."""
    return Numbers.joined(map(_ends, networks))


def _ends(network: Network) -> tuple[int, int]:
    first = int(network.network_address)
    return first, first + (1 << network.max_prefixlen - network.prefixlen) - 1


def first_come(sets: Sequence[Numbers]) -> list[Numbers]:
    """Each set without the sets before it: what is left if the first match decides."""
    ranges = sorted((start, end, n) for n, each in enumerate(sets) for start, end in each)
    points = sorted({point for start, end, _ in ranges for point in (start, end + 1)})
    owned: list[list[tuple[int, int]]] = [[] for _ in sets]
    over_point: list[tuple[int, int]] = []  # the sets that contain the point, the first one on top
    place = 0
    for point, after in pairwise(points):
        while place < len(ranges) and ranges[place][0] == point:
            heappush(over_point, (ranges[place][2], ranges[place][1]))
            place += 1
        while over_point and over_point[0][1] < point:
            heappop(over_point)
        if over_point:
            owned[over_point[0][0]].append((point, after - 1))
    return [Numbers.joined(ranges) for ranges in owned]
