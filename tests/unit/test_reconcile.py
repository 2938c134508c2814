"""From what a table holds to what it must hold: tried on tables that exist in memory only."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_init.frozen import replace
from proxy_init.rules.iptables_save import table_text
from proxy_init.rules.matches import InInterface, OutInterface, OwnerUid, Protocol
from proxy_init.rules.model import BUILT_IN, Chain, Family, Rule, Table
from proxy_init.rules.ownership import Ours, ours_in
from proxy_init.rules.reconcile import TableEdit, arrange, edit
from proxy_init.rules.targets import ACCEPT, DROP, RETURN, Goto, Jump, Redirect, UnknownTarget
from proxy_init.rulesets import build

from .fakes import bounded, settled

TCP = Protocol("tcp")
FOREIGN = "foreign"  # the reason by which these tests know a rule that is not ours
KUBE = Chain("KUBE", (Rule((TCP,), Redirect(99), FOREIGN),))


def foreign(*matches: InInterface | OutInterface | Protocol | OwnerUid, to: str = "KUBE") -> Rule:
    return Rule(matches, Jump(to), FOREIGN)


def built_in(name: str = "nat", **chains: list[Rule]) -> Table:
    """A table of the kernel with these rules in its own chains, and with a foreign chain."""
    own = (Chain(chain, tuple(chains.get(chain, ())), 0, "ACCEPT") for chain in BUILT_IN[name])
    return Table(name, (*own, KUBE))


def wanted_by(*argv: str, family: Family = Family.V4, name: str = "nat") -> Table:
    return build(settled("--ipv6", *argv), family).table(name)


def carried_out(change: TableEdit, table: Table) -> Table:
    """What the kernel would hold after an edit; fails where the kernel would refuse a step."""
    chains = {chain.name: list(chain.rules) for chain in table.chains}
    assert change.table == table.name
    for name in change.created:
        assert name not in chains
        chains[name] = []
    for name in (*change.deleted, *(chain.name for chain in change.filled)):
        chains[name].clear()
    for removal in change.removals:
        del chains[removal.chain][removal.position]
    for insertion in change.insertions:
        assert 0 <= insertion.position <= len(chains[insertion.chain])
        chains[insertion.chain].insert(insertion.position, insertion.rule)
    for chain in change.filled:
        chains[chain.name].extend(chain.rules)
    for name in change.deleted:
        assert chains.pop(name) == []
    jumps = {rule.target for rules in chains.values() for rule in rules}
    assert all(target.name in chains for target in jumps if isinstance(target, Jump))
    policies = {chain.name: chain.policy for chain in table.chains}
    return Table(
        table.name,
        tuple(Chain(name, tuple(rules), 0, policies.get(name)) for name, rules in chains.items()),
    )


def applied(wanted: Table, table: Table, force: bool = False) -> Table:
    """The table after one run that wants this."""
    change = edit(table, arrange(wanted, table), wanted, force)
    return carried_out(change, table) if change else table


def cleaned(table: Table) -> Table:
    """The table after everything of ours was taken out."""
    change = edit(table, Ours())
    return carried_out(change, table) if change else table


def only(table: Table, *, are_foreign: bool) -> dict[str, list[Rule]]:
    """The rules of foreign chains that are, or are not, foreign; chains without any left out."""
    found = {
        chain.name: [rule for rule in chain.rules if (rule.why == FOREIGN) is are_foreign]
        for chain in table.chains
        if not chain.name.startswith("ISTIO_")
    }
    return {name: rules for name, rules in found.items() if rules}


def assert_holds(table: Table, wanted: Table) -> None:
    """Our chains are as wanted, and our rules stand in order, the top ones above all others."""
    names = [chain.name for chain in wanted.chains if chain.name not in BUILT_IN[table.name]]
    assert sorted(c.name for c in table.chains if c.name.startswith("ISTIO_")) == sorted(names)
    for name in names:
        assert table.chain(name) == replace(wanted.chain(name) or Chain(name, ()), top=0)
    placed = {c.name: list(c.rules) for c in wanted.chains if c.name not in names}
    assert only(table, are_foreign=False) == placed
    for chain in wanted.chains:
        held = table.chain(chain.name)
        assert held is not None
        assert held.rules[: chain.top] == chain.rules[: chain.top]


USUAL = ("-i", "*", "-b", "*", "-d", "15090")


def test_an_empty_table_gets_exactly_the_wanted_rules() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0")
    empty = built_in()
    table = applied(wanted, replace(empty, chains=empty.chains[:-1]))
    assert table_text(table) == table_text(wanted)


def test_a_second_run_changes_nothing() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0")
    table = applied(wanted, built_in(PREROUTING=[foreign()], OUTPUT=[foreign()]))
    assert edit(table, arrange(wanted, table), wanted) is None


def test_the_first_run_puts_rules_below_foreign_ones_but_k_interfaces_above() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0")
    present = built_in(PREROUTING=[foreign(), foreign(TCP)], OUTPUT=[foreign()])
    table = applied(wanted, present)
    prerouting, output = table.chain("PREROUTING"), table.chain("OUTPUT")
    assert prerouting is not None
    assert output is not None
    assert [rule.why == FOREIGN for rule in prerouting.rules] == [False] * 2 + [True] * 2 + [
        False
    ] * 2
    assert [rule.why == FOREIGN for rule in output.rules] == [True, False, False]


def test_ours_stay_where_they_are_when_foreign_rules_come_behind_them() -> None:
    wanted = wanted_by(*USUAL)
    table = applied(wanted, built_in(OUTPUT=[foreign()]))
    output = table.chain("OUTPUT")
    assert output is not None
    behind = replace(output, rules=(*output.rules, foreign(TCP)))
    chains = tuple(behind if chain is output else chain for chain in table.chains)
    present = Table("nat", chains)
    assert edit(present, arrange(wanted, present), wanted) is None
    # Other flags change our chains, but still not the jump.
    change = edit(present, arrange(wanted_by("-i", "*", "-b", "80"), present))
    assert change is not None
    assert (change.removals, change.insertions) == ((), ())
    assert [chain.name for chain in change.filled] == ["ISTIO_INBOUND"]


def test_the_rules_of_another_run_are_replaced() -> None:
    old, new = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0"), wanted_by("-i", "10.0.0.0/8")
    present = built_in(PREROUTING=[foreign()], OUTPUT=[foreign()])
    table = applied(new, applied(old, present))
    assert_holds(table, new)
    assert only(table, are_foreign=True) == {
        "PREROUTING": [foreign()],
        "OUTPUT": [foreign()],
        "KUBE": list(KUBE.rules),
    }


def test_the_rules_of_a_peer_are_replaced() -> None:
    # More chains, a jump from a foreign chain, a goto, and our chain's name with other content.
    left = built_in(
        PREROUTING=[Rule((), Goto("ISTIO_OLD"))],
        OUTPUT=[Rule((), Jump("ISTIO_OUTPUT")), Rule((), Jump("ISTIO_OUTPUT")), foreign()],
    )
    kube = replace(KUBE, rules=(*KUBE.rules, Rule((), Jump("ISTIO_OLD"))))
    chains = (kube, Chain("ISTIO_OLD", (Rule((), RETURN),)), Chain("ISTIO_OUTPUT", ()))
    wanted = wanted_by(*USUAL)
    table = applied(wanted, Table("nat", (*left.chains[:-1], *chains)))
    assert_holds(table, wanted)
    assert only(table, are_foreign=True) == {"OUTPUT": [foreign()], "KUBE": list(KUBE.rules)}


def test_a_missing_misplaced_or_doubled_rule_is_repaired() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1,eth2")
    right = applied(wanted, built_in())
    prerouting = right.chain("PREROUTING")
    assert prerouting is not None
    one, two, jump = prerouting.rules
    for rules in ((one, two), (two, one, jump), (jump, one, two), (one, two, jump, jump)):
        wrong = replace(prerouting, rules=rules)
        present = Table("nat", tuple(wrong if c is prerouting else c for c in right.chains))
        assert applied(wanted, present) == right


def test_order_inside_a_chain_counts() -> None:
    wanted = wanted_by(*USUAL, "-x", "10.0.0.0/8,11.0.0.0/8")
    other = wanted_by(*USUAL, "-x", "11.0.0.0/8,10.0.0.0/8")
    table = applied(other, built_in())
    change = edit(table, arrange(wanted, table), wanted)
    assert change is not None
    assert [chain.name for chain in change.filled] == ["ISTIO_OUTPUT"]
    assert applied(wanted, table) == applied(wanted, built_in())


def test_force_writes_all_our_rules_again_with_the_same_result() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0")
    table = applied(wanted, built_in(PREROUTING=[foreign()], OUTPUT=[foreign()]))
    change = edit(table, arrange(wanted, table), wanted, force=True)
    assert change is not None
    own = {chain.name for chain in wanted.chains if chain.name.startswith("ISTIO_")}
    assert {chain.name for chain in change.filled} == own
    assert carried_out(change, table) == table


def test_force_writes_nothing_where_nothing_is_wanted() -> None:
    present = built_in(OUTPUT=[foreign()])
    assert edit(present, Ours(), force=True) is None


def test_without_wanted_rules_all_our_rules_are_deleted() -> None:
    present = built_in(PREROUTING=[foreign()], OUTPUT=[foreign()])
    table = applied(wanted_by(*USUAL, "-c", "eth1", "-k", "tap0"), present)
    assert cleaned(table) == present
    assert applied(Table("nat", ()), table) == present


def test_a_clean_table_is_left_alone() -> None:
    present = built_in(PREROUTING=[foreign(), Rule((InInterface("eth1"),), RETURN, FOREIGN)])
    assert edit(present, Ours()) is None


def test_a_foreign_return_for_an_interface_stays() -> None:
    lookalike = Rule((InInterface("eth1"),), RETURN, FOREIGN)
    present = built_in(PREROUTING=[lookalike])
    table = applied(wanted_by(*USUAL, "-c", "eth2"), present)
    assert only(table, are_foreign=True)["PREROUTING"] == [lookalike]
    assert cleaned(table) == present


def test_a_foreign_return_that_came_after_ours_changes_nothing() -> None:
    wanted = wanted_by(*USUAL, "-c", "eth1", "-k", "tap0")
    table = applied(wanted, built_in())
    prerouting = table.chain("PREROUTING")
    assert prerouting is not None
    above, below = (Rule((InInterface(name),), RETURN, FOREIGN) for name in ("tap0", "eth1"))
    for rules in ((above, *prerouting.rules), (*prerouting.rules, below)):
        chain = replace(prerouting, rules=rules)
        present = Table("nat", tuple(chain if c is prerouting else c for c in table.chains))
        after = applied(wanted, present)
        assert only(after, are_foreign=True) == only(present, are_foreign=True)
        assert cleaned(after) == cleaned(present)


@pytest.mark.parametrize("last", [[], [Rule((TCP,), DROP, FOREIGN)]], ids=["", "and a DROP"])
@pytest.mark.parametrize("virtual", ["tap0", "+"])
@pytest.mark.parametrize("excluded", ["eth1", "+,eth1", "eth0,+,eth1"])
def test_a_foreign_return_like_ours_stays_where_no_jump_tells_them_apart(
    excluded: str, virtual: str, last: list[Rule]
) -> None:
    lookalike = Rule((InInterface("eth1"),), RETURN, FOREIGN)
    present = built_in(PREROUTING=[foreign(), lookalike, foreign(TCP), *last])
    only_k = applied(wanted_by("-k", virtual, "-i", "*"), present)
    both = applied(wanted_by("-k", virtual, "-i", "*", "-c", excluded), only_k)
    assert only(both, are_foreign=True) == only(present, are_foreign=True)
    assert cleaned(both) == present


@pytest.mark.parametrize("name", ["mangle", "filter", "raw"])
def test_leftover_rules_in_an_unwanted_table_are_deleted(name: str) -> None:
    chains = built_in(name, OUTPUT=[foreign(), Rule((), Jump("ISTIO_OLD"))]).chains
    present = Table(name, (*chains, Chain("ISTIO_OLD", (Rule((), DROP),))))
    assert applied(Table(name, ()), present) == built_in(name, OUTPUT=[foreign()])


def test_a_table_that_is_wanted_for_one_flag_goes_with_it() -> None:
    wanted = wanted_by("--drop-invalid", name="mangle")
    present = built_in("mangle", PREROUTING=[foreign()])
    table = applied(wanted, present)
    assert_holds(table, wanted)
    assert applied(wanted_by(name="mangle"), table) == present


@pytest.mark.parametrize("family", Family, ids=lambda family: family.title)
@pytest.mark.parametrize(
    "argv",
    [
        ["-k", "tap0", "-b", "*"],
        ["-k", "tap0", "-i", "10.0.0.0/8"],
        ["-k", "tap0,tap1", "-i", "fd00::/8", "-c", "tap0"],
        ["-k", "tap0,tap0", "-i", "*"],
        ["-k", "tap0,tap0"],
        ["-c", "eth1,eth1"],
        ["-c", "+"],
        ["-k", "+", "-i", "*"],
        ["-k", "+"],
        ["-c", "+", "-k", "+,eth1", "-i", "*"],
        ["-k", "eth1", "-i", "0.0.0.0/0,::/0"],
    ],
    ids=" ".join,
)
def test_a_second_run_with_odd_interfaces_changes_nothing(argv: list[str], family: Family) -> None:
    wanted = wanted_by(*argv, family=family)
    table = applied(wanted, built_in(PREROUTING=[foreign()], OUTPUT=[foreign(TCP)]))
    assert edit(table, arrange(wanted, table), wanted) is None


def test_an_interface_named_twice_goes_when_it_is_named_no_more() -> None:
    # A RETURN left behind would leave its traffic uncaptured.
    table = applied(wanted_by("-k", "tap0,tap0", "-i", "*", "-b", "*"), built_in())
    wanted = wanted_by("-i", "*", "-b", "*")
    assert applied(wanted, table) == applied(wanted, built_in())


# Random tables of others, random flags before and after.

interfaces = st.sampled_from(["eth0", "eth1", "net+", "tap0"])
names = st.lists(interfaces, unique=True, max_size=3).map(",".join)
networks = st.sampled_from(["*", "10.0.0.0/8,fd00::/8", "127.0.0.1,::1,10.0.0.0/8,fd00::/8,::2"])


@dataclass(frozen=True)
class Run:
    """One call's flags, all of which put rules into chains that are not ours."""

    excluded: str
    virtual: str
    outbound: str
    inbound: str
    comments: bool

    def wanted(self, family: Family) -> Table:
        argv = ["-c", self.excluded, "-k", self.virtual, "-i", self.outbound, "-b", self.inbound]
        return wanted_by(*argv, f"--comments={self.comments}", family=family)


runs = st.builds(Run, names, names, networks, st.sampled_from(["", "*", "80,443"]), st.booleans())
# Nothing that has the form of ours: who put such a rule there cannot be told. Other tests do that.
foreign_rules = st.builds(
    Rule,
    st.lists(
        st.one_of(
            st.just(TCP),
            st.builds(InInterface, interfaces, st.booleans()),
            st.builds(OutInterface, interfaces, st.booleans()),
            st.builds(OwnerUid, st.sampled_from([0, 1337])),
        ),
        max_size=2,
    ).map(tuple),
    st.one_of(
        st.sampled_from([ACCEPT, DROP, Jump("KUBE"), Goto("KUBE")]),
        st.sampled_from([UnknownTarget(""), UnknownTarget("MASQUERADE"), Redirect(15001)]),
    ),
    st.just(FOREIGN),
) | st.builds(
    lambda uid, interface: Rule((InInterface(interface), OwnerUid(uid)), RETURN, FOREIGN),
    st.integers(0, 3),
    interfaces,
)
foreign_lists = st.lists(foreign_rules, max_size=4)
foreign_tables = st.builds(
    lambda chains: built_in(**chains),
    st.fixed_dictionaries(dict.fromkeys(BUILT_IN["nat"], foreign_lists)),
)


def with_more_foreign_rules(table: Table, data: st.DataObject) -> Table:
    """The same after somebody put more rules anywhere between those that are there."""
    chains = []
    for chain in table.chains:
        rules = list(chain.rules)
        if not chain.name.startswith("ISTIO_"):
            for rule in data.draw(foreign_lists):
                rules.insert(data.draw(st.integers(0, len(rules))), rule)
        chains.append(replace(chain, rules=tuple(rules)))
    return Table(table.name, tuple(chains))


@bounded
@given(foreign_tables, runs, runs, st.sampled_from([*Family]), st.booleans(), st.data())
def test_one_run_after_another_among_the_rules_of_others(
    present: Table, first: Run, second: Run, family: Family, force: bool, data: st.DataObject
) -> None:
    present = applied(first.wanted(family), present)
    assert_holds(present, first.wanted(family))
    present = with_more_foreign_rules(present, data)
    others = only(present, are_foreign=True)

    wanted = second.wanted(family)
    table = applied(wanted, present, force)
    assert_holds(table, wanted)
    assert only(table, are_foreign=True) == others
    assert edit(table, arrange(wanted, table), wanted) is None
    assert carried_out_again(wanted, table) == table

    empty = cleaned(table)
    assert only(empty, are_foreign=True) == others
    assert only(empty, are_foreign=False) == {}
    assert not ours_in(empty)
    assert edit(empty, Ours()) is None


def carried_out_again(wanted: Table, table: Table) -> Table:
    change = edit(table, arrange(wanted, table), wanted, force=True)
    assert change is not None
    again = carried_out(change, table)
    order = [chain.name for chain in table.chains]
    return Table(table.name, tuple(sorted(again.chains, key=lambda c: order.index(c.name))))
