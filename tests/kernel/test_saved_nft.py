"""What the program nft lists of a kernel is read from a file as the kernel itself is read."""

from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings

from pods import namespace
from proxy_init.kernel.nftables import snapshot, tables
from proxy_init.rules.matches import UnknownMatch
from proxy_init.rules.model import Chain, Family, Rule, Table
from proxy_init.rules.saved_text import read_saved
from proxy_init.rules.targets import UnknownTarget
from tests.running import fresh_namespace, run_in
from tests.strategies import IN_THE_KERNEL, Call, calls

LONG = ",".join(f"10.{n}.0.0/16,fd00:{n:x}::/32" for n in range(40))
LISTINGS = (("list", "ruleset"), ("-a", "list", "ruleset"), ("-a", "-s", "list", "ruleset"))

OTHERS = """
table ip mesh {
    set ports { type inet_service; elements = { 80, 443 }; }
    set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.3-192.0.2.9 }; }
    chain in {
        type filter hook input priority filter - 5; policy drop;
        tcp dport @ports counter accept
        ip daddr @nets accept
        iif "lo" accept
        ct state established,related accept
        udp sport != 53 meta skuid != 5 reject
        tcp dport 80-90 limit rate 5/second accept
        jump other
    }
    chain other { ct mark set meta mark; meta mark set 0x5; return; }
    chain nat { type nat hook output priority -100; tcp dport != { 5, 6 } redirect to :7; }
    chain post { type nat hook postrouting priority srcnat; masquerade; }
}
table inet late {
    chain c { type route hook output priority mangle; meta nfproto ipv6 oifname "e*" drop; }
}
"""


def run(name: str, *words: str) -> str:
    result = namespace.run(name, words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def in_kernel(name: str) -> Mapping[Family, Mapping[str, Table]]:
    """The tables of a namespace by their titles, as the program itself reads them."""

    def read() -> Mapping[Family, Mapping[str, Table]]:
        there = tables.read(everything=True)
        return {
            family: {each.title: each.table for each in snapshot.walkable(there, family)}
            for family in Family
        }

    return namespace.call(name, read)


def known(tables: Mapping[str, Table]) -> Mapping[str, Table]:
    """Tables whose unknown parts are only named as such, since each reader has its own words."""

    def alike(rule: Rule) -> Rule:
        unknown = UnknownMatch("?", ())
        matches = dict.fromkeys(
            unknown if isinstance(match, UnknownMatch) else match for match in rule.matches
        )
        target = UnknownTarget("?") if isinstance(rule.target, UnknownTarget) else rule.target
        return Rule(matches, target)

    return {
        title: Table(
            table.name,
            tuple(
                Chain(chain.name, tuple(map(alike, chain.rules)), policy=chain.policy)
                for chain in table.chains
            ),
        )
        for title, table in tables.items()
    }


@settings(IN_THE_KERNEL, max_examples=25)
@given(calls())
@example(Call(("-i", LONG, "-x", LONG, "-b", "*", "--ipv6", "-c", "eth+,é", "--comments")))
@example(Call(("-b", "*", "-m", "TPROXY", "--drop-invalid", "--ipv6", "--comments")))
@example(Call(("--ruleset", "1.0", "-b", "*", "-m", "TPROXY")))
def test_our_own_tables(call: Call) -> None:
    with fresh_namespace() as name:
        result = run_in(name, *call.flags, "--backend", "nft", environ=call.environ)
        assert result.status == 0, result.stderr
        there = in_kernel(name)
        for words in LISTINGS:
            listed = run(name, "nft", *words)
            if listed:
                saved = read_saved(listed)
                assert {family: each.tables for family, each in saved.items()} == there


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_tables_of_others(fresh: str, words: tuple[str, ...]) -> None:
    run(fresh, "nft", OTHERS)
    there = in_kernel(fresh)
    saved = read_saved(run(fresh, "nft", *words))
    assert [*saved] == [*Family]
    for family in Family:
        assert known(saved[family].tables) == known(there[family])
