"""Work in a pod's network namespace, in a child that is forked for it, within a time limit.

A child has everything loaded that it needs, and may enter a namespace without a way back. The agent
is a single thread, which is what makes it safe to fork.
"""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from ..config import warnings
from ..config.config import Mode, settle
from ..errors import ApplyFailed, BadCall, ProxyInitError
from ..frozen import Frozen, replace
from ..kernel import apply, choice, diagnose, enforce, legacy_steps, nft_steps
from ..kernel.backend import Backend
from ..kernel.findings import Finding
from ..kernel.nftables import bridge, trials
from ..kernel.routing import rtnetlink
from ..kernel.routing.addresses import global_addresses
from ..kernel.system.lock import xtables_lock
from ..kernel.system.namespace import enter
from ..kernel.system.workers import Worker
from ..log import logger
from ..rules import counts
from .desired import Redirect
from .pod_config import pod_config, shell_words

_OWN = "/proc/self/ns/net"
_MOST_LINES, _MOST_CHARACTERS = 10, 300
LOADED = (
    warnings,
    apply,
    bridge,
    choice,
    counts,
    diagnose,
    legacy_steps,
    nft_steps,
    rtnetlink,
    trials,
)
"""What each child would otherwise load by itself."""


class Job(Frozen):
    """What to do in a network namespace: write the rules, or with `clean` remove them."""

    netns: str
    redirect: Redirect
    clean: bool = False


class Outcome(Frozen):
    """What came of a job: applied, unchanged, kept, cleaned, refused (by us, for its flags), failed
    or late; for the last three `error` says why."""

    result: str
    error: str = ""
    backend: str = "none"
    families: str = "none"
    rules: int = 0
    words: tuple[str, ...] = ()
    """All flags, one word each."""
    warnings: tuple[str, ...] = ()


class _Keep(Exception):
    """Rules are there, and are to stay as they are."""


def load() -> None:
    """Load what every child needs, once."""
    for backend in Backend:
        with suppress(ProxyInitError):  # this node has no such backend: a child says so
            backend.load()
    gc.collect()
    gc.freeze()  # a child's collection must not copy all of this


@asynccontextmanager
async def carried_out(job: Job, until: float, close: Sequence[int] = ()) -> AsyncIterator[Outcome]:
    """The outcome of a job, done in a child until some time of the monotonic clock.

    The child first closes these files of the agent's. It is gone at the end of the block; on a busy
    machine that takes longer than an answer may wait. Where the job is cancelled or late, the child
    is killed, which leaves each table whole.
    """
    try:
        worker = Worker(job.netns, partial(_steps, job, close))
    except OSError as error:
        yield Outcome("failed", f"the agent has no room for another process: {error.strerror}")
        return
    with worker:
        try:
            yield await _outcome(worker, until)
        finally:
            gone = worker.kill()  # after its answer it has nothing more to do
            await _readable(gone)
            os.close(gone)


async def _outcome(worker: Worker[Outcome], until: float) -> Outcome:
    worker.ask()
    started = time.monotonic()
    try:
        async with asyncio.timeout(until - started):
            await _readable(worker.fileno())
        return worker.answer()
    except TimeoutError:
        seconds = time.monotonic() - started
        return Outcome("late", f"the rules were not in place after {seconds:.1f} s; try again")
    except ProxyInitError as error:
        return Outcome("failed", short(str(error)))
    except RuntimeError as bug:
        for line in str(bug).splitlines():
            logger.error("%s: %s", worker.title, line)
        last = str(bug).rstrip().rpartition("\n")[2]
        return Outcome("failed", short(f"this is a bug in proxy-init, please report it: {last}"))


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _steps(job: Job, close: Sequence[int]) -> Iterator[Outcome]:
    gc.disable()
    signal.set_wakeup_fd(-1)  # the agent's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is begun is finished
    for descriptor in close:
        os.close(descriptor)
    logger.set_up("none", as_json=False)  # the outcome is all that is said
    try:
        yield _done(job)
    except BadCall as error:
        yield Outcome("refused", short(str(error)))
    except ProxyInitError as error:
        yield Outcome("failed", short(str(error)))


def _done(job: Job) -> Outcome:
    redirect = job.redirect
    words = (*redirect.words, *shell_words(redirect.text))
    config = pod_config(words, redirect.environ, redirect.annotations)
    if os.path.samefile(job.netns, _OWN):  # noqa: PTH121
        raise ApplyFailed(f"{job.netns} is the agent's own network namespace")
    enter(job.netns, "network namespace")
    if job.clean:
        config = replace(config, cleanup_only=True)
    else:
        config = settle(config, global_addresses(ipv4=config.depends_on_ipv4))
        if config.mode is Mode.NONE:
            return Outcome("unchanged", words=words)
    rulesets = enforce.wanted_rulesets(config)

    def decide(findings: Sequence[Finding]) -> None:
        if redirect.if_missing and any(finding.holds_ours for finding in findings):
            raise _Keep

    with xtables_lock(config.lock_file, config.wait):
        chosen, rulesets = enforce.chosen(config, rulesets)
        try:
            changed = enforce.enforce(config, rulesets, chosen, decide)
        except _Keep:
            return Outcome("kept", backend=chosen.backend.value, words=words)
    used = [ruleset for ruleset in rulesets if ruleset.tables]
    return Outcome(
        ("cleaned" if job.clean else "applied") if changed else "unchanged",
        backend=chosen.backend.value,
        families=",".join(ruleset.family.title for ruleset in used) or "none",
        rules=sum(len(ruleset.rules) for ruleset in used),
        words=words,
        warnings=tuple(_cut(line) for line in config.warnings[:_MOST_LINES]),
    )


def short(text: str) -> str:
    """A message that the pod's author may have made long, cut."""
    lines = text.splitlines()
    more = len(lines) - _MOST_LINES
    kept = [_cut(line) for line in lines[:_MOST_LINES]]
    return "\n".join([*kept, f"and {more} more"] if more > 0 else kept)


def _cut(line: str) -> str:
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
