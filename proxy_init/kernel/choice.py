"""Chooses the backend of a run, and says why."""

from __future__ import annotations

from ..errors import ApplyFailed, NodeCannot, ProxyInitError
from ..frozen import Frozen, replace
from ..log import logger
from ..rules.model import Ruleset
from .backend import Backend, Task, tables_there
from .system.refusal import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Choice(Frozen):
    """The backend that rules go through, and why; `left` are others that still hold some of ours,
    which must go: a packet would meet them twice."""

    backend: Backend
    why: str
    left: tuple[Backend, ...] = ()

    def tasks(self, rulesets: Sequence[Ruleset]) -> list[Task]:
        """All that has to be seen to, for the rulesets to be in place through this one alone.

        They are for this backend, see `rulesets.build`.
        """
        bridge: tuple[Ruleset, ...] = ()
        if self.left:
            from .nftables.bridge import is_transparent

            bridge = tuple(rulesets) if any(map(is_transparent, rulesets)) else ()
        tasks = list(_tasks(self.backend, rulesets, bridge=bridge))
        for backend in self.left:
            nothing = [replace(ruleset, tables=()) for ruleset in rulesets]
            tasks += _tasks(backend, nothing, with_routing=False, bridge=bridge)
        return tasks

    def load(self) -> None:
        """Load the libraries that reading and writing need. Raises NodeCannot."""
        for backend in (self.backend, *self.left):
            backend.load()


def _tasks(
    backend: Backend,
    rulesets: Sequence[Ruleset],
    with_routing: bool = True,
    bridge: tuple[Ruleset, ...] = (),
) -> Iterator[Task]:
    parts = [tuple(rulesets)] if backend is Backend.NFT else [(ruleset,) for ruleset in rulesets]
    return (Task(part, backend, with_routing, bridge) for part in parts)


def choose(asked: str, rulesets: Sequence[Ruleset], write: bool = True) -> Choice:
    """Which backend to take for a run, where the user asked for `legacy`, `nft` or `auto`.

    Auto is legacy where this kernel has its tables, else nft; but where rules of ours are in one of
    them already, that one. Unless we are to `write`, no table is brought into being by asking.
    Raises NodeCannot where neither works.
    """
    there = [
        b
        for b in Backend
        if b.value != asked and any(tables_there(b, ruleset.family) for ruleset in rulesets)
    ]
    if asked != "auto":
        chosen, why = Backend(asked), "as asked for"
        held = _holders(there, rulesets, but=chosen)
    elif Backend.NFT not in there:
        chosen, why = _by_kernel(rulesets, write)
        held = _holders(there, rulesets, but=chosen)
    else:
        held = _holders(there, rulesets)
        if held:
            chosen, why = held[0], "rules of ours are there already"
        else:
            chosen, why = _by_kernel(rulesets, write)
    return Choice(chosen, why, tuple(backend for backend in held if backend is not chosen))


def _by_kernel(rulesets: Sequence[Ruleset], write: bool) -> tuple[Backend, str]:
    from .legacy.sockopt import lacks_legacy

    # A family for which nothing is wanted may be missing from the kernel altogether.
    concerned = [ruleset for ruleset in rulesets if ruleset.tables]
    lacks = (
        lacks_legacy(ruleset, tables_there(Backend.LEGACY, ruleset.family), write)
        for ruleset in concerned
    )
    lacking = next(filter(None, lacks), "")
    if not lacking:
        return Backend.LEGACY, "this kernel has its tables"
    from .needs import missing_needs

    missing_of_nft = missing_needs(concerned, Backend.NFT)
    if not missing_of_nft:
        return Backend.NFT, lacking
    if not missing_needs(concerned, Backend.LEGACY):
        return Backend.LEGACY, "nf_tables can't serve, and its tables can be loaded"
    lines = [f"backend legacy: {lacking}", *(f"backend nft: {need}" for need in missing_of_nft)]
    raise NodeCannot("\n".join(["neither backend works here; see proxy-init check", *lines]))


def _holders(
    there: Sequence[Backend], rulesets: Sequence[Ruleset], but: Backend | None = None
) -> list[Backend]:
    return [b for b in there if b is not but and _holds_ours(b, rulesets)]


def _holds_ours(backend: Backend, rulesets: Sequence[Ruleset]) -> bool:
    """Whether a family has something of ours in its tables, as far as they can be read."""
    try:
        if backend is Backend.NFT:
            from .nftables import tables as nf_tables

            return nf_tables.holds_ours(rulesets)
        from contextlib import ExitStack
        from functools import partial

        from .system.workers import Worker, side_by_side

        backend.load()
        with ExitStack() as stack:
            workers: list[Worker[bool]] = [
                stack.enter_context(Worker(ruleset.family.title, partial(_look, ruleset)))
                for ruleset in rulesets
            ]
            found = side_by_side(workers)
        return any(found)
    except (ProxyInitError, KernelRefused) as error:
        logger.debug("backend %s can't be read: %s", backend.value, error)
        return False


def _look(ruleset: Ruleset) -> Iterator[bool]:
    from ..rules.ownership import ours_in
    from .legacy.libiptc import Tables

    tables = Tables(ruleset.family)
    try:
        yield any(ours_in(tables.read(name), ruleset.table(name)) for name in tables.instantiated())
    except KernelRefused as refused:
        raise ApplyFailed(f"{ruleset.family.title} {refused}") from refused
