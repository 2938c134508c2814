"""Others at work in the same namespace: their programs, their rules, and what they left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

import proxy_init.cli.commands  # noqa: F401  # loaded late by the program; here once
from pods import ENVIRONMENT, namespace
from proxy_init.kernel.legacy.libiptc import load as load_iptc
from proxy_init.kernel.system.namespace import enter
from proxy_init.rules.model import Family
from tests.foreign import counted, load, run, whole, without_priorities
from tests.running import (
    BOTH,
    UNTIL_ADDRESSES_HAVE_ROUTES,
    both_backends,
    fresh_namespace,
    program,
    run_here,
    run_in,
    saved,
    with_legacy_tables,
    with_rules,
)

pytestmark = both_backends

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
OTHER = (*ALL, "-x", "10.1.0.0/16,fd00:1::/32", "-d", "9090,9091", "-c", "eth1", "--drop-invalid")
TPROXY = (*ALL, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")
LONGEST = 60.0  # seconds that a writer or a crowd may take


def applied(name: str, *flags: str) -> None:
    """One run that has to succeed."""
    result = run_in(name, *flags)
    assert result.status == 0, result.stderr


def rules(name: str) -> dict[Family, dict[str, str]]:
    """By family and table, what anybody has put into the kernel."""
    return {family: with_rules(saved(name, family)) for family in BOTH}


def result_of(name: str, *flags: str) -> tuple[dict[Family, dict[str, str]], str]:
    """Tables and policy routes where nobody but one run of ours was at work."""
    with fresh_namespace() as alone:
        applied(alone, *flags)
        return rules(alone), routing(alone)


def routing(name: str) -> str:
    """Policy rules, the routes of other tables than the system's, and the addresses of lo."""
    commands = (
        f"{UNTIL_ADDRESSES_HAVE_ROUTES} ip rule; ip -6 rule; ip address show lo; "
        "ip route show table all; ip -6 route show table all"
    )
    return run(name, "sh", "-c", commands)


# Writers.


@with_legacy_tables
def test_the_rules_of_a_writer_that_ignores_the_lock_survive_and_ours_are_right_in_the_end(
    fresh: str, tmp_path: Path
) -> None:
    numbers = range(1, 21)
    done = tmp_path / "done"

    def write_on(tell: namespace.Tell) -> None:
        tell("writing")
        environ = {**ENVIRONMENT, "XTABLES_LOCKFILE": str(tmp_path / "another.lock")}
        until = time.monotonic() + LONGEST
        for number, family, chain in product(numbers, BOTH, ("PREROUTING", "OUTPUT")):
            rule = ("-A", chain, "-p", "udp", "--dport", str(number), "-j", "RETURN")
            words = [program(family), "-t", "nat", *rule]
            # It may find that the table has changed, too.
            while subprocess.run(words, env=environ, stderr=subprocess.DEVNULL).returncode:
                if time.monotonic() > until:
                    return
            time.sleep(0.04)  # who writes without a pause leaves nobody a turn
        done.touch()

    applied(fresh, *ALL)
    with namespace.process(fresh, write_on):
        turns = 0
        until = time.monotonic() + LONGEST
        while not done.exists():
            assert time.monotonic() < until, "the writer did not end"
            applied(fresh, *(OTHER, ALL)[turns % 2])
            turns += 1
    assert turns > 5
    applied(fresh, *ALL)
    for family in BOTH:
        lines = saved(fresh, family)["nat"].splitlines()
        for chain in ("PREROUTING", "OUTPUT"):
            theirs = [line for line in lines if line.startswith(f"-A {chain} -p udp")]
            assert theirs == [
                f"-A {chain} -p udp -m udp --dport {number} -j RETURN" for number in numbers
            ]
    assert run_in(fresh, "status", *ALL).status == 0
    with namespace.namespace("alone") as alone:
        applied(alone, *ALL)
        ours = {family: tables["nat"].splitlines() for family, tables in rules(alone).items()}
        for family in BOTH:
            here = saved(fresh, family)["nat"].splitlines()
            assert [line for line in here if "-A" not in line or " -p udp" not in line] == (
                ours[family]
            )


@contextmanager
def crowd(name: str, calls: Sequence[Sequence[str]], place: Path) -> Iterator[None]:
    """Processes that run the program at the same time, each with its flags; they have ended, with
    status and last line of the log in files of theirs, when the block begins."""
    load_iptc()
    waiting, start = os.pipe()
    children: list[int] = []
    try:
        for number, flags in enumerate(calls):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(start)
                    os.setpgid(0, 0)
                    enter(name, "test")
                    os.read(waiting, 1)  # ends for all of them at once
                    result = run_here(*flags)
                    last = result.stderr.splitlines()[-1]
                    (place / str(number)).write_text(f"{result.status} {last}")
                finally:
                    os._exit(0)
            children.append(pid)
        os.close(start)
        until = time.monotonic() + LONGEST
        for pid in list(children):
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                assert time.monotonic() < until, "not all of them ended"
                time.sleep(0.01)
            children.remove(pid)
        yield
    finally:
        os.close(waiting)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def outcomes(place: Path, count: int) -> list[tuple[str, str]]:
    """Status and result word of each of a crowd."""
    found = []
    for number in range(count):
        status, _, last = (place / str(number)).read_text().partition(" ")
        found.append((status, last.partition("result=")[2].partition(" ")[0]))
    return found


@pytest.mark.parametrize("flags", [ALL, TPROXY], ids=["REDIRECT", "TPROXY"])
def test_of_fifty_at_once_one_applies_and_the_others_find_it_done(
    fresh: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with crowd(fresh, [flags] * 50, tmp_path):
        found = outcomes(tmp_path, 50)
    assert sorted(found) == [("0", "applied")] + [("0", "unchanged")] * 49
    assert (rules(fresh), routing(fresh)) == result_of(fresh, *flags)


def test_of_fifty_at_once_with_two_sets_of_flags_one_set_holds_in_the_end(
    fresh: str, tmp_path: Path
) -> None:
    with crowd(fresh, [TPROXY, OTHER] * 25, tmp_path):
        found = outcomes(tmp_path, 50)
    assert {status for status, _ in found} == {"0"}
    assert {result for _, result in found} <= {"applied", "unchanged"}
    assert (rules(fresh), routing(fresh)) in [
        result_of(fresh, *TPROXY),
        result_of(fresh, *OTHER),
    ]


def test_cleaning_and_applying_at_once_leaves_all_or_nothing(fresh: str, tmp_path: Path) -> None:
    with crowd(fresh, [TPROXY, ("clean", "--log-level", "debug")] * 10, tmp_path):
        # A clean that finds nothing has no last line.
        assert {(tmp_path / str(number)).read_text()[0] for number in range(20)} == {"0"}
    with fresh_namespace() as untouched:
        nothing = rules(untouched), routing(untouched)
    assert (rules(fresh), routing(fresh)) in [result_of(fresh, *TPROXY), nothing]


@with_legacy_tables
def test_a_lock_that_iptables_restore_holds_for_seconds_is_waited_for(
    fresh: str, tmp_path: Path
) -> None:
    environ = {**ENVIRONMENT, "XTABLES_LOCKFILE": str(tmp_path / "lock")}
    held = subprocess.Popen(
        [*namespace.command_in(fresh), "iptables-legacy-restore", "--noflush"],
        env=environ,
        stdin=subprocess.PIPE,
        text=True,
    )
    with held:
        assert held.stdin is not None
        try:
            # It takes the lock at a table's first line, and gives it back at the last.
            held.stdin.write("*nat\n-A OUTPUT -p udp -j RETURN\n")
            held.stdin.flush()
            time.sleep(0.3)
            started = time.monotonic()
            ours = subprocess.Popen(
                [*namespace.command_in(fresh), sys.executable, "-m", "proxy_init", *ALL],
                env=environ,
                stderr=subprocess.PIPE,
                text=True,
            )
            with ours:
                try:
                    assert ours.stderr is not None
                    waiting = next(line for line in ours.stderr if "xtables lock" in line)
                    time.sleep(2)
                    assert ours.poll() is None
                    held.stdin.write("COMMIT\n")
                    held.stdin.close()
                    rest = ours.stderr.read()
                    assert ours.wait(timeout=30) == 0, rest
                finally:
                    ours.kill()
        finally:
            held.kill()
    assert f"held by process {held.pid} (iptables-legacy" in waiting or "(xtables-legacy" in waiting
    assert time.monotonic() - started > 2
    assert "result=applied" in rest.splitlines()[-1]
    assert "-A OUTPUT -j ISTIO_OUTPUT\n" in saved(fresh, Family.V4)["nat"]
    theirs = namespace.run(fresh, ["iptables-legacy-save", "-t", "nat"]).stdout
    assert "-A OUTPUT -p udp -j RETURN\n" in theirs


# Rules that look like ours. Each has been met by packets, which ours here never are.

LOOK_ALIKES = """\
*raw
:PREROUTING ACCEPT [1:60]
:OUTPUT ACCEPT [2:120]
:ISTIOFOO - [0:0]
[3:180] -A OUTPUT -j ISTIOFOO
[4:240] -A ISTIOFOO -p udp -m udp --dport 53 -j CT --zone 1
COMMIT
*mangle
:PREROUTING ACCEPT [5:300]
:INPUT ACCEPT [6:360]
:FORWARD ACCEPT [7:420]
:OUTPUT ACCEPT [8:480]
:POSTROUTING ACCEPT [9:540]
[1:60] -A PREROUTING -i eth1 -j RETURN
[2:120] -A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --mask 0xff
[3:180] -A PREROUTING -p tcp -m mark --mark 0x539/0xfff -j CONNMARK --save-mark
[4:240] -A PREROUTING -p tcp -m mark ! --mark 0x539 -j CONNMARK --save-mark
[5:300] -A PREROUTING -m mark --mark 0x539 -j CONNMARK --save-mark
[6:360] -A PREROUTING -m conntrack --ctstate INVALID -j DROP
[7:420] -A INPUT -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark
[8:480] -A OUTPUT -o lo -p tcp -m mark --mark 0x539 -j ACCEPT
[9:540] -A OUTPUT -o lo -p udp -m mark --mark 0x539 -j RETURN
[10:600] -A OUTPUT -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-mark 1338
[11:660] -A OUTPUT ! -d {loopback} -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-mark 1339
[12:720] -A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --mask 0xff
[13:780] -A POSTROUTING -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark
COMMIT
*nat
:PREROUTING ACCEPT [1:60]
:INPUT ACCEPT [2:120]
:OUTPUT ACCEPT [3:180]
:POSTROUTING ACCEPT [4:240]
:ISTIOFOO - [0:0]
:XISTIO_OUTPUT - [0:0]
:istio_output - [0:0]
[1:60] -A PREROUTING -i eth1 -j RETURN
[2:120] -A PREROUTING -i eth2 -j RETURN
[3:180] -A PREROUTING -i eth3 -p tcp -j RETURN
[4:240] -A PREROUTING -p tcp -j ISTIOFOO
[5:300] -A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15006
[6:360] -A OUTPUT -o eth3 -j RETURN
[7:420] -A OUTPUT -o eth4 -j RETURN
[8:480] -A OUTPUT -j XISTIO_OUTPUT
[9:540] -A OUTPUT -g istio_output
[10:600] -A XISTIO_OUTPUT -i eth9 -j RETURN
[11:660] -A istio_output -m owner --uid-owner 1337 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [1:60]
:FORWARD ACCEPT [2:120]
:OUTPUT ACCEPT [3:180]
{input}
COMMIT
"""
INPUTS = {
    "REJECT alone": "[1:60] -A INPUT -j REJECT",
    "the other way round": (
        "[1:60] -A INPUT -j REJECT\n[2:120] -A INPUT -m state --state ESTABLISHED -j ACCEPT"
    ),
    "not side by side": (
        "[1:60] -A INPUT -m state --state ESTABLISHED -j ACCEPT\n"
        "[2:120] -A INPUT -i eth7 -j ACCEPT\n[3:180] -A INPUT -j REJECT"
    ),
    "another state": (
        "[1:60] -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n[2:120] -A INPUT -j REJECT"
    ),
    "another answer": (
        "[1:60] -A INPUT -m state --state ESTABLISHED -j ACCEPT\n"
        "[2:120] -A INPUT -p tcp -j REJECT --reject-with tcp-reset"
    ),
    "in FORWARD": (
        "[1:60] -A FORWARD -m state --state ESTABLISHED -j ACCEPT\n[2:120] -A FORWARD -j REJECT"
    ),
}
OF_1_0 = ("--ruleset", "1.0", "-u", "1337", "-i", "*", "-b", "*")
IN_TURN: tuple[tuple[str, ...], ...] = (
    ALL,
    OTHER,
    TPROXY,
    (*TPROXY, "-c", "eth1,eth2,eth3,eth4"),
    (*ALL, "-k", "eth1", "-c", "eth4"),
    OF_1_0,
    (*OF_1_0, "-m", "TPROXY"),
    (*ALL, "-c", "eth1,eth3"),
    (*ALL, "--force-apply"),
)


def met(name: str) -> dict[Family, list[str]]:
    """The rules and policies that packets have met: all that others have put there."""
    return {
        family: [line for line in text.splitlines() if re.search(r"\[[1-9]", line)]
        for family, text in counted(name).items()
    }


@pytest.mark.parametrize(
    ("rules_of_input", "in_turn"),
    [
        (text, IN_TURN if number == 0 else (OF_1_0, ALL))
        for number, text in enumerate(INPUTS.values())
    ],
    ids=INPUTS,
)
def test_rules_that_only_look_like_ours_survive_everything(
    fresh: str, tmp_path: Path, rules_of_input: str, in_turn: Sequence[tuple[str, ...]]
) -> None:
    for family, loopback in zip(BOTH, ("127.0.0.1/32", "::1/128"), strict=True):
        text = LOOK_ALIKES.format(loopback=loopback, input=rules_of_input)
        load(fresh, family, text, tmp_path)
    before, theirs = whole(fresh), met(fresh)
    for flags in in_turn:
        applied(fresh, *flags)
        assert met(fresh) == theirs, flags
        assert run_in(fresh, "status", *flags).status == 0
        applied(fresh, "clean")
        assert whole(fresh) == before, flags
    for flags in in_turn:  # without a clean between
        applied(fresh, *flags)
        assert met(fresh) == theirs, flags
    applied(fresh, "clean")
    assert whole(fresh) == before


def test_policy_routes_that_only_look_like_ours_survive_everything(fresh: str) -> None:
    for ip in ("ip -4", "ip -6"):
        run(
            fresh,
            "sh",
            "-euc",
            # A table with more in it, or with another route, a rule that asks for more, no mark.
            f"""
            {ip} route add local default dev lo table 71; {ip} rule add fwmark 0x539 lookup 71
            {ip} route add unreachable {"10.7.0.0/16" if ip == "ip -4" else "fd00:7::/32"} table 71
            {ip} route add unreachable default table 72; {ip} rule add fwmark 0x539 lookup 72
            {ip} route add local default dev lo proto static table 73
            {ip} rule add fwmark 0x539 lookup 73
            {ip} route add local default dev lo metric 7 table 74
            {ip} rule add fwmark 0x539 lookup 74
            {ip} rule add fwmark 0x539/0xfff lookup 75; {ip} rule add iif lo lookup 75
            {ip} route add local default dev lo table 75
            {ip} rule add fwmark 0x539 prohibit; {ip} rule add fwmark 0x539 lookup main
            """,
        )
    # So that every table is there, as it will be.
    applied(fresh, *TPROXY)
    applied(fresh, *OF_1_0)
    applied(fresh, "clean")
    before = whole(fresh)
    for flags in IN_TURN:
        applied(fresh, *flags)
        assert run_in(fresh, "status", *flags).status == 0
    applied(fresh, "clean")
    assert whole(fresh) == before


# What the programs that ours replaces leave behind, made with other flags than any here.

OF_TODAY = """\
*raw
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT_DNS - [0:0]
-A PREROUTING -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1400 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --uid-owner 1400 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --gid-owner 1401 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --gid-owner 1401 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2
-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1
COMMIT
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_OUTPUT_DNS - [0:0]
:ISTIO_REDIRECT - [0:0]
-I PREROUTING 1 -i veth7 -j RETURN
-I PREROUTING 1 -i veth7 -j ISTIO_REDIRECT
-I PREROUTING 1 -i veth8 -j ISTIO_REDIRECT
-A PREROUTING -i net1 -j RETURN
-A OUTPUT -o net1 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15009 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15101
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15106
{inbound}
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp --dport 7777 -j RETURN
-A ISTIO_OUTPUT -p udp --dport 7777 -j RETURN
-A ISTIO_OUTPUT -s {passthrough} -o lo -j RETURN
-A ISTIO_OUTPUT ! -d {loopback} -o lo -p tcp -m multiport ! --dports 53,15009 {by_uid}
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1400 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1400 -j RETURN
-A ISTIO_OUTPUT ! -d {loopback} -o lo -p tcp ! --dport 15009 {by_gid}
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --gid-owner 1401 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1401 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT -d {loopback} -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053
COMMIT
*mangle
:ISTIO_DROP - [0:0]
-A PREROUTING -i net1 -j RETURN
-A OUTPUT -o net1 -j RETURN
-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP
-A ISTIO_DROP -j DROP
{transparent}
COMMIT
"""
OF_TODAY_REDIRECT = """\
-A ISTIO_INBOUND -p tcp --dport 9999 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A PREROUTING -p tcp -j ISTIO_INBOUND"""
OF_TODAY_TPROXY = """\
:ISTIO_DIVERT - [0:0]
:ISTIO_TPROXY - [0:0]
:ISTIO_INBOUND - [0:0]
-A ISTIO_DIVERT -j MARK --set-mark 777
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_TPROXY ! -d {loopback} -p tcp -j TPROXY --tproxy-mark 777/0xffffffff --on-port 15106
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -m mark --mark 777 -j RETURN
-A ISTIO_INBOUND -s {passthrough} -i lo -p tcp -j RETURN
-A ISTIO_INBOUND -i lo -p tcp -m mark ! --mark 1338 -j RETURN
-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
-A PREROUTING -p tcp -m mark --mark 777 -j CONNMARK --save-mark
-A OUTPUT -o lo -p tcp -m mark --mark 777 -j RETURN
-A OUTPUT ! -d {loopback} -o lo -p tcp -m owner --uid-owner 1400 -j MARK --set-mark 1338
-A OUTPUT ! -d {loopback} -o lo -p tcp -m owner --gid-owner 1401 -j MARK --set-mark 1338
-A OUTPUT -p tcp -m connmark --mark 777 -j CONNMARK --restore-mark"""
OF_THE_SCRIPT = """\
*nat
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_EMPTY - [0:0]
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15101
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15106
{inbound}
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1400 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 0 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1401 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -d 10.9.0.0/16 -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -j RETURN
COMMIT
*mangle
{transparent}
COMMIT
"""
OF_THE_SCRIPT_REDIRECT = """\
:ISTIO_INBOUND - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 22 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"""
OF_THE_SCRIPT_TPROXY = """\
:ISTIO_DIVERT - [0:0]
:ISTIO_TPROXY - [0:0]
:ISTIO_INBOUND - [0:0]
-A ISTIO_DIVERT -j MARK --set-mark 777
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 777/0xffffffff --on-port 15101
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 8080 -m socket -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp --dport 8080 -m socket -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp --dport 8080 -j ISTIO_TPROXY"""
OF_THE_SCRIPT_IPV6 = """\
*filter
-A INPUT -m state --state ESTABLISHED -j ACCEPT
-A INPUT -j REJECT
COMMIT
"""
POLICY_ROUTE = """
ip -{family} route add local default dev lo table 144
for turn in 1 2 3; do ip -{family} rule add fwmark 777 lookup 144; done
"""
FOREIGN = """\
*{table}
[11:660] -A PREROUTING -i eth1 -j RETURN
[12:720] -A OUTPUT -p udp -m udp --dport 53 -j RETURN
COMMIT
"""
FOREIGN_LINES = (
    "-A PREROUTING -i eth1 -j RETURN",
    "-A OUTPUT -p udp -m udp --dport 53 -j RETURN",
    "-A INPUT -i eth7 -j ACCEPT",
)
VALUES = {
    Family.V4: {"loopback": "127.0.0.1/32", "passthrough": "127.0.0.6/32"},
    Family.V6: {"loopback": "::1/128", "passthrough": "::6/128"},
}
OWNERS = {
    "by_uid": "-m owner --uid-owner 1400 -j ISTIO_IN_REDIRECT",
    "by_gid": "-m owner --gid-owner 1401 -j ISTIO_IN_REDIRECT",
}


def leave(name: str, family: Family, text: str) -> None:
    """Add what a program left to a family's tables, below what is there."""
    text = text.format(**VALUES[family], **OWNERS)
    result = subprocess.run(
        [*namespace.command_in(name), program(family, "-restore"), "--noflush", "--counters"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def leave_today(name: str, transparent: bool) -> None:
    """What today's program leaves: both families."""
    parts = ("", OF_TODAY_TPROXY) if transparent else (OF_TODAY_REDIRECT, "")
    text = OF_TODAY.replace("{inbound}", parts[0]).replace("{transparent}", parts[1])
    for family in BOTH:
        leave(name, family, text)
        if transparent:
            run(name, "sh", "-euc", POLICY_ROUTE.format(family=family.value))
    run(name, "ip", "address", "add", "::6/128", "dev", "lo")


def leave_script(name: str, transparent: bool) -> None:
    """What the script of 1.0.0 leaves: IPv4, and a closed IPv6."""
    parts = ("", OF_THE_SCRIPT_TPROXY) if transparent else (OF_THE_SCRIPT_REDIRECT, "")
    text = OF_THE_SCRIPT.replace("{inbound}", parts[0]).replace("{transparent}", parts[1])
    leave(name, Family.V4, text)
    leave(name, Family.V6, OF_THE_SCRIPT_IPV6)
    if transparent:
        run(name, "sh", "-euc", POLICY_ROUTE.format(family=4))


@pytest.mark.parametrize("flags", [ALL, TPROXY, OF_1_0], ids=["REDIRECT", "TPROXY", "1.0"])
@pytest.mark.parametrize("transparent", [False, True], ids=["left REDIRECT", "left TPROXY"])
@pytest.mark.parametrize("peer", [leave_today, leave_script], ids=["today", "1.0.0"])
def test_what_a_peer_left_is_replaced_and_cleaned(
    fresh: str, peer: Callable[[str, bool], None], transparent: bool, flags: tuple[str, ...]
) -> None:
    for family in BOTH:
        for table in ("raw", "mangle", "nat"):
            leave(fresh, family, FOREIGN.format(table=table))
        run(
            fresh, program(family), *["-A", "INPUT", "-i", "eth7", "-c", "9", "540", "-j", "ACCEPT"]
        )
    before, theirs = whole(fresh), met(fresh)
    peer(fresh, transparent)
    left = whole(fresh)
    assert left.count("ISTIO_") > 10 and ("lookup 144" in left) == transparent

    applied(fresh, *flags)

    with fresh_namespace() as alone:
        applied(alone, *flags)
        for family in BOTH:
            for table, text in with_rules(saved(alone, family)).items():
                ours = text.splitlines()
                here = saved(fresh, family)[table].splitlines()
                assert [line for line in here if line not in FOREIGN_LINES] == ours
        # Ours is added above theirs, before these go.
        assert without_priorities(routing(fresh)) == without_priorities(routing(alone))
    assert met(fresh) == theirs
    assert run_in(fresh, "status", *flags).status == 0

    applied(fresh, "clean")
    assert whole(fresh) == before
    peer(fresh, transparent)
    applied(fresh, "clean")
    assert whole(fresh) == before
