"""Rules in nf_tables' expressions and back, both families' in one table, and what is unknown."""

from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.errors import BadCall
from proxy_init.frozen import replace
from proxy_init.kernel.nftables import expressions as nft
from proxy_init.kernel.nftables.batches import Aim, changes
from proxy_init.kernel.nftables.codec import Reading, expressions_of, reading_of, userdata_of
from proxy_init.kernel.nftables.snapshot import Snapshot
from proxy_init.kernel.nftables.x_tables import match_of, target_of
from proxy_init.kernel.system.netlink import number
from proxy_init.rules.inet_tables import (
    BOTH,
    Families,
    Placed,
    merged,
    name_in_kernel,
    name_in_model,
    split,
)
from proxy_init.rules.matches import Destination, Mark, OwnerUid, Protocol, UnknownMatch
from proxy_init.rules.model import BUILT_IN, Chain, Family, Rule, Ruleset, Table
from proxy_init.rules.networks import Network, network_around, read_address
from proxy_init.rules.targets import ACCEPT, RETURN, UnknownTarget
from proxy_init.rulesets import build
from tests.strategies import Call, calls

from .fakes import BARE_MACHINE, bounded

TCP = Protocol("tcp")


def rulesets(call: Call) -> list[Ruleset]:
    """What the flags want of nf_tables."""
    try:
        config = read_config((*call.flags, "--backend", "nft"), call.environ, BARE_MACHINE)
    except BadCall:
        assume(False)
        raise
    return [build(settle(config, ()), family) for family in Family]


def read_back(rule: Rule, families: Families) -> Reading:
    data = expressions_of(rule, families, name_in_kernel)
    return reading_of(data, userdata_of(rule), None, name_in_model)


def names_of(data: bytes) -> list[str]:
    return [name for name, _ in nft.each_expression(data)]


def tables(some: list[Ruleset], name: str) -> Mapping[Family, Table]:
    return {ruleset.family: ruleset.table(name) for ruleset in some}


@bounded
@given(calls())
def test_what_is_written_is_read_back_as_the_same_rules(call: Call) -> None:
    some = rulesets(call)
    for name in BUILT_IN:
        placed = {
            chain: [Placed(*_places(read_back(each.rule, each.families))) for each in rules]
            for chain, rules in merged(tables(some, name)).items()
        }
        for ruleset in some:
            here = {chain.name: chain.rules for chain in split(placed, name, ruleset.family).chains}
            assert here == {chain.name: chain.rules for chain in ruleset.table(name).chains}


def _places(reading: Reading) -> tuple[Families, Rule]:
    return reading.families, reading.rule


@bounded
@given(calls())
def test_nothing_is_written_that_takes_the_compatibility_with_x_tables(call: Call) -> None:
    some = rulesets(call)
    aim = Aim({name: tables(some, name) for name in BUILT_IN})
    assert bool(changes(Snapshot(1), aim)) == any(ruleset.tables for ruleset in some)
    for name in BUILT_IN:
        for rules in merged(tables(some, name)).values():
            for each in rules:
                data = expressions_of(each.rule, each.families, name_in_kernel)
                assert not {"match", "target"} & set(names_of(data))


@bounded
@given(calls())
def test_a_rule_of_one_family_is_for_no_packet_of_the_other(call: Call) -> None:
    some = [ruleset for ruleset in rulesets(call) if ruleset.family is Family.V4]
    for name in BUILT_IN:
        for rules in merged(tables(some, name)).values():
            assert all(
                read_back(each.rule, each.families).families == (Family.V4,) for each in rules
            )


networks = st.one_of(
    st.ip_addresses(v=4).flatmap(lambda a: st.builds(_network, st.just(a), st.integers(0, 32))),
    st.ip_addresses(v=6).flatmap(lambda a: st.builds(_network, st.just(a), st.integers(0, 128))),
)


def _network(address: object, length: int) -> Network:
    return network_around(read_address(str(address)), length)


@bounded
@given(networks, st.booleans())
def test_every_network_is_read_back(network: Network, negated: bool) -> None:
    rule = Rule((Destination(network, negated),), RETURN)
    family = Family.V4 if network.version == 4 else Family.V6
    reading = read_back(rule, (family,))
    assert (reading.rule, reading.families) == (rule, (family,))


@bounded
@given(st.lists(st.sampled_from(range(6))), st.lists(st.sampled_from(range(6))))
def test_each_family_finds_its_own_rules_in_their_order(ours: list[int], theirs: list[int]) -> None:
    both = {
        family: Table("nat", (Chain("ISTIO_X", tuple(Rule((Mark(n),), RETURN) for n in numbers)),))
        for family, numbers in ((Family.V4, ours), (Family.V6, theirs))
    }
    chains = merged(both)
    for family, table in both.items():
        if table.chains[0].rules or not any(chains.values()):
            assert split(chains, "nat", family).chain("ISTIO_X") == table.chains[0]
    assert len(chains["ISTIO_X"]) <= len(ours) + len(theirs)
    if ours == theirs:
        assert all(each.families == BOTH for each in chains["ISTIO_X"])


# What is unknown is kept as such, never as less than it is.


def test_an_expression_that_is_unknown_keeps_its_name() -> None:
    cpu = ("meta", 19)
    data = nft.load(cpu) + nft.compared(nft.EQUAL, b"\7\0\0\0") + nft.judged("ACCEPT")
    reading = reading_of(data, b"", None, str)
    (match,) = reading.rule.matches
    assert isinstance(match, UnknownMatch) and match.name == "cmp"
    assert match.spelling[0].value == "meta 19"
    assert reading.rule.target == ACCEPT


def test_what_an_unknown_expression_may_have_changed_is_unknown_too() -> None:
    mark = ("meta", nft.META_MARK)
    strange = nft.expression("byteorder", number(1, 1), number(2, 1))
    data = nft.load(mark) + strange + nft.compared(nft.EQUAL, b"\7\0\0\0") + nft.judged("ACCEPT")
    names = [match.name for match in reading_of(data, b"", None, str).rule.matches]  # type: ignore[union-attr]
    assert names == ["byteorder", "cmp"]


@pytest.mark.parametrize("name", ["limit", "log", "nothing-known"])
def test_a_statement_that_is_unknown_is_kept_beside_the_verdict(name: str) -> None:
    data = nft.expression(name) + nft.judged("ACCEPT")
    rule = reading_of(data, b"", None, str).rule
    assert [type(match) for match in rule.matches] == [UnknownMatch]
    assert rule.target == ACCEPT


def test_translations_of_others_are_unknown_targets() -> None:
    rule = reading_of(nft.expression("masq"), b"", None, str).rule
    assert isinstance(rule.target, UnknownTarget) and rule.target.name == "masq"


def test_two_statements_in_one_rule_are_not_taken_for_one() -> None:
    mark = ("meta", nft.META_MARK)
    data = nft.constant(b"\5\0\0\0") + nft.store(mark) + nft.judged("ACCEPT")
    rule = reading_of(data, b"", None, str).rule
    assert isinstance(rule.target, UnknownTarget) and rule.target.name == "several"


@pytest.mark.parametrize("revision", [0, 1, 2, 3, 9])
@pytest.mark.parametrize(
    "name", ["owner", "tcp", "udp", "multiport", "mark", "connmark", "conntrack", "nothing-known"]
)
def test_bytes_of_x_tables_that_are_too_few_are_unknown(name: str, revision: int) -> None:
    found = match_of(name, revision, b"\1")
    assert isinstance(found, UnknownMatch) and found.name == name


@pytest.mark.parametrize("name", ["REDIRECT", "MARK", "CONNMARK", "TPROXY", "CT", "REJECT", "DNAT"])
def test_bytes_of_targets_of_x_tables_that_are_too_few_are_unknown(name: str) -> None:
    for revision in range(4):
        found = target_of(name, revision, b"", Family.V4)
        assert isinstance(found, UnknownTarget) and found.name == name


# The rules that nf_tables take decide as those of x_tables.


def test_an_owner_is_asked_for_without_a_negation() -> None:
    for groups in ({}, {"ISTIO_OUTBOUND_OWNER_GROUPS": "1,2"}):
        call = Call(("-i", "*", "-b", "*", "-u", "7,8", "--ipv6"), groups)
        for ruleset in rulesets(call):
            for rule in ruleset.rules:
                assert not [m for m in rule.matches if isinstance(m, OwnerUid) and m.negated], rule


def test_what_finds_no_listener_is_dropped() -> None:
    (ruleset, _) = rulesets(Call(("-b", "*", "-m", "TPROXY")))
    chain = ruleset.table("mangle").chain("ISTIO_TPROXY")
    assert chain is not None
    captured, dropped = chain.rules
    assert captured.matches == dropped.matches and dropped.target.name == "DROP"
    assert replace(chain, rules=()) != chain
