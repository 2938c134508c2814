"""The init container's job, and its dry run."""

import sys
import time
from collections.abc import Mapping

from ..config import OLD_RULES, Config, Mode, read_config, settle
from ..errors import ApplyFailed, BadCall, ProxyInitError
from ..kernel.host import Host, global_addresses, has_ipv6
from ..model import BUILT_IN, Family, Ruleset
from ..rulesets import build
from ..text import routing_text, ruleset_text
from . import report
from .log import logger, set_up, summary


def run(words: list[str], environ: Mapping[str, str]) -> None:
    """Apply, clean, or with --dry-run print. Raises ProxyInitError, after logging it."""
    started = time.monotonic()
    config = read_config(words, environ, Host())
    set_up(config.log_level, config.log_as_json)
    result, rulesets = "failed", {family: Ruleset(family) for family in Family}
    try:
        config = _in_its_namespace(config)
        rulesets = {family: build(config, family) for family in Family}
        if config.dry_run:
            _print(dry_run_text(config, rulesets))
            return
        result = _carry_out(config, rulesets)
    except BadCall:
        raise
    except ProxyInitError as error:
        for line in str(error).splitlines():
            logger.error("%s", line)
        _sum_up("failed", rulesets, started)
        raise
    if not (config.cleanup_only and result == "unchanged"):
        _sum_up(result, rulesets, started)


def _in_its_namespace(config: Config) -> Config:
    """Enter the network namespace, and settle and say what depends on it."""
    if config.network_namespace is not None:
        from ..kernel.namespace import enter

        enter(config.network_namespace)
    if config.cleanup_only:
        return config
    config = settle(config, global_addresses())
    for line in config.warnings:
        logger.warning("%s", line)
    for line in (*config.notes, *report.decisions(config)):
        logger.info("%s", line)
    return config


def _sum_up(result: str, rulesets: Mapping[Family, Ruleset], started: float) -> None:
    """Log the last line of a run."""
    used = [ruleset for ruleset in rulesets.values() if ruleset.tables]
    tables = [name for name in BUILT_IN if any(ruleset.table(name).chains for ruleset in used)]
    summary(
        {
            "result": result,
            "backend": "legacy",
            "families": ",".join(ruleset.family.title for ruleset in used) or "none",
            "tables": ",".join(tables) or "none",
            "rules": sum(len(ruleset.rules) for ruleset in used),
            "milliseconds": round((time.monotonic() - started) * 1000),
        }
    )


def dry_run_text(config: Config, rulesets: Mapping[Family, Ruleset]) -> str:
    """The text of the families that are to be printed."""
    return "".join(
        f"# {family.title}\n{ruleset_text(rulesets[family])}{routing_text(rulesets[family])}"
        for family in config.printed_families
    )


def _print(text: str) -> None:
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        raise ApplyFailed(f"standard output: {error.strerror}") from error


def _carry_out(config: Config, rulesets: Mapping[Family, Ruleset]) -> str:
    """Bring the kernel to what is wanted; gives the summary's word for what happened."""
    if config.mode is Mode.NONE and not config.cleanup_only:
        logger.info("mode NONE: nothing to do")
        return "unchanged"
    if config.skip_rule_apply:
        logger.info("--skip-rule-apply: nothing is written")
        return "unchanged"
    wanted = list(rulesets.values())
    if config.ruleset == OLD_RULES and not has_ipv6():
        logger.info("the kernel has no IPv6, so nothing is done about it")
        wanted = [ruleset for ruleset in wanted if ruleset.family is Family.V4]
    for ruleset in wanted:
        for line in report.rules(ruleset):
            logger.info("%s", line)
    from ..kernel.apply import Finding, apply
    from ..kernel.lock import xtables_lock

    def decide(findings: Mapping[Family, Finding]) -> None:
        """Say what was found. Raises ApplyFailed where --no-reconcile forbids to change it."""
        if not any(finding.differs for finding in findings.values()):
            if not config.cleanup_only:
                logger.info("all of this is in the kernel already")
        elif any(finding.holds_ours for finding in findings.values()):
            changes = "\n".join(report.difference(findings))
            if not config.reconcile and not config.cleanup_only:
                raise ApplyFailed(
                    "rules of ours are there and differ, and --no-reconcile forbids to replace "
                    f"them; apply without it, or with the flags that they were made with\n{changes}"
                )
            verb = "removing" if config.cleanup_only else "replacing"
            logger.info("%s rules of an earlier run", verb)
            for line in changes.splitlines():
                logger.debug("%s", line)

    with xtables_lock(config.lock_file, config.wait):
        changed = apply(wanted, decide, force=config.force_apply, thorough=config.cleanup_only)
    if not changed:
        return "unchanged"
    return "cleaned" if config.cleanup_only else "applied"
