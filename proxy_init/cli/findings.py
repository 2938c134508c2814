"""What is wrong in this network namespace: what the diagnosis finds, as text and as JSON."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..analysis.diagnosis import Finding, diagnose
from ..analysis.pod_facts import FamilyRules, Known, Pod
from ..config.config import Config
from ..config.read import RESOLV_CONF
from ..kernel.listeners import listeners
from ..kernel.routing.addresses import addresses
from ..kernel.snapshot import Present
from ..kernel.system.host import Host
from ..log import logger
from ..rules.model import Family
from ..rules.networks import read_address
from .terminal import WIDTH


def findings(present: Mapping[Family, Present], services: Sequence[Known]) -> tuple[Finding, ...]:
    """What is wrong with the rules that are present, and with the sockets of this namespace.

    `services` are addresses of services that the pod is known to use. Raises ApplyFailed.
    """
    rules = {
        family: FamilyRules(family, found.tables, found.policy_routes)
        for family, found in present.items()
    }
    try:
        there = listeners()
    except OSError as error:
        logger.debug("who listens can't be read: %s", error)
        there = None
    return diagnose(Pod(rules, frozenset(addresses()), there, tuple(services)))


def known_services(config: Config, environ: Mapping[str, str]) -> list[Known]:
    """Addresses of services that every pod of a cluster uses, if we are in the pod."""
    if config.network_namespace or config.pod:
        return []
    server = environ.get("KUBERNETES_SERVICE_HOST", "")
    named = [(server, "the API server (KUBERNETES_SERVICE_HOST)")]
    with suppress(OSError):
        for line in Host().read_text(RESOLV_CONF).splitlines():
            keyword, _, address = line.partition(" ")
            if keyword == "nameserver":
                named.append((address.strip(), f"a name server in {RESOLV_CONF}"))
    found = []
    for text, source in named:
        with suppress(ValueError):
            found.append(Known(read_address(text), source))
    return found


def finding_lines(finding: Finding) -> list[str]:
    """A finding as text, and the call that shows more."""
    lines = textwrap.wrap(f"{finding.says} {finding.remedy}", WIDTH)
    return lines + ([f"  {finding.call}"] if finding.call else [])


def finding_fields(finding: Finding) -> dict[str, object]:
    """A finding as JSON."""
    return {
        "cause": finding.cause.value,
        "says": finding.says,
        "remedy": finding.remedy,
        "call": finding.call or None,
    }
