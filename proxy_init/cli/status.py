"""`status`: does the kernel hold what these flags ask for?"""

import json
from collections.abc import Mapping, Sequence

from ..config import Mode
from ..kernel.apply import Finding, Orders, apply
from ..kernel.libiptc import load
from ..model import Family
from .session import print_text, session, wanted_rulesets

DIFFERENT = 3


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print nothing and give 0, or print the difference, kernel against wanted, and give 3."""
    with session(words, environ) as config:
        findings: dict[Family, Finding] = {}
        if config.mode is Mode.NONE:  # which leaves what it finds
            return 0
        load()
        # Each table is read as a whole, so there is no need for the lock.
        orders = Orders(config.policy_route, thorough=True, write=False)
        apply(wanted_rulesets(config), findings.update, orders)
        lines = [line for finding in findings.values() for line in finding.difference]
        if config.output == "json":
            print_text(_as_json(findings))
        else:
            print_text("".join(f"{line}\n" for line in lines))
        return DIFFERENT if lines else 0


def _as_json(findings: Mapping[Family, Finding]) -> str:
    """By family: whether all is in place, and the lines of the text's diff."""
    families = {
        family.title: {"in_place": not finding.difference, "diff": finding.difference}
        for family, finding in findings.items()
    }
    in_place = not any(finding.difference for finding in findings.values())
    return json.dumps({"in_place": in_place, "families": families}, indent=2) + "\n"
