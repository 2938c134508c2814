"""Makes the place, and runs something in it: tests/cluster/run calls this as root, with .venv.

Everything that takes a network is done before: programs, images.
"""

import argparse
import os
import sys
from subprocess import CalledProcessError

from cluster import programs
from cluster.place import LOGS, ROOT, make_place
from node.images import save_images
from pods.namespace import leave_blocks_on_signals

TESTS = ROOT / "tests/cluster"


def main() -> int:
    """Run the tests, with pytest's arguments, or a shell; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="tests/cluster/run",
        description="Runs the tests of tests/cluster on a Kubernetes of their own.",
        epilog="All other arguments are pytest's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--shell",
        nargs="?",
        const="kubernetes",
        choices=("kubernetes", "containerd"),
        help="start a shell there, with kubectl and crictl, or only containerd, and run no test",
    )
    parser.add_argument(
        "--bench",
        action="store_true",
        help="time the start of pods with and without the agent, and run no test",
    )
    parser.add_argument(
        "--containerd",
        choices=programs.CONTAINERD_VERSIONS,
        default=programs.CONTAINERD_VERSIONS[0],
        help="the version of containerd to start with (default: %(default)s)",
    )
    options, words = parser.parse_known_args()
    if words and (options.shell or options.bench):
        parser.error(f"only pytest takes such arguments: {' '.join(words)}")
    needed: list[str] = []  # all
    if options.shell == "containerd" or options.bench:
        needed = [f"containerd-{options.containerd}", programs.CRICTL_MODULE]
    leave_blocks_on_signals()
    try:
        programs.build_programs(*needed)
        print("cluster: building what has changed of the images", file=sys.stderr)
        save_images()
    except (programs.NotBuilt, CalledProcessError) as failure:
        print(f"cluster: {failure}", file=sys.stderr)
        return 1
    if options.shell:
        command = ["-m", "cluster.shell", options.shell]
    elif options.bench:
        command = ["-m", "tests.cluster.bench"]
    else:
        command = ["-m", "pytest", *(words or [str(TESTS)])]
    with make_place() as place:
        status = place.run(
            [sys.executable, *command],
            os.environ | {"CONTAINERD_VERSION": options.containerd},
        )
    if status:
        print(f"cluster: the logs of this run are in {LOGS}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
