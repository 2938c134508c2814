"""Runs commands, each in a new network namespace, and says what each cost.

A small process of its own: what its parent holds in memory would count as a command's peak.
Reads a job a line, as JSON, from stdin; writes an answer a line, as JSON, to stdout.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from typing import TypedDict

CLONE_NEWNET = 0x40000000  # linux/sched.h


class Job(TypedDict):
    """What to do in a new namespace: commands that prepare it, and the one that is measured."""

    before: list[list[str]]
    command: list[str]


class Cost(TypedDict):
    """Of a command's process, from its start until it is gone; with its children."""

    milliseconds: float
    cpu_milliseconds: float
    peak_mib: float
    """Of the largest single process."""
    faults: int
    """Pages that the kernel had to give or to map."""
    status: int


def measured(command: list[str]) -> Cost:
    """Run a command and say what it cost."""
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    taken = time.perf_counter() - started
    return {
        "milliseconds": taken * 1e3,
        "cpu_milliseconds": (usage.ru_utime + usage.ru_stime) * 1e3,
        "peak_mib": usage.ru_maxrss / 1024,
        "faults": usage.ru_minflt + usage.ru_majflt,
        "status": os.waitstatus_to_exitcode(status),
    }


def main() -> None:
    """One answer after the other, until there are no more jobs."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in sys.stdin:
        job: Job = json.loads(line)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "a network namespace takes root")
        for command in (["ip", "link", "set", "lo", "up"], *job["before"]):
            subprocess.run(command, check=True, capture_output=True)
        print(json.dumps(measured(job["command"])), flush=True)


if __name__ == "__main__":
    main()
