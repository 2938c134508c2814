"""The counts of live rules: read as iptables reads them, raised by traffic, watched, as JSON."""

import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pods import ENVIRONMENT, Pod, connect, make_pod, namespace
from proxy_init.rules.model import Family
from tests.foreign import NONE_MADE, counted, load, plant, tables_made, with_counts
from tests.our_rules import change_rules
from tests.running import (
    BOTH,
    Result,
    backend_under_test,
    both_backends,
    run_in,
    with_legacy_tables,
)
from tests.schemas import read_json

pytestmark = both_backends

ROOT = Path(__file__).resolve().parents[2]
ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
TPROXY = (*ALL, "-m", "TPROXY", "--drop-invalid", "--redirect-dns", "--capture-all-dns")
OLD = ("-u", "1337", "-i", "*", "-b", "*", "-d", "8080", "--ruleset", "1.0")


@pytest.fixture
def pod() -> Iterator[Pod]:
    with make_pod() as pod:
        assert run_in(pod.namespace, *ALL).status == 0
        yield pod


def checked(text: str) -> list[dict[str, Any]]:
    """The rules of one object, which must be as the schema says."""
    rules: list[dict[str, Any]] = read_json("counters", text)["rules"]
    return rules


def counters(name: str, *flags: str) -> list[dict[str, Any]]:
    result = run_in(name, "counters", *flags, "-O", "json")
    assert result.status == 0, result.stderr
    return checked(result.stdout)


def matched(rules: list[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    """The rules that matched anything: by family, chain and reason, the packets."""
    return {
        (rule["family"], rule["chain"], rule["why"]): rule["packets"]
        for rule in rules
        if rule["packets"]
    }


def in_the_listing(name: str) -> list[tuple[str, str, str, int, int]]:
    """What iptables-save says of each rule that names a chain of ours, or is one of TPROXY's."""
    found = []
    for family, text in counted(name).items():
        for table in re.findall(r"^\*.*?^COMMIT$", text, flags=re.M | re.S):
            table_name = table[1 : table.index("\n")]
            for packets, size, rule in re.findall(r"^\[(\d+):(\d+)\] (-A .*)$", table, flags=re.M):
                found.append((family.title, table_name, rule, int(packets), int(size)))
    return sorted(found)


@with_legacy_tables
@pytest.mark.parametrize("flags", [ALL, TPROXY, OLD], ids=["REDIRECT", "TPROXY", "1.0"])
def test_counts_are_those_of_the_system_s_own_listing(
    fresh: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    assert run_in(fresh, *flags).status == 0
    # Every rule gets a count of its own.
    for family, text in counted(fresh).items():
        first, *others = re.split(r"^\[0:0\] -A", text, flags=re.M)
        counts = first + "".join(
            f"[{n}:{n * 2**33}] -A{rest}" for n, rest in enumerate(others, start=1)
        )
        load(fresh, family, counts, tmp_path)
    assert in_the_listing(fresh)

    shown = counters(fresh, *flags)

    assert {rule["standing"] for rule in shown} == {"wanted"}
    assert all(rule["why"] for rule in shown)
    assert in_the_listing(fresh) == sorted(
        (
            rule["family"],
            rule["table"],
            f"-A {rule['chain']} {rule['rule']}",
            rule["packets"],
            rule["bytes"],
        )
        for rule in shown
    )


def families_of(version: int) -> str:
    """Whose rules a packet meets, if they are the same for both families."""
    return f"IPv{version}" if backend_under_test() == "legacy" else "IPv4 and IPv6"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("uid", "port", "whys"),
    [
        pytest.param(
            1000,
            80,
            {
                "OUTPUT": "outbound traffic: the chain ISTIO_OUTPUT decides",
                "ISTIO_OUTPUT": "all other outbound traffic is captured (-i)",
                "ISTIO_REDIRECT": "captured: to port 15001, where the proxy accepts outbound TCP",
            },
            id="the application calls out",
        ),
        pytest.param(
            1337,
            80,
            {
                "OUTPUT": "outbound traffic: the chain ISTIO_OUTPUT decides",
                "ISTIO_OUTPUT": "sent by the proxy itself (uid 1337)",
            },
            id="the proxy calls out",
        ),
    ],
)
def test_traffic_raises_the_counts_of_the_rules_that_it_meets(
    pod: Pod, version: int, uid: int, port: int, whys: Mapping[str, str]
) -> None:
    before = matched(counters(pod.namespace, *ALL))
    assert not [key for key in before if key[0] == families_of(version) and key[1] in whys]

    connect(pod.namespace, pod.neighbour(version), port, uid=uid, gid=uid)

    assert matched(counters(pod.namespace, *ALL)) == before | {
        (families_of(version), chain, why): 1 for chain, why in whys.items()
    }


def test_what_comes_in_is_counted_too(pod: Pod) -> None:
    connect(pod.outside, pod.address(4), 8080, interface="to-eth0")
    assert matched(counters(pod.namespace, *ALL)) == {
        (families_of(4), "PREROUTING", "inbound TCP: the chain ISTIO_INBOUND decides"): 1,
        (families_of(4), "ISTIO_INBOUND", "every other inbound TCP port is captured (-b)"): 1,
        (
            families_of(4),
            "ISTIO_IN_REDIRECT",
            "captured: to port 15006, where the proxy accepts inbound TCP",
        ): 1,
    }


# Rules that differ from what the flags want.


def test_missing_and_unwanted_rules_are_named(fresh: str) -> None:
    assert run_in(fresh, *ALL).status == 0
    for change in ("-D ISTIO_OUTPUT 1", "-A ISTIO_INBOUND -p udp -j RETURN"):
        change_rules(fresh, Family.V4, "-t", "nat", *change.split())

    odd = [rule for rule in counters(fresh, *ALL) if rule["standing"] != "wanted"]

    assert [
        (rule["family"], rule["chain"], rule["number"], rule["rule"], rule["standing"])
        for rule in odd
    ] == [
        ("IPv4", "ISTIO_INBOUND", 3, "-p udp -j RETURN", "not wanted"),
        ("IPv4", "ISTIO_OUTPUT", None, "-s 127.0.0.6/32 -o lo -j RETURN", "missing"),
    ]
    text = run_in(fresh, "counters", *ALL).stdout
    assert re.search(r"missing +from 127.0.0.6, leaving on lo: passes", text)
    assert re.search(r"never +any UDP: passes\n +not wanted by these flags", text)


def test_the_rules_of_others_are_left_out(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    assert counters(fresh, "-m", "NONE") == []
    assert run_in(fresh, *ALL).status == 0
    if backend_under_test() == "legacy":
        for family, text in with_counts(counted(fresh), 99).items():
            load(fresh, family, text, tmp_path)
    shown = counters(fresh, *ALL)
    assert {rule["standing"] for rule in shown} == {"wanted"}
    assert all("ISTIO_" in rule["chain"] + rule["rule"] for rule in shown)
    if backend_under_test() == "legacy":
        jumps = [rule for rule in shown if rule["chain"] in ("OUTPUT", "PREROUTING")]
        assert {rule["packets"] for rule in jumps} == {99}


def test_looking_changes_nothing(fresh: str) -> None:
    shown = counters(fresh, *TPROXY)
    assert tables_made(fresh) == NONE_MADE
    assert {rule["standing"] for rule in shown} == {"missing"}
    assert run_in(fresh, *TPROXY).status == 0
    before = counted(fresh)
    counters(fresh, *ALL)
    assert counted(fresh) == before


# The text.


def test_the_text_fits_80_columns_and_rules_that_never_matched_stand_out(pod: Pod) -> None:
    connect(pod.namespace, pod.neighbour(4), 80)
    result: Result = run_in(pod.namespace, "counters", *ALL)
    assert result.status == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in result.stdout
    assert [line for line in lines if re.search(r" 1 +60 +any TCP: captured .* 15001$", line)]
    assert sum("never" in line for line in lines) == sum(
        not rule["packets"] for rule in counters(pod.namespace, *ALL)
    )


def test_without_privilege_it_says_what_is_missing(pod: Pod) -> None:
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    result = pod.run([*without, sys.executable, "-m", "proxy_init", "counters", *ALL])
    assert (result.returncode, result.stdout) == (4, "")
    assert "missing capability NET_ADMIN" in result.stderr


# --watch.


@contextmanager
def watching(name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """The program at work with --watch; it has read the counts once when the block begins."""
    with subprocess.Popen(
        [
            *namespace.command_in(name),
            *(sys.executable, "-m", "proxy_init", "counters", *flags),
        ],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watcher:
        try:
            assert watcher.stderr is not None
            assert any("watching" in line for line in watcher.stderr)
            yield watcher
        finally:
            watcher.kill()


def has_more(watcher: subprocess.Popen[str], seconds: float) -> bool:
    assert watcher.stdout is not None
    return bool(select.select([watcher.stdout], [], [], seconds)[0])


def test_watching_shows_what_changes_as_it_changes_and_nothing_else(pod: Pod) -> None:
    with watching(pod.namespace, *ALL, "--watch", "0.2", "-O", "json") as watcher:
        assert watcher.stdout is not None
        for _ in range(2):
            assert not has_more(watcher, 0.5)
            connect(pod.namespace, pod.neighbour(4), 80)
            rules = checked(watcher.stdout.readline())
            assert {(rule["chain"], rule["more_packets"]) for rule in rules} == {
                ("OUTPUT", 1),
                ("ISTIO_OUTPUT", 1),
                ("ISTIO_REDIRECT", 1),
            }
        change_rules(pod.namespace, Family.V4, "-t", "nat", "-D", "ISTIO_OUTPUT", "1")
        [gone] = checked(watcher.stdout.readline())
        assert (gone["standing"], gone["number"]) == ("missing", None)
        assert not has_more(watcher, 0.5)
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(10) == 0
        assert watcher.stdout.read() == ""


def test_watching_as_text(pod: Pod) -> None:
    with watching(pod.namespace, *ALL, "--watch=0.2") as watcher:
        assert watcher.stdout is not None
        connect(pod.namespace, pod.neighbour(4), 80)
        block = []
        while line := watcher.stdout.readline().strip():
            block.append(line)
        assert re.fullmatch(r"[-0-9]+T[:0-9]+Z", block[0])
        assert [line for line in block if re.search(r"\+1 +\+60 +any packet: → ISTIO_OUTPUT", line)]
        if backend_under_test() == "legacy":
            assert "IPv6" not in "".join(block)


def test_families_are_read_side_by_side_again_and_again(fresh: str) -> None:
    assert run_in(fresh, *TPROXY).status == 0
    with watching(fresh, *TPROXY, "--watch", "0.1", "-O", "json") as watcher:
        assert watcher.stdout is not None
        assert run_in(fresh, "clean").status == 0
        # The tables go one by one, so one look may see some of them.
        missing: set[str] = set()
        while missing != {family.title for family in BOTH}:
            rules = checked(watcher.stdout.readline())
            missing |= {rule["family"] for rule in rules if rule["standing"] == "missing"}
        assert watcher.poll() is None


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "0.01", "1e3", "99999"])
def test_an_interval_that_is_none_is_a_wrong_call(fresh: str, seconds: str) -> None:
    result = run_in(fresh, "counters", "-p", "0", "--watch", seconds)
    assert result.status == 2
    port, watch = sorted(result.stderr.splitlines(), key=lambda line: "--watch" in line)
    assert port.startswith("proxy-init: -p: got '0'")
    assert watch == (f"proxy-init: --watch: got '{seconds}', expected seconds from 0.1 to 86400")
    assert tables_made(fresh) == NONE_MADE
