"""The images of the Pods: this repository's, and those that stand beside it in ../manifests.

They are kept in .containers, at the root of the repository, so that only what has changed is built
again; that directory may be removed at any time.
"""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from node.podman import own_podman

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".containers"
SECONDS = 900.0  # for a first build, with all downloads, on a machine that has other things to do

PROXY_INIT = "registry.example.com/proxy-init:0.1.0"
APP = "registry.example.com/app:1"
ENVOY = "registry.example.com/envoy:1"
PAUSE = "registry.example.com/pause:1"
ALL_IMAGES = (PROXY_INIT, APP, ENVOY, PAUSE)


def build_images() -> Path:
    """Build what has changed, and give the store that has all images, for `make_node`.

    Raises CalledProcessError, once what the build said is on stderr.
    """
    with builder() as environment:
        _run(environment, ROOT / "scripts/image", PROXY_INIT)
        with TemporaryDirectory() as context:
            shutil.copy(ROOT / "netns-fixtures/images/app.py", context)
            shutil.copy(str(files("envoy._bin") / "envoy"), context)
            shutil.copy(_program("catatonit"), context)
            for name, target in ((APP, "app"), (ENVOY, "envoy"), (PAUSE, "pause")):
                _run(
                    environment,
                    *("podman", "build", "--quiet", "--isolation", "chroot", "--pull-never"),
                    *("--timestamp", "0", "--file", ROOT / "netns-fixtures/images/Dockerfile"),
                    *("--target", target, "--tag", name, context),
                )
        _run(environment, "podman", "image", "prune", "--force")
    return KEPT / "store"


def save_images() -> Path:
    """Build what has changed, and give one file with all images, for other runtimes to import.

    Raises CalledProcessError, as `build_images`.
    """
    build_images()
    saved, stamp = KEPT / "images.tar", KEPT / "images.stamp"
    with builder() as environment:
        ids = _run(environment, "podman", "image", "inspect", "--format", "{{.Id}}", *ALL_IMAGES)
        if not saved.exists() or not stamp.exists() or stamp.read_text() != ids:
            stamp.unlink(missing_ok=True)
            saved.unlink(missing_ok=True)  # podman adds to what is there
            _run(environment, "podman", "save", "-q", "-m", "-o", saved, *ALL_IMAGES)
            stamp.write_text(ids)
    return saved


@contextmanager
def builder() -> Iterator[Mapping[str, str]]:
    """The environment in which podman builds into the store that is kept; one at a time."""
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with own_podman(KEPT / "store") as environment:
            yield environment


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name}: scripts/bootstrap containers installs it"
    return path


def _run(environment: Mapping[str, str], *command: str | Path) -> str:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
    return done.stdout
