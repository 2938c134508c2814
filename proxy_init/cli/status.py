"""`status`: does the kernel hold what these flags ask for?"""

import json
from collections.abc import Mapping, Sequence

from ..config.config import Mode
from ..kernel.apply import apply
from ..kernel.enforce import chosen, wanted_rulesets
from ..kernel.findings import ApplyOptions, Finding
from ..rules.model import Ruleset
from .inferred import with_flags_of_the_rules
from .session import print_text, session

DIFFERENT = 3


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print nothing and return 0; or print the difference, kernel against wanted, and return 3."""
    with session(words, environ) as config:
        findings: list[Finding] = []
        config, found = with_flags_of_the_rules(config)
        if config.mode is Mode.NONE:  # it leaves the kernel as it is
            return 0
        if found and found.is_of_others and found.inferred.exact:
            if config.output == "json":
                print_text(_as_json(found.rulesets, []))
            return 0
        choice, rulesets = chosen(config, wanted_rulesets(config), write=False)
        choice.load()
        tasks = choice.tasks(rulesets)
        # Each table is read atomically, so the lock is not needed.
        options = ApplyOptions(config.policy_route, thorough=True, write=False)
        apply(tasks, findings.extend, options)
        lines = [line for finding in findings for line in finding.difference]
        if config.output == "json":
            print_text(_as_json(rulesets, findings))
        else:
            print_text("".join(f"{line}\n" for line in lines))
        return DIFFERENT if lines else 0


def _as_json(rulesets: Sequence[Ruleset], findings: Sequence[Finding]) -> str:
    """By family: whether everything is in place, and the lines of the diff."""
    lines: dict[str, list[str]] = {ruleset.family.title: [] for ruleset in rulesets}
    for finding in findings:
        lines[finding.family.title] += finding.difference
    families = {
        family: {"in_place": not difference, "diff": difference}
        for family, difference in lines.items()
    }
    return json.dumps({"in_place": not any(lines.values()), "families": families}, indent=2) + "\n"
