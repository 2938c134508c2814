"""What applying does to the kernel, to the rules of others in it, and to the log."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from shlex import join

import pytest

from pods import ENVIRONMENT, make_pod, namespace
from proxy_init.rules.model import Family
from tests.foreign import (
    NONE_MADE,
    counted,
    foreign_in,
    load,
    plant,
    run,
    surround,
    tables_made,
    with_counts,
)
from tests.our_rules import change_rules
from tests.running import (
    BOTH,
    Result,
    backend_under_test,
    both_backends,
    run_in,
    saved,
    with_legacy_tables,
    with_rules,
)

pytestmark = both_backends

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
OTHER = ("-u", "2000", "-i", "10.0.0.0/8,fd00::/8", "-b", "8080", "-x", "10.1.0.0/16", "--ipv6")


def applied(name: str, *flags: str) -> Result:
    """One run that has to succeed."""
    result = run_in(name, *flags)
    assert result.status == 0, result.stderr
    return result


def rules(name: str) -> dict[Family, dict[str, str]]:
    """By family and table, what anybody has put into the kernel."""
    return {family: with_rules(saved(name, family)) for family in BOTH}


def summary(result: Result) -> dict[str, str]:
    """The words of a run's last line."""
    last = result.stderr.splitlines()[-1].split("\t")[2]
    return dict(word.split("=", 1) for word in last.split())


# One run after another.


@with_legacy_tables
def test_the_second_run_changes_nothing_and_succeeds(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    applied(fresh, *ALL, "--drop-invalid")
    for family, text in with_counts(counted(fresh), 99).items():
        load(fresh, family, text, tmp_path)
    before = counted(fresh)
    assert all("[99:5940] -A OUTPUT -j ISTIO_OUTPUT" in before[family] for family in BOTH)

    again = applied(fresh, *ALL, "--drop-invalid")

    assert counted(fresh) == before
    assert summary(again)["result"] == "unchanged"


@with_legacy_tables
def test_chains_that_stay_as_they_were_keep_their_counts(fresh: str, tmp_path: Path) -> None:
    applied(fresh, *ALL)
    for family, text in with_counts(counted(fresh), 99).items():
        load(fresh, family, text, tmp_path)
    applied(fresh, *ALL, "-x", "10.1.0.0/16,fd00:1::/32")
    for text in counted(fresh).values():
        assert "[99:5940] -A OUTPUT -j ISTIO_OUTPUT" in text
        assert "[99:5940] -A ISTIO_REDIRECT -p tcp -j REDIRECT" in text
        assert "[0:0] -A ISTIO_OUTPUT -j ISTIO_REDIRECT" in text


@with_legacy_tables
def test_force_apply_writes_ours_anew_and_leaves_the_rest(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    applied(fresh, *ALL)
    before = counted(fresh)
    for family, text in with_counts(before, 99).items():
        load(fresh, family, text, tmp_path)

    again = applied(fresh, *ALL, "--force-apply")

    assert counted(fresh) == with_counts(before, 0)
    assert summary(again)["result"] == "applied"


def test_force_apply_is_good_for_a_first_run_too(fresh: str) -> None:
    with namespace.namespace("usual") as usual:
        applied(usual, *ALL)
        applied(fresh, *ALL, "--force-apply")
        assert rules(fresh) == rules(usual)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(ALL, OTHER, id="everything differs"),
        pytest.param(OTHER, ALL, id="and back"),
        pytest.param(ALL, (*ALL, "--no-ipv6"), id="IPv6 is off now: its rules go"),
        pytest.param((*ALL, "--no-ipv6"), ALL, id="IPv6 is on now: IPv4 stays, its rules come"),
        pytest.param((*ALL, "--drop-invalid"), ALL, id="mangle holds nothing any more"),
        pytest.param(ALL, (*ALL, "--drop-invalid"), id="mangle is new"),
        pytest.param((*ALL, "-c", "eth1,eth2"), ALL, id="-c goes"),
        pytest.param((*ALL, "-c", "eth1,eth2"), (*ALL, "-c", "eth2,eth3"), id="-c differs"),
        pytest.param((*ALL, "-k", "eth1,eth2"), ALL, id="-k goes"),
        pytest.param((*ALL, "-k", "eth1"), (*ALL, "-c", "eth1"), id="-k becomes -c"),
        pytest.param((*ALL, "-b", "8080"), (*ALL, "-b", ""), id="nothing inbound any more"),
        pytest.param((*ALL, "--comments"), ALL, id="comments go"),
        pytest.param(
            (*ALL, "-x", "10.1.0.0/16,10.2.0.0/16"),
            (*ALL, "-x", "10.2.0.0/16,10.1.0.0/16"),
            id="the same in another order",
        ),
    ],
)
def test_other_flags_on_the_next_run_replace_the_old_rules(
    fresh: str, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    applied(fresh, *old)
    before = rules(fresh)
    assert summary(applied(fresh, *new))["result"] == "applied"
    with namespace.namespace("wanted") as wanted:
        applied(wanted, *new)
        assert rules(fresh) == rules(wanted) != before


# The rules of others.


FLAGS_IN_TURN = (
    ALL,
    (*ALL, "--drop-invalid", "-c", "eth0"),
    (*OTHER, "-k", "eth1"),
    (*ALL, "--force-apply"),
    (*ALL, "--no-ipv6"),
    (*ALL, "-i", "", "-b", ""),
)


def test_foreign_rules_and_their_counts_survive_one_run_after_another(
    fresh: str, tmp_path: Path
) -> None:
    plant(fresh, tmp_path)
    before = foreign_in(counted(fresh))
    for flags in FLAGS_IN_TURN:
        applied(fresh, *flags)
        assert _without_interfaces(foreign_in(counted(fresh)), flags) == before


@with_legacy_tables
def test_foreign_rules_above_and_behind_ours_stay_there(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    applied(fresh, *ALL)
    surround(fresh)
    before = foreign_in(counted(fresh))
    for flags in FLAGS_IN_TURN[:4]:  # the others take ours out of a PREROUTING
        applied(fresh, *flags)
        assert _without_interfaces(foreign_in(counted(fresh)), flags) == before

    applied(fresh, *ALL)
    now = counted(fresh)
    for family in BOTH:
        assert _shape(now[family]) == ["5", "6", "7", "ours", "17"]
    assert _shape(now[Family.V4], "OUTPUT") == ["18", "8", "9", "ours"]


@with_legacy_tables
def test_new_rules_go_behind_foreign_ones_but_for_those_of_k(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    applied(fresh, *ALL, "-k", "eth1", "-c", "eth0")
    for text in counted(fresh).values():
        # The capture and the RETURN of -k, three foreign rules, the RETURN of -c, the jump.
        assert _shape(text) == ["ours", "0", "5", "6", "7", "0", "ours"]


@with_legacy_tables
def test_a_foreign_rule_that_looks_like_one_of_ours_survives_it(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    before = foreign_in(counted(fresh))
    # eth9 has a foreign RETURN in PREROUTING already.
    applied(fresh, *ALL, "-c", "eth9")
    for family in BOTH:
        assert saved(fresh, family)["nat"].count("-A PREROUTING -i eth9 -j RETURN\n") == 2
    applied(fresh, *ALL)
    assert foreign_in(counted(fresh)) == before


@with_legacy_tables
def test_a_family_that_is_off_and_free_of_ours_is_not_touched(fresh: str, tmp_path: Path) -> None:
    applied(fresh, *ALL, "--no-ipv6")
    assert tables_made(fresh) == {Family.V4: ["nat"], Family.V6: []}
    plant(fresh, tmp_path)
    before = counted(fresh)[Family.V6]
    applied(fresh, *ALL, "--no-ipv6")
    assert counted(fresh)[Family.V6] == before


def _shape(text: str, chain: str = "PREROUTING") -> list[str]:
    """The rules of a chain of nat: `ours` where it names a chain of ours, else its packets."""
    nat = text.partition("*nat\n")[2].partition("COMMIT\n")[0]
    lines = re.findall(rf"^\[(\d+):\d+\] -A {chain} (.*)", nat, flags=re.M)
    return ["ours" if "ISTIO_" in rule else packets for packets, rule in lines]


def _without_interfaces(tables: dict[Family, str], flags: tuple[str, ...]) -> dict[Family, str]:
    """Without the RETURNs of -c and -k, which name no chain of ours."""
    names = [value for flag, value in pairwise(flags) if flag in ("-c", "-k")]
    for name in names:
        line = rf"^\[0:0\] -A (PREROUTING -i|OUTPUT -o) {name} -j RETURN\n"
        tables = {family: re.sub(line, "", text, flags=re.M) for family, text in tables.items()}
    return tables


# Families and namespaces.


def test_both_families_in_one_call_of_the_real_program() -> None:
    with make_pod() as pod, namespace.namespace("wanted") as wanted:
        result = pod.apply(*ALL, "--backend", os.environ["PROXY_INIT_BACKEND"])
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""
        assert "families=IPv4,IPv6 tables=nat" in result.stderr.splitlines()[-1]
        applied(wanted, *ALL)
        assert rules(pod.namespace) == rules(wanted)
        assert all(rules(wanted).values())


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "flags", "families"),
    [
        pytest.param(True, True, (), "IPv4", id="the first global address decides"),
        pytest.param(True, True, ("--dual-stack",), "IPv4,IPv6", id="with --dual-stack any does"),
        pytest.param(False, True, (), "IPv4,IPv6", id="IPv6 alone"),
        pytest.param(True, False, ("--dual-stack",), "IPv4", id="IPv4 alone"),
        pytest.param(True, False, ("--ipv6",), "IPv4,IPv6", id="as asked for, without an address"),
        pytest.param(False, True, ("--no-ipv6",), "IPv4", id="not, as asked for"),
        pytest.param(False, False, (), "IPv4", id="no address at all"),
    ],
)
def test_families_follow_the_addresses_of_the_pod(
    ipv4: bool, ipv6: bool, flags: tuple[str, ...], families: str
) -> None:
    with make_pod(ipv4=ipv4, ipv6=ipv6) as pod:
        result = applied(pod.namespace, "-i", "*", *flags)
        assert summary(result)["families"] == families
        captured = [family.title for family, tables in rules(pod.namespace).items() if tables]
        assert ",".join(captured) == families
        leaks = ipv6 and "IPv6" not in families
        warning = "\twarn\tthe pod has a global IPv6 address, but IPv6 is not captured"
        assert (warning in result.stderr) == leaks


@pytest.mark.parametrize("spelling", ["{name}", "/var/run/netns/{name}", "/proc/{pid}/ns/net"])
def test_another_namespace_is_worked_in_by_name_or_path(fresh: str, spelling: str) -> None:
    def stay(tell: namespace.Tell) -> None:
        tell(os.getpid())
        signal.pause()

    with namespace.namespace("other") as other, namespace.process(other, stay) as pid:
        path = spelling.format(name=other, pid=pid)
        applied(fresh, *ALL, "--network-namespace", path)
        assert all(rules(other).values())
        assert tables_made(fresh) == NONE_MADE
        again = run_in(fresh, *ALL, environ={"NETWORK_NAMESPACE": path})
        assert summary(again)["result"] == "unchanged"


def test_the_addresses_that_count_are_those_of_the_other_namespace(fresh: str) -> None:
    with make_pod(ipv4=False) as pod:
        result = applied(fresh, "-i", "*", "--network-namespace", pod.namespace)
        assert summary(result)["families"] == "IPv4,IPv6"


@contextmanager
def with_ids_of_its_own() -> Iterator[str]:
    """A network namespace that belongs to a user namespace, as of a pod with hostUsers: false: its
    path. The ids from 0 to 65535 in there are those from 100000 out here."""
    with subprocess.Popen(["unshare", "--user", "--net", "cat"], stdin=subprocess.PIPE) as child:
        process = Path(f"/proc/{child.pid}")
        until = time.monotonic() + 10
        while (process / "ns/user").readlink() == Path("/proc/self/ns/user").readlink():
            assert time.monotonic() < until
            time.sleep(0.005)
        for kind in ("uid", "gid"):
            (process / f"{kind}_map").write_text("0 100000 65536")
        yield f"{process}/ns/net"  # and then cat finds that its input has ended


def test_uids_are_those_of_the_namespace_that_is_worked_in(fresh: str) -> None:
    with with_ids_of_its_own() as path:
        applied(fresh, *ALL, "--network-namespace", path)
        again = run_in(fresh, *ALL, environ={"NETWORK_NAMESPACE": path})
        assert summary(again)["result"] == "unchanged"
        unknown = run_in(fresh, *ALL, "-u", "65536", "--network-namespace", path)
        assert unknown.status == 4
        assert "this user namespace does not know gid 65536, uid 65536" in unknown.stderr


@pytest.mark.parametrize(
    "kind", ["missing name", "missing path", "file", "directory", "fifo", "mount namespace", "null"]
)
def test_what_is_no_network_namespace_is_a_wrong_call(
    fresh: str, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    path = {
        "missing name": "no-such-namespace",
        "missing path": str(tmp_path / "missing"),
        "file": str(tmp_path / "file"),
        "directory": str(tmp_path),
        "fifo": str(tmp_path / "fifo"),
        "mount namespace": "/proc/self/ns/mnt",
        "null": "/dev/null",
    }[kind]
    result = run_in(fresh, *ALL, "--network-namespace", path)
    assert (result.status, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("proxy-init: --network-namespace: got ") and path in line
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (("-p", "0"), {}),
        (("-x", "10.0.0.0/33"), {}),
        (("-u", "no-such-user"), {}),
        (("-c", "a name"), {}),
        (("-x", "@/no/such/file"), {}),
        (("--no-such-flag",), {}),
        (("-b", "8080", "-d", "9090", "--strict"), {}),
        ((), {"ENABLE_INBOUND_IPV6": "perhaps"}),
        ((), {"ISTIO_OUTBOUND_OWNER_GROUPS": "1,*"}),
        (("-m", "TPROXY", "-t", "1338"), {}),
    ],
    ids=lambda value: " ".join(value) or None,
)
def test_a_wrong_call_does_not_touch_the_kernel(
    fresh: str, flags: tuple[str, ...], environ: dict[str, str]
) -> None:
    result = run_in(fresh, *ALL[:-1], *flags, environ=environ)
    assert (result.status, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert tables_made(fresh) == NONE_MADE
    assert counted(fresh) == {Family.V4: "", Family.V6: ""}


# Flags that hold back.


def test_dry_run_touches_nothing(fresh: str) -> None:
    result = applied(fresh, *ALL, "--drop-invalid", "--dry-run")
    listed = re.findall(r"^(?:\*|table inet istio-proxy-)(\w+)", result.stdout, re.M)
    assert list(dict.fromkeys(listed)) == ["mangle", "nat"]
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--skip-rule-apply",), "--skip-rule-apply: nothing is written"),
        (("-m", "NONE"), "mode NONE: nothing to do"),
    ],
)
def test_flags_that_write_nothing_say_so(fresh: str, flags: tuple[str, ...], said: str) -> None:
    result = applied(fresh, *ALL, *flags)
    assert tables_made(fresh) == NONE_MADE
    assert said in result.stderr and summary(result)["result"] == "unchanged"

    applied(fresh, *ALL)
    before = counted(fresh)
    applied(fresh, *OTHER, *flags)
    assert counted(fresh) == before


def test_no_reconcile_shows_a_difference_and_fails(fresh: str, tmp_path: Path) -> None:
    plant(fresh, tmp_path)
    applied(fresh, *ALL)
    before = counted(fresh)

    result = run_in(fresh, *ALL, "-x", "10.1.0.0/16", "-b", "8080", "--no-reconcile")

    assert result.status == 1
    assert counted(fresh) == before
    told = [line.split("\t", 2)[2] for line in result.stderr.splitlines() if "\terror\t" in line]
    assert "--no-reconcile" in told[0]
    for line in (
        "--- IPv4 nat, in the kernel",
        "+++ IPv4 nat, wanted",
        "+-A ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN",
        "--A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        "+-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT",
        "+++ IPv6 nat, wanted",
    ):
        assert line in told
    assert summary(result)["result"] == "failed"
    # What is not ours is nobody's difference, though it may stand around one.
    assert not [line for line in told if line[0] in "+-" and "A_CHAIN" in line]


def test_no_reconcile_is_content_where_nothing_differs_or_nothing_is_there(
    fresh: str, tmp_path: Path
) -> None:
    plant(fresh, tmp_path)
    for result in ("applied", "unchanged"):
        assert summary(applied(fresh, *ALL, "--no-reconcile"))["result"] == result


@pytest.mark.parametrize(
    "change",
    [
        ("-D", "ISTIO_OUTPUT", "1"),
        ("-F", "ISTIO_REDIRECT"),
        ("-D", "PREROUTING", "-p", "tcp", "-j", "ISTIO_INBOUND"),
        ("-A", "OUTPUT", "-j", "ISTIO_OUTPUT"),
        ("-I", "ISTIO_INBOUND", "1", "-p", "tcp", "-m", "tcp", "--dport", "22", "-j", "RETURN"),
        ("-N", "ISTIO_STRAY"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.title)
def test_what_somebody_did_to_our_rules_is_noticed_and_put_right(
    fresh: str, family: Family, change: tuple[str, ...]
) -> None:
    applied(fresh, *ALL)
    good = rules(fresh)
    listing = run(fresh, "nft", "--stateless", "list", "ruleset")
    change_rules(fresh, family, "-t", "nat", *change)
    spoilt = rules(fresh), run(fresh, "nft", "--stateless", "list", "ruleset")
    assert spoilt != (good, listing)

    assert run_in(fresh, *ALL, "--no-reconcile").status == 1
    assert (rules(fresh), run(fresh, "nft", "--stateless", "list", "ruleset")) == spoilt
    assert summary(applied(fresh, *ALL))["result"] == "applied"
    assert rules(fresh) == good


# The log.


def test_a_run_ends_with_one_line_that_sums_it_up(fresh: str) -> None:
    result = applied(fresh, *ALL, "--drop-invalid")
    assert result.stdout == ""
    words = summary(result)
    assert re.fullmatch("[0-9]+", words.pop("milliseconds"))
    with_a_rule = [line for line in result.stderr.splitlines() if ": -A " in line]
    assert words == {
        "result": "applied",
        "backend": os.environ["PROXY_INIT_BACKEND"],
        "families": "IPv4,IPv6",
        "tables": "mangle,nat",
        "rules": str(len(with_a_rule)),
    }


def test_the_log_names_each_rule_that_the_kernel_then_holds(fresh: str) -> None:
    result = applied(fresh, *ALL, "--drop-invalid")
    logged = [line.split("\t")[2] for line in result.stderr.splitlines() if ": -A " in line]
    if backend_under_test() == "nft":
        found = json.loads(run_in(fresh, "counters", *ALL, "--drop-invalid", "-O", "json").stdout)
        assert sorted(logged) == sorted(
            f"{family} {rule['table']}: -A {rule['chain']} {rule['rule']}"
            for rule in found["rules"]
            for family in rule["family"].split(" and ")
        )
        return
    held = [
        f"{family.title} {table}: {line}"
        for family in BOTH
        for table, text in saved(fresh, family).items()
        for line in text.splitlines()
        if line.startswith("-A")
    ]
    assert sorted(logged) == sorted(held)


def test_the_log_as_json(fresh: str) -> None:
    applied(fresh, *ALL)
    good = applied(fresh, *ALL, "--log_as_json", "-q", "443", "--log_output_level=debug")
    bad = run_in(fresh, *OTHER, "--log_as_json", "--no-reconcile")
    for result in (good, bad):
        lines = [json.loads(line) for line in result.stderr.splitlines()]
        assert all({"level", "time", "msg"} <= line.keys() for line in lines)
        assert all(re.fullmatch(r"[-0-9]+T[:0-9]+\.[0-9]+Z", line["time"]) for line in lines)
        assert lines[-1]["msg"].startswith(f"result={lines[-1]['result']} ")
    assert {"debug", "info", "warn"} <= {
        json.loads(line)["level"] for line in good.stderr.splitlines()
    }


def test_a_silent_log(fresh: str, tmp_path: Path) -> None:
    assert applied(fresh, *ALL, "--log_output_level=none").stderr == ""
    words = tmp_path / "termination-log"
    failed = run_in(
        fresh,
        *OTHER,
        "--log_output_level=none",
        "--no-reconcile",
        environ={"TERMINATION_LOG": str(words)},
    )
    assert (failed.status, failed.stdout, failed.stderr) == (1, "", "")
    assert "--no-reconcile" in words.read_text()


def test_last_words_are_left_for_failures_only(fresh: str, tmp_path: Path) -> None:
    words = tmp_path / "termination-log"
    environ = {"TERMINATION_LOG": str(words)}
    assert run_in(fresh, *ALL, environ=environ).status == 0
    assert not words.exists()
    wrong = run_in(fresh, "-p", "0", "-b", "zero", environ=environ)
    assert wrong.status == 2
    assert [f"proxy-init: {line}" for line in words.read_text().splitlines()] == (
        wrong.stderr.splitlines()
    )
    # Where it cannot be written, the failure is the same.
    nowhere = {"TERMINATION_LOG": str(tmp_path / "no" / "such" / "directory")}
    assert run_in(fresh, "-p", "0", environ=nowhere).status == 2


# Where the file system is read-only.


@pytest.mark.parametrize("lock", ["/no/such/directory/lock", "/made-by-nobody.lock"])
def test_a_read_only_file_system_without_a_lock_file(lock: str) -> None:
    script = 'mount -o remount,ro,bind / && ! test -w / && exec "$@"'
    with make_pod(ipv4=False, ipv6=False) as pod:
        result = pod.run(
            [
                "unshare",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
                sys.executable,
                "-m",
                "proxy_init",
                *ALL,
                *("--backend", os.environ["PROXY_INIT_BACKEND"]),
            ],
            env={**ENVIRONMENT, "XTABLES_LOCKFILE": lock},
        )
        assert result.returncode == 0, result.stderr
        assert "result=applied" in result.stderr.splitlines()[-1]
        assert all(rules(pod.namespace).values())


def test_closed_standard_streams_are_no_trouble(fresh: str) -> None:
    backend = ("--backend", os.environ["PROXY_INIT_BACKEND"])
    command = join([sys.executable, "-m", "proxy_init", *ALL, "--no-ipv6", *backend])
    for _ in ("first", "second"):  # the second reads what the first has written
        result = namespace.run(fresh, ["sh", "-c", f"exec {command} <&- >&- 2>&-"], env=ENVIRONMENT)
        assert result.returncode == 0
    assert run_in(fresh, *ALL, "--no-ipv6", "--no-reconcile").status == 0
    assert re.search("ISTIO_OUTPUT|jump istio-output", saved(fresh, Family.V4)["nat"])
