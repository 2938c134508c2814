"""The two backends: the legacy tables of x_tables, and nf_tables."""

from __future__ import annotations

from ..frozen import Frozen
from ..light import Enum
from ..rules.model import Family, Ruleset


class Backend(Enum):
    """How rules get into the kernel: its x_tables through libiptc, or its nf_tables."""

    LEGACY = "legacy"
    NFT = "nft"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The capabilities that a process needs; libiptc uses a raw socket."""
        return ("NET_ADMIN", "NET_RAW") if self is Backend.LEGACY else ("NET_ADMIN",)

    @property
    def tables_in_words(self) -> str:
        """The name for people of the tables that it reads and writes."""
        return "the legacy tables" if self is Backend.LEGACY else "nf_tables"

    def load(self) -> None:
        """Load the libraries that reading and writing need. Raises NodeCannot if one is missing."""
        if self is Backend.LEGACY:
            from .legacy.libiptc import load

            load()


class Task(Frozen):
    """Rules as they go through one backend: one family's through libiptc, which serves one in a
    process, all of them natively."""

    rulesets: tuple[Ruleset, ...]
    backend: Backend
    with_routing: bool = True
    """Whether the families' routing is seen to here; it is there once, however rules get in."""
    bridge: tuple[Ruleset, ...] = ()
    """What is wanted, where TPROXY goes from one backend to another; see nftables/bridge.py."""

    @property
    def title(self) -> str:
        """The name for people."""
        families = " and ".join(ruleset.family.title for ruleset in self.rulesets)
        return families if self.with_routing else f"{families} ({self.backend.value})"


def tables_there(backend: Backend, family: Family) -> tuple[str, ...]:
    """The tables that this namespace has, as far as can be told without loading anything."""
    try:
        if backend is Backend.NFT:
            from .nftables.names import names

            return tuple(name for of, name in names() if of in (None, family))
        from .system.proc import legacy_tables

        return legacy_tables(family)
    except OSError:
        return ()
