"""A podman with storage and networks of its own."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def own_podman(
    store: Path | None = None, *, also: Path | None = None
) -> Iterator[Mapping[str, str]]:
    """The environment in which podman keeps images and containers in `store`, by default one that
    goes with the block, and takes images from the store `also`, too.

    One at a time may use a store; any number may take images from it. Containers have to be
    removed before the block ends.
    """
    with TemporaryDirectory(prefix="podman-") as directory:
        graph = store or Path(directory, "store")
        Path(directory, "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{directory}/run"\n'
            + (f'[storage.options]\nadditionalimagestores = ["{also}"]\n' if also else "")
        )
        Path(directory, "containers.conf").write_text(
            # Some machines refuse to raise limits, and crun refuses the cgroups of some.
            '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
            f'tmp_dir = "{directory}/tmp"\n'
            '[network]\nnetwork_backend = "netavark"\n'
            f'network_config_dir = "{directory}/networks"\n'
        )
        try:
            yield os.environ | {
                "CONTAINERS_CONF": f"{directory}/containers.conf",
                "CONTAINERS_STORAGE_CONF": f"{directory}/storage.conf",
            }
        finally:
            # podman mounts this directory on itself, and leaves it so.
            subprocess.run(["umount", "--quiet", graph / "overlay"], check=False)
