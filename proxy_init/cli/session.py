"""The frame of every command: read the call, set up the log, enter the namespace, log errors."""

from __future__ import annotations

import os
import sys

from ..config.config import OLD_RULES, Config, settle
from ..config.flags import Flag
from ..config.read import read_config
from ..errors import ApplyFailed, BadCall, ProxyInitError
from ..frozen import replace
from ..kernel.routing.addresses import global_addresses, has_ipv6
from ..kernel.system.host import Host
from ..light import contextmanager
from ..log import logger
from ..rules.model import Family, Ruleset
from ..rulesets import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..kernel.choice import Choice


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
    try:
        if config.network_namespace is not None:
            from ..kernel.system.namespace import enter

            enter(config.network_namespace, config.network_namespace_source)
        if not config.cleanup_only:
            config = settle(config, global_addresses(ipv4=config.depends_on_ipv4))
        yield config
    except BadCall:
        raise
    except ProxyInitError as error:
        for line in str(error).splitlines():
            logger.error(line)
        raise


def wanted_rulesets(config: Config) -> list[Ruleset]:
    """The ruleset of each family."""
    families = list(Family)
    if config.ruleset == OLD_RULES and not has_ipv6():
        logger.info("the kernel has no IPv6, so no IPv6 rules are needed")
        families.remove(Family.V6)
    return [build(config, family) for family in families]


def chosen(
    config: Config, rulesets: list[Ruleset], write: bool = True
) -> tuple[Choice, list[Ruleset]]:
    """The backend for the rulesets, and the ruleset of each family for that backend.

    Without `write`, choosing creates no table in the kernel. Raises NodeCannot.
    """
    from ..kernel.choice import choose

    choice = choose(config.backend, rulesets, write)
    if config.backend == "auto" and choice.backend.value == "nft":  # else they are built for it
        rulesets = wanted_rulesets(replace(config, backend="nft"))
    return choice, rulesets


def print_text(text: str) -> None:
    """Write to stdout. Raises ApplyFailed."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        # The rest of the buffer would fail again at exit, and change the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ApplyFailed(f"standard output: {error.strerror}") from error
