"""The init container's job, and its dry run."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..config import Config, Mode, read_config, settle
from ..errors import ApplyFailed, BadCall, ProxyInitError
from ..kernel.host import Host, global_addresses
from ..model import BUILT_IN, Family, Ruleset
from ..rulesets import build
from ..text import ruleset_text
from . import report
from .log import logger, set_up, summary


def run(words: list[str], environ: Mapping[str, str]) -> None:
    """Apply, or with --dry-run print. Raises ProxyInitError."""
    started = time.monotonic()
    config = read_config(words, environ, Host())
    set_up(config.log_level, config.log_as_json)
    if config.network_namespace is not None:
        from ..kernel.namespace import enter

        with _told():
            enter(config.network_namespace)
    config = settle(config, global_addresses())
    for line in config.warnings:
        logger.warning("%s", line)
    for line in (*config.notes, *report.decisions(config)):
        logger.info("%s", line)
    rulesets = {family: build(config, family) for family in Family}
    if config.dry_run:
        with _told():
            _print(dry_run_text(config, rulesets))
        return
    words_of_summary: dict[str, str | int] = {
        "result": "unchanged",
        "backend": "legacy",
        "families": ",".join(r.family.title for r in rulesets.values() if r.tables) or "none",
        "tables": ",".join(n for n in BUILT_IN if any(r.table(n).chains for r in rulesets.values()))
        or "none",
        "rules": sum(len(ruleset.rules) for ruleset in rulesets.values()),
    }
    try:
        with _told():
            words_of_summary["result"] = _apply(config, rulesets)
    except ProxyInitError:
        words_of_summary["result"] = "failed"
        raise
    finally:
        words_of_summary["milliseconds"] = round((time.monotonic() - started) * 1000)
        summary(words_of_summary)


@contextmanager
def _told() -> Iterator[None]:
    """Log what goes wrong; what is wrong with the call itself, the entry point tells."""
    try:
        yield
    except BadCall:
        raise
    except ProxyInitError as error:
        for line in str(error).splitlines():
            logger.error("%s", line)
        raise


def dry_run_text(config: Config, rulesets: Mapping[Family, Ruleset]) -> str:
    """The text of the families that are to be printed."""
    return "".join(
        f"# {family.title}\n{ruleset_text(rulesets[family])}" for family in config.printed_families
    )


def _print(text: str) -> None:
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        # What the buffer still holds would fail once more at exit, and change the status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ApplyFailed(f"standard output: {error.strerror}") from error


def _apply(config: Config, rulesets: Mapping[Family, Ruleset]) -> str:
    """Bring the kernel to what is wanted; gives the summary's word for what happened."""
    if config.mode is Mode.NONE:
        logger.info("mode NONE: nothing to do")
        return "unchanged"
    if config.skip_rule_apply:
        logger.info("--skip-rule-apply: nothing is written")
        return "unchanged"
    for ruleset in rulesets.values():
        for line in report.rules(ruleset):
            logger.info("%s", line)
    from ..kernel.apply import Finding, apply
    from ..kernel.lock import xtables_lock

    def decide(findings: Mapping[Family, Finding]) -> bool:
        """Whether what was found may be changed. Raises ApplyFailed with --no-reconcile."""
        ours_are_there = any(any(f.present.values()) for f in findings.values())
        if not any(finding.edits for finding in findings.values()):
            logger.info("all of this is in the kernel already")
        elif ours_are_there:
            changes = "\n".join(report.difference(findings))
            if not config.reconcile:
                raise ApplyFailed(
                    "rules of ours are there and differ, and --no-reconcile forbids to replace "
                    f"them; apply without it, or with the flags that they were made with\n{changes}"
                )
            logger.info("replacing rules of an earlier run")
            for line in changes.splitlines():
                logger.debug("%s", line)
        return True

    with xtables_lock(config.lock_file, config.wait):
        changed = apply(list(rulesets.values()), decide, config.force_apply)
    return "applied" if changed else "unchanged"
