"""The frame of every command: read the call, set up the log, enter the namespace, log errors."""

from __future__ import annotations

import sys

from ..config.config import Config, settle
from ..config.flags import Flag
from ..config.read import read_config
from ..errors import ApplyFailed, BadCall, ProxyInitError
from ..kernel.routing.addresses import global_addresses
from ..kernel.system.host import Host
from ..light import contextmanager, os
from ..log import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@contextmanager
def session(
    words: Sequence[str], environ: Mapping[str, str], extra: Sequence[Flag] = ()
) -> Iterator[Config]:
    """The checked call, in its network namespace and with its log; errors are logged as lines.

    `extra` are the options that only this command has.
    Raises ProxyInitError. An invalid call (BadCall) is not logged here: the entry point reports it,
    since there may be no log yet.
    """
    config = read_config(words, environ, Host(), extra)
    logger.set_up(config.log_level, config.log_as_json)
    with errors_logged():
        if config.network_namespace is not None or config.pod is not None:
            _enter(config)
        if not config.cleanup_only:
            config = settle(config, global_addresses(ipv4=config.depends_on_ipv4))
        yield config


@contextmanager
def errors_logged() -> Iterator[None]:
    """Log an error that leaves the block, but not that a call is invalid: see `session`."""
    try:
        yield
    except BadCall:
        raise
    except ProxyInitError as error:
        for line in str(error).splitlines():
            logger.error(line)
        raise


def _enter(config: Config) -> None:
    """Move into the network namespace that the call names. Raises BadCall or NodeCannot."""
    from ..kernel.system.namespace import enter

    path, source = config.network_namespace, config.network_namespace_source
    if config.pod is not None:
        from ..kernel.system.runtime import network_namespace_of

        path, source = network_namespace_of(config.pod, "--pod"), "--pod"
    enter(path or "", source)


def print_text(text: str) -> None:
    """Write to stdout. Raises ApplyFailed."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        # The rest of the buffer would fail again at exit, and change the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ApplyFailed(f"standard output: {error.strerror}") from error
