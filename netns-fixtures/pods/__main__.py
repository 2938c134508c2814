"""`python -m pods [PROGRAM ARGUMENTS]`: a program (a shell by default) in a new pod."""

import os
import subprocess
import sys

from pods.namespace import command_in, leave_blocks_on_signals
from pods.pod import make_pod


def main() -> int:
    """Run the program until it ends, and with it the pod; returns its exit status."""
    leave_blocks_on_signals()
    with make_pod() as pod:
        print(f"pod {pod.namespace}, outside {pod.outside}", file=sys.stderr)
        program = sys.argv[1:] or [os.environ.get("SHELL", "/bin/sh")]
        return subprocess.call([*command_in(pod.namespace), *program])


if __name__ == "__main__":
    sys.exit(main())
