"""Mode TPROXY's policy rule, its local route, and the address ::6: what runs make of them."""

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pods import ENVIRONMENT, namespace
from pods.pod import write_settings
from tests.running import (
    BOTH,
    UNTIL_ADDRESSES_HAVE_ROUTES,
    Result,
    both_backends,
    fresh_namespace,
    program,
    run_in,
)

pytestmark = both_backends

ALL = ("-m", "TPROXY", "-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
RULE = "fwmark 0x539 lookup 133"
ROUTES = {4: "local default dev lo table 133 scope host", 6: "local default dev lo table 133"}

# What anybody sees of a namespace's routing.
ROUTING = (
    "ip rule",
    "ip -6 rule",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip address",
)

# Rules of others in each table, with packet counts.
TABLES = """\
*raw
:PREROUTING ACCEPT [1:60]
:OUTPUT ACCEPT [2:120]
[3:180] -A OUTPUT -p udp -m udp --dport 53 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [4:240]
:INPUT ACCEPT [5:300]
:FORWARD DROP [6:360]
:OUTPUT ACCEPT [7:420]
:POSTROUTING ACCEPT [8:480]
:THEIRS - [0:0]
[9:540] -A PREROUTING -p tcp -m mark --mark 0x539 -j THEIRS
[10:600] -A OUTPUT -p tcp -j MARK --set-xmark 0x53a/0xffffffff
[11:660] -A THEIRS -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [12:720]
:INPUT ACCEPT [13:780]
:OUTPUT ACCEPT [14:840]
:POSTROUTING ACCEPT [15:900]
[16:960] -A PREROUTING -i eth9 -j RETURN
[17:1020] -A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [18:1080]
:FORWARD DROP [19:1140]
:OUTPUT ACCEPT [20:1200]
[21:1260] -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
"""

# Policy routing of others, much like ours: what follows `ip -4` or `ip -6`.
LOCAL = "route add local default dev lo table"
FOREIGN = {
    "a mark with a mask": ("rule add fwmark 0x200/0xf00 lookup 2004", f"{LOCAL} 2004"),
    "a source": ("rule add from {net} fwmark 7 lookup 300", f"{LOCAL} 300"),
    "a destination": ("rule add to {net} fwmark 7 lookup 300", f"{LOCAL} 300"),
    "an interface": ("rule add iif lo fwmark 7 lookup 300", f"{LOCAL} 300"),
    "an outgoing interface": ("rule add oif lo fwmark 7 lookup 300", f"{LOCAL} 300"),
    "users": ("rule add uidrange 0-5 fwmark 7 lookup 300", f"{LOCAL} 300"),
    "a protocol": ("rule add ipproto tcp fwmark 7 lookup 300", f"{LOCAL} 300"),
    "a source port": ("rule add fwmark 7 sport 80 lookup 300", f"{LOCAL} 300"),
    "a destination port": ("rule add fwmark 7 dport 80 lookup 300", f"{LOCAL} 300"),
    "a type of service": ("rule add tos 0x10 fwmark 7 lookup 300", f"{LOCAL} 300"),
    "all but a mark": ("rule add not fwmark 7 lookup 300", f"{LOCAL} 300"),
    "short prefixes are passed over": (
        "rule add fwmark 7 lookup 300 suppress_prefixlength 0",
        f"{LOCAL} 300",
    ),
    "no mark": ("rule add lookup 300", f"{LOCAL} 300"),
    "a refusal": ("rule add fwmark 7 prohibit",),
    "a table of more routes": (
        "rule add fwmark 7 lookup 300",
        f"{LOCAL} 300",
        "route add {net} dev lo table 300",
    ),
    "a table of one other route": (
        "rule add fwmark 100 lookup 100",
        "route add default dev lo table 100",
    ),
    "a route for some addresses": (
        "rule add fwmark 100 lookup 100",
        "route add local {net} dev lo table 100",
    ),
    "an empty table": ("rule add fwmark 100 lookup 100",),
    "the main table": ("rule add fwmark 100 lookup main", "route add local default dev lo"),
    "our mark, another table": ("rule add fwmark 1337 lookup main",),
}
NETS = {4: "10.9.0.0/16", 6: "fd00:9::/64"}


@pytest.fixture
def pod() -> Iterator[str]:
    """A network namespace with lo up."""
    with fresh_namespace() as name:
        yield name


def run(name: str, command: str) -> str:
    """Run a command in a namespace; it must succeed."""
    result = namespace.run(name, command.split(), env=ENVIRONMENT)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


def listings_of_tables() -> tuple[str, ...]:
    """The commands that print the tables. Their comment lines hold the time."""
    return tuple(f"{program(family, '-save')} -c" for family in BOTH)


def seen(name: str, listings: tuple[str, ...] = ()) -> dict[str, str]:
    """By command, all of them or some, what it prints."""
    listings = listings or (*ROUTING, *listings_of_tables())
    namespace.run(name, ["sh", "-c", UNTIL_ADDRESSES_HAVE_ROUTES])
    return {each: re.sub(r"^#.*\n", "", run(name, each), flags=re.M) for each in listings}


def applied(name: str, *flags: str) -> Result:
    """One run that has to succeed."""
    result = run_in(name, *flags)
    assert result.status == 0, result.stderr
    return result


def fill_tables(name: str) -> None:
    """Put the rules of others into every table."""
    for family in BOTH:
        subprocess.run(
            [*namespace.command_in(name), program(family, "-restore"), "--counters"],
            input=TABLES,
            env=ENVIRONMENT,
            text=True,
            timeout=30,
            check=True,
        )


def both(name: str, *commands: str) -> None:
    """Run `ip -4` and `ip -6` with each of the commands."""
    for version in (4, 6):
        for command in commands:
            run(name, f"ip -{version} {command.format(net=NETS[version])}")


def ours(name: str, version: int) -> tuple[list[str], list[str]]:
    """The policy rules that ask for a mark, and the routes of tables that have a number."""
    rules = re.findall(r"fwmark .*", run(name, f"ip -{version} rule"))
    routes = re.findall(r".* table \d+\b.*", run(name, f"ip -{version} route show table all"))
    return [rule.strip() for rule in rules], [_bare(route) for route in routes]


def _bare(route: str) -> str:
    return re.sub(r" (metric|pref|proto) \w+", "", route).strip()


def ours_in_both(name: str) -> list[tuple[list[str], list[str]]]:
    """`ours` for IPv4, then IPv6."""
    return [ours(name, version) for version in (4, 6)]


def made_for(mark: str, table: int) -> list[tuple[list[str], list[str]]]:
    """What `ours_in_both` gives where there is one of each."""
    return [
        ([f"fwmark {mark} lookup {table}"], [route.replace("133", str(table))])
        for route in ROUTES.values()
    ]


NONE: list[tuple[list[str], list[str]]] = [([], []), ([], [])]


def test_a_run_makes_one_rule_one_route_and_the_address(pod: str) -> None:
    applied(pod, *ALL)
    assert ours_in_both(pod) == [([RULE], [ROUTES[version]]) for version in (4, 6)]
    assert "inet6 ::6/128 scope global" in run(pod, "ip -6 address show dev lo")


@pytest.mark.parametrize("more", [(), ("--comments",)], ids=["bare", "with comments"])
def test_a_second_run_changes_nothing(pod: str, more: tuple[str, ...]) -> None:
    applied(pod, *ALL, *more)
    once = seen(pod)
    assert "result=unchanged" in applied(pod, *ALL, *more).stderr
    assert seen(pod) == once


def test_a_rule_and_a_route_that_are_there_count_as_ours(pod: str) -> None:
    both(pod, "rule add fwmark 1337 lookup 133", f"{LOCAL} 133")
    run(pod, "ip address add ::6/128 dev lo")
    there = seen(pod, ROUTING)
    applied(pod, *ALL)
    assert seen(pod, ROUTING) == there


@pytest.mark.parametrize(
    "half", ["rule add fwmark 1337 lookup 133", f"{LOCAL} 133"], ids=["the rule", "the route"]
)
def test_where_half_of_it_is_there_the_other_is_added(pod: str, half: str) -> None:
    both(pod, half)
    applied(pod, *ALL)
    assert ours_in_both(pod) == made_for("0x539", 133)


@pytest.mark.parametrize("flags", [ALL, ("clean",)], ids=["apply leaves one", "clean none"])
def test_rules_that_the_peers_added_on_each_run(pod: str, flags: tuple[str, ...]) -> None:
    both(pod, f"{LOCAL} 133", *["rule add fwmark 1337 lookup 133"] * 3)
    applied(pod, *flags)
    assert ours_in_both(pod) == (made_for("0x539", 133) if flags == ALL else NONE)


def test_another_mark_and_table_replace_the_first(pod: str) -> None:
    for flags, mark, table in (
        ((), "0x539", 133),
        (("-t", "0x42"), "0x42", 133),
        (("-t", "0x42", "-r", "1000"), "0x42", 1000),
        (("-r", "4294967295", "-t", "4294967295"), "0xffffffff", 4294967295),
        (("-r", "7"), "0x539", 7),
    ):
        applied(pod, *ALL, *flags)
        assert ours_in_both(pod) == made_for(mark, table)


@pytest.mark.parametrize(
    ("flags", "keeps_address"),
    [
        pytest.param((*ALL, "-m", "REDIRECT"), True, id="REDIRECT"),
        pytest.param((*ALL, "-b", ""), True, id="nothing inbound"),
        pytest.param(("-u", "1337", "-i", "*", "--no-ipv6"), False, id="without IPv6"),
        pytest.param(("--ruleset", "1.0", "-i", "*", "-b", "*"), False, id="rule set 1.0"),
    ],
)
def test_flags_that_need_no_policy_route_remove_it(
    pod: str, flags: tuple[str, ...], keeps_address: bool
) -> None:
    applied(pod, *ALL)
    applied(pod, *flags)
    assert ours_in_both(pod) == NONE
    assert ("::6/128" in run(pod, "ip address")) is keeps_address


def test_the_old_rule_set_makes_one_of_each_for_ipv4(pod: str) -> None:
    applied(pod, "--ruleset", "1.0", "-m", "TPROXY", "-b", "*")
    assert ours_in_both(pod) == [([RULE], [ROUTES[4]]), ([], [])]
    applied(pod, "clean")
    assert ours_in_both(pod) == NONE


@pytest.mark.parametrize("theirs", FOREIGN.values(), ids=FOREIGN.keys())
def test_policy_routing_of_others_stays_as_it_is(pod: str, theirs: tuple[str, ...]) -> None:
    both(pod, *theirs)
    before = seen(pod, ROUTING)
    applied(pod, *ALL)
    after = seen(pod, ROUTING)
    for listing in ROUTING:
        assert set(before[listing].splitlines()) <= set(after[listing].splitlines()), listing
    applied(pod, *ALL, "-t", "8", "-r", "301")  # which takes away ours
    applied(pod, "clean")
    assert seen(pod, ROUTING) == before


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(ALL, id="TPROXY"),
        pytest.param((*ALL, "-c", "eth0", "--drop-invalid", "--comments"), id="more flags"),
        pytest.param((*ALL, "--redirect-dns", "--capture-all-dns"), id="with DNS"),
        pytest.param((*ALL, "-m", "REDIRECT"), id="REDIRECT"),
        pytest.param(("--ruleset", "1.0", "-m", "TPROXY", "-i", "*", "-b", "*"), id="1.0"),
    ],
)
def test_clean_leaves_the_namespace_as_it_was_before(pod: str, flags: tuple[str, ...]) -> None:
    fill_tables(pod)
    both(pod, *FOREIGN["a mark with a mask"], *FOREIGN["a table of one other route"])
    before = seen(pod)
    applied(pod, *flags)
    assert seen(pod) != before
    applied(pod, "clean")
    assert seen(pod) == before


def test_clean_is_silent_where_nothing_is_ours(pod: str, tmp_path: Path) -> None:
    before = seen(pod)
    # Its own lock: waiting for another test's would be worth a line.
    environ = {"XTABLES_LOCKFILE": str(tmp_path / "lock")}
    result = run_in(pod, "clean", environ=environ)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert seen(pod) == before


def test_a_run_repairs_what_lo_lost_while_it_was_down(pod: str) -> None:
    applied(pod, *ALL)
    once = seen(pod, ROUTING)
    run(pod, "ip link set lo down")
    run(pod, "ip link set lo up")
    assert seen(pod, ROUTING) != once
    applied(pod, *ALL)
    assert ours_in_both(pod) == made_for("0x539", 133)


def test_clean_removes_a_rule_whose_route_went_with_lo(pod: str) -> None:
    applied(pod, *ALL)
    run(pod, "ip link set lo down")
    applied(pod, "clean")
    assert ours_in_both(pod) == NONE


IPV6_OFF = {"ipv6/conf/all/disable_ipv6": "1"}


@pytest.mark.parametrize("theirs", [False, True], ids=["no tables", "tables of others"])
@pytest.mark.parametrize("trouble", ["lo is down", "IPv6 is switched off"])
def test_where_the_kernel_takes_no_route_nothing_is_written(
    pod: str, trouble: str, theirs: bool
) -> None:
    if theirs:
        fill_tables(pod)
    if trouble == "lo is down":
        run(pod, "ip link set lo down")
    else:
        namespace.call(pod, partial(write_settings, IPV6_OFF))
    before = seen(pod)
    result = run_in(pod, *ALL)
    assert result.status == 4
    errors = [line for line in result.stderr.splitlines() if "\terror\t" in line]
    assert len(errors) == 2, "what is wrong, and the sum of the run"
    assert trouble in errors[0]
    assert "result=failed" in errors[1]
    after = seen(pod)
    if not theirs:  # reading a table that nobody has used brings it into being, empty
        for listing in listings_of_tables():
            assert "-A" not in after[listing] and "ISTIO" not in after[listing]
            del before[listing], after[listing]
    assert after == before
