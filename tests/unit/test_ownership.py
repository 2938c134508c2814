"""Which rules are ours, by their form alone."""

import pytest

from proxy_init.rules.matches import (
    Comment,
    ConntrackState,
    Destination,
    InInterface,
    Match,
    OutInterface,
    Protocol,
)
from proxy_init.rules.model import BUILT_IN, Chain, Rule, Table
from proxy_init.rules.networks import read_network
from proxy_init.rules.ownership import Ours, Positioned, ours_in
from proxy_init.rules.targets import ACCEPT, DROP, RETURN, Goto, Jump, Redirect, UnknownTarget

TCP = Protocol("tcp")
INBOUND = Rule((TCP,), Jump("ISTIO_INBOUND"))
OUTPUT = Rule((), Jump("ISTIO_OUTPUT"))
NOT_OURS = Rule((TCP,), Jump("KUBE-SERVICES"))


def arriving(name: str, *others: Match) -> Rule:
    return Rule((InInterface(name), *others), RETURN)


def leaving(name: str, *others: Match) -> Rule:
    return Rule((OutInterface(name), *others), RETURN)


def captured(name: str, *others: Match) -> Rule:
    return Rule((*others, InInterface(name)), Jump("ISTIO_REDIRECT"))


def table(name: str = "nat", /, **chains: list[Rule]) -> Table:
    """A table as the kernel has it: its own chains are always there."""
    held = {**dict.fromkeys(BUILT_IN[name], ()), **chains}
    return Table(name, tuple(Chain(chain, tuple(rules)) for chain, rules in held.items()))


def places(present: Table) -> dict[str, list[int]]:
    """Where our rules stand in the chains that are not ours, counted from 0."""
    return {
        chain: [place.behind + number for number, place in enumerate(found)]
        for chain, found in ours_in(present).placed.items()
    }


def test_an_empty_table_holds_nothing_of_ours() -> None:
    assert ours_in(table(PREROUTING=[], OUTPUT=[])) == Ours()
    assert not ours_in(table(PREROUTING=[NOT_OURS], OUTPUT=[leaving("eth1")]))


def test_chains_with_our_prefix_are_ours_with_all_they_hold() -> None:
    inside = [NOT_OURS, INBOUND, arriving("eth0")]
    assert ours_in(table(OUTPUT=[], ISTIO_X=inside, ISTIO_=[], MY_ISTIO_=[NOT_OURS])) == Ours(
        {"ISTIO_X": tuple(inside), "ISTIO_": ()}
    )


@pytest.mark.parametrize("name", ["ISTIO", "istio_OUTPUT", "MY_ISTIO_OUTPUT", "ISTIOD_X"])
def test_other_chains_are_not_ours(name: str) -> None:
    assert not ours_in(table(**{name: [Rule((), DROP)]}))
    assert not ours_in(table(OUTPUT=[Rule((), Jump(name))]))


@pytest.mark.parametrize(
    "rule",
    [
        INBOUND,
        Rule((), Jump("ISTIO_NOBODY_KNOWS")),
        Rule((), Goto("ISTIO_OUTPUT")),
        Rule((TCP, Comment("a reason")), Jump("ISTIO_OUTPUT")),
    ],
    ids=str,
)
def test_every_jump_to_a_chain_of_ours_is_ours_in_any_chain(rule: Rule) -> None:
    assert places(table(OUTPUT=[NOT_OURS, rule, NOT_OURS])) == {"OUTPUT": [1]}
    assert places(table(KUBE=[rule])) == {"KUBE": [0]}


@pytest.mark.parametrize(
    "rule",
    [
        Rule((TCP,), Redirect(15001)),
        Rule((), RETURN),
        Rule((ConntrackState(("INVALID",)),), DROP),
        Rule((Comment("ISTIO_OUTPUT"),), ACCEPT),
        Rule((), UnknownTarget("")),
        Rule((InInterface("ISTIO_0"),), ACCEPT),
    ],
    ids=str,
)
def test_similar_rules_are_foreign(rule: Rule) -> None:
    assert places(table(PREROUTING=[rule, INBOUND], OUTPUT=[OUTPUT])) == {
        "PREROUTING": [1],
        "OUTPUT": [0],
    }


def test_a_rule_of_ours_stands_behind_as_many_foreign_rules_as_there_are() -> None:
    present = table(OUTPUT=[NOT_OURS, OUTPUT, OUTPUT, NOT_OURS, NOT_OURS, OUTPUT])
    assert ours_in(present).placed == {
        "OUTPUT": (Positioned(1, OUTPUT), Positioned(1, OUTPUT), Positioned(3, OUTPUT))
    }


@pytest.mark.parametrize("name", ["raw", "mangle", "nat", "filter"])
def test_jumps_are_found_in_every_table(name: str) -> None:
    # The table filter has no PREROUTING, and a peer of another version may have put it there.
    assert places(table(name, OUTPUT=[NOT_OURS, OUTPUT])) == {"OUTPUT": [1]}


# -c: RETURN in both directions.


def test_returns_for_an_interface_in_both_directions_are_ours() -> None:
    present = table(
        PREROUTING=[NOT_OURS, arriving("eth1"), arriving("net+"), INBOUND],
        OUTPUT=[leaving("eth1"), leaving("net+"), OUTPUT],
    )
    assert places(present) == {"PREROUTING": [1, 2, 3], "OUTPUT": [0, 1, 2]}


def test_returns_for_an_interface_are_ours_even_if_only_the_other_direction_has_a_jump() -> None:
    present = table(PREROUTING=[arriving("eth1")], OUTPUT=[leaving("eth1"), OUTPUT])
    assert places(present) == {"PREROUTING": [0], "OUTPUT": [0, 1]}


def test_a_return_for_every_interface_is_spelled_without_one() -> None:
    present = table(PREROUTING=[Rule((), RETURN), INBOUND], OUTPUT=[Rule((), RETURN), OUTPUT])
    assert places(present) == {"PREROUTING": [0, 1], "OUTPUT": [0, 1]}


@pytest.mark.parametrize(
    ("prerouting", "output"),
    [
        ([arriving("eth1")], []),
        ([], [leaving("eth1")]),
        ([arriving("eth1")], [leaving("eth2")]),
        ([arriving("eth1")], [leaving("eth+")]),
        ([arriving("eth1", TCP)], [leaving("eth1")]),
        ([arriving("eth1")], [leaving("eth1", TCP)]),
        ([arriving("eth1")], [Rule((OutInterface("eth1"),), ACCEPT)]),
        ([arriving("eth1")], [Rule((OutInterface("eth1", negated=True),), RETURN)]),
        ([Rule((InInterface("eth1", negated=True),), RETURN)], [leaving("eth1")]),
        ([arriving("eth1")], [Rule((), RETURN)]),
    ],
)
def test_a_return_without_its_twin_is_foreign(prerouting: list[Rule], output: list[Rule]) -> None:
    present = table(PREROUTING=[*prerouting, INBOUND], OUTPUT=[*output, OUTPUT])
    assert places(present) == {"PREROUTING": [len(prerouting)], "OUTPUT": [len(output)]}


def test_without_a_jump_of_ours_in_the_table_twins_are_foreign() -> None:
    twins = {"PREROUTING": [arriving("eth1")], "OUTPUT": [leaving("eth1")]}
    assert places(table(**twins)) == {}
    assert places(table(**twins, ISTIO_OUTPUT=[Rule((), RETURN)], KUBE=[OUTPUT])) == {"KUBE": [0]}


def test_twins_outside_the_two_chains_are_foreign() -> None:
    present = table(PREROUTING=[INBOUND], OUTPUT=[], KUBE=[arriving("eth1"), leaving("eth1")])
    assert places(present) == {"PREROUTING": [0]}


def test_comments_do_not_hide_a_twin() -> None:
    present = table(
        PREROUTING=[arriving("eth1", Comment("left alone")), INBOUND],
        OUTPUT=[leaving("eth1"), OUTPUT],
    )
    assert places(present) == {"PREROUTING": [0, 1], "OUTPUT": [0, 1]}


def test_the_nearest_of_equal_returns_before_our_jump_is_ours() -> None:
    above = table(
        PREROUTING=[arriving("eth1"), NOT_OURS, arriving("eth1"), INBOUND],
        OUTPUT=[leaving("eth1"), OUTPUT],
    )
    below = table(
        PREROUTING=[arriving("eth1"), INBOUND, NOT_OURS, arriving("eth1")],
        OUTPUT=[leaving("eth1"), OUTPUT],
    )
    assert places(above) == {"PREROUTING": [2, 3], "OUTPUT": [0, 1]}
    assert places(below) == {"PREROUTING": [0, 1], "OUTPUT": [0, 1]}


# -k: a jump to ISTIO_REDIRECT and a RETURN.


@pytest.mark.parametrize(
    "jump",
    [
        captured("tap0"),
        captured("tap0", Destination(read_network("10.0.0.0/8"))),
        captured("tap0", Comment("captured")),
        Rule((InInterface("tap0"), Comment("captured")), Jump("ISTIO_REDIRECT")),
    ],
    ids=str,
)
def test_a_return_for_a_captured_interface_is_ours(jump: Rule) -> None:
    present = table(PREROUTING=[jump, arriving("tap0"), NOT_OURS], OUTPUT=[OUTPUT])
    assert places(present) == {"PREROUTING": [0, 1], "OUTPUT": [0]}


@pytest.mark.parametrize(
    "jump",
    [
        captured("tap1"),
        Rule((OutInterface("tap0"),), Jump("ISTIO_REDIRECT")),
        Rule((InInterface("tap0"),), Jump("ISTIO_INBOUND")),
        Rule((InInterface("tap0", negated=True),), Jump("ISTIO_REDIRECT")),
    ],
    ids=str,
)
def test_a_return_is_foreign_if_its_interface_is_not_captured(jump: Rule) -> None:
    assert places(table(PREROUTING=[jump, arriving("tap0")], OUTPUT=[])) == {"PREROUTING": [0]}


def test_one_interface_may_be_captured_and_excluded() -> None:
    present = table(
        PREROUTING=[captured("a"), arriving("a"), NOT_OURS, arriving("a"), INBOUND],
        OUTPUT=[leaving("a"), OUTPUT],
    )
    assert places(present) == {"PREROUTING": [0, 1, 3, 4], "OUTPUT": [0, 1]}


def test_every_interface_captured_leaves_a_return_for_all() -> None:
    present = table(PREROUTING=[Rule((), Jump("ISTIO_REDIRECT")), Rule((), RETURN), NOT_OURS])
    assert places(present) == {"PREROUTING": [0, 1]}


def test_the_first_of_equal_returns_after_the_captures_is_ours() -> None:
    above = table(PREROUTING=[arriving("tap0"), NOT_OURS, captured("tap0"), arriving("tap0")])
    below = table(PREROUTING=[captured("tap0"), arriving("tap0"), NOT_OURS, arriving("tap0")])
    assert places(above) == {"PREROUTING": [2, 3]}
    assert places(below) == {"PREROUTING": [0, 1]}


def test_an_interface_named_twice_has_two_twins() -> None:
    present = table(PREROUTING=[captured("a"), captured("a"), arriving("a"), arriving("a")])
    assert places(present) == {"PREROUTING": [0, 1, 2, 3]}


CIDR = Destination(read_network("10.0.0.0/8"))


@pytest.mark.parametrize("others", [(CIDR,), ()], ids=["-i 10.0.0.0/8", "-i 0.0.0.0/0"])
def test_a_cidr_listed_twice_does_not_count_as_an_interface_named_twice(
    others: tuple[Match, ...],
) -> None:
    twice = [captured("a", *others)] * 2
    present = table(
        PREROUTING=[*twice, arriving("a"), arriving("a"), INBOUND], OUTPUT=[leaving("a"), OUTPUT]
    )
    all_of_it = {"PREROUTING": [0, 1, 2, 3, 4], "OUTPUT": [0, 1]}
    if others:
        assert places(present) == all_of_it
    # The kernel does not keep that all of the internet was given as a CIDR; the flags tell.
    expected = Table("nat", tuple(Chain(c.name, c.rules) for c in present.chains if c.rules))
    assert ours_in(present, expected).placed["OUTPUT"] == (
        Positioned(0, leaving("a")),
        Positioned(0, OUTPUT),
    )


def test_an_interface_named_twice_leaves_a_foreign_return_alone() -> None:
    present = table(
        PREROUTING=[*[captured("a")] * 2, arriving("a"), arriving("a")], OUTPUT=[leaving("a")]
    )
    assert places(present) == {"PREROUTING": [0, 1, 2, 3]}
    # One CIDR twice, the other once: the interface was named once.
    some = [captured("a", CIDR), captured("a", CIDR), captured("a")]
    present = table(PREROUTING=[*some, arriving("a"), arriving("a")])
    assert places(present) == {"PREROUTING": [0, 1, 2, 3]}


# -k without anything captured: only what is asked for tells its RETURN from a foreign one.


def test_a_return_that_is_wanted_alone_is_ours() -> None:
    wanted = Table("nat", (Chain("PREROUTING", (arriving("tap0"), INBOUND), top=1),))
    present = table(PREROUTING=[arriving("tap0"), arriving("tap1"), INBOUND])
    assert ours_in(present, wanted).placed == {
        "PREROUTING": (Positioned(0, arriving("tap0")), Positioned(1, INBOUND))
    }
    assert places(present) == {"PREROUTING": [2]}


def test_a_foreign_return_does_not_count_as_one_that_is_wanted_with_its_capture() -> None:
    capture = Rule((InInterface("tap0"),), Jump("ISTIO_REDIRECT"))
    wanted = Table("nat", (Chain("PREROUTING", (capture, arriving("tap0"), INBOUND), top=2),))
    present = table(PREROUTING=[arriving("tap0"), INBOUND])
    assert ours_in(present, wanted) == ours_in(present)


def test_a_c_return_without_its_twin_counts_as_foreign() -> None:
    wanted = table(PREROUTING=[arriving("tap0"), INBOUND], OUTPUT=[leaving("tap0"), OUTPUT])
    present = table(PREROUTING=[arriving("tap0"), INBOUND], OUTPUT=[OUTPUT])
    assert ours_in(present, wanted) == ours_in(present)
