"""Why a run failed stands where `kubectl describe pod` shows it, whatever kind of failure."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pods import ENVIRONMENT, namespace
from proxy_init.kernel.legacy.libiptc import Tables
from proxy_init.kernel.system.refusal import KernelRefused
from tests.fault_injection import NET_RAW, held_lock, replace, run_patched, run_with, told
from tests.foreign import run
from tests.running import Result, run_in

ALL = ("-u", "1337", "-i", "*", "-b", "*", "--ipv6")


@pytest.fixture
def words() -> Iterator[Path]:
    """The termination log, which anybody may write, as kubelet makes it."""
    with TemporaryDirectory() as directory:  # pytest's own are for root
        Path(directory).chmod(0o755)
        path = Path(directory, "termination-log")
        path.write_text("of an earlier run")
        path.chmod(0o666)
        yield path


def reasons(result: Result) -> list[str]:
    """The errors that a run logged before its summary."""
    *lines, summary = told(result)
    assert summary.startswith("result=failed ")
    return lines


def committing(error: BaseException) -> None:
    """Let commits fail in this process and its children."""

    def fail(*_: object) -> None:
        raise error

    replace(Tables, "commit", fail)


def dying() -> None:
    """Let libxtables end the work at a commit."""

    def end(*_: object) -> None:
        os.write(2, b"libxtables: last words\n")
        os._exit(1)

    replace(Tables, "commit", end)


def test_the_kernel_refuses(fresh: str, words: Path) -> None:
    environ = {"TERMINATION_LOG": str(words)}
    refusal = KernelRefused("table nat", errno.ENOMEM)
    result = run_patched(fresh, lambda: committing(refusal), *ALL, environ=environ)
    assert result.status == 1
    assert words.read_text().splitlines() == reasons(result)
    assert words.read_text() == "the kernel refused: IPv4 table nat: Cannot allocate memory"


def test_a_library_ends_the_work(fresh: str, words: Path) -> None:
    result = run_patched(fresh, dying, *ALL, environ={"TERMINATION_LOG": str(words)})
    assert result.status == 1
    assert words.read_text().splitlines() == reasons(result)
    assert "libxtables: last words" in words.read_text()


def test_a_bug(fresh: str, words: Path) -> None:
    bug = ValueError("out of thin air")
    environ = {"TERMINATION_LOG": str(words)}
    result = run_patched(fresh, lambda: committing(bug), *ALL, environ=environ)
    assert result.status == 1
    assert words.read_text() == (
        "this is a bug in proxy-init, please report it: ValueError: out of thin air"
    )
    assert f"proxy-init: {words.read_text()}" == result.stderr.splitlines()[-1]
    assert "Traceback" in result.stderr and "in _commit" in result.stderr
    assert told(result)[-1].startswith("result=failed ")


def test_a_lock_that_is_held_too_long(fresh: str, words: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    environ = {"TERMINATION_LOG": str(words), "XTABLES_LOCKFILE": str(lock)}
    with held_lock(lock):
        result = run_in(fresh, *ALL, "--wait", "0", environ=environ)
    assert result.status == 1
    assert words.read_text().splitlines() == reasons(result)
    assert f"{lock} is still held by process {os.getpid()} (" in words.read_text()


@pytest.mark.parametrize("uid", [0, 65534])
@pytest.mark.parametrize("command", [(), ("clean",), ("status",)], ids=" ".join)
def test_a_capability_is_missing(
    fresh: str, words: Path, command: tuple[str, ...], uid: int
) -> None:
    assert run_in(fresh, *ALL).status == 0
    environ = {"TERMINATION_LOG": str(words)}
    result = run_with(
        fresh,
        *command,
        *ALL,
        "-x",
        "10.0.0.0/8",
        uid=uid,
        capabilities=1 << NET_RAW,
        environ=environ,
    )
    assert result.status == 4
    lines = told(result)
    assert words.read_text().splitlines() == (lines if command == ("status",) else lines[:-1])
    assert "missing capability NET_ADMIN: " in words.read_text()


def test_the_rules_differ_and_may_not_be_replaced(fresh: str, words: Path) -> None:
    assert run_in(fresh, *ALL).status == 0
    environ = {"TERMINATION_LOG": str(words)}
    result = run_in(fresh, *ALL, "-x", "10.0.0.0/8", "--no-reconcile", environ=environ)
    assert result.status == 1
    assert words.read_text().splitlines() == reasons(result)
    assert "+-A ISTIO_OUTPUT -d 10.0.0.0/8 -j RETURN" in words.read_text().splitlines()


def test_a_namespace_that_does_not_exist(fresh: str, words: Path) -> None:
    environ = {"TERMINATION_LOG": str(words)}
    result = run_in(fresh, *ALL, "--network-namespace", "no-such", environ=environ)
    assert result.status == 2
    assert f"proxy-init: {words.read_text()}" == result.stderr.rstrip()
    assert "--network-namespace: got 'no-such'" in words.read_text()


def test_ipv6_is_switched_off(fresh: str, words: Path) -> None:
    setting = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    namespace.call(fresh, lambda: setting.write_text("1"))
    result = run_in(fresh, *ALL, environ={"TERMINATION_LOG": str(words)})
    assert result.status == 4
    assert words.read_text().splitlines() == reasons(result)
    assert "say --no-ipv6" in words.read_text()


def test_a_difference_that_status_finds_is_no_failure(fresh: str, words: Path) -> None:
    result = run_in(fresh, "status", *ALL, environ={"TERMINATION_LOG": str(words)})
    assert (result.status, words.read_text()) == (3, "of an earlier run")


def test_what_kubelet_would_not_keep_is_cut_off(fresh: str, words: Path) -> None:
    many = ",".join(f"10.{number}.0.0/16" for number in range(250))
    assert run_in(fresh, *ALL).status == 0
    environ = {"TERMINATION_LOG": str(words)}
    result = run_in(fresh, *ALL, "-x", many, "--no-reconcile", environ=environ)
    assert result.status == 1
    assert words.stat().st_size == 4096
    assert "\n".join(told(result)).startswith(words.read_text())


@pytest.mark.parametrize("there", [True, False])
def test_without_a_variable_it_is_in_dev_where_kubelet_has_made_it(
    fresh: str, tmp_path: Path, there: bool
) -> None:
    # In a mount namespace of its own, with a /dev of its own.
    script = """
        mount -t tmpfs none /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        test -z "$THERE" || : > /dev/termination-log
        status=0; "$@" || status=$?
        ls /dev
        cat /dev/termination-log 2> /dev/null || true
        exit $status
    """
    result = subprocess.run(
        [
            *namespace.command_in(fresh),
            *("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"),
            *(sys.executable, "-m", "proxy_init", *ALL, "-p", "0"),
        ],
        env={**ENVIRONMENT, "THERE": "yes" if there else ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    names, left = result.stdout.split("urandom\n")
    assert ("termination-log" in names) == there
    assert [f"proxy-init: {line}" for line in left.splitlines()] == (
        result.stderr.splitlines() if there else []
    )


def test_a_log_that_cannot_be_written_changes_nothing_else(fresh: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refusal = KernelRefused("table nat", errno.ENOMEM)
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/full"), Path("/no/such/directory")):
        result = run_patched(
            fresh, lambda: committing(refusal), *ALL, environ={"TERMINATION_LOG": str(path)}
        )
        assert (result.status, len(reasons(result))) == (1, 1), path
    assert "ISTIO_" not in run(fresh, "iptables-legacy-save")
