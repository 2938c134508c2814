"""Named network namespaces, and running functions and programs in one.

Whatever enters a namespace does so in a process of its own, so the caller never changes namespace
or user. What is made here goes away with the `with` block that made it.
"""

import ctypes
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, TypeVar

from pyroute2 import netns

T = TypeVar("T")
Tell = Callable[[object], None]

# linux/prctl.h, linux/securebits.h
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 1 << 2

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_blocks_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this program with SystemExit, so that nothing is left."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:  # a second one must not disturb the clearing up
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


@contextmanager
def namespace(label: str) -> Iterator[str]:
    """A new network namespace, as its `ip netns` name: `pi-<pid>-<token>-<label>`.

    On leaving the name goes; the kernel then drops the namespace and the interfaces in it.
    Raises OSError where the kernel refuses (PermissionError without root).
    """
    name = f"pi-{os.getpid()}-{secrets.token_hex(3)}-{label}"
    try:
        with _undisturbed():  # half-way, it would be a name that nobody removes
            netns.create(name, libc=_libc())
        yield name
    finally:
        with _undisturbed(), suppress(FileNotFoundError):
            netns.remove(name, libc=_libc())


def command_in(name: str, uid: int = 0, gid: int = 0) -> list[str]:
    """The words to put before a program's own, for it to run in a namespace as some user."""
    return ["nsenter", f"--net={netns.NETNS_RUN_DIR}/{name}", f"-S{uid}", f"-G{gid}", "--"]


def run(
    name: str,
    args: Sequence[str],
    *,
    uid: int = 0,
    gid: int = 0,
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace and return its exit status and output.

    `env` replaces the environment; `timeout` is in seconds, then subprocess.TimeoutExpired.
    """
    return subprocess.run(
        [*command_in(name, uid, gid), *args],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def call(
    name: str, function: Callable[[], T], *, uid: int = 0, gid: int = 0, timeout: float = 10.0
) -> T:
    """Call a function in a namespace, in a child of this process, and return what it returned.

    What it raises is raised here; TimeoutError after `timeout` seconds.
    """
    with process(name, lambda tell: tell(function()), uid=uid, gid=gid, timeout=timeout) as result:
        return result  # type: ignore[no-any-return]  # it came through a pipe


@contextmanager
def process(
    name: str,
    work: Callable[[Tell], None],
    *,
    uid: int = 0,
    gid: int = 0,
    privileged: bool = False,
    timeout: float = 10.0,
) -> Iterator[Any]:
    """A child of this process at work in a namespace, until the block ends.

    With `privileged` it keeps root's capabilities, whoever it is.

    `work` gets a function to tell one thing with, for a server that it is ready: the block starts
    with it. What `work` raises before is raised here; TimeoutError after `timeout` seconds.
    """
    fork = multiprocessing.get_context("fork")  # so that `work` may be any closure
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(
        target=_child, args=(name, work, uid, gid, privileged, sender), daemon=True
    )
    try:
        with _undisturbed():  # what a handler raises while Python forks is lost
            child.start()
        sender.close()
        if not receiver.poll(timeout):
            raise TimeoutError(f"nothing heard from a child in {name} for {timeout} seconds")
        error, told = receiver.recv()
        if error is not None:
            raise error
        yield told
    finally:
        with _undisturbed():
            receiver.close()
            if child.pid is not None:
                child.kill()
                child.join()
            child.close()


def _child(
    name: str,
    work: Callable[[Tell], None],
    uid: int,
    gid: int,
    privileged: bool,
    sender: Connection,
) -> None:
    for number in SIGNALS:  # the parent's handlers are about the parent's things
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        # Without flags=0 pyroute2 would make a namespace that is missing.
        netns.setns(name, flags=0, libc=_libc())
        if privileged and _libc().prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "a process may not keep its capabilities")
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        work(lambda thing: sender.send((None, thing)))
    except Exception as error:
        sender.send((error, None))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would end this process wait until the block is done."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _libc() -> ctypes.CDLL:
    # Left to itself pyroute2 looks for libc by ctypes.util.find_library, which runs programs.
    return ctypes.CDLL(None, use_errno=True)
