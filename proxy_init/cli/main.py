"""Runs one call: finds its command, reports its failure, returns its exit status."""

import sys

from .. import __version__
from ..config.command_line import split
from ..errors import BadCall, ProxyInitError
from ..light import os
from . import apply
from .termination_log import write_termination_log

_ABOUT_COMPLETION = (["--install-completion"], ["--show-completion"])
_COMPLETION = "_PROXY_INIT_COMPLETE"
"""Set by the shell, which then calls the program without arguments: Typer's protocol."""


def main() -> int:
    """Run one command line and return the exit status."""
    words = sys.argv[1:]
    if words[:1] == ["istio-iptables"]:  # the first argument in manifests of today's sidecar image
        del words[0]
    try:
        return _run(words)
    except ProxyInitError as error:
        if isinstance(error, BadCall):
            for line in str(error).splitlines():
                print(f"proxy-init: {line}", file=sys.stderr)
        write_termination_log(str(error), os.environ)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except Exception as bug:
        import traceback

        traceback.print_exc()
        # For an exception in a worker, the last line names the original exception.
        what = "".join(traceback.format_exception_only(bug)).strip().splitlines()[-1]
        line = f"this is a bug in proxy-init, please report it: {what}"
        print(f"proxy-init: {line}", file=sys.stderr)
        write_termination_log(line, os.environ)
        return 1


def _run(words: list[str]) -> int:
    if words[:1] in _ABOUT_COMPLETION or (not words and _COMPLETION in os.environ):
        from .commands import run

        return run(words)
    given = split(words).given
    if "version" in given:
        print(__version__)
        return 0
    if words and not words[0].startswith("-"):
        from .commands import COMMANDS, run

        if words[0] in COMMANDS:
            return run(words)
    elif "help" in given:
        from .commands import run

        return run(["--help"])
    return apply.run(words, os.environ)
