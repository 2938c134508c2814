"""A chroot, or a container, in which nobody has mounted /proc."""

import subprocess
import sys

import pytest

from pods import ENVIRONMENT, namespace
from tests.foreign import NONE_MADE, tables_made
from tests.running import run_in

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")
HIDE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")


def run_without_proc(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a namespace, in a process that sees an empty /proc."""
    program = (sys.executable, "-m", "proxy_init")
    return namespace.run(name, [*HIDE, *program, *words], env=ENVIRONMENT)


@pytest.mark.parametrize(
    "words",
    [
        ALL,
        (*ALL, "--backend", "legacy"),
        (*ALL, "--backend", "nft"),
        (*ALL, "--ruleset", "1.0"),
        (*ALL, "-m", "TPROXY", "--run-validation"),
        ("clean",),
        ("status", *ALL),
        ("check", *ALL),
        ("counters", *ALL),
        ("explain", *ALL, "--live", "--to", "192.0.2.7:80"),
        ("prove", *ALL, "--live"),
    ],
    ids=" ".join,
)
def test_what_asks_the_kernel_says_that_proc_is_not_mounted(
    fresh: str, words: tuple[str, ...]
) -> None:
    result = run_without_proc(fresh, *words)
    assert (result.returncode, result.stdout) == (4, "")
    errors = [line for line in result.stderr.splitlines() if "\terror\t" in line]
    assert "/proc is not mounted here" in errors[0] and "mount -t proc proc /proc" in errors[0]
    assert all("\terror\tresult=failed" in line for line in errors[1:])
    assert "Traceback" not in result.stderr
    assert tables_made(fresh) == NONE_MADE


def test_rules_that_cannot_be_seen_are_not_taken_for_absent(fresh: str) -> None:
    assert run_in(fresh, *ALL).status == 0
    for words in (("clean",), (*ALL, "--backend", "nft"), ("status", *ALL)):
        assert run_without_proc(fresh, *words).returncode == 4
    assert run_in(fresh, "status", *ALL).status == 0


@pytest.mark.parametrize("words", [("--dry-run",), ("graph",)], ids=" ".join)
def test_what_asks_nothing_of_the_kernel_is_the_same_without_it(
    fresh: str, words: tuple[str, ...]
) -> None:
    # Whether IPv6 is captured goes by this address.
    address = ["ip", "address", "add", "2001:db8::2/64", "dev", "lo", "nodad"]
    namespace.run(fresh, address).check_returncode()
    result = run_without_proc(fresh, *words, *ALL)
    assert (result.returncode, result.stdout) == (0, run_in(fresh, *words, *ALL).stdout)
    assert "IPv6" in result.stdout
