"""A pod's start waits for the program: what a plain call must not load, since that takes long."""

import sys

import pytest

from pods import namespace

USUAL = ("-u", "1337", "-i", "*", "-b", "*", "-d", "15090")
ONE_FAMILY = (*USUAL, "--no-ipv6")
# Each takes 1 to 120 ms to load, of the 30 that a run has.
# fmt: off
HEAVY = {
    "asyncio", "collections", "ctypes.util", "dataclasses", "functools", "inspect", "json",
    "logging", "netaddr", "os", "pathlib", "pickle", "pyroute2", "re", "rich", "socket",
    "subprocess", "sysconfig", "tempfile", "traceback", "typer", "typing",
}
# fmt: on
FOR_SOME = {"difflib", "proxy_init.kernel.routing.rtnetlink"}


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (ONE_FAMILY, set()),
        ((*ONE_FAMILY, "-n"), set()),
        ((*USUAL, "--ipv6"), set()),
        ((*ONE_FAMILY, "-m", "TPROXY"), {"proxy_init.kernel.routing.rtnetlink"}),
    ],
    ids=["REDIRECT", "dry run", "two families", "TPROXY"],
)
def test_what_a_run_loads(fresh: str, flags: tuple[str, ...], allowed: set[str]) -> None:
    lines = (
        f"import sys; sys.path[:] = {sys.path!r}; sys.argv = {['proxy-init', *flags]!r}",
        "from proxy_init.cli.main import main",
        "status = main()",
        "print('loaded', *sys.modules)",
        "sys.exit(status)",
    )
    for _ in ("first", "second"):
        # Without site, which loads what .venv needs to find an editable installation.
        command = [sys.executable, "-I", "-S", "-c", "\n".join(lines)]
        result = namespace.run(fresh, command, env={})
        assert result.returncode == 0, result.stderr
        loaded = set(result.stdout.splitlines()[-1].split())
        assert {"loaded", "proxy_init.cli.main"} <= loaded
        assert not loaded & (HEAVY | FOR_SOME - allowed)
