"""The two ways to the kernel's tables, and which of them to take."""

from __future__ import annotations

from enum import Enum

from ..frozen import frozen
from ..rules.model import Family, Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..rules.counts import Count
    from ..rules.model import Table
    from ..rules.reconcile import TableEdit

    class Tables(Protocol):
        """The tables of one family; legacy/libiptc.py says what each method does."""

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
            from .legacy.libiptc import load

            load()
        else:
            from .nftables import nft

            nft.load()

    def tables(self, family: Family) -> Tables:
        """The family's tables in this process's network namespace."""
        if self is Backend.LEGACY:
            from .legacy import libiptc

            return libiptc.Tables(family)
        from .nftables import nft

        return nft.Tables(family)


@frozen
class Task:
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


def tables_there(backend: Backend, family: Family) -> tuple[str, ...]:
    """The tables that this namespace has, as far as can be told without loading anything."""
    try:
        if backend is Backend.NFT:
            from .nftables.nfnetlink import table_names

            return table_names(family)
        from .legacy.libiptc import instantiated

        return instantiated(family)
    except OSError:
        return ()
