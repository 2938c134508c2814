"""Whatever step fails, however: the run fails with a line about it, the kernel is as before.

Which steps a run has is not written down here: a run is watched first, and then each step that it
took is made to fail, in a run of its own.
"""

import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pods import namespace
from proxy_init.kernel.routing import policy_routes
from proxy_init.kernel.routing.rtnetlink import Netlink
from proxy_init.kernel.system.refusal import KernelRefused
from proxy_init.rules.model import Family
from tests.fault_injection import replace, replace_in_tables, run_patched, told
from tests.foreign import plant, run, surround, whole, without_priorities
from tests.running import (
    Result,
    backend_under_test,
    both_backends,
    fresh_namespace,
    program,
    run_in,
    with_legacy_tables,
)

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-c", "eth0", "--ipv6")
TPROXY = (*ALL, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")
OTHER_TPROXY = (*TPROXY, "-t", "7", "-r", "77")
IPV4_ONLY = (*ALL[:-1], "--no-ipv6")
CLEAN = ("clean",)
CHANGES = {
    "REDIRECT to TPROXY": (ALL, TPROXY),
    "TPROXY to REDIRECT": (TPROXY, IPV4_ONLY),
    "TPROXY to nothing": (TPROXY, CLEAN),
    "TPROXY to other TPROXY": (TPROXY, OTHER_TPROXY),
}
any_change = pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
IP: dict[int, str] = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
REFUSED, BUG = "the kernel refused: ", "Traceback"


@dataclass(frozen=True)
class Fault:
    """How a step goes wrong, and what the run then has to say and to give."""

    error: Exception
    said: str
    statuses: tuple[int, ...] = (1,)
    done: bool = False
    """The step is done before it goes wrong, as where the answer to a request gets lost."""


def refused(step: str, number: int, **more: Any) -> Fault:
    """The kernel says no, as the caller of a step of that kind hears it."""
    error = (
        OSError(number, os.strerror(number))
        if "netlink" in step
        else KernelRefused(f"table {step.split()[2]}", number)
    )
    # Of EPERM, the node is to blame.
    return Fault(error, REFUSED, (4,) if number == errno.EPERM else (1,), **more)


def faults(step: str) -> Iterator[Fault]:
    """All that can go wrong with a step."""
    kind = step.split()[1]
    if kind == "netlink":
        full = OSError(errno.ENOBUFS, "No buffer space available")
        yield Fault(full, REFUSED, done=False)
        yield Fault(full, REFUSED, done=True)
        yield refused(step, errno.EPERM)
        for word, number in ((" add ", errno.EEXIST), (" delete ", errno.ENOENT)):
            if word in step:  # though it is not so
                yield refused(step, number)
    elif kind == "read":
        yield refused(step, errno.ENOMEM)
    elif kind == "stage":
        yield refused(step, errno.EINVAL)
    else:
        yield refused(step, errno.ENOMEM)
        yield refused(step, errno.EPERM)
    yield Fault(ValueError("out of thin air"), BUG, done=kind == "commit")


@dataclass
class Saboteur:
    """Watches the steps that a run takes, in all its processes; makes one of them go wrong once."""

    log: Path
    target: str = ""
    fault: Fault | None = None
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def struck(self) -> Path:
        """The file that says that it has happened: what is taken back is left in peace."""
        return self.log.with_suffix(".struck")

    def patch(self) -> None:
        """Go to work in this process and its children."""
        for name in ("read", "stage", "commit"):
            replace_in_tables(name, self._on_a_table(name))
        replace(Netlink, "get", self._on_get)
        replace(Netlink, "change", self._on_change)
        replace(policy_routes, "change_passthrough_address", self._on_address)

    def _on_a_table(self, name: str) -> Callable[..., object]:
        def step(real: Callable[..., object], tables: Any, what: Any) -> object:
            label = f"{tables._family.title} {name} {getattr(what, 'table', what)}"
            return self._step(label, lambda: real(tables, what))

        return step

    def _on_get(
        self, real: Callable[..., object], netlink: Netlink, kind: str, family: int
    ) -> object:
        return self._step(f"{IP[family]} netlink get {kind}", lambda: real(netlink, kind, family))

    def _on_change(
        self, real: Callable[..., object], netlink: Netlink, verb: str, kind: str, *what: Any
    ) -> object:
        label = f"{IP[what[0]['family']]} netlink {verb} {kind}"
        return self._step(label, lambda: real(netlink, verb, kind, *what))

    def _on_address(self, real: Callable[..., object], verb: str) -> object:
        return self._step(f"IPv6 netlink {verb} address", lambda: real(verb))

    def _step(self, label: str, take: Callable[[], object]) -> object:
        self.counted[label] += 1
        key = f"{label} {self.counted[label]}"
        with self.log.open("a") as file:
            file.write(f"{key}\n")
        if key != self.target or self.fault is None or self.struck.exists():
            return take()
        self.struck.touch()
        if self.fault.done:
            take()
        raise self.fault.error


def prepared(name: str, directory: Path, old: tuple[str, ...]) -> str:
    """Rules of others around ours of an earlier run, in tables that are all there; gives all."""
    plant(name, directory)
    for flags in (TPROXY, old):
        assert run_in(name, *flags).status == 0
    surround(name)
    return whole(name)


def steps_of(name: str, flags: tuple[str, ...], directory: Path) -> list[str]:
    """The steps that a run takes."""
    saboteur = Saboteur(directory / "steps")
    assert run_patched(name, saboteur.patch, *flags).status == 0
    return sorted(saboteur.log.read_text().splitlines())


def complaints(result: Result, fault: Fault, words: Path) -> Iterator[str]:
    """What is wrong with how a run failed."""
    if result.status not in fault.statuses or result.stdout:
        yield f"status {result.status}, printed {result.stdout!r}"
    *lines, summary = told(result)
    if not summary.startswith("result=failed "):
        yield f"summed up as {summary!r}"
    left = words.read_text() if words.exists() else ""
    if fault.said == BUG:
        if "ValueError: out of thin air" not in result.stderr or BUG not in result.stderr:
            yield "no traceback"
        if "please report it: ValueError: out of thin air" not in left:
            yield f"left {left!r}"
        return
    number = getattr(fault.error, "number", None) or fault.error.args[0]
    if not lines or not lines[0].startswith(fault.said):
        yield f"said {lines}"
    elif os.strerror(number) not in lines[0]:
        yield f"reason not in {lines[0]!r}"
    if left.splitlines() != lines:
        yield f"left {left!r}"


@pytest.mark.parametrize(
    ("old", "new", "backend"),
    [(*CHANGES[name], backend) for name in list(CHANGES)[:3] for backend in ("legacy", "nft")],
    ids=[f"{name}, {backend}" for name in list(CHANGES)[:3] for backend in ("legacy", "nft")],
    indirect=["backend"],
)
def test_a_step_that_fails_leaves_the_kernel_as_it_was(
    fresh: str, tmp_path: Path, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    with fresh_namespace() as watched:
        prepared(watched, tmp_path, old)
        steps = steps_of(watched, new, tmp_path)
    # nf_tables are read and written for both families at once.
    of_tables = ("read", "stage", "commit") if backend_under_test() == "legacy" else ()
    for kind in (*of_tables, "get rule", "rule", "route"):
        assert {step.split()[0] for step in steps if f" {kind} " in step} >= {"IPv4", "IPv6"}, kind
    before = prepared(fresh, tmp_path, old)
    wrong: list[str] = []
    cases = [(step, fault) for step in steps for fault in faults(step)]
    for number, (step, fault) in enumerate(cases):
        words = tmp_path / f"words-{number}"
        saboteur = Saboteur(tmp_path / f"run-{number}", step, fault)
        environ = {"TERMINATION_LOG": str(words)}
        result = run_patched(fresh, saboteur.patch, *new, environ=environ)
        found = list(complaints(result, fault, words))
        if not saboteur.struck.exists():
            found.append("nothing went wrong")
        if whole(fresh) != before:
            found.append("the kernel is not as before")
            assert run_in(fresh, *old).status == 0
            before = whole(fresh)
        wrong += [f"{step}, {fault}: {complaint}" for complaint in found]
    assert not wrong, "\n".join(wrong)
    assert run_in(fresh, *new).status == 0


@with_legacy_tables
@both_backends
@any_change
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Fault(KernelRefused("table", errno.EAGAIN), ""), id="changed before"),
        # libiptc writes the table, then adds the old counts to the new rules.
        pytest.param(
            Fault(KernelRefused("table", errno.EINVAL), "", done=True), id="changed after"
        ),
    ],
)
def test_each_commit_survives_another_writer(
    fresh: str, tmp_path: Path, old: tuple[str, ...], new: tuple[str, ...], error: Fault
) -> None:
    before = prepared(fresh, tmp_path, old)
    steps = steps_of(fresh, new, tmp_path)
    after = without_priorities(whole(fresh))
    commits = [step for step in steps if " commit " in step]
    assert len(commits) >= 2
    for number, step in enumerate(commits):
        assert run_in(fresh, *old).status == 0
        assert whole(fresh).count("\n") == before.count("\n")
        saboteur = Saboteur(tmp_path / f"run-{number}", step, error)
        result = run_patched(fresh, saboteur.patch, *new)
        assert (result.status, saboteur.struck.exists()) == (0, True), result.stderr
        assert without_priorities(whole(fresh)) == after


@both_backends
@any_change
def test_what_somebody_else_does_just_before_us_is_done(
    fresh: str, tmp_path: Path, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    prepared(fresh, tmp_path, old)
    steps = [
        step for step in steps_of(fresh, new, tmp_path) if " add " in step or " delete " in step
    ]
    after = without_priorities(whole(fresh))
    assert run_in(fresh, *old).status == 0
    twice = tmp_path / "twice"

    def hasty(real: Callable[..., object], *what: Any) -> object:
        real(*what)
        with twice.open("a") as file:
            file.write(f"{what}\n")
        return real(*what)  # the real refusal

    def patch() -> None:
        replace(Netlink, "change", hasty)
        replace(policy_routes, "change_passthrough_address", hasty)

    result = run_patched(fresh, patch, *new)
    assert result.status == 0, result.stderr
    assert len(twice.read_text().splitlines()) == len(steps) >= 4
    assert without_priorities(whole(fresh)) == after


@pytest.mark.parametrize("table", ["raw", "mangle", "nat"])
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_table_that_is_missing_is_a_failure(
    fresh: str, tmp_path: Path, family: str, table: str
) -> None:
    before = prepared(fresh, tmp_path, ALL)
    fault = Fault(KernelRefused(f"table {table}", errno.ENOENT), REFUSED)
    saboteur = Saboteur(tmp_path / "run", f"{family} read {table} 1", fault)
    result = run_patched(fresh, saboteur.patch, *TPROXY)
    assert result.status == 1
    assert (
        told(result)[0]
        == f"the kernel refused: {family} table {table}: {os.strerror(errno.ENOENT)}"
    )
    assert whole(fresh) == before


# Real ones.


def switch_ipv6_off(name: str) -> None:
    """Take IPv6 off lo, and only that."""
    setting = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    namespace.call(name, lambda: setting.write_text("1"))


@pytest.mark.parametrize("flags", [ALL, TPROXY], ids=["REDIRECT", "TPROXY"])
def test_ipv6_that_is_switched_off_on_lo_takes_ipv4_back_too(
    fresh: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    switch_ipv6_off(fresh)
    before = prepared_ipv4(fresh, tmp_path)
    result = run_in(fresh, *flags)
    assert result.status == 4
    error, summary = told(result)
    assert error.startswith("the kernel refused: IPv6 ") and "say --no-ipv6" in error
    assert summary.startswith("result=failed ")
    assert whole(fresh) == before
    # And as it says:
    assert run_in(fresh, *flags, "--no-ipv6").status == 0


def prepared_ipv4(name: str, directory: Path) -> str:
    """The same as `prepared`, with rules of ours in IPv4 only."""
    plant(name, directory)
    for flags in ((*TPROXY, "--no-ipv6"), CLEAN, IPV4_ONLY):
        assert run_in(name, *flags).status == 0
    run(name, program(Family.V6, "-save"), "-t", "raw")
    return whole(name)


def test_lo_that_is_down_is_named(fresh: str, tmp_path: Path) -> None:
    prepared_ipv4(fresh, tmp_path)
    run(fresh, "ip", "link", "set", "lo", "down")
    before = whole(fresh)
    result = run_in(fresh, *TPROXY)
    assert result.status == 4
    assert "lo is down: ip link set lo up" in told(result)[0]
    assert whole(fresh) == before


@pytest.mark.parametrize("ip", ["ip -4", "ip -6"])
def test_a_routing_table_that_others_use_is_named_and_left_alone(
    fresh: str, tmp_path: Path, ip: str
) -> None:
    prepared(fresh, tmp_path, ALL)
    run(fresh, *ip.split(), "route", "add", "unreachable", "default", "table", "133", "metric", "0")
    before = whole(fresh)
    result = run_in(fresh, *TPROXY)
    if "another default route" in result.stderr:
        assert result.status == 1
        assert "-r names the table to use" in told(result)[0]
        assert whole(fresh) == before
    else:  # IPv6 tells them apart by their metric
        assert (result.status, ip) == (0, "ip -6"), result.stderr
        assert run_in(fresh, *ALL).status == 0
    assert run_in(fresh, *TPROXY, "-r", "134").status == 0
