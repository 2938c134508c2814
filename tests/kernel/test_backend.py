"""Which of the kernel's two kinds of tables rules go through: never both."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pods import connect, listener, make_pod, namespace
from proxy_init.kernel import needs
from proxy_init.kernel.backend import Backend
from proxy_init.kernel.nftables import tables, trials
from proxy_init.rules.model import BUILT_IN, Family
from tests.fault_injection import (
    NET_ADMIN,
    NET_RAW,
    replace,
    replace_in_tables,
    run_patched,
    run_with,
    told,
)
from tests.foreign import NONE_MADE, tables_made
from tests.running import BOTH, Result, by_table, fresh_namespace, our_listing, run_in, with_rules
from tests.schemas import read_json
from tests.socket_options import take_away_every_legacy_table, take_away_legacy_tables

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
TPROXY = (*ALL, "-m", "TPROXY")
LEGACY, NFT = ("--backend", "legacy"), ("--backend", "nft")
no_legacy = pytest.mark.parametrize(
    "take_away", [take_away_legacy_tables, take_away_every_legacy_table]
)
both_ways = pytest.mark.parametrize(
    ("old", "new"), [(Backend.LEGACY, Backend.NFT), (Backend.NFT, Backend.LEGACY)]
)


def held(name: str, backend: Backend) -> dict[Family, dict[str, str]]:
    """What other programs print of a backend's tables that hold anything, by family and table."""
    found: dict[Family, dict[str, str]] = {}
    for family, prefix in zip(BOTH, ("ip", "ip6"), strict=True):
        saved = namespace.run(name, [f"{prefix}tables-{backend.value}-save"]).stdout
        found[family] = with_rules(by_table(saved))
        if backend is Backend.NFT:
            own = {table: our_listing(name, table, family) for table in BUILT_IN}
            found[family] |= {f"our {table}": text for table, text in own.items() if text}
    return found


def words(result: Result) -> dict[str, str]:
    """The last line of a run."""
    line = result.stderr.splitlines()[-1].split("\t")[2]
    return dict(word.split("=") for word in line.split())


NOTHING: dict[Family, dict[str, str]] = {Family.V4: {}, Family.V6: {}}


@pytest.mark.parametrize("flags", [ALL, TPROXY, (*ALL[:-1], "--ruleset", "1.0")], ids=str)
def test_each_backend_leaves_the_tables_of_the_other_alone(
    fresh: str, flags: tuple[str, ...]
) -> None:
    with fresh_namespace() as other:
        assert run_in(fresh, *flags, *LEGACY).status == 0
        assert run_in(other, *flags, *NFT).status == 0
        assert held(fresh, Backend.LEGACY) != NOTHING != held(other, Backend.NFT)
        assert held(fresh, Backend.NFT) == held(other, Backend.LEGACY) == NOTHING


def test_auto_is_legacy_where_nothing_speaks_against_it(fresh: str) -> None:
    result = run_in(fresh, *ALL)
    assert (result.status, words(result)["backend"]) == (0, "legacy")
    assert "backend legacy: this kernel has its tables" in result.stderr
    assert held(fresh, Backend.NFT) == NOTHING


def test_foreign_rules_in_nf_tables_do_not_change_that(fresh: str) -> None:
    namespace.run(fresh, ["iptables-nft", "-t", "nat", "-N", "THEIRS"]).check_returncode()
    result = run_in(fresh, *ALL)
    assert (result.status, words(result)["backend"]) == (0, "legacy")


@pytest.mark.parametrize("there", Backend)
def test_auto_stays_with_the_backend_that_holds_rules_of_ours(fresh: str, there: Backend) -> None:
    assert run_in(fresh, *ALL, "--backend", there.value).status == 0
    for flags, expected in ((ALL, "unchanged"), (TPROXY, "applied")):
        result = run_in(fresh, *flags)
        assert (words(result)["backend"], words(result)["result"]) == (there.value, expected)
        assert run_in(fresh, "status", *flags).status == 0
        assert run_in(fresh, "status", *flags, "-u", "5").status == 3
    (other,) = (backend for backend in Backend if backend is not there)
    assert held(fresh, other) == NOTHING


@both_ways
def test_a_backend_that_is_asked_for_takes_over_all_of_it(
    fresh: str, old: Backend, new: Backend
) -> None:
    assert run_in(fresh, *TPROXY, "--backend", old.value).status == 0
    before = run_in(fresh, "status", *ALL, "--backend", new.value)
    assert before.status == 3 and f"IPv4 ({old.value}) mangle" in before.stdout
    result = run_in(fresh, *ALL, "--backend", new.value)
    assert (result.status, words(result)["backend"]) == (0, new.value), result.stderr
    assert held(fresh, old) == NOTHING
    with fresh_namespace() as usual:
        assert run_in(usual, *ALL, "--backend", new.value).status == 0
        assert held(fresh, new) == held(usual, new)
    # The policy route of mode TPROXY went too.
    assert run_in(fresh, "status", *ALL).status == 0


@both_ways
def test_a_take_over_that_fails_leaves_the_old_one_as_it_was(
    fresh: str, old: Backend, new: Backend
) -> None:
    from proxy_init.kernel.system.refusal import KernelRefused

    assert run_in(fresh, *TPROXY, "--backend", old.value).status == 0
    before = held(fresh, old)
    # What the old one commits: that its rules go.
    going = {"mangle"} if old is Backend.LEGACY else {"nf_tables"}

    def poor() -> None:
        def commit(real: Callable[..., object], tables: object, name: str) -> object:
            if name in going and marker.exists():
                marker.unlink()
                raise KernelRefused(f"table {name}", 12)
            return real(tables, name)

        replace_in_tables("commit", commit)

    marker = Path("/tmp") / f"proxy-init-test-{os.getpid()}"
    marker.touch()
    try:
        result = run_patched(fresh, poor, *ALL, "--backend", new.value)
    finally:
        marker.unlink(missing_ok=True)
    assert result.status == 1, result.stderr
    assert (held(fresh, old), held(fresh, new)) == (before, NOTHING)


def test_clean_clears_both(fresh: str) -> None:
    assert run_in(fresh, *ALL, *LEGACY).status == 0
    text = namespace.run(fresh, ["iptables-legacy-save", "-t", "nat"]).stdout
    subprocess.run(
        [*namespace.command_in(fresh), "iptables-nft-restore"], input=text, text=True, check=True
    )
    assert run_in(fresh, "status", *ALL).status == 3
    assert run_in(fresh, "clean").status == 0
    assert held(fresh, Backend.LEGACY) == held(fresh, Backend.NFT) == NOTHING


# Kernels and containers that lack one of them.


@pytest.mark.parametrize("uid", [0, 65534])
def test_for_nft_the_capability_net_admin_is_enough(fresh: str, uid: int) -> None:
    result = run_with(fresh, *TPROXY, *NFT, uid=uid, capabilities=1 << NET_ADMIN)
    assert (result.status, words(result)["result"]) == (0, "applied"), result.stderr


@no_legacy
def test_without_legacy_tables_auto_is_nft_and_traffic_is_redirected(
    take_away: Callable[[], None],
) -> None:
    with (
        make_pod() as pod,
        listener(pod.namespace, "proxy", (15001, 15006), uid=1337, gid=1337),
        listener(pod.outside, "outside", (80,)),
    ):
        flags = (*ALL, "--log-level", "info")
        result = run_patched(pod.namespace, take_away, *flags)
        assert result.status == 0, result.stderr
        assert words(result)["backend"] == "nft"
        assert "backend nft: this kernel has no legacy table" in result.stderr
        assert tables_made(pod.namespace)[Family.V4] == ["table inet istio-proxy-nat"]
        assert held(pod.namespace, Backend.LEGACY) == NOTHING
        for address in ("198.51.100.7", "2001:db8:1::7"):
            assert connect(pod.namespace, address, 80).who == "proxy"
        assert connect(pod.namespace, "198.51.100.7", 80, uid=1337, gid=1337).who == "outside"
        again = run_patched(pod.namespace, take_away, *flags)
        assert words(again)["result"] == "unchanged"
        assert run_patched(pod.namespace, take_away, "clean").status == 0
        assert held(pod.namespace, Backend.NFT) == NOTHING
        assert connect(pod.namespace, "198.51.100.7", 80).who == "outside"


def without_nf_tables() -> None:
    def connected(_: object, protocol: int) -> object:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    for module in (tables, trials):
        replace(module, "connected", connected)


def without_either() -> None:
    take_away_legacy_tables()
    without_nf_tables()


def test_where_neither_works_the_error_is_what_check_says(fresh: str) -> None:
    result = run_patched(fresh, without_either, *ALL)
    assert result.status == 4
    *lines, summary = told(result)
    assert lines[1] == "backend legacy: this kernel has no legacy tables loaded for IPv4"
    assert lines[2] == (
        "backend nft: missing table nat: on the node, modprobe nf_tables nft_chain_nat"
    )
    assert summary.startswith("result=failed backend=none")
    checked = run_patched(fresh, without_either, "check", *ALL, "-O", "json")
    assert checked.status == 4
    found = read_json("check", checked.stdout)
    assert (found["works"], found["backend"]) == (False, None)
    missing = {
        each["backend"]: {
            (need["kind"], need["name"]) for need in each["needs"] if need["state"] == "missing"
        }
        for each in found["backends"]
    }
    assert missing["legacy"] == {("table", "nat")}
    assert missing["nft"] >= {("table", "nat"), ("expression", "redir")}
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize(
    ("asked", "lacking", "named"),
    [(NFT, without_nf_tables, "nft_chain_nat"), (LEGACY, without_either, "iptable_nat")],
)
def test_a_backend_that_is_asked_for_and_missing_is_a_failure_with_its_remedy(
    fresh: str, asked: tuple[str, ...], lacking: Callable[[], None], named: str
) -> None:
    result = run_patched(fresh, lacking, *ALL, *asked)
    assert result.status == 4
    assert any(named in line for line in told(result)), told(result)
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize("asked", [NFT, LEGACY, ()], ids=["nft", "legacy", "auto"])
def test_clean_finds_nothing_in_tables_that_the_kernel_lacks(
    fresh: str, asked: tuple[str, ...]
) -> None:
    result = run_patched(fresh, without_either, "clean", *asked)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert tables_made(fresh) == NONE_MADE
    # Of the kind that it has, it cleans them all the same.
    assert run_in(fresh, *TPROXY, *LEGACY).status == 0
    assert run_patched(fresh, without_nf_tables, "clean", *asked).status == 0
    assert held(fresh, Backend.LEGACY) == NOTHING


# check.


@pytest.mark.parametrize("flags", [ALL, (*TPROXY, "--redirect-dns", "--drop-invalid")], ids=str)
def test_check_finds_all_there_and_touches_nothing(fresh: str, flags: tuple[str, ...]) -> None:
    result = run_in(fresh, "check", *flags, "-O", "json")
    assert result.status == 0, result.stderr
    found = read_json("check", result.stdout)
    assert (found["works"], found["backend"]) == (True, "legacy")
    for each in found["backends"]:
        kinds = [need["kind"] for need in each["needs"]]
        of_tables = {"match", "target"} if each["backend"] == "legacy" else {"expression"}
        assert each["works"] and {"capability", "table", *of_tables} <= set(kinds)
        assert all(
            (need["revision"] is not None) == (need["kind"] in ("match", "target"))
            for need in each["needs"]
        )
    assert tables_made(fresh) == NONE_MADE
    text = run_in(fresh, "check", *flags)
    assert text.status == 0
    assert text.stdout.startswith("These flags will work here, through the backend legacy.\n")
    assert max(map(len, text.stdout.splitlines())) <= 80


def test_check_asks_for_tables_elsewhere_as_who_may_make_a_user_namespace(fresh: str) -> None:
    capabilities = 1 << NET_ADMIN | 1 << NET_RAW
    flags = ("check", *TPROXY, "-O", "json")
    result = run_with(fresh, *flags, uid=65534, capabilities=capabilities)
    assert result.status == 0, result.stderr
    there = {
        (need["name"], need["state"])
        for each in read_json("check", result.stdout)["backends"]
        for need in each["needs"]
        if need["kind"] == "table"
    }
    assert there == {("mangle", "there"), ("nat", "there")}
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize("number", [None, errno.EPERM])
def test_what_check_may_not_ask_it_does_not_call_missing(fresh: str, number: int | None) -> None:
    # As where AppArmor lets a user namespace be made, and then nothing be done in it.
    def forbidden() -> None:
        replace(needs, "table_errno", lambda *_: number)
        replace(needs, "_in_kernel", lambda *_: False)

    found = read_json("check", run_patched(fresh, forbidden, "check", *ALL, "-O", "json").stdout)
    legacy, _ = found["backends"]
    tables = {need["state"] for need in legacy["needs"] if need["kind"] == "table"}
    assert (found["works"], found["backend"], tables) == (True, "legacy", {"not known"})


@no_legacy
def test_check_without_legacy_tables_says_so_and_that_nft_works(
    fresh: str, take_away: Callable[[], None]
) -> None:
    result = run_patched(fresh, take_away, "check", *ALL, "-O", "json")
    assert result.status == 0, result.stdout
    found = read_json("check", result.stdout)
    assert found["backend"] == "nft"
    assert {each["backend"]: each["works"] for each in found["backends"]} == {
        "legacy": False,
        "nft": True,
    }
    refused = run_patched(fresh, take_away, "check", *ALL, *LEGACY)
    assert refused.status == 4
    assert "table nat for IPv4: missing; on the node, modprobe iptable_nat" in refused.stdout
    assert tables_made(fresh) == NONE_MADE
