"""What stops applying: privilege, the lock, and a kernel or a library that says no.

What the kernel is made to say here is said by a Tables whose methods are replaced in the child
process that the program runs in; everything else is real.
"""

import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pods import ENVIRONMENT, namespace
from proxy_init.kernel import legacy_steps, needs
from proxy_init.kernel.legacy.libiptc import Tables
from proxy_init.kernel.legacy.sockopt import table_errno
from proxy_init.kernel.system.refusal import KernelRefused
from proxy_init.rules.model import Family, Table
from tests.fault_injection import (
    NET_ADMIN,
    NET_RAW,
    called,
    held_lock,
    libc,
    replace,
    replace_in_tables,
    run_patched,
    run_with,
    told,
)
from tests.foreign import NONE_MADE, counted, plant, surround, tables_made, with_counts
from tests.running import (
    BOTH,
    Result,
    backend_under_test,
    both_backends,
    program,
    run_here,
    run_in,
    saved,
    with_legacy_tables,
    with_rules,
)

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
LEGACY = (*ALL, "--drop-invalid", "--backend", "legacy")
NEW = ("-u", "2000", "-i", "10.0.0.0/8,fd00::/8", "-b", "8080", "--ipv6", "--drop-invalid")


def rules(name: str) -> dict[Family, dict[str, str]]:
    """By family and table, what anybody has put into the kernel."""
    return {family: with_rules(saved(name, family)) for family in BOTH}


# Privilege.


@both_backends
def test_a_dry_run_takes_no_privilege(fresh: str) -> None:
    flags = (*ALL, "--drop-invalid", "--dry-run", "-x", "10.0.0.0/8,fd00::/8")
    by_root = run_in(fresh, *flags)
    by_nobody = run_with(fresh, *flags, uid=65534, capabilities=0)
    assert by_nobody.status == 0, by_nobody.stderr
    assert by_nobody.stdout == by_root.stdout != ""
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize("uid", [0, 65534])
@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ((NET_ADMIN,), "missing capability NET_ADMIN:"),
        ((NET_RAW,), "missing capability NET_RAW:"),
        ((NET_ADMIN, NET_RAW), "missing capability NET_ADMIN and NET_RAW:"),
    ],
    ids=["NET_ADMIN", "NET_RAW", "both"],
)
def test_a_missing_capability_is_named(
    fresh: str, lacking: Sequence[int], named: str, uid: int
) -> None:
    capabilities = sum(1 << bit for bit in (NET_ADMIN, NET_RAW) if bit not in lacking)
    result = run_with(fresh, *ALL, uid=uid, capabilities=capabilities)
    assert (result.status, result.stdout) == (4, "")
    assert [line for line in told(result) if line.startswith(named)]
    assert not [line for line in told(result) if "modprobe" in line]
    assert told(result)[-1].startswith("result=failed ")
    assert tables_made(fresh) == NONE_MADE


@both_backends
@pytest.mark.parametrize("uid", [0, 65534])
def test_the_two_capabilities_are_enough(fresh: str, uid: int) -> None:
    capabilities = 1 << NET_ADMIN | 1 << NET_RAW
    for word in ("applied", "unchanged"):
        result = run_with(fresh, *ALL, uid=uid, capabilities=capabilities)
        assert result.status == 0, result.stderr
        assert f"result={word} " in result.stderr.splitlines()[-1]
    with namespace.namespace("by-root") as by_root:
        assert run_in(by_root, *ALL).status == 0
        assert rules(fresh) == rules(by_root)


def test_who_may_not_read_which_tables_there_are_needs_only_those_of_the_rules(fresh: str) -> None:
    # /proc/net/ip_tables_names is for root. This node has no table raw, and needs none.
    def no_raw(real: Callable[[Tables, str], Table], tables: Tables, name: str) -> Table:
        if name == "raw":
            raise KernelRefused("table raw", errno.ENOENT)
        return real(tables, name)

    def without_raw() -> None:
        replace_in_tables("read", no_raw)
        replace_in_tables("instantiated", lambda real, tables: ("raw", "mangle", "nat", "filter"))

    result = run_patched(fresh, without_raw, *ALL, "--no-ipv6")
    assert result.status == 0, result.stderr


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_namespace_that_one_may_not_enter_is_no_silent_failure(
    fresh: str, flags: tuple[str, ...]
) -> None:
    with namespace.namespace("other") as other:
        result = run_with(
            fresh, *ALL, *flags, "--network-namespace", other, uid=65534, capabilities=0
        )
        assert (result.status, result.stdout) == (4, "")
        line, *_ = told(result)
        assert "--network-namespace" in line and "CAP_SYS_ADMIN" in line


def test_a_dry_run_that_nobody_can_read_is_no_silent_failure(fresh: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*namespace.command_in(fresh), sys.executable, "-m", "proxy_init", *ALL, "--dry-run"],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert "standard output: No space left on device" in result.stderr


@both_backends
@pytest.mark.parametrize(
    ("flags", "status"), [(("-u", "1337"), 4), (("-u", "0", "-g", "1338"), 4), (("-u", "0"), 0)]
)
def test_an_owner_that_the_user_namespace_does_not_know_is_named(
    fresh: str, flags: tuple[str, ...], status: int
) -> None:
    def work() -> tuple[Result, str]:
        # linux/sched.h: CLONE_NEWUSER, CLONE_NEWNET; only root is mapped, as in unshare -Urn.
        called(libc.unshare, 0x10000000 | 0x40000000)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 0 1")
        Path("/proc/self/gid_map").write_text("0 0 1")
        result = run_here("-i", "*", "--ipv6", *flags)
        held = [
            subprocess.run([program(family, "-save")], capture_output=True, text=True).stdout
            for family in BOTH
        ]
        return result, "".join(held)

    run_in(fresh, "--version")
    result, held = namespace.call(fresh, work, timeout=60)
    assert result.status == status, result.stderr
    if status:
        unmapped = "uid 1337, gid 1337" if "1337" in flags else "gid 1338"
        known = [line for line in told(result) if "does not know" in line]
        assert known and all(re.search(r"not know ([^(]*) \(", line) for line in known)
        for word in unmapped.split(", "):
            assert word in known[0]
        assert "-A " not in held and ":ISTIO" not in held


# The lock.


@both_backends
def test_a_held_lock_is_waited_for(fresh: str, tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    with held_lock(lock) as descriptor:
        program = subprocess.Popen(
            [*namespace.command_in(fresh), sys.executable, "-m", "proxy_init", *ALL],
            env={**ENVIRONMENT, "XTABLES_LOCKFILE": str(lock), "PROXY_INIT_WAIT": "20"},
            stderr=subprocess.PIPE,
            text=True,
        )
        with program:
            try:
                assert program.stderr is not None
                lines = iter(program.stderr.readline, "")
                waiting = next(line for line in lines if "xtables lock" in line)
                assert tables_made(fresh) == NONE_MADE
                time.sleep(0.3)  # it looks every 0.05 s, and must not say so again
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                _, rest = program.communicate(timeout=30)
            finally:
                program.kill()
    assert program.returncode == 0, rest
    assert f"waiting up to 20 s for the xtables lock {lock}" in waiting
    assert f"held by process {os.getpid()} (" in waiting
    assert "waiting" not in rest
    assert "result=applied" in rest.splitlines()[-1]


@both_backends
@pytest.mark.parametrize("wait", [0, 1])
def test_a_lock_that_is_held_too_long_is_a_failure(fresh: str, tmp_path: Path, wait: int) -> None:
    lock = tmp_path / "xtables.lock"
    environ = {"XTABLES_LOCKFILE": str(lock)}
    with held_lock(lock):
        started = time.monotonic()
        result = run_in(fresh, *ALL, "--wait", str(wait), environ=environ)
        assert wait <= time.monotonic() - started < wait + 5
    assert result.status == 1
    error, summary = told(result)
    assert f"{lock} is still held by process {os.getpid()} (" in error and "--wait" in error
    assert summary.startswith("result=failed ")
    assert tables_made(fresh) == NONE_MADE


@both_backends
@pytest.mark.parametrize("failing", [False, True])
def test_the_lock_is_held_while_the_kernel_is_changed_and_no_longer(
    fresh: str, tmp_path: Path, failing: bool
) -> None:
    lock = tmp_path / "xtables.lock"
    seen = tmp_path / "seen"

    def watched(real: Callable[[Tables, str], None], tables: Tables, name: str) -> None:
        descriptor = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with seen.open("a") as file:
                file.write("held\n")
        finally:
            os.close(descriptor)
        if failing:
            raise KernelRefused("table nat", errno.ENOMEM)
        real(tables, name)

    environ = {"XTABLES_LOCKFILE": str(lock)}
    result = run_patched(fresh, lambda: replace_in_tables("commit", watched), *ALL, environ=environ)
    assert result.status == (1 if failing else 0)
    # Once a family; nf_tables are written for both at once, and if that fails, put back.
    assert seen.read_text() == "held\n" * (2 if failing or backend_under_test() == "legacy" else 1)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_somewhere_to_lock_that_is_no_file_does_not_stop_us(fresh: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        result = run_in(fresh, *ALL, environ={"XTABLES_LOCKFILE": str(path)})
        assert result.status == 0, result.stderr


# The kernel, and libxtables.


def refusing(
    number: int, *, table: str = "nat", family: Family | None = None, times: int = sys.maxsize
) -> Callable[[], None]:
    """A patch: the kernel refuses the first writes to a table, of one family or of both."""
    left = dict.fromkeys(BOTH, times)

    def write(real: Callable[[Tables, str], None], tables: Tables, name: str) -> None:
        own: Family = tables._family
        if name == table and family in (None, own) and left[own] > 0:
            left[own] -= 1
            raise KernelRefused(f"table {table}", number)
        real(tables, name)

    return lambda: replace_in_tables("commit", write)


def dying(method: str, *, table: str = "nat", family: Family | None = None) -> Callable[[], None]:
    """A patch: libxtables prints its last words and ends the process when it meets a table."""

    def end(real: Callable[..., object], tables: Tables, what: object) -> object:
        if what == table and family in (None, tables._family):
            os.write(2, b"libxtables: last words\n")
            os._exit(1)
        return real(tables, what)

    return lambda: replace_in_tables(method, end)


def prepared(name: str, directory: Path) -> dict[Family, str]:
    """Rules of others around rules of ours from an earlier run; gives all that is there."""
    plant(name, directory)
    result = run_in(name, *ALL, "-c", "eth0", "-k", "eth1")
    assert result.status == 0, result.stderr
    surround(name)
    return counted(name)


@with_legacy_tables
@both_backends
def test_a_table_that_another_program_changes_meanwhile_is_read_again(
    fresh: str, tmp_path: Path
) -> None:
    done: list[str] = []

    def meddled(real: Callable[[Tables, str], None], tables: Tables, name: str) -> None:
        if not done:
            done.append(name)
            rule = ("PREROUTING", "-i", "eth7", "-j", "RETURN")
            subprocess.run(
                [program(tables._family), "-t", "nat", "-A", *rule],
                env={**ENVIRONMENT, "XTABLES_LOCKFILE": str(tmp_path / "other.lock")},
                check=True,
                timeout=30,
            )
        real(tables, name)

    result = run_patched(fresh, lambda: replace_in_tables("commit", meddled), *ALL)

    assert result.status == 0, result.stderr
    for tables in rules(fresh).values():
        assert (
            "-A PREROUTING -i eth7 -j RETURN\n-A PREROUTING -p tcp -j ISTIO_INBOUND"
            in (tables["nat"])
        )
    assert run_in(fresh, *ALL, "--no-reconcile").status == 0


@with_legacy_tables
@both_backends
def test_a_table_that_is_busy_three_times_is_written_the_fourth_time(fresh: str) -> None:
    result = run_patched(fresh, refusing(errno.EAGAIN, times=3), *ALL)
    assert result.status == 0, result.stderr
    with namespace.namespace("usual") as usual:
        run_in(usual, *ALL)
        assert rules(fresh) == rules(usual)


@with_legacy_tables
@both_backends
@pytest.mark.parametrize("family", [*BOTH, None], ids=["IPv4", "IPv6", "both"])
def test_a_table_that_is_always_busy_is_given_up(
    fresh: str, tmp_path: Path, family: Family | None
) -> None:
    before = prepared(fresh, tmp_path)
    result = run_patched(fresh, refusing(errno.EAGAIN, family=family), *NEW)
    assert result.status == 1
    error, summary = told(result)
    assert f"changed by another program {legacy_steps.MOST_TRIES} times" in error and "nat" in error
    assert summary.startswith("result=failed ")
    assert with_counts(counted(fresh), 0) == with_counts(before, 0)


@with_legacy_tables
@both_backends
@pytest.mark.parametrize("family", [*BOTH, None], ids=["IPv4", "IPv6", "both"])
@pytest.mark.parametrize("table", ["mangle", "nat"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EINVAL], ids=["ENOMEM", "EINVAL"])
def test_a_refusal_takes_back_what_was_written(
    fresh: str, tmp_path: Path, number: int, table: str, family: Family | None
) -> None:
    before = prepared(fresh, tmp_path)
    result = run_patched(fresh, refusing(number, table=table, family=family), *NEW)
    assert result.status == 1
    error, summary = told(result)
    title = (family or Family.V4).title
    assert error == (f"the kernel refused: {title} table {table}: {os.strerror(number)}")
    assert summary.startswith("result=failed ")
    assert with_counts(counted(fresh), 0) == with_counts(before, 0)


@with_legacy_tables
@both_backends
def test_a_refusal_in_a_fresh_namespace_leaves_no_rule(fresh: str) -> None:
    result = run_patched(fresh, refusing(errno.ENOMEM, family=Family.V6), *NEW)
    assert result.status == 1
    assert rules(fresh) == {Family.V4: {}, Family.V6: {}}


@with_legacy_tables
@both_backends
def test_a_family_that_is_alone_is_taken_back_too(fresh: str) -> None:
    transparent = (*ALL, "-m", "TPROXY", "--no-ipv6")
    assert run_in(fresh, *transparent).status == 0
    assert run_in(fresh, "clean").status == 0
    before = (counted(fresh), namespace.run(fresh, ["ip", "rule"]).stdout)
    result = run_patched(fresh, refusing(errno.ENOMEM), *transparent)
    assert result.status == 1
    assert "the changes have been undone" in result.stderr
    assert (counted(fresh), namespace.run(fresh, ["ip", "rule"]).stdout) == before


@pytest.mark.parametrize("family", [*BOTH, None], ids=["IPv4", "IPv6", "both"])
def test_a_library_that_ends_the_work_while_reading_is_a_failure(
    fresh: str, tmp_path: Path, family: Family | None
) -> None:
    before = prepared(fresh, tmp_path)
    result = run_patched(fresh, dying("read", family=family), *NEW)
    assert (result.status, result.stdout) == (1, "")
    error, summary = told(result)
    assert "libxtables ended the work: libxtables: last words" in error
    assert error.startswith((family or Family.V4).title)
    assert summary.startswith("result=failed ")
    assert counted(fresh) == before


@pytest.mark.parametrize("family", [*BOTH, None], ids=["IPv4", "IPv6", "both"])
@pytest.mark.parametrize("table", ["mangle", "nat"])
def test_a_library_that_ends_the_work_while_writing_leaves_nothing_half_done(
    fresh: str, tmp_path: Path, table: str, family: Family | None
) -> None:
    before = prepared(fresh, tmp_path)
    result = run_patched(fresh, dying("commit", table=table, family=family), *NEW)
    assert (result.status, result.stdout) == (1, "")
    assert "libxtables ended the work" in told(result)[0]
    assert with_counts(counted(fresh), 0) == with_counts(before, 0)


@with_legacy_tables
@both_backends
def test_what_could_not_be_taken_back_is_not_passed_over(fresh: str, tmp_path: Path) -> None:
    refused = tmp_path / "refused"  # a file, since taking back happens in another process

    def ever_worse() -> None:
        def once(real: Callable[[Tables, str], None], tables: Tables, name: str) -> None:
            if name == "mangle" or refused.exists():
                refused.touch()
                raise KernelRefused(f"table {name}", errno.ENOMEM)
            real(tables, name)

        replace_in_tables("commit", once)

    result = run_patched(fresh, ever_worse, *NEW, "--no-ipv6")
    assert result.status == 1
    lines = told(result)
    assert "not all changes could be undone: " in lines[0] and "nat" in lines[0]
    assert "table mangle" in lines[1]


def test_what_the_node_lacks_is_named_all_at_once(fresh: str, tmp_path: Path) -> None:
    words = tmp_path / "termination-log"

    def poor() -> None:
        refusing(errno.ENOENT)()
        replace(
            needs,
            "highest_revision",
            lambda real, family, kind, name: (
                None if name in ("owner", "REDIRECT") else real(family, kind, name)
            ),
        )
        replace(needs, "table_errno", lambda real, *of: 2 if "mangle" in of else real(*of))

    result = run_patched(
        fresh,
        poor,
        *ALL,
        "--drop-invalid",
        "--backend",
        "legacy",
        environ={"TERMINATION_LOG": str(words)},
    )
    assert result.status == 4
    *lines, summary = told(result)
    assert lines == [
        line
        for family, prefix in (("IPv4", "ip"), ("IPv6", "ip6"))
        for line in (
            f"the kernel refused: {family} table nat: No such file or directory",
            f"missing table mangle for {family}: on the node, modprobe {prefix}table_mangle; a "
            "kernel without it has no legacy iptables, but perhaps takes --backend nft",
            f"missing match owner for {family}: on the node, modprobe {prefix}t_owner",
            f"missing target REDIRECT for {family}: on the node, modprobe {prefix}t_REDIRECT",
        )
    ]
    assert summary.startswith("result=failed ")
    assert words.read_text().splitlines() == lines
    assert rules(fresh) == {Family.V4: {}, Family.V6: {}}


@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.title)
def test_what_a_kernel_has_is_told_from_what_it_lacks(fresh: str, family: Family) -> None:
    for write, made in ((False, []), (True, ["nat"])):

        def ask(write: bool = write) -> list[int | None]:
            return [table_errno(family, name, write) for name in ("nat", "nosuchtable")]

        assert namespace.call(fresh, ask) == [0, errno.ENOENT]
        assert tables_made(fresh)[family] == made


@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.title)
def test_an_extension_that_a_kernel_has_is_told_from_one_it_lacks(
    fresh: str, family: Family
) -> None:
    def ask() -> list[int | None]:
        return [
            needs.highest_revision(family, *extension)
            for extension in (
                ("match", "owner"),
                ("match", "nosuchmatch"),
                ("target", "TPROXY"),
                ("target", "nosuchtarget"),
            )
        ]

    assert namespace.call(fresh, ask) == [1, None, 1, None]
    assert tables_made(fresh) == NONE_MADE
