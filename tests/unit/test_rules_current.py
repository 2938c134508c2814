"""The rule set `current`, as iptables-save would print it. Written from the rules' description."""

from textwrap import dedent

import pytest

from proxy_init.rules.iptables_save import ruleset_text
from proxy_init.rules.matches import Protocol
from proxy_init.rules.model import BUILT_IN, Family, Ruleset
from proxy_init.rules.targets import Jump
from proxy_init.rulesets import build

from .fakes import settled

both_families = pytest.mark.parametrize("family", Family, ids=lambda family: family.title)

NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
"""


def nat(rules: str) -> str:
    """The text of a nat table that holds these rules and all of our chains."""
    return f"{NAT}{dedent(rules)}COMMIT\n"


def ruleset(*argv: str, family: Family = Family.V4, **environ: str) -> Ruleset:
    return build(settled(*argv, **environ), family)


def text(*argv: str, family: Family = Family.V4, **environ: str) -> str:
    return ruleset_text(ruleset(*argv, family=family, **environ))


def chain(name: str, *argv: str, family: Family = Family.V4, **environ: str) -> list[str]:
    """The rules of one chain of the nat table."""
    prefix = f"-A {name} "
    lines = text(*argv, family=family, **environ).splitlines()
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def test_the_usual_arguments() -> None:
    argv = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", ""]
    argv += ["-b", "*", "-d", "15090,15021,15020"]
    assert text(*argv) == (
        "*nat\n"
        ":PREROUTING ACCEPT [0:0]\n"
        ":INPUT ACCEPT [0:0]\n"
        ":OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n"
        ":ISTIO_INBOUND - [0:0]\n"
        ":ISTIO_IN_REDIRECT - [0:0]\n"
        ":ISTIO_OUTPUT - [0:0]\n"
        ":ISTIO_REDIRECT - [0:0]\n"
        "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
        "-A OUTPUT -j ISTIO_OUTPUT\n"
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN\n"
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN\n"
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN\n"
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN\n"
        "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n"
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n"
        "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN\n"
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008"
        " -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT\n"
        "-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008"
        " -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT\n"
        "-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n"
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
        "COMMIT\n"
    )


def test_nothing_asked_for_still_exempts_the_proxy_and_the_loopback() -> None:
    # Without -b no inbound jump; without -i nothing outbound is captured.
    assert text() == nat(
        """\
        -A OUTPUT -j ISTIO_OUTPUT
        -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
        -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001
        -A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
        -A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
        -A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
        -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
        -A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
        -A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
        -A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
        -A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
        -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
        """  # noqa: E501
    )


def test_ipv6_has_the_same_rules_with_its_own_addresses() -> None:
    argv = ["--ipv6", "-z", "15006", "-u", "5", "-i", "*", "-b", "80"]
    argv += ["-x", "10.0.0.0/8,fd00:0::1/8,::127.0.0.53"]
    assert text(*argv, family=Family.V6) == nat(
        """\
        -A PREROUTING -p tcp -j ISTIO_INBOUND
        -A OUTPUT -j ISTIO_OUTPUT
        -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
        -A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT
        -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
        -A ISTIO_OUTPUT -s ::6/128 -o lo -j RETURN
        -A ISTIO_OUTPUT ! -d ::1/128 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 5 -j ISTIO_IN_REDIRECT
        -A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 5 -j RETURN
        -A ISTIO_OUTPUT -m owner --uid-owner 5 -j RETURN
        -A ISTIO_OUTPUT ! -d ::1/128 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 5 -j ISTIO_IN_REDIRECT
        -A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 5 -j RETURN
        -A ISTIO_OUTPUT -m owner --gid-owner 5 -j RETURN
        -A ISTIO_OUTPUT -d ::1/128 -j RETURN
        -A ISTIO_OUTPUT -d fd00::/8 -j RETURN
        -A ISTIO_OUTPUT -d ::127.0.0.53/128 -j RETURN
        -A ISTIO_OUTPUT -j ISTIO_REDIRECT
        -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
        """  # noqa: E501
    )
    assert "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j RETURN\n" in text(*argv)
    assert "fd00" not in text(*argv)


def test_without_ipv6_nothing_is_built_for_it() -> None:
    assert ruleset("-i", "*", "-b", "*", family=Family.V6) == Ruleset(Family.V6)
    assert text("-i", "*", "--drop-invalid", family=Family.V6) == ""


# Inbound.


def test_a_list_of_inbound_ports_is_captured_and_nothing_else() -> None:
    assert chain("ISTIO_INBOUND", "-b", "8080,80") == [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT",
        "-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT",
    ]


def test_excluded_inbound_ports_count_only_where_all_are_captured() -> None:
    assert chain("ISTIO_INBOUND", "-b", "8080", "-d", "22") == [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT",
    ]
    assert chain("ISTIO_INBOUND", "-d", "22") == ["-p tcp -m tcp --dport 15008 -j RETURN"]


@both_families
def test_the_tunnel_port_is_exempt_inbound_and_from_the_proxy_to_itself(family: Family) -> None:
    argv = ["--ipv6", "-e", "9008", "-u", "5", "-g", "6", "-b", "*"]
    loopback = {Family.V4: "127.0.0.1/32", Family.V6: "::1/128"}[family]
    assert chain("ISTIO_INBOUND", *argv, family=family) == [
        "-p tcp -m tcp --dport 9008 -j RETURN",
        "-p tcp -j ISTIO_IN_REDIRECT",
    ]
    to_itself = f"! -d {loopback} -o lo -p tcp -m tcp ! --dport 9008 -m owner"
    output = chain("ISTIO_OUTPUT", *argv, family=family)
    assert [rule for rule in output if "dport" in rule] == [
        f"{to_itself} --uid-owner 5 -j ISTIO_IN_REDIRECT",
        f"{to_itself} --gid-owner 6 -j ISTIO_IN_REDIRECT",
    ]
    assert "15008" not in text(*argv, family=family)


# Outbound.


def test_a_list_of_networks_with_a_loopback_address_captures_calls_to_oneself() -> None:
    # Without the rules that let the application's own loopback traffic out.
    argv = ["-z", "15006", "-u", "1337", "-i", "10.0.0.5/8,127.9.9.9", "-x", "10.1.0.0/16"]
    assert chain("ISTIO_OUTPUT", *argv) == [
        "-s 127.0.0.6/32 -o lo -j RETURN",
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008"
        " -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-m owner --uid-owner 1337 -j RETURN",
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008"
        " -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-m owner --gid-owner 1337 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.1.0.0/16 -j RETURN",
        "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "-d 127.9.9.9/32 -j ISTIO_REDIRECT",
    ]


@both_families
@pytest.mark.parametrize("named", ["127.0.0.1", "::1"])
def test_a_loopback_address_of_either_family_counts_for_both(named: str, family: Family) -> None:
    output = chain("ISTIO_OUTPUT", "--ipv6", "-i", f"10.0.0.0/8,{named}", family=family)
    assert not any("! --uid-owner" in rule or "! --gid-owner" in rule for rule in output)


def test_several_users_and_groups_each_have_their_rules_in_the_order_given() -> None:
    loopback = "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner"
    expected = ["-s 127.0.0.6/32 -o lo -j RETURN"]
    for owner in ("--uid-owner 1337", "--uid-owner 0", "--gid-owner 7", "--gid-owner 5"):
        expected += [
            f"{loopback} {owner} -j ISTIO_IN_REDIRECT",
            f"-o lo -m owner ! {owner} -j RETURN",
            f"-m owner {owner} -j RETURN",
        ]
    expected += ["-d 127.0.0.1/32 -j RETURN"]
    assert chain("ISTIO_OUTPUT", "-u", "1337,0", "-g", "7,5") == expected


def test_ports_are_excluded_first_and_captured_before_networks() -> None:
    output = chain(
        "ISTIO_OUTPUT", "-o", "53,123", "-q", "443,80", "-i", "10.0.0.0/8", "-x", "10.0.0.1"
    )
    assert output[:5] == [
        "-p tcp -m tcp --dport 53 -j RETURN",
        "-p udp -m udp --dport 53 -j RETURN",
        "-p tcp -m tcp --dport 123 -j RETURN",
        "-p udp -m udp --dport 123 -j RETURN",
        "-s 127.0.0.6/32 -o lo -j RETURN",
    ]
    assert output[-5:] == [
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.0.0.1/32 -j RETURN",
        "-p tcp -m tcp --dport 443 -j ISTIO_REDIRECT",
        "-p tcp -m tcp --dport 80 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
    ]
    assert len(output) == 5 + 6 + 5


@both_families
def test_a_network_of_all_addresses_is_a_rule_without_a_destination(family: Family) -> None:
    output = chain("ISTIO_OUTPUT", "--ipv6", "-i", "0.0.0.0/0,::/0", family=family)
    assert output[-1] == "-j ISTIO_REDIRECT"
    excluded = chain("ISTIO_OUTPUT", "--ipv6", "-x", "0.0.0.0/0,::/0", family=family)
    assert excluded[-1] == "-j RETURN"


def test_owner_groups_stand_between_the_proxy_s_rules_and_the_loopback() -> None:
    proxy, loopback = "-m owner --gid-owner 1337 -j RETURN", "-d 127.0.0.1/32 -j RETURN"
    output = chain("ISTIO_OUTPUT", "-i", "*", ISTIO_OUTBOUND_OWNER_GROUPS="202,203")
    assert output[-4:] == [
        proxy,
        "-m owner ! --gid-owner 202 -m owner ! --gid-owner 203 -j RETURN",
        loopback,
        "-j ISTIO_REDIRECT",
    ]
    output = chain("ISTIO_OUTPUT", ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="202,203")
    assert output[-4:] == [
        proxy,
        "-m owner --gid-owner 202 -j RETURN",
        "-m owner --gid-owner 203 -j RETURN",
        loopback,
    ]
    assert chain("ISTIO_OUTPUT", ISTIO_OUTBOUND_OWNER_GROUPS="*")[-2:] == [proxy, loopback]


def test_64_owner_groups_are_one_rule() -> None:
    groups = ",".join(str(4294967294 - n) for n in range(64))
    [rule] = [
        rule
        for rule in chain("ISTIO_OUTPUT", ISTIO_OUTBOUND_OWNER_GROUPS=groups)
        if "4294967294" in rule
    ]
    assert rule.count("-m owner ! --gid-owner ") == 64


def test_the_loopback_network_of_ipv4_may_be_widened() -> None:
    argv = ["--ipv6", "-u", "5", "-i", "*"]
    config = settled(*argv, ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR="127.0.0.1/8")
    assert ruleset_text(build(config, Family.V4)) == text(*argv).replace(
        "127.0.0.1/32", "127.0.0.0/8"
    )
    assert build(config, Family.V6) == ruleset(*argv, family=Family.V6)


# Interfaces.


def test_excluded_interfaces_come_first_in_both_directions() -> None:
    argv = ["-c", "eth1,net+", "-b", "*"]
    assert chain("PREROUTING", *argv) == [
        "-i eth1 -j RETURN",
        "-i net+ -j RETURN",
        "-p tcp -j ISTIO_INBOUND",
    ]
    assert chain("OUTPUT", *argv) == [
        "-o eth1 -j RETURN",
        "-o net+ -j RETURN",
        "-j ISTIO_OUTPUT",
    ]
    assert ruleset(*argv).table("nat").chain("PREROUTING") == ruleset(*argv).table("nat").chains[0]
    assert ruleset(*argv).table("nat").chains[0].top == 0


def test_virtual_interfaces_stand_above_all_the_last_one_uppermost() -> None:
    argv = ["-k", "tap0,tap1", "-i", "*", "-b", "*", "-c", "eth1"]
    assert chain("PREROUTING", *argv) == [
        "-i tap1 -j ISTIO_REDIRECT",
        "-i tap0 -j ISTIO_REDIRECT",
        "-i tap1 -j RETURN",
        "-i tap0 -j RETURN",
        "-i eth1 -j RETURN",
        "-p tcp -j ISTIO_INBOUND",
    ]
    assert chain("OUTPUT", *argv) == ["-o eth1 -j RETURN", "-j ISTIO_OUTPUT"]
    [prerouting] = [c for c in ruleset(*argv).table("nat").chains if c.name == "PREROUTING"]
    assert prerouting.top == 4


def test_virtual_interfaces_with_a_list_capture_each_network_of_the_family() -> None:
    argv = ["--ipv6", "-k", "tap0,tap1", "-i", "10.0.0.0/8,fd00::/8,192.0.2.0/24"]
    assert chain("PREROUTING", *argv) == [
        "-d 192.0.2.0/24 -i tap1 -j ISTIO_REDIRECT",
        "-d 192.0.2.0/24 -i tap0 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -i tap1 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -i tap0 -j ISTIO_REDIRECT",
        "-i tap1 -j RETURN",
        "-i tap0 -j RETURN",
    ]
    assert chain("PREROUTING", *argv, family=Family.V6) == [
        "-d fd00::/8 -i tap1 -j ISTIO_REDIRECT",
        "-d fd00::/8 -i tap0 -j ISTIO_REDIRECT",
        "-i tap1 -j RETURN",
        "-i tap0 -j RETURN",
    ]


def test_virtual_interfaces_are_not_captured_inbound_even_if_nothing_is_captured_outbound() -> None:
    assert chain("PREROUTING", "-k", "tap0", "-b", "*") == [
        "-i tap0 -j RETURN",
        "-p tcp -j ISTIO_INBOUND",
    ]


# The mangle table.


@both_families
def test_invalid_packets_are_dropped_before_they_pass_nat_by(family: Family) -> None:
    mangle = (
        "*mangle\n"
        ":PREROUTING ACCEPT [0:0]\n"
        ":INPUT ACCEPT [0:0]\n"
        ":FORWARD ACCEPT [0:0]\n"
        ":OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n"
        ":ISTIO_DROP - [0:0]\n"
        "-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP\n"
        "-A ISTIO_DROP -j DROP\n"
        "COMMIT\n"
    )
    nat_alone = text("--ipv6", "-b", "*", family=family)
    assert text("--ipv6", "-b", "*", "--drop-invalid", family=family) == mangle + nat_alone


def test_the_mangle_table_is_left_alone_otherwise() -> None:
    assert [table.name for table in ruleset("-i", "*", "-b", "*").tables] == ["nat"]


# Reasons and comments.

CALLS = {
    "usual": "-z 15006 -i * -b * -d 15090,15021",
    "bare": "",
    "lists": "-i 10.0.0.0/8,fd00::/8,127.0.0.1,::1 -x 10.1.0.0/16,fd12::/16 -b 80,443",
    "ports": "-i * -b * -d 22 -o 53,123 -q 80,81",
    "owners": "-i * -u 1337,0,4294967294 -g 1338,4294967294",
    "interfaces": "-c eth1,net+ -k tap0,tap1 -i 10.0.0.0/8,10.1.0.0/16,fd00::/8,fe00::/8 -b *",
    "interfaces-all": "-c eth1,net+ -k tap0,tap1 -i * -b *",
    "odd-names": "-k ifname-of-15-ch,ééééééé,a`$(b);|#{} -c é@\x1b -i 2001:db8:1111:2222::/64",
    "drop-invalid": "--drop-invalid -b *",
}
GROUPS: dict[str, dict[str, str]] = {
    "": {},
    "-included": {
        "ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(str(4294967294 - n) for n in range(64)),
    },
    "-excluded": {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "5,6"},
}
each_ruleset = pytest.mark.parametrize(
    "rules",
    [
        pytest.param(
            build(settled("--ipv6", *argv.split(), **groups), family),
            id=f"{name}{suffix}-{family.title}",
        )
        for name, argv in CALLS.items()
        for suffix, groups in GROUPS.items()
        for family in Family
    ],
)


@each_ruleset
def test_every_rule_has_a_reason_that_fits_a_kernel_comment(rules: Ruleset) -> None:
    for rule in rules.rules:
        assert 1 <= len(rule.why.encode()) <= 255  # 256 with the final zero byte
        assert not set(rule.why) & set("\"'\\\n\t")
        assert rule.why == rule.why.strip()


@each_ruleset
def test_reasons_tell_the_rules_of_a_chain_apart(rules: Ruleset) -> None:
    # But for the two protocols of an excluded port, which go together.
    for table in rules.tables:
        for chain in table.chains:
            reasons = [
                (rule.why, *(match for match in rule.matches if isinstance(match, Protocol)))
                for rule in chain.rules
            ]
            assert len(set(reasons)) == len(reasons)


@each_ruleset
def test_chains_exist_only_with_rules_and_jumps_only_to_chains(rules: Ruleset) -> None:
    for table in rules.tables:
        assert table.chains
        assert len({chain.name for chain in table.chains}) == len(table.chains)
        for chain in table.chains:
            assert chain.rules
            assert chain.name.startswith("ISTIO_") or chain.name in BUILT_IN[table.name]
            for rule in chain.rules:
                if isinstance(rule.target, Jump):
                    assert table.chain(rule.target.name) is not None


@both_families
def test_comments_carry_the_reason_and_change_nothing_else(family: Family) -> None:
    argv = ["--ipv6", "-i", "10.0.0.0/8", "-b", "*", "-d", "22", "-c", "eth1", "--drop-invalid"]
    plain = ruleset(*argv, family=family)
    commented = text(*argv, "--comments", family=family)
    for rule in plain.rules:
        comment = f' -m comment --comment "{rule.why}"'
        assert comment in commented
        commented = commented.replace(comment, "")
    assert commented == ruleset_text(plain)
    reasons = [rule.why for rule in plain.rules]
    assert [rule.why for rule in ruleset(*argv, "--comments", family=family).rules] == reasons


def test_mode_none_wants_nothing_in_the_kernel() -> None:
    # A dry run prints what would be there afterwards: nothing.
    for family in Family:
        assert text("--ipv6", "-m", "NONE", "-i", "*", "-b", "*", family=family) == ""
