"""Rules of any kind as iptables-save prints them."""

import pytest

from proxy_init.rules.iptables_save import rule_text, ruleset_text, table_text
from proxy_init.rules.matches import (
    Comment,
    Destination,
    InInterface,
    OutInterface,
    Protocol,
    Source,
    UnknownMatch,
)
from proxy_init.rules.model import Chain, Family, Rule, Ruleset, Table
from proxy_init.rules.networks import read_network
from proxy_init.rules.options import Option
from proxy_init.rules.targets import ACCEPT, RETURN, Goto, Jump, UnknownTarget

V4, V6 = read_network("10.0.0.0/8"), read_network("fd00::/8")


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("192.0.2.1/32", "192.0.2.1/32"),
        ("fd00::/8", "fd00::/8"),
        ("::1/128", "::1/128"),
        ("::7f00:35/128", "::127.0.0.53/128"),
        ("::ffff:192.0.2.1/128", "::ffff:192.0.2.1/128"),
        ("2001:db8:0:1:0:0:0:1/128", "2001:db8:0:1::1/128"),
    ],
)
def test_networks_are_spelled_as_the_c_library_does(network: str, text: str) -> None:
    assert str(read_network(network)) == text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule((), RETURN), " -j RETURN"),
        (Rule((), UnknownTarget("")), ""),
        (Rule((Protocol("tcp"),), UnknownTarget("")), " -p tcp"),
        (Rule((), Goto("KUBE")), " -g KUBE"),
        (Rule((Protocol("udp", negated=True),), Jump("KUBE")), " ! -p udp -j KUBE"),
        (
            Rule((Source(V4, True), Destination(V6), InInterface("a+", True)), ACCEPT),
            " ! -s 10.0.0.0/8 -d fd00::/8 ! -i a+ -j ACCEPT",
        ),
        (Rule((OutInterface("eth0"),), ACCEPT), " -o eth0 -j ACCEPT"),
        (
            Rule(
                (UnknownMatch("socket", (Option("transparent"), Option("x", "1", True))),), RETURN
            ),
            " -m socket --transparent ! --x 1 -j RETURN",
        ),
        (Rule((UnknownMatch("socket", ()),), RETURN), " -m socket -j RETURN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_are_spelled_as_iptables_save_does(rule: Rule, text: str) -> None:
    assert rule_text(rule) == text


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("one_word-2", "one_word-2"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a.b", '"a.b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("it's", '"it\\\'s"'),
        ("back\\slash", '"back\\\\slash"'),
    ],
)
def test_comments_are_quoted_as_iptables_save_does(comment: str, text: str) -> None:
    assert rule_text(Rule((Comment(comment),), RETURN)) == f" -m comment --comment {text} -j RETURN"


def test_policies_are_printed_and_own_chains_sorted() -> None:
    chains = (
        Chain("ISTIO_OUT", (Rule((), RETURN),)),
        Chain("ISTIO_IN_B", (Rule((), RETURN),)),
        Chain("ISTIO_INB", (Rule((), RETURN),)),
        Chain("INPUT", (), policy="DROP"),
    )
    assert table_text(Table("filter", chains)) == (
        "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        ":ISTIO_INB - [0:0]\n:ISTIO_IN_B - [0:0]\n:ISTIO_OUT - [0:0]\n"
        "-A ISTIO_INB -j RETURN\n-A ISTIO_IN_B -j RETURN\n-A ISTIO_OUT -j RETURN\nCOMMIT\n"
    )


def test_tables_are_in_the_order_in_which_packets_traverse_them() -> None:
    names = ["filter", "nat", "raw", "mangle"]
    tables = tuple(Table(name, (Chain("OUTPUT", (Rule((), RETURN),)),)) for name in names)
    text = ruleset_text(Ruleset(Family.V4, tables))
    headings = [line for line in text.splitlines() if line.startswith("*")]
    assert headings == ["*raw", "*mangle", "*nat", "*filter"]
    assert ruleset_text(Ruleset(Family.V4)) == ""
