"""From rules to flags: the flags that made rules are found, also if some rules are damaged.

INFERENCE_CALLS in the environment says how many random flags are tried.
"""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings

from proxy_init.analysis.inference.difference import Difference, Kind, Present, distance
from proxy_init.analysis.inference.held import Form, Held, wanted_rulesets
from proxy_init.analysis.inference.infer import Inferred, infer
from proxy_init.analysis.inference.words import words_of
from proxy_init.config.config import Config
from proxy_init.frozen import replace
from proxy_init.rules.iptables_save import rule_text
from proxy_init.rules.iptables_save_parser import read_table
from proxy_init.rules.matches import Destination
from proxy_init.rules.model import BUILT_IN, Chain, Family, Rule, Ruleset, Table
from proxy_init.rules.networks import read_network
from proxy_init.rules.targets import Verdict
from tests.damaged_rules import damaged
from tests.held import held, made
from tests.random_packets import config_of
from tests.strategies import Call, calls
from tests.unit.fakes import read, settled

some = settings(
    deadline=None,
    max_examples=int(os.environ.get("INFERENCE_CALLS", "150")),
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
both_kinds = pytest.mark.parametrize("native", [False, True], ids=["iptables", "nf_tables"])
USUAL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021")


def inferred(rulesets: list[Ruleset], native: bool = False) -> Inferred:
    found = infer(held(rulesets, native))
    assert found is not None
    return found


def rules_of(config: Config, native: bool = False) -> object:
    """The rules that flags make, in a form that tells them apart."""
    return [
        (ruleset.family, ruleset.routing, [(table.name, table.chains) for table in ruleset.tables])
        for ruleset in made(config, native)
    ]


@both_kinds
@some
@given(call=calls())
def test_the_flags_of_rules_make_just_these_rules(native: bool, call: Call) -> None:
    config = config_of(call)
    rulesets = made(config, native)
    if not any(ruleset.tables for ruleset in rulesets):
        assert infer(held(rulesets, native)) is None
        return
    found = inferred(rulesets, native)
    assert found.exact, found.differences
    assert rules_of(found.config, native) == rules_of(config, native)
    # The words say all of it: no variable, file or address of a machine has a part in it.
    again = read(*found.words)
    assert rules_of(replace(again, ipv6=bool(again.ipv6)), native) == rules_of(config, native)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-p 15001 -z 15006 -u 1337 -i * -b * -d 15020", "… -i * -b * -d 15020 --no-ipv6"),
        ("-p 15001 -z 15006 -i 0.0.0.0/0 -b 80 -d 81", "… -i * -b 80 --no-ipv6"),
        ("-z 15006 -u 1337 -g 1337 -t 5 -r 6 --capture-all-dns", "… --no-ipv6"),
        ("-z 15006 -m TPROXY -b 80 -t 0x5", "… -m TPROXY -b 80 -t 5 --no-ipv6"),
        ("-z 15006 -i 127.0.0.1/1", "… -i 127.0.0.1/1 --no-ipv6"),
        ("-z 15006 -i ::1", "… -i ::1/128 --no-ipv6"),
        ("-z 15006 -u 1337 -b * --ruleset 1.0", "-p 15001 -z 15006 -u 1337 -b * --ruleset 1.0"),
    ],
)
def test_the_plainer_flags_are_said(flags: str, words: str) -> None:
    usual = "-p 15001 -z 15006 -u 1337"
    assert " ".join(inferred(made(settled(*flags.split()), False)).words) == words.replace(
        "…", usual
    )


@pytest.mark.parametrize("extra", [(), ("-m", "TPROXY"), ("--ipv6", "--redirect-dns")], ids=str)
@both_kinds
def test_of_damaged_rules_the_nearest_flags_are_the_original_ones(
    native: bool, extra: tuple[str, ...]
) -> None:
    config = settled(*USUAL, "-e", "15009", *extra)
    whole = made(config, native)
    form = Form.NATIVE if native else Form.IPTABLES
    chance = random.Random(7)
    cases = [
        [changed if each is ruleset else each for each in whole]
        for ruleset in whole
        for changed in chance.sample([*damaged(ruleset)], min(25, len([*damaged(ruleset)])))
    ]
    wrong = 0
    for rulesets in cases:
        found = inferred(rulesets, native)
        if rules_of(found.config, native) != rules_of(config, native):
            there = Present(held(rulesets, native).normalized())
            away = distance(there.differences(wanted_rulesets(config, form)))
            # Other flags may explain what is there as well: a changed port is another -p.
            wrong += distance(found.differences) > away
        else:
            assert 1 <= len(found.differences) <= 2
    assert wrong == 0


def test_a_difference_is_the_rule_that_is_damaged() -> None:
    [ipv4, ipv6] = made(settled(*USUAL), False)
    nat = ipv4.table("nat")

    def with_output(rules: tuple[Rule, ...]) -> list[Ruleset]:
        chains = tuple(
            replace(chain, rules=rules) if chain.name == "ISTIO_OUTPUT" else chain
            for chain in nat.chains
        )
        return [replace(ipv4, tables=(replace(nat, chains=chains),)), ipv6]

    chain = nat.chain("ISTIO_OUTPUT")
    assert chain is not None
    rules = chain.rules
    stranger = Rule((Destination(read_network("192.0.2.7/32")),), Verdict("DROP"))
    for changed, kind, number, place in (
        ((*rules[:1], *rules[2:]), Kind.MISSING, None, 2),
        ((stranger, *rules), Kind.ADDED, 1, None),
        ((rules[1], rules[0], *rules[2:]), Kind.MOVED, 1, 2),
    ):
        [found] = inferred(with_output(changed)).differences
        assert isinstance(found, Difference)
        assert (found.kind, found.number, found.place) == (kind, number, place)
        assert (found.family, found.table, found.chain) == (Family.V4, "nat", "ISTIO_OUTPUT")


def test_nothing_is_inferred_from_rules_of_others() -> None:
    text = "*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:KUBE ACCEPT\n"
    table, _ = read_table("nat", text + "-A PREROUTING -i eth0 -j RETURN\n-A OUTPUT -j KUBE\n")
    assert infer(Held(False, {Family.V4: {"nat": table}})) is None


def test_a_foreign_rule_for_an_interface_is_no_flag() -> None:
    rulesets = made(settled(*USUAL), False)
    there = held(rulesets, False)
    nat = there.tables[Family.V4]["nat"]
    foreign = "-A PREROUTING -i eth9 -j RETURN"
    table, _ = read_table("nat", f"*nat\n:PREROUTING ACCEPT\n{foreign}\n-A PREROUTING -j ACCEPT\n")
    [prerouting] = table.chains
    chains = tuple(
        replace(chain, rules=(prerouting.rules[0], prerouting.rules[1], *chain.rules))
        if chain.name == "PREROUTING"
        else chain
        for chain in nat.chains
    )
    tables = {**there.tables, Family.V4: {"nat": replace(nat, chains=chains)}}
    found = infer(replace(there, tables=tables))
    assert found is not None and found.exact
    assert found.words == inferred(rulesets).words


@both_kinds
def test_comments_of_another_version_are_the_only_difference(native: bool) -> None:
    rulesets = made(settled(*USUAL, "--comments"), native)
    text = {
        name: table_text.replace("captured", "taken")
        for name in BUILT_IN
        for table_text in ["\n".join(_lines(rulesets[0].table(name)))]
    }
    tables = {name: read_table(name, text[name])[0] for name in BUILT_IN}
    found = infer(Held(native, {Family.V4: tables}, {Family.V4: []}))
    assert found is not None and "--comments" in found.words
    assert {each.kind for each in found.differences} == {Kind.OTHER_COMMENT}


def _lines(table: Table) -> list[str]:
    names = dict.fromkeys([*BUILT_IN[table.name], *(chain.name for chain in table.chains)])
    return [
        *(f":{name} {'ACCEPT' if name in BUILT_IN[table.name] else '-'}" for name in names),
        *(f"-A {chain.name}{rule_text(rule)}" for chain in table.chains for rule in chain.rules),
    ]


@both_kinds
def test_networks_of_interfaces_and_in_sets_are_found(native: bool) -> None:
    many = ",".join(f"10.0.{n}.0/25" for n in range(100))
    config = settled(*USUAL, "-i", many, "-k", "eth0,veth+")
    found = inferred(made(config, native), native)
    assert found.exact
    assert rules_of(found.config, native) == rules_of(config, native)


@both_kinds
def test_ten_thousand_networks_are_found(native: bool) -> None:
    many = ",".join(f"10.{n // 256}.{n % 256}.{n * 7 % 256}/32" for n in range(10_000))
    config = settled(*USUAL, "-x", many)
    assert rules_of(inferred(made(config, native), native).config, native) == rules_of(
        config, native
    )


def test_in_istio_s_native_tables_a_rule_without_an_address_is_for_both_families() -> None:
    config = settled(*USUAL)
    rulesets = wanted_rulesets(config, Form.ISTIO_NATIVE)
    assert rulesets[Family.V6].rules  # although IPv6 is not captured
    tables = {
        family: {
            name: Table(
                name,
                (
                    *(Chain(each, ()) for each in BUILT_IN[name] if not table.chain(each)),
                    *table.chains,
                ),
            )
            for name in BUILT_IN
            for table in (ruleset.table(name),)
        }
        for family, ruleset in rulesets.items()
    }
    found = infer(Held(True, tables, {family: [] for family in Family}, False))
    assert found is not None and found.exact and found.form is Form.ISTIO_NATIVE
    assert found.words == (*words_of(replace(config, backend="nft")),)
