"""`status` sees each thing that is not as the flags ask for, names just that, and changes nothing.

What is done to our rules here is done by iptables and iproute2, and looked at with them.
"""

import os
from collections.abc import Sequence

import pytest

# Loaded late by the program; here once, before all its runs.
import proxy_init.cli.commands  # noqa: F401
from proxy_init.rules.model import Family
from tests.fault_injection import NET_ADMIN, NET_RAW, run_with, told
from tests.foreign import NONE_MADE, run, tables_made, whole, without_priorities
from tests.our_rules import change_rules
from tests.running import (
    BOTH,
    Result,
    backend_under_test,
    both_backends,
    fresh_namespace,
    program,
    restored,
    run_in,
    saved,
    with_legacy_tables,
)
from tests.schemas import read_json

pytestmark = both_backends

ALL = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-d", "9090,9091"),
    *("-x", "10.1.0.0/16,fd00:1::/32", "--ipv6"),
)
TPROXY = (*ALL, "-m", "TPROXY", "-c", "eth1")
EXCLUDING = (*ALL, "-c", "eth1")
DNS = (*ALL, "--redirect-dns", "--capture-all-dns", "--drop-invalid")
OLD = ("--ruleset", "1.0", "-u", "1337", "-i", "*", "-b", "*")
FLAGS = {
    "REDIRECT": ALL,
    "TPROXY": TPROXY,
    "DNS": DNS,
    "comments": (*TPROXY, "--comments", "--drop-invalid"),
    "interfaces": (*EXCLUDING, "-k", "eth2,eth3"),
    "IPv4": (*ALL[:-1], "--no-ipv6"),
    "1.0": OLD,
    "1.0 TPROXY": (*OLD, "-m", "TPROXY"),
}
any_flags = pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
both_families = pytest.mark.parametrize("family", BOTH, ids=lambda family: family.title)


def applied(name: str, *flags: str) -> None:
    """One run that has to succeed."""
    result = run_in(name, *flags)
    assert result.status == 0, result.stderr


def status(name: str, *flags: str) -> Result:
    """What status gives, which must leave everything as it is: tables, counts and routing."""
    made = tables_made(name)
    before = whole(name) if made != NONE_MADE else None  # iptables-save would make no table either
    result = run_in(name, "status", *flags)
    assert tables_made(name) == made
    assert before is None or whole(name) == before
    return result


def changed(lines: Sequence[str]) -> list[str]:
    """The lines of a diff that say what is too much or missing."""
    return [
        line for line in lines if line[:1] in ("-", "+") and not line.startswith(("--- ", "+++ "))
    ]


def difference(name: str, *flags: str) -> list[str]:
    """What differs, which text and JSON must agree on."""
    text = status(name, *flags)
    assert text.status == 3, text.stderr
    as_json = run_in(name, "status", *flags, "-O", "json")
    assert as_json.status == 3
    found = read_json("status", as_json.stdout)
    assert found["in_place"] is False
    assert [family["in_place"] for family in found["families"].values()] == (
        [not family["diff"] for family in found["families"].values()]
    )
    lines = [line for family in found["families"].values() for line in family["diff"]]
    assert lines == text.stdout.splitlines()
    return changed(lines)


def in_place(name: str, *flags: str) -> bool:
    """Whether status has nothing to say, in text and in JSON."""
    text = status(name, *flags)
    as_json = run_in(name, "status", *flags, "-O", "json")
    families = {"in_place": True, "diff": []}
    nothing = {"in_place": True, "families": {family.title: families for family in BOTH}}
    return (
        (text.status, text.stdout, text.stderr) == (0, "", "")
        and (as_json.status, as_json.stderr) == (0, "")
        and read_json("status", as_json.stdout) == nothing
    )


def logged_rules(*flags: str) -> list[str]:
    """The rules that applying logs, as iptables-save spells them."""
    with fresh_namespace() as name:
        lines = run_in(name, *flags).stderr.splitlines()
    return [f"-A {line.partition(': -A ')[2]}" for line in lines if ": -A " in line]


@any_flags
def test_where_nothing_is_there_all_that_is_wanted_is_missing(
    fresh: str, flags: tuple[str, ...]
) -> None:
    printed = run_in(fresh, *flags, "--dry-run").stdout.splitlines()
    wanted = [f"+{line}" for line in logged_rules(*flags)]
    missing = difference(fresh, *flags)
    assert sorted(line for line in missing if line.startswith("+-A")) == sorted(wanted)
    assert not [line for line in missing if line.startswith("-")]
    # The policy route, the address, and chains of ours.
    routing = [line for line in missing if line.startswith(("+IPv4 ", "+IPv6 "))]
    assert len(routing) == len([line for line in printed if line.startswith("# ip ")])
    assert all(line.startswith(("+-A", "+IPv", "+:")) for line in missing)
    assert tables_made(fresh) == NONE_MADE


@any_flags
def test_where_all_is_in_place_it_is_silent(fresh: str, flags: tuple[str, ...]) -> None:
    applied(fresh, *flags)
    assert in_place(fresh, *flags)


def test_the_difference_is_a_unified_diff_from_the_kernel_to_what_is_wanted(fresh: str) -> None:
    applied(fresh, *ALL)
    change_rules(fresh, Family.V6, "-t", "nat", "-D", "ISTIO_INBOUND", "2")
    assert status(fresh, *ALL).stdout.splitlines() == [
        "--- IPv6 nat, in the kernel",
        "+++ IPv6 nat, wanted",
        "@@ -10,6 +10,7 @@",
        " -A PREROUTING -p tcp -j ISTIO_INBOUND",
        " -A OUTPUT -j ISTIO_OUTPUT",
        " -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN",
        "+-A ISTIO_INBOUND -p tcp -m tcp --dport 9090 -j RETURN",
        " -A ISTIO_INBOUND -p tcp -m tcp --dport 9091 -j RETURN",
        " -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        " -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    ]


# Flags, what somebody does to a table, and all that status then names.
RETURN_9090 = "-A ISTIO_INBOUND -p tcp -m tcp --dport 9090 -j RETURN"
SAVE_MARK = (
    "-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark "
    "--nfmask 0xffffffff --ctmask 0xffffffff"
)
DAMAGE = {
    "a deleted rule": (ALL, ["nat -D ISTIO_INBOUND 2"], [f"+{RETURN_9090}"]),
    "a changed rule": (
        ALL,
        ["nat -R ISTIO_INBOUND 2 -p tcp -m tcp --dport 9099 -j RETURN"],
        ["--A ISTIO_INBOUND -p tcp -m tcp --dport 9099 -j RETURN", f"+{RETURN_9090}"],
    ),
    "a changed target": (
        ALL,
        ["nat -R ISTIO_IN_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15007"],
        [
            "--A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15007",
            "+-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
        ],
    ),
    "a duplicated rule": (
        ALL,
        ["nat -I ISTIO_INBOUND 3 -p tcp -m tcp --dport 9090 -j RETURN"],
        [f"-{RETURN_9090}"],
    ),
    "an added rule": (
        ALL,
        ["nat -I ISTIO_INBOUND 1 -p tcp -m tcp --dport 22 -j RETURN"],
        ["--A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN"],
    ),
    "an emptied chain": (
        ALL,
        ["nat -F ISTIO_REDIRECT"],
        ["+-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"],
    ),
    "a stray chain": (ALL, ["nat -N ISTIO_STRAY"], ["-:ISTIO_STRAY - [0:0]"]),
    "a stray table": (
        ALL,
        ["mangle -N ISTIO_STRAY", "mangle -A PREROUTING -p tcp -j ISTIO_STRAY"],
        ["-:ISTIO_STRAY - [0:0]", "--A PREROUTING -p tcp -j ISTIO_STRAY"],
    ),
    "a deleted jump": (ALL, ["nat -D OUTPUT -j ISTIO_OUTPUT"], ["+-A OUTPUT -j ISTIO_OUTPUT"]),
    "a duplicated jump": (ALL, ["nat -A OUTPUT -j ISTIO_OUTPUT"], ["--A OUTPUT -j ISTIO_OUTPUT"]),
    "a changed jump": (
        ALL,
        ["nat -R PREROUTING 1 -p tcp -m tcp --dport 80 -j ISTIO_INBOUND"],
        [
            "--A PREROUTING -p tcp -m tcp --dport 80 -j ISTIO_INBOUND",
            "+-A PREROUTING -p tcp -j ISTIO_INBOUND",
        ],
    ),
    "a jump into the middle": (
        ALL,
        ["nat -A OUTPUT -p udp -j ISTIO_REDIRECT"],
        ["--A OUTPUT -p udp -j ISTIO_REDIRECT"],
    ),
    "a jump from another chain": (
        ALL,
        ["nat -N FOREIGN", "nat -A FOREIGN -p udp -j ISTIO_OUTPUT"],
        ["--A FOREIGN -p udp -j ISTIO_OUTPUT"],
    ),
    "no TPROXY": (
        TPROXY,
        ["mangle -D ISTIO_INBOUND -p tcp -j ISTIO_TPROXY"],
        ["+-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY"],
    ),
    "a marking rule is missing": (TPROXY, ["mangle -D PREROUTING 3"], [f"+{SAVE_MARK}"]),
    "a marking rule stands twice": (
        TPROXY,
        [f"mangle {SAVE_MARK}"],
        [f"-{SAVE_MARK}"],
    ),
    "DNS in its zone": (
        DNS,
        ["raw -D OUTPUT -j ISTIO_OUTPUT_DNS"],
        ["+-A OUTPUT -j ISTIO_OUTPUT_DNS"],
    ),
    "DNS to the agent": (
        DNS,
        ["nat -F ISTIO_OUTPUT_DNS"],
        [
            "+-A ISTIO_OUTPUT_DNS -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
            "+-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        ],
    ),
    "nothing drops": (DNS, ["mangle -F ISTIO_DROP"], ["+-A ISTIO_DROP -j DROP"]),
}


def without_chains(named: Sequence[str]) -> list[str]:
    """A difference without the chains, which in nf_tables both families have."""
    chains = () if backend_under_test() == "legacy" else ("-:", "+:")
    return [line for line in named if not line.startswith(chains)]


@both_families
@pytest.mark.parametrize(("flags", "deeds", "named"), DAMAGE.values(), ids=DAMAGE)
def test_what_was_done_to_rules_of_ours_is_named_and_apply_repairs_it(
    fresh: str, flags: tuple[str, ...], deeds: list[str], named: list[str], family: Family
) -> None:
    applied(fresh, *flags)
    good = {family: saved(fresh, family) for family in BOTH}
    for deed in deeds:
        change_rules(fresh, family, "-t", *deed.split())
    assert without_chains(difference(fresh, *flags)) == without_chains(named)
    applied(fresh, *flags)
    now = {family: saved(fresh, family) for family in BOTH}
    assert {name: now[family][name].replace(":FOREIGN - [0:0]\n", "") for name in good[family]} == (
        good[family]
    )
    assert "ISTIO_STRAY" not in str(now) and "-A FOREIGN" not in str(now)
    assert in_place(fresh, *flags)


@both_families
def test_rules_in_another_order_are_named(fresh: str, family: Family) -> None:
    applied(fresh, *ALL)
    good = saved(fresh, family)
    moved = ("-I", "ISTIO_INBOUND", "3", *RETURN_9090.split()[2:])
    for change in (("-D", "ISTIO_INBOUND", "2"), moved):
        change_rules(fresh, family, "-t", "nat", *change)
    assert saved(fresh, family)["nat"].count("\n") == good["nat"].count("\n")
    # A diff may say of either that it moved.
    there, wanted = sorted(difference(fresh, *ALL), reverse=True)
    assert there[1:] == wanted[1:] and (there[0], wanted[0]) == ("-", "+")
    assert there[1:] in (RETURN_9090, RETURN_9090.replace("9090", "9091"))
    applied(fresh, *ALL)
    assert saved(fresh, family) == good
    assert in_place(fresh, *ALL)


@both_families
@pytest.mark.parametrize(("flags", "table"), [(EXCLUDING, "nat"), (TPROXY, "mangle")])
@pytest.mark.parametrize("lost", ["PREROUTING -i", "OUTPUT -o"])
def test_a_return_of_c_that_is_missing_is_seen(
    fresh: str, flags: tuple[str, ...], table: str, lost: str, family: Family
) -> None:
    applied(fresh, *flags)
    chain, flag = lost.split()
    change_rules(fresh, family, "-t", table, "-D", chain, flag, "eth1", "-j", "RETURN")
    both = {"+-A OUTPUT -o eth1 -j RETURN", "+-A PREROUTING -i eth1 -j RETURN"}
    found = set(difference(fresh, *flags))
    if backend_under_test() == "legacy":
        # The other one has no twin any more, so it cannot be told from a foreign rule.
        assert found == both
    else:
        assert found == {f"+-A {lost} eth1 -j RETURN"}
    applied(fresh, *flags)
    assert in_place(fresh, *flags)


TAKES_ALL = (
    *("-j ACCEPT", "-j RETURN", "-p tcp -j ACCEPT", "-p tcp -j RETURN", "-p tcp -m tcp -j ACCEPT"),
    *("-p tcp -m comment --comment all -j RETURN", "-g FOREIGN"),
)
TAKES_SOME = (
    *("-p udp -j ACCEPT", "-o eth5 -j ACCEPT", "-p tcp --dport 1:65535 -j ACCEPT"),
    *("! -p tcp -j ACCEPT", "-m owner --uid-owner 7 -j RETURN", "-j FOREIGN", "-p tcp"),
    "-m mark --mark 0x7 -j ACCEPT",
)


def behind(name: str, family: Family, rule: str) -> tuple[str, str]:
    """Put a foreign rule above ours in nat OUTPUT; gives it and ours as iptables-save spells it."""
    run(name, program(family), "-t", "nat", "-N", "FOREIGN")
    run(name, program(family), "-t", "nat", "-I", "OUTPUT", *rule.split())
    first, last = output_rules(name, family)
    return first, last


def output_rules(name: str, family: Family, table: str = "nat") -> list[str]:
    """The rules of OUTPUT."""
    lines = saved(name, family)[table].splitlines()
    return [line for line in lines if line.startswith("-A OUTPUT")]


@with_legacy_tables
@both_families
@pytest.mark.parametrize("rule", TAKES_ALL)
def test_a_jump_behind_a_foreign_rule_that_takes_all_is_out_of_sight(
    fresh: str, rule: str, family: Family
) -> None:
    applied(fresh, *ALL)
    foreign, ours = behind(fresh, family, rule)
    there, wanted = sorted(difference(fresh, *ALL), reverse=True)
    assert there[0] == "-" and wanted[0] == "+"
    assert there[1:] == wanted[1:] in (foreign, ours)
    applied(fresh, *ALL)
    assert output_rules(fresh, family) == [ours, foreign]
    assert in_place(fresh, *ALL)


@both_families
def test_a_jump_behind_a_foreign_rule_that_takes_some_is_in_place(
    fresh: str, family: Family
) -> None:
    subnet = "10.0.0.0/8" if family is Family.V4 else "fd00::/8"
    applied(fresh, *ALL)
    run(fresh, program(family), "-t", "nat", "-N", "FOREIGN")
    for rule in (*TAKES_SOME, f"-d {subnet} -j ACCEPT", f"-p tcp ! -s {subnet} -j RETURN"):
        run(fresh, program(family), "-t", "nat", "-I", "OUTPUT", *rule.split())
        assert status(fresh, *ALL).status == 0, rule
    before = whole(fresh)
    applied(fresh, *ALL)
    assert whole(fresh) == before


@with_legacy_tables
@both_families
@pytest.mark.parametrize(("protocol", "sight"), [("udp", False), ("tcp", True)])
def test_rules_about_dns_zones_are_out_of_sight_behind_what_takes_all_udp(
    fresh: str, protocol: str, sight: bool, family: Family
) -> None:
    applied(fresh, *DNS)
    rule = ("-p", protocol, "-j", "ACCEPT")
    run(fresh, program(family), "-t", "raw", "-I", "OUTPUT", *rule)
    assert status(fresh, *DNS).status == (0 if sight else 3)
    applied(fresh, *DNS)
    assert (output_rules(fresh, family, "raw")[0] == " ".join(("-A OUTPUT", *rule))) == sight
    assert in_place(fresh, *DNS)


# What somebody does to routing, by iproute2, and all that status then names.
ROUTING = {
    "no policy rule": (["rule del fwmark 0x539"], ["+{} rule add fwmark 0x539 lookup 133"]),
    "no route": (
        ["route del local default dev lo table 133"],
        ["+{} route add local default dev lo table 133"],
    ),
    "neither": (
        ["rule del fwmark 0x539", "route del local default dev lo table 133"],
        [
            "+{} route add local default dev lo table 133",
            "+{} rule add fwmark 0x539 lookup 133",
        ],
    ),
    "a copy of the rule": (
        ["rule add fwmark 0x539 lookup 133"],
        ["-{} rule add fwmark 0x539 lookup 133"],
    ),
    "two copies of the rule": (
        ["rule add fwmark 0x539 lookup 133", "rule add fwmark 0x539 lookup 133 priority 100"],
        ["-{} rule add fwmark 0x539 lookup 133"] * 2,
    ),
    "another mark": (
        ["rule del fwmark 0x539", "rule add fwmark 7 lookup 133"],
        ["-{} rule add fwmark 0x7 lookup 133", "+{} rule add fwmark 0x539 lookup 133"],
    ),
    "another table": (
        ["rule add fwmark 0x539 lookup 99", "route add local default dev lo table 99"],
        [
            "-{} rule add fwmark 0x539 lookup 99",
            "-{} route add local default dev lo table 99",
        ],
    ),
}


@both_families
@pytest.mark.parametrize(("deeds", "named"), ROUTING.values(), ids=ROUTING)
def test_what_was_done_to_the_policy_route_is_named_and_apply_repairs_it(
    fresh: str, deeds: list[str], named: list[str], family: Family
) -> None:
    applied(fresh, *TPROXY)
    good = whole(fresh)
    for deed in deeds:
        run(fresh, "ip", f"-{family.value}", *deed.split())
    assert difference(fresh, *TPROXY) == [line.format(family.title) for line in named]
    applied(fresh, *TPROXY)
    assert without_priorities(whole(fresh)) == without_priorities(good)
    assert in_place(fresh, *TPROXY)


def test_the_address_that_is_missing_is_named_and_apply_puts_it_back(fresh: str) -> None:
    applied(fresh, *ALL)
    good = whole(fresh)
    run(fresh, "ip", "-6", "address", "del", "::6/128", "dev", "lo")
    assert difference(fresh, *ALL) == ["+IPv6 address add ::6/128 dev lo"]
    applied(fresh, *ALL)
    assert whole(fresh) == good
    assert in_place(fresh, *ALL)


def test_an_address_that_is_not_wanted_is_named(fresh: str) -> None:
    applied(fresh, *OLD)
    run(fresh, "ip", "-6", "address", "add", "::6/128", "dev", "lo")
    assert difference(fresh, *OLD) == ["-IPv6 address add ::6/128 dev lo"]
    applied(fresh, *OLD)
    assert in_place(fresh, *OLD)


def table_in_text(name: str, table: str, family: Family) -> str:
    """A table as the programs for it save it; of nf_tables, both families' rules."""
    if backend_under_test() == "legacy":
        return saved(name, family)[table]
    return run(name, "nft", "--stateless", "list", "table", "inet", f"istio-proxy-{table}")


def put_back(name: str, family: Family, text: str) -> None:
    """Let these programs make a table again."""
    if backend_under_test() == "legacy":
        assert restored(name, family, text).returncode == 0
    else:
        run(name, "nft", text)


@both_families
def test_a_table_left_by_the_other_mode_is_named(fresh: str, family: Family) -> None:
    applied(fresh, *TPROXY)
    left = table_in_text(fresh, "mangle", family)
    applied(fresh, *ALL)
    assert in_place(fresh, *ALL)
    put_back(fresh, family, left)
    found = difference(fresh, *ALL)
    ours = [line for line in left.splitlines() if line.startswith(("-A", ":ISTIO_"))]
    if backend_under_test() == "legacy":
        assert found == [f"-{line}" for line in ours]
    else:
        rules = len(logged_rules(*TPROXY)) - len(logged_rules(*TPROXY, "-m", "REDIRECT"))
        assert {line[:3] for line in found} == {"--A", "-:I"}
        assert sum(line.startswith("--A") for line in found) > rules
    applied(fresh, *ALL)
    assert in_place(fresh, *ALL)


def test_what_the_other_rule_set_left_is_named(fresh: str) -> None:
    applied(fresh, *OLD)
    left = table_in_text(fresh, "filter", Family.V6)
    applied(fresh, *ALL)
    assert in_place(fresh, *ALL)
    put_back(fresh, Family.V6, left)
    state = "state --state" if backend_under_test() == "legacy" else "conntrack --ctstate"
    assert without_chains(difference(fresh, *ALL)) == [
        f"--A INPUT -m {state} ESTABLISHED -j ACCEPT",
        "--A INPUT -j REJECT --reject-with icmp6-port-unreachable",
    ]
    applied(fresh, *ALL)
    assert in_place(fresh, *ALL)


@pytest.mark.parametrize("other", [name for name in FLAGS if name != "REDIRECT"])
def test_rules_of_other_flags_are_named_until_they_are_replaced(fresh: str, other: str) -> None:
    applied(fresh, *FLAGS[other])
    assert difference(fresh, *ALL)
    applied(fresh, *ALL)
    assert in_place(fresh, *ALL)
    assert difference(fresh, *FLAGS[other])


def test_foreign_rules_are_nobodys_difference(fresh: str) -> None:
    applied(fresh, *TPROXY)
    for family in BOTH:
        for rule in ("nat -A OUTPUT -o eth5 -j RETURN", "filter -A INPUT -j REJECT"):
            run(fresh, program(family), "-t", *rule.split())
        run(fresh, "ip", f"-{family.value}", "rule", "add", "fwmark", "0x539", "lookup", "77")
    assert in_place(fresh, *TPROXY)


@pytest.mark.parametrize("uid", [0, 65534])
@pytest.mark.parametrize(
    ("capabilities", "named"),
    [
        (1 << NET_RAW, "missing capability NET_ADMIN:"),
        (1 << NET_ADMIN, "missing capability NET_RAW:"),
        (0, "missing capability NET_ADMIN and NET_RAW:"),
    ],
    ids=["no NET_ADMIN", "no NET_RAW", "neither"],
)
def test_without_privilege_the_capability_is_named(
    fresh: str, capabilities: int, named: str, uid: int
) -> None:
    applied(fresh, *TPROXY)
    result = run_with(fresh, "status", *TPROXY, uid=uid, capabilities=capabilities)
    if os.environ["PROXY_INIT_BACKEND"] == "nft":  # which takes NET_ADMIN alone
        named = named.replace(" and NET_RAW", "")
        if "NET_RAW" in named:
            assert (result.status, result.stdout) == (0, "")
            return
    assert (result.status, result.stdout) == (4, "")
    assert [line for line in told(result) if line.startswith(named)]


@pytest.mark.parametrize("uid", [0, 65534])
def test_with_the_two_capabilities_it_sees_all(fresh: str, uid: int) -> None:
    applied(fresh, *TPROXY)
    capabilities = 1 << NET_ADMIN | 1 << NET_RAW
    for flags, expected in ((TPROXY, 0), (ALL, 3)):
        result = run_with(fresh, "status", *flags, uid=uid, capabilities=capabilities)
        assert result.status == expected, result.stderr


@with_legacy_tables
@both_families
def test_what_the_iptables_program_wrote_is_read_as_meant(fresh: str, family: Family) -> None:
    flags = (*ALL, "-c", "veth+,eth1", "-k", "net+")
    applied(fresh, *flags)
    text = saved(fresh, family)["nat"]
    assert "-i veth+ " in text
    assert "-i net+ " in text
    assert restored(fresh, family, text).returncode == 0
    assert (status(fresh, *flags).status, saved(fresh, family)["nat"]) == (0, text)


def test_mode_none_asks_for_nothing(fresh: str) -> None:
    assert run_in(fresh, *ALL).status == 0
    result = run_in(fresh, "status", "-m", "NONE")
    assert (result.status, result.stdout) == (0, "")
