"""Sets of numbers, against Python's own sets."""

from hypothesis import given
from hypothesis import strategies as st

from proxy_init.analysis.number_sets import (
    ANYTHING,
    END,
    NOTHING,
    Numbers,
    first_come,
    from_networks,
    union,
)
from proxy_init.rules.networks import read_network
from tests.unit.fakes import bounded

MOST = 40
ranges = st.tuples(st.integers(0, MOST), st.integers(0, 5)).map(lambda x: (x[0], x[0] + x[1]))
number_sets = st.lists(ranges, max_size=6).map(Numbers.joined)


def members(numbers: Numbers) -> set[int]:
    """Those that are small enough to be told one by one."""
    return {n for n in range(MOST + 10) if n in numbers}


@bounded
@given(number_sets, number_sets)
def test_operations_are_those_of_sets(one: Numbers, other: Numbers) -> None:
    assert members(one & other) == members(one) & members(other)
    assert members(one - other) == members(one) - members(other)
    assert members(one | other) == members(one) | members(other)
    assert one.meets(other) == bool(members(one) & members(other))
    assert (~one) & one == NOTHING and (~one) | one == ANYTHING
    assert ~~one == one


@bounded
@given(number_sets, number_sets)
def test_equal_sets_are_equal_values(one: Numbers, other: Numbers) -> None:
    assert (one == other) == (members(one) == members(other))
    again = (one - other) | (one & other)
    assert again == one and hash(again) == hash(one)


def test_the_ends_of_all_numbers_are_numbers() -> None:
    last = END - 1
    assert ~Numbers.of(0, last) == Numbers.between(1, last - 1)
    assert 0 in ANYTHING and last in ANYTHING and last not in ~Numbers.of(last)
    assert ~ANYTHING == NOTHING and ~NOTHING == ANYTHING


@bounded
@given(st.lists(number_sets, max_size=6))
def test_of_sets_the_first_that_holds_a_number_has_it(sets: list[Numbers]) -> None:
    owned = first_come(sets)
    for n in range(MOST + 10):
        holders = [place for place, each in enumerate(sets) if n in each]
        assert [place for place, each in enumerate(owned) if n in each] == holders[:1]
    assert union(owned) == union(sets)


def test_networks_are_their_addresses() -> None:
    networks = [
        read_network("10.0.0.0/9"),
        read_network("10.128.0.0/9"),
        read_network("10.1.0.0/16"),
    ]
    assert from_networks(networks) == Numbers.between(10 << 24, (11 << 24) - 1)
    assert from_networks([read_network("::/0")]) == ANYTHING
