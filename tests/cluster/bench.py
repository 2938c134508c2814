"""What the agent adds to the start of a pod: `crictl runp` with and without it, in turn.

`sudo tests/cluster/run --bench` runs it, on containerd alone; $ROUNDS says how often.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cluster.containerd import Containerd, running_containerd
from cluster.daemon import until
from cluster.place import here
from tests.cluster.agent import FLAGS

ROUNDS = int(os.environ.get("ROUNDS", "10"))
PODS = 5
"""How many pods each case starts in each round."""

SIDECAR = "-p 15001 -z 15006 -u 1337 -i '*' -b '*' -d 15020,15021,15090"
REDIRECTED = {FLAGS: SIDECAR}
DUAL_STACK = {FLAGS: f"{SIDECAR} --dual-stack"}


def main() -> None:
    """Print the median of each case, and of what it takes more than the first in its round."""
    cases: dict[str, tuple[bool, Mapping[str, str]]] = {
        "no agent": (False, {}),
        "agent, nothing to do": (True, {}),
        "agent, redirected": (True, REDIRECTED),
        "agent, redirected in both families": (True, DUAL_STACK),
    }
    times: dict[str, list[float]] = {case: [] for case in cases}
    with running_containerd() as containerd:
        print(f"crictl runp, containerd {containerd.version}: ms, medians of {ROUNDS * PODS} pods")
        for _ in range(ROUNDS):
            for case, (with_agent, annotations) in cases.items():
                with agent() if with_agent else nullcontext():
                    times[case] += [start_a_pod(containerd, annotations) for _ in range(PODS)]
    without = times["no agent"]
    for case, values in times.items():
        more = statistics.median(a - b for a, b in zip(values, without, strict=True))
        print(f"{case:36}{statistics.median(values):8.0f}{more:+8.0f}")


def start_a_pod(containerd: Containerd, annotations: Mapping[str, str]) -> float:
    """How many milliseconds a sandbox takes to start."""
    started = time.monotonic()
    sandbox = containerd.run_pod("timed", annotations)
    milliseconds = (time.monotonic() - started) * 1000
    containerd.crictl("rmp", "--force", sandbox)
    return milliseconds


@contextmanager
def agent() -> Iterator[None]:
    """The agent, which the runtime calls when the block starts."""
    place = here()
    assert place
    log = Path(place.directory, "logs/agent.log")
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "proxy_init", "node", "--log-level", "info"],
            stdout=output,
            stderr=output,
        ) as running,
    ):
        try:
            until(
                lambda: "connected" in log.read_text(), what="the runtime does not call the agent"
            )
            yield
        finally:
            running.terminate()


if __name__ == "__main__":
    main()
