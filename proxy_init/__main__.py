"""The entry point: `proxy-init`, `python -m proxy_init`, and this file itself.

A pod's start waits for us, so the image leaves out what the interpreter does for others at its
start: `python3 -I -S …/proxy_init/__main__.py`.
"""

import gc
import sys

if not __package__:  # run as a file: with -I and -S, nothing puts our place on the path
    sys.path.insert(0, __file__.rpartition("/proxy_init/")[0])

from proxy_init import bundle

gc.disable()  # a run is too short for it to pay; loading alone takes 2.3 million instructions less
bundle.use(bundle.__file__.rpartition("/")[0])

from proxy_init.cli.main import main  # noqa: E402
from proxy_init.light import os  # noqa: E402


def start() -> None:
    """Run the command line of this process, and end the process with its exit status."""
    _open_what_is_closed()
    status = main()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    # Not sys.exit: nothing is left to clear up, and taking the interpreter apart takes 5 ms.
    os._exit(status)


def _open_what_is_closed() -> None:
    """Where the caller closed a standard stream, let no other file get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


if __name__ == "__main__":
    start()
