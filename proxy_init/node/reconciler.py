"""Brings the rules of each pod of the node to the desired state, and knows how each pod is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..errors import ApplyFailed, BadCall
from ..log import logger
from .desired import Desired, LeaveAlone, NoRules, Redirect, desired_state, note_of
from .metrics import Metrics
from .pods import VALIDATION, Container, Pod
from .work import Job, Outcome, carried_out, short

_SECONDS_TO_REPAIR = 10.0


class _State:
    """What is known of a pod.

    `lock` is held while its rules are worked on. `in_place` is the desired state that its rules are
    in, or None while that is not certain.
    """

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.containers: dict[str, Container] = {}
        self.lock = asyncio.Lock()
        self.repair: asyncio.Task[None] | None = None
        self.in_place: Desired | None = None
        self.name = "new"
        self.why = ""
        self.outcome = Outcome("unchanged")
        self.words: tuple[str, ...] = ()

    def becomes(self, name: str, why: str) -> bool:
        """Take a new name, and why; gives whether that is news."""
        news = (self.name, self.why) != (name, why)
        self.name, self.why = name, why
        return news


class Reconciler:
    """The pods of a node. `defaults` are flags for pods whose annotations do not say otherwise;
    `own_files` gives descriptors that no child may keep open."""

    def __init__(
        self, defaults: Sequence[str], metrics: Metrics, own_files: Callable[[], Sequence[int]]
    ) -> None:
        self._defaults = defaults
        self._metrics = metrics
        self._own_files = own_files
        self._states: dict[str, _State] = {}
        self._repairs: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def reconcile(self, pod: Pod, created: Container | None, until: float) -> str:
        """Bring a pod to its desired state, now that it or a container of it is being created.

        `until` is when that must be done, by the monotonic clock. Gives a note that the container
        is to carry, or nothing. Raises ApplyFailed, which is to fail the pod.
        """
        started = time.monotonic()
        state = self._states.setdefault(pod.id, _State(pod))
        state.pod = pod
        if created:
            state.containers[created.name] = created
        logger.debug("%s: %s", pod.title, f"container {created.name}" if created else "new pod")
        if state.repair:
            state.repair.cancel()  # superseded
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(state.lock)
            event = "create" if created else "run"
            outcome = await stack.enter_async_context(
                self._reconciled(state, until, event, created)
            )
            # The answer is due now; what is left of the work is ended behind it.
            ending = asyncio.create_task(stack.pop_all().aclose())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._metrics.seconds.observe(time.monotonic() - started)
        if outcome.error:
            raise ApplyFailed(outcome.error)
        done = state.in_place
        exact = isinstance(done, Redirect) and done.source == f"container {VALIDATION}"
        return note_of(done) if exact and isinstance(done, Redirect) else ""

    def forget(self, pod_id: str) -> None:
        """The pod is gone."""
        self._states.pop(pod_id, None)

    def take_over(self, pods: Iterable[tuple[Pod, Sequence[Container]]]) -> None:
        """These are all pods of the node, with their containers. Begins to repair them."""
        before, self._states = self._states, {}
        for pod, containers in pods:
            # Containers that have ended are not among those that the runtime lists.
            state = before.get(pod.id) or _State(pod)
            state.pod = pod
            state.containers |= {container.name: container for container in containers}
            state.in_place = None
            self._states[pod.id] = state
        if self._repairs:
            self._repairs.cancel()
        self._repairs = asyncio.create_task(self._repair_all([*self._states.values()]))

    async def finish(self) -> None:
        """Begin no more repairs, and wait for the one that has begun."""
        if self._repairs:
            self._repairs.cancel()
        repairing = (state.repair for state in self._states.values() if state.repair)
        await asyncio.gather(*repairing, *self._ending, return_exceptions=True)

    async def _repair_all(self, states: Sequence[_State]) -> None:
        for state in states:
            state.repair = asyncio.create_task(self._repair(state))
            await asyncio.wait([state.repair])
            state.repair = None
        logger.info("all pods of the node have been looked at: %d", len(states))

    async def _repair(self, state: _State) -> None:
        async with state.lock:
            netns = state.pod.netns
            if netns is not None and not Path(netns).exists():
                state.becomes("gone", "its network namespace is gone")
            elif self._states.get(state.pod.id) is state:
                until = time.monotonic() + _SECONDS_TO_REPAIR
                async with self._reconciled(state, until, "repair", None) as outcome:
                    if outcome.result == "applied":
                        self._metrics.repairs.inc()

    @asynccontextmanager
    async def _reconciled(
        self, state: _State, until: float, event: str, created: Container | None
    ) -> AsyncIterator[Outcome]:
        """Bring a pod to its desired state unless it is there; the outcome, which is logged."""
        started = time.monotonic()
        try:
            wanted = desired_state(
                state.pod, state.containers, self._defaults, created.name if created else ""
            )
        except BadCall as bad:
            outcome = Outcome("refused", short(str(bad)))
            self._take(state, None, outcome, event, started)
            yield outcome
            return
        job = self._job(state, wanted, event)
        if job is None or wanted == state.in_place:
            yield Outcome("unchanged")
            return
        state.in_place = None  # from now on, until it is done
        async with carried_out(job, until, self._own_files()) as outcome:
            self._take(state, wanted, outcome, event, started)
            yield outcome

    def _take(
        self, state: _State, wanted: Desired | None, outcome: Outcome, event: str, started: float
    ) -> None:
        """Take note of an outcome: in the pod's state, the metrics and the log."""
        state.outcome = outcome
        self._metrics.outcomes.labels(outcome.result).inc()
        if outcome.error:
            state.becomes("failed", outcome.error)
        elif wanted:
            state.in_place, state.words = wanted, outcome.words
            state.becomes(*_name(wanted, outcome))
        _log(state.pod, event, wanted, outcome, started)

    def _job(self, state: _State, wanted: Desired, event: str) -> Job | None:
        """What there is to do; nothing for a pod that is left alone, which is logged once."""
        netns = state.pod.netns or ""  # who has none is left alone
        if isinstance(wanted, LeaveAlone):
            if state.becomes("left alone", wanted.why):
                self._metrics.outcomes.labels("left_alone").inc()
                logger.info("%s: left alone: %s", state.pod.title, wanted.why)
            return None
        if isinstance(wanted, NoRules):
            if state.becomes("no rules", wanted.why):
                logger.info("%s: no rules: %s", state.pod.title, wanted.why)
            if event != "create":
                return None
            return Job(netns, wanted.instead_of, clean=True)
        if wanted.note and wanted != state.in_place:
            logger.warning("%s: %s", state.pod.title, wanted.note)
        return Job(netns, wanted)

    def counts(self) -> Mapping[str, int]:
        """How many pods there are, by state."""
        return Counter(state.name for state in self._states.values())

    def listing(self) -> list[dict[str, object]]:
        """What is known of each pod, for people."""
        return [_described(state) for state in self._states.values()]


def _name(wanted: Desired, outcome: Outcome) -> tuple[str, str]:
    if isinstance(wanted, NoRules):
        return "no rules", wanted.why
    if outcome.backend == "none":
        return "no rules", "mode NONE"
    if outcome.result == "kept":
        return "redirected", "its exact flags are not known any more, so its rules are kept"
    return "redirected", ""


def _described(state: _State) -> dict[str, object]:
    done = state.in_place
    redirect = done if isinstance(done, Redirect) else None
    return {
        "namespace": state.pod.namespace,
        "pod": state.pod.name,
        "id": state.pod.id,
        "state": state.name,
        "why": state.why,
        "source": redirect.source if redirect else "",
        "flags": list(state.words) if redirect else [],
        "environment": dict(redirect.environ) if redirect else {},
        "backend": state.outcome.backend,
        "families": state.outcome.families,
        "rules": state.outcome.rules,
    }


def _log(pod: Pod, event: str, wanted: Desired | None, outcome: Outcome, started: float) -> None:
    if outcome.error:
        for line in outcome.error.splitlines():
            logger.error("%s: %s", pod.title, line)
        return
    for line in outcome.warnings:
        logger.warning("%s: %s", pod.title, line)
    source = wanted.source if isinstance(wanted, Redirect) else "none"
    logger.summary(
        {
            "result": outcome.result,
            "pod": pod.title,
            "event": event,
            "flags_from": source.replace(" ", "-"),
            "backend": outcome.backend,
            "families": outcome.families,
            "rules": outcome.rules,
            "milliseconds": round((time.monotonic() - started) * 1000),
        }
    )
