"""The place of the cluster, which tests/cluster/run makes: nothing of it outlives its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.place import KEPT, ROOT, make_place

# Something that goes on by itself, and a mount that only the place should see.
COMMAND = ["sh", "-c", "sleep 1000 & mount -t tmpfs nothing /mnt; echo ready; wait"]
RUN_IT = f"""
from cluster.place import make_place
from pods.namespace import leave_blocks_on_signals

leave_blocks_on_signals()
with make_place() as place:
    print(place.directory, flush=True)
    place.run({COMMAND!r}, {{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}})
"""


def processes_of(place: Path) -> list[str]:
    """The processes that were started for a place."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            environment = (path.parent / "environ").read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            continue  # it has just ended, or is none of ours
        if f"={place}\0" in environment or str(place) in words:
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_all_that_runs_there(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN_IT],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/netns-fixtures"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        place = Path(running.stdout.readline().strip())
        try:
            assert running.stdout.readline() == "ready\n"
            assert processes_of(place)
        finally:
            running.send_signal(number)
    deadline = time.monotonic() + 10
    while (left := processes_of(place)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert "nothing /mnt" not in Path("/proc/self/mounts").read_text()
    if number != signal.SIGKILL:
        assert not place.exists()
        assert list(Path("/sys/fs/cgroup").glob(f"**/{place.name}")) == []


def test_the_next_place_removes_what_a_killed_one_has_left() -> None:
    left = KEPT / "run" / "proxy-init-1073741824-abcdef"  # above the highest pid that there can be
    left.mkdir(parents=True)
    with make_place():
        assert not left.exists()
