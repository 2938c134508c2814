"""The place where the cluster runs: mount, network, pid, ipc and uts namespaces of its own, and a
cgroup for its containers.

Everything that runs there is killed by the kernel when the place ends: with the block, or with the
process that made it, however that ends.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cluster"
"""What is kept between runs; it may be removed at any time."""
LOGS = KEPT / "logs"
"""The logs of the last run."""

SETUP = Path(__file__).parent / "setup"
VARIABLE = "PROXY_INIT_CLUSTER"
"""Inside the place, the environment variable that holds its directory."""
CGROUPS = Path("/sys/fs/cgroup")
SECONDS_TO_DIE = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cluster may write: a directory on a disk, and a cgroup, by its absolute name."""

    directory: Path

    @property
    def cgroup(self) -> str:
        """The cgroup's name, as kubelet and crictl take it."""
        return f"/{self.directory.name}"

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command in namespaces of its own, and give its exit status.

        They end with the command, and all that it has left running ends with them.
        """
        started = subprocess.Popen(
            [
                # Whoever is killed takes the next one along, down to the first process inside.
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts"),
                *("--fork", "--kill-child", "--mount-proc", "--"),
                *("sh", str(SETUP), str(self.directory), *command),
            ],
            env={**environment, VARIABLE: str(self.directory)},
        )
        try:
            return started.wait()
        finally:
            started.kill()
            started.wait()


def here() -> Place | None:
    """The place that this process runs in, if it does."""
    directory = os.environ.get(VARIABLE)
    return Place(Path(directory)) if directory else None


@contextmanager
def make_place() -> Iterator[Place]:
    """A place, until the block ends; its logs stay in LOGS. Takes root: OSError."""
    for left in (KEPT / "run").glob("proxy-init-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():  # its maker was killed with -9
            _remove(left)
    directory = KEPT / "run" / f"proxy-init-{os.getpid()}-{secrets.token_hex(3)}"
    (directory / "logs").mkdir(parents=True)
    place = Place(directory)
    try:
        for hierarchy in _hierarchies():
            _make_cgroup(hierarchy, directory.name)
        yield place
    finally:
        shutil.rmtree(LOGS, ignore_errors=True)
        shutil.copytree(directory / "logs", LOGS)
        _remove(directory)


def _remove(directory: Path) -> None:
    for hierarchy in _hierarchies():
        _remove_cgroup(hierarchy / directory.name)
    shutil.rmtree(directory)


def _hierarchies() -> list[Path]:
    """Where the hierarchies of cgroups are mounted: one with cgroup v2, a dozen with v1."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1].startswith("cgroup")
    ]


def _make_cgroup(hierarchy: Path, name: str) -> None:
    cgroup = hierarchy / name
    cgroup.mkdir()
    for limit in (
        "cpuset.cpus",
        "cpuset.mems",
    ):  # empty in a new one of v1, which then takes nobody
        if (cgroup / limit).exists() and (hierarchy / limit).exists():
            (cgroup / limit).write_text((hierarchy / limit).read_text())


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup and those below it, once the last of their processes is dead."""
    deadline = time.monotonic() + SECONDS_TO_DIE
    for path, _, _ in os.walk(cgroup, topdown=False):
        while True:
            try:
                Path(path).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
