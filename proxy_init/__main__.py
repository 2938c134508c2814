"""The entry point: `proxy-init`, and `python -m proxy_init`."""

import os
import sys

from . import __version__
from .cli import apply
from .cli.termination import leave_last_words
from .errors import BadCall, ProxyInitError
from .flags import split


def main() -> int:
    """Run one command line and give the exit status."""
    words = sys.argv[1:]
    if words[:1] == ["istio-iptables"]:  # how manifests of today's sidecar image begin
        del words[0]
    run = apply.run
    if words[:1] == ["clean"]:
        words = [*words[1:], "--cleanup-only"]
    elif words[:1] == ["status"]:
        from .cli import status

        run, words = status.run, words[1:]
    given = split(words).given
    if "help" in given:
        from .cli.app import app

        app()(["--help"], prog_name="proxy-init", standalone_mode=False)
        return 0
    if "version" in given:
        print(__version__)
        return 0
    try:
        return run(words, os.environ)
    except ProxyInitError as error:
        if isinstance(error, BadCall):
            for line in str(error).splitlines():
                print(f"proxy-init: {line}", file=sys.stderr)
        leave_last_words(str(error), os.environ)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
