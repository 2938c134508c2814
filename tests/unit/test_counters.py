"""Counts beside what is wanted: which rule is which, and what changed since."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy_init.analysis.counters import Counted, Standing, changes, counted
from proxy_init.rules.counts import Count
from proxy_init.rules.matches import Comment, Destination, Protocol
from proxy_init.rules.model import Chain, Family, Rule, Table
from proxy_init.rules.networks import read_network
from proxy_init.rules.targets import RETURN, Jump

from .fakes import bounded

A, B, C = (
    Rule((Destination(read_network(f"10.{n}.0.0/16")),), RETURN, f"reason {n}") for n in range(3)
)
JUMP = Rule((), Jump("ISTIO_OUTPUT"), "ours")
FOREIGN = Rule((Protocol("udp"),), RETURN)


def nat(*rules: Rule, output: Sequence[Rule] = (JUMP,)) -> Table:
    empty = Table.empty("nat")
    chains = [
        Chain("OUTPUT", tuple(output), policy="ACCEPT") if chain.name == "OUTPUT" else chain
        for chain in empty.chains
    ]
    return Table("nat", (*chains, Chain("ISTIO_OUTPUT", rules)))


def compared(wanted: Table, present: Table, base: int = 100) -> tuple[Counted, ...]:
    """With counts that tell the place: the third rule of a chain has counted base + 2."""
    counts = {
        chain.name: [Count(base + n, 60 * (base + n)) for n in range(len(chain.rules))]
        for chain in present.chains
    }
    return tuple(counted(Family.V4, wanted, present, counts))


def in_short(lines: Sequence[Counted], chain: str = "ISTIO_OUTPUT") -> list[tuple[object, ...]]:
    return [
        (line.number, line.standing.value, line.why, line.count and line.count.packets)
        for line in lines
        if line.chain == chain
    ]


def test_wanted_rules_that_are_present_have_number_count_and_reason() -> None:
    assert in_short(compared(nat(A, B), nat(A, B))) == [
        (1, "wanted", "reason 0", 100),
        (2, "wanted", "reason 1", 101),
    ]


def test_a_missing_rule_is_listed_in_its_place() -> None:
    assert in_short(compared(nat(A, B, C), nat(A, C))) == [
        (1, "wanted", "reason 0", 100),
        (None, "missing", "reason 1", None),
        (2, "wanted", "reason 2", 101),
    ]


def test_a_rule_that_is_not_wanted_says_so_and_has_its_comment_for_a_reason() -> None:
    other = Rule((*B.matches, Comment("somebody's")), B.target)
    assert in_short(compared(nat(A), nat(A, other))) == [
        (1, "wanted", "reason 0", 100),
        (2, "not wanted", "somebody's", 101),
    ]


def test_rules_that_differ_in_their_comment_are_the_same() -> None:
    commented = Rule((*A.matches, Comment("reason 0")), A.target)
    assert in_short(compared(nat(A), nat(commented))) == [(1, "wanted", "reason 0", 100)]


def test_foreign_rules_are_left_out_and_still_count_for_the_number() -> None:
    lines = compared(nat(A), nat(A, output=(FOREIGN, JUMP)))
    assert in_short(lines, "OUTPUT") == [(2, "wanted", "ours", 101)]


def test_built_in_chains_come_first() -> None:
    assert [line.chain for line in compared(nat(A), nat(A))] == ["OUTPUT", "ISTIO_OUTPUT"]


some_rules = st.lists(st.sampled_from([A, B, C]), max_size=6)


@bounded
@given(some_rules, some_rules)
def test_each_wanted_and_each_present_rule_is_shown_once(
    wanted: list[Rule], present: list[Rule]
) -> None:
    lines = [line for line in compared(nat(*wanted), nat(*present)) if line.chain == "ISTIO_OUTPUT"]
    there = [line for line in lines if line.standing is not Standing.MISSING]
    assert [line.rule for line in there] == present
    assert [line.number for line in there] == list(range(1, len(present) + 1))
    assert [line.rule for line in lines if line.standing is not Standing.NOT_WANTED] == wanted


# What changes.


def test_equal_readings_have_no_changes() -> None:
    lines = compared(nat(A, B), nat(A, C))
    assert list(changes(lines, lines)) == []


def test_the_increase_is_the_difference_of_two_readings() -> None:
    before = compared(nat(A), nat(A))
    now = [replace(line, count=Count(107, 6420)) for line in before if line.rule == A]
    [line] = changes(before, [before[0], *now])
    assert (line.rule, line.count, line.more) == (A, Count(107, 6420), Count(7, 420))


def test_a_rule_that_was_written_again_counts_from_zero() -> None:
    before = compared(nat(A), nat(A))
    now = [replace(line, count=Count(2, 120)) for line in before]
    assert {line.more for line in changes(before, now)} == {Count(2, 120)}


def test_a_rule_that_only_moved_is_no_change() -> None:
    before = compared(nat(A, B), nat(A, B))
    moved = [replace(line, number=(line.number or 0) + 1) for line in before]
    assert list(changes(before, moved)) == []


def test_a_rule_that_is_gone_is_reported_once() -> None:
    before = compared(nat(A), nat(A, C))
    now = compared(nat(A), nat())
    shown = {(line.rule, line.standing) for line in changes(before, now)}
    assert shown == {(A, Standing.MISSING), (C, Standing.GONE)}
