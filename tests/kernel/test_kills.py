"""SIGKILL at any moment leaves every table whole, and the next run finishes the job."""

import os
import random
import signal
import time
from dataclasses import dataclass

import pytest

from pods import namespace
from proxy_init.kernel.legacy.libiptc import load
from proxy_init.kernel.system.namespace import enter
from tests.running import (
    BOTH,
    UNTIL_ADDRESSES_HAVE_ROUTES,
    backend_under_test,
    both_backends,
    fresh_namespace,
    run_here,
    run_in,
    saved,
)

pytestmark = both_backends

KILLS = {"legacy": 100, "nft": 15}  # of each kind, five kinds; a run of nft takes longer
ALL = ("-i", "*", "-b", "*", "--ipv6")
OTHER = (
    "-i",
    "10.0.0.0/8,fd00::/8",
    "-b",
    "80",
    "-d",
    "",
    "--ipv6",
    "--drop-invalid",
    "-c",
    "eth1",
)
TPROXY = (*ALL, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")
CLEAN = ("clean",)


@dataclass(frozen=True)
class State:
    """What somebody sees in a namespace, with other programs than ours."""

    tables: dict[str, str]
    routing: str


def seen(name: str) -> State:
    """The tables by family and name, policy rules, routes and addresses."""
    tables = {
        f"{family.title} {table}": text
        for family in BOTH
        for table, text in saved(name, family).items()
    }
    commands = (
        f"{UNTIL_ADDRESSES_HAVE_ROUTES} ip rule; ip -6 rule; ip route show table all; "
        "ip -6 route show table all; ip address"
    )
    return State(tables, namespace.run(name, ["sh", "-c", commands]).stdout)


def seen_at_rest(name: str) -> State:
    """The same once nothing changes any more: what has died may have left a commit to the kernel,
    and iptables-nft-save prints chains twice while one is made."""
    state = seen(name)
    for _ in range(10):
        before, state = state, seen(name)
        if state == before:
            break
    return state


def start(name: str, flags: tuple[str, ...]) -> int:
    """Begin a run in a process group of its own; gives its id."""
    pid = os.fork()
    if pid == 0:
        try:
            enter(name, "test")
            run_here(*flags)
        finally:
            os._exit(0)
    os.setpgid(pid, pid)
    return pid


def run_time(name: str, flags: tuple[str, ...]) -> float:
    """How long a run takes, in seconds."""
    started = time.monotonic()
    os.waitpid(start(name, flags), 0)
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("old", "new"),
    [(CLEAN, ALL), (ALL, OTHER), (ALL, TPROXY), (TPROXY, ALL), (TPROXY, CLEAN)],
    ids=["apply", "other flags", "REDIRECT to TPROXY", "TPROXY to REDIRECT", "clean"],
)
def test_a_kill_leaves_tables_whole_and_the_next_run_converges(
    old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    load()
    moments = random.Random(0)  # the kernel's pace varies enough from run to run
    halfway = 0
    kills = KILLS[backend_under_test()]
    with fresh_namespace() as name:
        # Every table is there from the start, so that one that is missing can be told.
        for flags in (TPROXY, CLEAN, new):
            assert run_in(name, *flags).status == 0
        after = seen(name)
        assert run_in(name, *old).status == 0
        before = seen(name)
        longest = run_time(name, new)
        for number in range(kills):
            assert run_in(name, *old).status == 0
            pid = start(name, new)
            time.sleep(longest * (1 - moments.random() ** 2))  # the writing comes late
            # All of it dies, as a container does, or only the first process.
            (os.kill if number % 4 == 0 else os.killpg)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            now = seen_at_rest(name)
            for table, text in now.tables.items():
                assert text in (before.tables[table], after.tables[table]), table
            halfway += now not in (before, after)
            assert run_in(name, *new).status == 0
            assert seen(name) == after
    print(f"{halfway} of {kills} kills hit between two steps")
