"""Reading iptables-save text back."""

from hypothesis import example, given
from hypothesis import strategies as st

from proxy_init.config.config import settle
from proxy_init.rules.counts import Count
from proxy_init.rules.iptables_save import table_text
from proxy_init.rules.iptables_save_parser import read_table
from proxy_init.rules.matches import Comment, UnknownMatch
from proxy_init.rules.model import BUILT_IN, Chain, Family, Rule, Table
from proxy_init.rules.targets import ACCEPT
from proxy_init.rulesets import build
from tests.strategies import Call, calls

from .fakes import bounded, read

# As iptables-nft-save 1.8.9 and iptables-legacy-save 1.8.9 print them.
FOREIGN = """\
-A INPUT -m state --state ESTABLISHED -j ACCEPT
-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p gre -j DROP
-A INPUT ! -p tcp -j DROP
-A INPUT ! -s 10.0.0.0/8 ! -i eth+ -o lo -p tcp -m tcp --sport 5 --dport 1:100 -j DROP
-A INPUT -p tcp -m tcp --tcp-flags SYN,RST SYN -j DROP
-A INPUT -p tcp -m tcp ! --tcp-flags SYN,RST SYN -j DROP
-A INPUT -m limit --limit 5/min -j LOG --log-prefix "hi there "
-A INPUT -m limit --limit 5/min -j LOG --log-prefix -j --log-level 7
-A INPUT -m mark --mark 0x1/0xff -j DROP
-A INPUT -m connmark ! --mark 0x539 -j DROP
-A INPUT -m comment --comment "a \\"b\\" \\'c\\' \\\\ d"
-A INPUT -m comment --comment ""
-A INPUT -m comment --comment -j -j ACCEPT
-A INPUT -m comment --comment --mark -j ACCEPT
-A INPUT -m comment --comment "! -j \u2028 --x" -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 8 -j DROP
-A INPUT -p tcp -m tcp
-A INPUT -p udp -m udp -j NFLOG --nflog-group 3
-A INPUT -m physdev --physdev-in eth0 -j DROP
-A INPUT -m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x18=0x0" -j DROP
-A INPUT -m string --string "a \\"b" --algo bm -j DROP
-A INPUT -m recent --set --name x --mask 255.255.255.255 --rsource -j DROP
-A INPUT -m set ! --match-set foo src,dst -g THEIRS
-A INPUT -m owner --uid-owner 1000-2000 -j THEIRS
-A INPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xffffffff
"""
TEXT = f"""\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:THEIRS - [0:0]
{FOREIGN}COMMIT
"""


def test_foreign_rules_keep_their_spelling() -> None:
    table, counts = read_table("filter", TEXT)
    assert table_text(table) == TEXT
    assert counts["INPUT"] == (Count(0, 0),) * FOREIGN.count("\n")


@bounded
@given(calls())
@example(Call(("-i", "*", "-b", "*", "--comments", "--ipv6", "-m", "TPROXY", "--redirect-dns")))
def test_what_we_print_is_read_back_as_it_was(call: Call) -> None:
    config = settle(read(*call.flags, **call.environ), [])
    for family in Family:
        for wanted in build(config, family).tables:
            printed = table_text(wanted)
            table, _ = read_table(wanted.name, printed)
            assert table_text(table) == printed
            for chain in wanted.chains:
                found = table.chain(chain.name)
                assert found is not None and found.rules == chain.rules
            assert {chain.name for chain in wanted.chains} | set(BUILT_IN[wanted.name]) == {
                chain.name for chain in table.chains
            }


@bounded
@given(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=40))
@example("comment")
@example("--comment")
@example("-j")
@example("!")
def test_any_comment_is_read_back(text: str) -> None:
    rule = Rule((Comment(text),), ACCEPT)
    table = Table("filter", (Chain("INPUT", (rule,), policy="ACCEPT"),))
    read_back, _ = read_table("filter", table_text(table))
    assert read_back.chains[0].rules == (rule,)


def test_counts_are_read_where_they_are_printed() -> None:
    text = (
        "*nat\n:OUTPUT ACCEPT [7:8]\n[1:60] -A OUTPUT -p tcp\n[2:120] -A OUTPUT -j RETURN\nCOMMIT\n"
    )
    table, counts = read_table("nat", text)
    assert counts == {"OUTPUT": (Count(1, 60), Count(2, 120))}
    assert table.chains[0].policy == "ACCEPT"


def test_a_mask_that_is_no_prefix_is_kept_apart() -> None:
    text = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -s 10.0.0.0/255.0.255.0\nCOMMIT\n"
    (rule,) = read_table("nat", text)[0].chains[0].rules
    assert isinstance(rule.matches[0], UnknownMatch)
