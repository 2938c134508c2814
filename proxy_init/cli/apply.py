"""The call without a command: apply the rules, as init containers do, or print them."""

from __future__ import annotations

import time

from ..config.config import Config, Mode
from ..errors import ApplyFailed, BadCall
from ..kernel.enforce import chosen, enforce, wanted_rulesets
from ..log import logger
from ..rules.iptables_save import routing_text, ruleset_text
from ..rules.model import BUILT_IN, Ruleset
from . import decisions
from .session import print_text, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..kernel.choice import Choice
    from ..kernel.findings import Finding


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Apply, clean, or print with --dry-run; returns the exit status. Raises ProxyInitError."""
    started = time.monotonic()
    rulesets: list[Ruleset] = []
    choice: Choice | None = None
    result = "failed"
    try:
        with session(words, environ) as config:
            rulesets = wanted_rulesets(config)
            if not config.cleanup_only:
                _log_decisions(config, rulesets)
            if config.dry_run:
                print_text(dry_run_text(config, rulesets))
                return 0
            if _is_to_write(config):
                from ..kernel.system.lock import xtables_lock

                with xtables_lock(config.lock_file, config.wait):
                    choice, rulesets = chosen(config, rulesets)
                    done = _carry_out(config, rulesets, choice)
            else:
                done = "unchanged"
            if config.run_validation and not config.cleanup_only:
                from .validate import after_applying

                after_applying(config, rulesets, words)
            result = done
    except BadCall:
        raise
    except Exception:
        _sum_up(result, choice, rulesets, started)
        raise
    if not (config.cleanup_only and result == "unchanged"):  # clean is silent if it finds nothing
        _sum_up(result, choice, rulesets, started)
    return 0


def _log_decisions(config: Config, rulesets: Sequence[Ruleset]) -> None:
    for line in config.warnings:
        logger.warning(line)
    for line in (*config.notes, *decisions.decisions(config)):
        logger.info(line)
    for ruleset in rulesets if not config.dry_run else ():
        for line in decisions.rules(ruleset):
            logger.info(line)


def _sum_up(
    result: str, choice: Choice | None, rulesets: Sequence[Ruleset], started: float
) -> None:
    """Log the last line of a run."""
    used = [ruleset for ruleset in rulesets if ruleset.tables]
    tables = [name for name in BUILT_IN if any(ruleset.table(name).chains for ruleset in used)]
    logger.summary(
        {
            "result": result,
            "backend": choice.backend.value if choice else "none",
            "families": ",".join(ruleset.family.title for ruleset in used) or "none",
            "tables": ",".join(tables) or "none",
            "rules": sum(len(ruleset.rules) for ruleset in used),
            "milliseconds": round((time.monotonic() - started) * 1000),
        }
    )


def dry_run_text(config: Config, rulesets: Sequence[Ruleset]) -> str:
    """The text of the families that a dry run prints: in the format of iptables-save, or for the
    backend nft, in that of the program nft."""
    printed = [ruleset for ruleset in rulesets if ruleset.family in config.printed_families]
    if config.backend == "nft":
        from ..rules.nftables_text import rulesets_text

        families = "".join(f"# {ruleset.family.title}\n" for ruleset in printed)
        return families + rulesets_text(printed) + "".join(map(routing_text, printed))
    return "".join(
        f"# {ruleset.family.title}\n{ruleset_text(ruleset)}{routing_text(ruleset)}"
        for ruleset in printed
    )


def _is_to_write(config: Config) -> bool:
    if config.mode is Mode.NONE and not config.cleanup_only:
        logger.info("mode NONE: nothing to do")
        return False
    if config.skip_rule_apply:
        logger.info("--skip-rule-apply: nothing is written")
        return False
    return True


def _carry_out(config: Config, rulesets: Sequence[Ruleset], choice: Choice) -> str:
    """Apply the rulesets to the kernel; returns the result for the summary."""

    def decide(findings: Sequence[Finding]) -> None:
        """Log what was found. Raises ApplyFailed if --no-reconcile forbids to change it."""
        if not any(finding.differs for finding in findings):
            if not config.cleanup_only:
                logger.info("the kernel already holds all of these rules")
        elif any(finding.holds_ours for finding in findings):
            changes = [line for finding in findings for line in finding.difference]
            if not config.reconcile and not config.cleanup_only:
                listed = "\n".join(changes)
                raise ApplyFailed(
                    "the kernel already holds rules of proxy-init that differ, and --no-reconcile "
                    "forbids replacing them; apply without --no-reconcile, or with the flags that "
                    f"made these rules\n{listed}"
                )
            logger.info("removing rules" if config.cleanup_only else "replacing old rules")
            for line in changes:
                logger.debug(line)

    log = logger.debug if config.cleanup_only else logger.info  # clean is silent
    log("backend %s: %s", choice.backend.value, choice.why)
    if not enforce(config, rulesets, choice, decide):
        return "unchanged"
    return "cleaned" if config.cleanup_only else "applied"
