"""The flags that a command goes by if none is given: those that made the rules in the kernel."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ..analysis.description import Found, find
from ..analysis.pod_facts import FamilyRules
from ..config.config import Config
from ..config.flags import ABOUT_RULES
from ..frozen import replace
from ..kernel.present_rules import all_rules
from ..kernel.routing.policy_routes import has_passthrough_address
from ..kernel.snapshot import Present
from ..log import logger
from ..rules.model import Family

_LONGEST = 500
"""Of the flags in the log line."""
# Of one flag there is more than one field of Config.
_FIELDS = ABOUT_RULES - {"dual_stack"} | {"captures_loopback"}


def found_in(present: Mapping[Family, Present]) -> list[Found]:
    """Each kind of tables that holds rules of ours, with their flags, see `description.find`."""
    rules = {
        family: FamilyRules(family, each.tables, each.policy_routes)
        for family, each in present.items()
    }
    return find(rules, has_passthrough_address())


def with_flags_of_the_rules(config: Config) -> tuple[Config, Found | None]:
    """The configuration, and if no flag or variable says which rules there must be, with the flags
    of those that are there; then also what was found."""
    if config.about_rules:
        return config, None
    present, _ = all_rules()
    found = next(iter(found_in(present)), None)
    if found is None:
        logger.info("no flags about rules are given, and there are no rules: using the defaults")
        return config, None
    line = shlex.join(found.inferred.words)
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    nearest = "" if found.inferred.exact else " (the nearest, since some rules differ)"
    logger.info(
        "no flags about rules are given: using those of the rules here%s: %s", nearest, line
    )
    fields = {name: getattr(found.inferred.config, name) for name in _FIELDS}
    reason = "as the rules that are here"
    return replace(config, **fields, ipv6_reason=reason, warnings=()), found
