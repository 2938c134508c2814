"""The text of the program nft, parsed: ours gives the same rules, others' are never less."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.errors import BadCall
from proxy_init.rules.inet_tables import BOTH
from proxy_init.rules.iptables_save import rule_text
from proxy_init.rules.matches import ConntrackState, DestinationSet, Source, UnknownMatch
from proxy_init.rules.model import Family, Rule, Ruleset, Table
from proxy_init.rules.native_tables import met
from proxy_init.rules.networks import read_network
from proxy_init.rules.nftables_parser import NotNft, read_tables
from proxy_init.rules.nftables_text import rulesets_text
from proxy_init.rules.targets import ACCEPT, DROP, UnknownTarget
from proxy_init.rulesets import build
from tests.strategies import Call, calls

from .fakes import BARE_MACHINE, bounded


def wanted(call: Call) -> list[Ruleset]:
    """What random flags want of nf_tables."""
    try:
        config = read_config((*call.flags, "--backend", "nft"), call.environ, BARE_MACHINE)
    except BadCall:
        assume(False)
        raise
    return [build(settle(config, ()), family) for family in Family]


def rules_of(tables: list[Table]) -> dict[tuple[str, str], tuple[Rule, ...]]:
    return {(t.name, c.name): c.rules for t in tables for c in t.chains if c.rules}


LONG = ",".join(f"10.{n}.0.0/16,fd00:{n:x}::/32" for n in range(40))


@bounded
@given(calls())
@example(Call(("-i", LONG, "-x", LONG, "-b", "*", "--ipv6", "-c", "eth+,é,a\\*", "--comments")))
@example(Call(("-b", "*", "-m", "TPROXY", "--drop-invalid", "--ipv6", "--comments")))
def test_what_is_printed_is_parsed_as_the_same_rules(call: Call) -> None:
    rulesets = wanted(call)
    tables = read_tables(rulesets_text(rulesets))
    for ruleset in rulesets:
        found = met(tables, ruleset.family)
        assert rules_of([each.table for each in found]) == rules_of([*ruleset.tables])
        assert all(each.is_ours for each in found)


def chain(rules: str, before: str = "", family: str = "inet") -> list[Rule]:
    """The rules of IPv4 of one chain."""
    text = (
        f"table {family} t {{\n{before}\n\tchain other {{\n\t}}\n\n\tchain c {{\n{rules}\n\t}}\n}}"
    )
    (table,) = read_tables(text)
    (found,) = (each for each in table.chains if each.name == "c")
    return [each.rule for each in found.rules if Family.V4 in each.families]


@pytest.mark.parametrize(
    ("text", "as_iptables"),
    [
        ("counter packets 5 bytes 300 accept # handle 7", " -j ACCEPT"),
        ("counter drop", " -j DROP"),
        ("meta l4proto tcp skuid 7  counter return", " -p tcp -m owner --uid-owner 7 -j RETURN"),
        ("meta l4proto 6 return", " -p tcp -j RETURN"),
        ('iif "lo" accept', " -i lo -j ACCEPT"),
        ("tcp dport { 80, 443 } accept", " -p tcp -m multiport --dports 80,443 -j ACCEPT"),
        ("tcp dport != { 80,443 } accept", " -p tcp -m multiport ! --dports 80,443 -j ACCEPT"),
        ("ct state { new, related } drop", " -m conntrack --ctstate NEW,RELATED -j DROP"),
        ("meta mark set 5", " -j MARK --set-xmark 0x5/0xffffffff"),
        ("reject", " -j REJECT --reject-with icmpx-port-unreachable"),
        ("log prefix \"a b\" level warn accept", " -j ACCEPT"),
        ("goto other", " -g other"),
        ("tcp dport 80 \\\n accept", " -p tcp -m tcp --dport 80 -j ACCEPT"),
    ],
)  # fmt: skip
def test_spellings_of_other_programs_and_options(text: str, as_iptables: str) -> None:
    assert [rule_text(rule) for rule in chain(text)] == [as_iptables]


SETS = """
    set nets {
        type ipv4_addr
        flags interval
        comment "two, of \\"these\\""
        elements = { 10.0.0.0/8 counter packets 0 bytes 0,
                 192.168.0.0-192.168.3.7 comment "a, b" }
    }
    set changing {
        type ipv4_addr
        flags dynamic,timeout
        elements = { 10.0.0.1 timeout 1h expires 59m }
    }
    map verdicts {
        type inet_service : verdict
        elements = { 80 : accept, 443 : jump other }
    }
""".replace('\\"', "'")


def test_sets_are_read_with_what_stands_beside_their_elements() -> None:
    (rule,) = chain("ip daddr @nets accept", SETS)
    (match,) = rule.matches
    assert isinstance(match, DestinationSet)
    first, second = match.ranges
    assert first == (10 << 24, (11 << 24) - 1)
    assert second[1] - second[0] == 3 * 256 + 7


@pytest.mark.parametrize(
    "unknown",
    [
        "ip daddr @changing",
        "ip daddr @nowhere",
        "ip saddr @nets",
        "ip saddr { 10.0.0.1, 10.0.0.2 }",
        "ip daddr != @nets",
        "tcp dport 80-90",
        "tcp dport > 1023",
        "tcp dport { 80-90 }",
        "ip daddr . tcp dport { 1.1.1.1 . 80 }",
        "ip daddr & 255.0.255.0 == 10.0.1.0",
        "meta mark & 0xff == 0x1",
        "meta mark and 0xff == 0x1",
        "meta skuid { 5, 6 }",
        "meta l4proto { tcp, udp }",
        "tcp flags syn / fin,syn,rst,ack",
        "ct state != invalid",
        "ct state 0x2",
        "fib daddr type local",
        "limit rate 5/second burst 5 packets",
        "xt match socket",
        "something new",
    ],
)
def test_a_test_that_is_unknown_may_hold(unknown: str) -> None:
    for rule in (*chain(f"{unknown} accept", SETS), *chain(f"{unknown} counter accept", SETS)):
        assert rule.target == ACCEPT
        assert any(isinstance(match, UnknownMatch) for match in rule.matches), rule


def test_what_is_known_beside_an_unknown_test_is_kept() -> None:
    (rule,) = chain("ip saddr 10.0.0.1 tcp dport 80-90 ct state new limit rate 1/day drop")
    assert Source(read_network("10.0.0.1")) in rule.matches
    assert ConntrackState(("NEW",)) in rule.matches
    assert rule.target == DROP


@pytest.mark.parametrize(
    "text",
    [
        "dnat ip to 1.2.3.4:80",
        "redirect",
        "redirect to :80-90",
        "redirect to :15001 random",
        "tproxy to 127.0.0.1:15006",
        "queue to 3",
        "meta mark set meta mark | 0x1",
        "meta mark set meta mark and 0xffffff00",
        "ct mark set meta mark & 0xff",
        "notrack",
        "meta mark set 0x1 accept",
        "xt target TPROXY",
        "something new",
    ],
)
def test_a_statement_that_is_unknown_may_be_the_last(text: str) -> None:
    (rule,) = chain(text)
    assert isinstance(rule.target, UnknownTarget) and rule.target.name


@pytest.mark.parametrize("value", ["{ 80 : accept, 443 : jump other, 90 : drop }", "@verdicts"])
def test_a_map_of_verdicts_may_give_each_of_them(value: str) -> None:
    rules = chain(f"tcp dport vmap {value}", SETS)
    assert {"ACCEPT", "other"} <= {rule.target.name for rule in rules}
    assert all(any(isinstance(m, UnknownMatch) for m in rule.matches) for rule in rules)


def test_families_are_those_of_the_table_and_of_the_addresses() -> None:
    of_ipv6 = ("ip6 daddr ::1 drop", "meta nfproto ipv6 drop", "reject with icmpv6 no-route")
    assert len(chain("\n".join(("ip daddr 1.2.3.4 drop", *of_ipv6)))) == 1
    assert len(chain("drop", family="ip")) == 1
    assert len(chain("drop", family="ip6")) == 0


def test_dormant_tables_and_those_of_other_families_hold_nothing_that_packets_meet() -> None:
    base = "chain c { type filter hook output priority 0; drop; }"
    text = f"table inet t {{ flags dormant; {base} }}\ntable arp t {{ {base} }}\n"
    tables = read_tables(text)
    assert [table.families for table in tables] == [BOTH]
    assert met(tables, Family.V4) == []


@pytest.mark.parametrize(
    ("hook", "slot"),
    [
        ("type filter hook output priority raw + 5", "raw"),
        ("type filter hook output priority -200", "raw"),
        ("type route hook output priority mangle", "mangle"),
        ("type nat hook output priority dstnat - 1", "nat"),
        ("type filter hook input priority filter", "filter"),
        ("type filter hook output priority security", "filter"),
    ],
)
def test_a_base_chain_is_met_in_the_order_of_its_priority(hook: str, slot: str) -> None:
    tables = read_tables(f"table ip t {{\nchain c {{\n{hook}; policy drop;\n}}\n}}")
    (found,) = met(tables, Family.V4)
    assert found.table.name == slot and not found.is_ours
    assert [each.policy for each in found.table.chains] == ["DROP"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "line 1: not a line of `nft list`: 'nonsense'"),
        ("table inet t {", "line 1: the block of 'table inet t' does not end"),
        ("table inet t {\n}\n}\n", "line 3: there is no block that this } ends"),
        ("table inet t {\n\tchain c {\n\t\tjump d\n\t}\n}\n", "line 3: the table has no chain 'd'"),
        ("table inet t {\n}\ntable inet t {\n}\n", "line 3: the table inet t is repeated"),
        ("table inet t {\n\twhat c {\n\t}\n}\n", "line 2: not a line of `nft list`: 'what c'"),
        ("table inet t {\nchain c {\ntype x hook y priority z\n}\n}", "line 3: not a line of"),
        ('table inet t {\nchain c {\niifname "eth\n}\n}', "line 3: not a line of"),
        ("add rule inet t c drop\n", "line 1: not a line of `nft list`: 'add rule inet t c drop'"),
        ("table qnet t {\n}\n", "line 1: not a line of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(NotNft) as raised:
        read_tables(text)
    assert said in str(raised.value)


@bounded
@given(st.data())
def test_damaged_text_is_refused_or_read(data: st.DataObject) -> None:
    """Never anything but NotNft is raised."""
    text = rulesets_text(wanted(data.draw(calls())))
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 20))
    put = data.draw(
        st.sampled_from(["", "{", "}", '"', ";", "\n", " set ", "@x", "!= ", "\0", "-"])
    )
    try:
        read_tables(text[:at] + put + text[at + length :])
    except NotNft as error:
        assert str(error).startswith("line ")
