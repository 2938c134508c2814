"""One configuration brought about in this process's network namespace."""

from __future__ import annotations

from ..config.config import OLD_RULES, Config
from ..frozen import replace
from ..log import logger
from ..rules.model import Family, Ruleset
from ..rulesets import build
from .routing.addresses import has_ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .choice import Choice
    from .findings import Finding


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
    from .choice import choose

    choice = choose(config.backend, rulesets, write)
    if config.backend == "auto" and choice.backend.value == "nft":  # else they are built for it
        rulesets = wanted_rulesets(replace(config, backend="nft"))
    return choice, rulesets


def enforce(
    config: Config,
    rulesets: Sequence[Ruleset],
    choice: Choice,
    decide: Callable[[Sequence[Finding]], None],
) -> bool:
    """Bring the kernel to these rulesets; gives whether anything had to change.

    The caller holds the xtables lock. `decide` is shown what was found, and what it raises ends it
    before anything changes. Raises ApplyFailed or NodeCannot; then the kernel is as it was found.
    """
    from .apply import apply
    from .findings import ApplyOptions

    choice.load()  # before forking the workers, which share it
    options = ApplyOptions(
        config.policy_route, force=config.force_apply, thorough=config.cleanup_only
    )
    return apply(choice.tasks(rulesets), decide, options)
