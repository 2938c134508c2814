"""The two ways to the kernel's tables, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from functools import partial

from ..errors import ApplyFailed, ProxyInitError
from ..frozen import frozen, replace
from ..log import logger
from ..model import Family, Ruleset
from ..ownership import ours_in
from .refusal import KernelRefused
from .workers import Worker, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..counters import Count
    from ..model import Table
    from ..reconcile import TableEdit

    class Tables(Protocol):
        """The tables of one family; libiptc.py and nft.py say what each method does."""

        def instantiated(self) -> tuple[str, ...]: ...
        def read(self, name: str) -> Table: ...
        def counts(self, name: str) -> dict[str, tuple[Count, ...]]: ...
        def stage(self, edit: TableEdit) -> None: ...
        def commit(self, name: str) -> None: ...


class Backend(Enum):
    """How rules get into the kernel: its x_tables through libiptc, or its nf_tables."""

    LEGACY = "legacy"
    NFT = "nft"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What a process must have for it: libiptc works through a raw socket."""
        return ("NET_ADMIN", "NET_RAW") if self is Backend.LEGACY else ("NET_ADMIN",)

    @property
    def tables_in_words(self) -> str:
        """What people call the tables that it reads and writes."""
        return "the legacy tables" if self is Backend.LEGACY else "nf_tables"

    def load(self) -> None:
        """Load what reading and writing take. Raises NodeCannot where something is missing."""
        if self is Backend.LEGACY:
            from .libiptc import load

            load()
        else:
            from . import nft

            nft.load()

    def tables(self, family: Family) -> Tables:
        """The family's tables in this process's network namespace."""
        if self is Backend.LEGACY:
            from . import libiptc

            return libiptc.Tables(family)
        from . import nft

        return nft.Tables(family)


@frozen
class Part:
    """One family's rules as they go through one backend."""

    ruleset: Ruleset
    backend: Backend
    with_routing: bool = True
    """Whether the family's routing is seen to here; it is there once, however rules get in."""

    @property
    def title(self) -> str:
        """How people may call it."""
        family = self.ruleset.family.title
        return family if self.with_routing else f"{family} ({self.backend.value})"

    def tables(self) -> Tables:
        """The tables of its family, through its backend."""
        return self.backend.tables(self.ruleset.family)


@frozen
class Choice:
    """The backend that rules go through, and why; `left` are others that still hold some of ours,
    which must go: a packet would meet them twice."""

    backend: Backend
    why: str
    left: tuple[Backend, ...] = ()

    def parts(self, rulesets: Sequence[Ruleset]) -> list[Part]:
        """All that has to be seen to, for the rulesets to be in place through this one alone."""
        parts = [Part(ruleset, self.backend) for ruleset in rulesets]
        for backend in self.left:
            parts += [
                Part(replace(ruleset, tables=()), backend, with_routing=False)
                for ruleset in rulesets
            ]
        return parts

    def load(self) -> None:
        """Load what reading and writing take. Raises NodeCannot."""
        for backend in (self.backend, *self.left):
            backend.load()


def choose(asked: str, rulesets: Sequence[Ruleset], write: bool = True) -> Choice:
    """Which backend to take for a run, where the user asked for `legacy`, `nft` or `auto`.

    Auto is legacy where this kernel has its tables, else nft; but where rules of ours are in one of
    them already, that one. Unless we are to `write`, no table is brought into being by asking.
    Raises NodeCannot where neither works.
    """
    there = [b for b in Backend if any(tables_there(b, ruleset.family) for ruleset in rulesets)]
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
    from .sockopt import lacks_legacy

    # A family for which nothing is wanted may be missing from the kernel altogether.
    concerned = [ruleset for ruleset in rulesets if ruleset.tables]
    lacks = (
        lacks_legacy(ruleset, tables_there(Backend.LEGACY, ruleset.family), write)
        for ruleset in concerned
    )
    lacking = next(filter(None, lacks), "")
    if not lacking:
        return Backend.LEGACY, "this kernel has its tables"
    from .needs import neither_works

    error = neither_works(concerned, lacking)
    if error:
        raise error
    return Backend.NFT, lacking


def tables_there(backend: Backend, family: Family) -> tuple[str, ...]:
    """The tables that this namespace has, as far as can be told without loading anything."""
    try:
        if backend is Backend.NFT:
            from .nfnetlink import table_names

            return table_names(family)
        from .libiptc import instantiated

        return instantiated(family)
    except OSError:
        return ()


def _holders(
    there: Sequence[Backend], rulesets: Sequence[Ruleset], but: Backend | None = None
) -> list[Backend]:
    return [b for b in there if b is not but and _holds_ours(b, rulesets)]


def _holds_ours(backend: Backend, rulesets: Sequence[Ruleset]) -> bool:
    """Whether any family's tables hold something of ours; who can't be asked is taken not to."""
    try:
        backend.load()
        with ExitStack() as stack:
            workers: list[Worker[bool]] = [
                stack.enter_context(Worker(ruleset.family.title, partial(_look, backend, ruleset)))
                for ruleset in rulesets
            ]
            found = side_by_side(workers)
    except ProxyInitError as error:
        logger.debug("backend %s can't be looked at: %s", backend.value, error)
        return False
    return any(found)


def _look(backend: Backend, ruleset: Ruleset) -> Iterator[bool]:
    tables = backend.tables(ruleset.family)
    try:
        yield any(ours_in(tables.read(name), ruleset.table(name)) for name in tables.instantiated())
    except KernelRefused as refused:
        raise ApplyFailed(f"{ruleset.family.title} {refused}") from refused
