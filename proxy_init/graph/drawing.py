"""What a picture of the rules shows, before anybody decides how: hooks, chains, rows, arrows.

A hook is where the kernel looks at a packet; there it asks the tables in their order. Each of our
chains stands with the one hook that leads to it, or beside them if more than one does.
"""

from dataclasses import dataclass
from enum import Enum

ROUTE = "policy_route"
"""The key of the place where the policy route of mode TPROXY leads to."""


class Fate(Enum):
    """What becomes of the packets that a row is for."""

    CAPTURED = "captured"
    PASSES = "passes"
    REFUSED = "refused"
    GOES_ON = "goes on"


@dataclass(frozen=True)
class Row:
    """A rule: its number in its chain, for which packets, what becomes of them, and why.

    Of many rules alike, the last row stands for those left out. `to` is the chain or place that an
    arrow leads to.
    """

    number: int
    match: str
    outcome: str
    fate: Fate
    why: str
    to: str | None = None


@dataclass(frozen=True)
class Box:
    """A chain; its `key` is unique in the drawing."""

    key: str
    table: str
    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Frame:
    """A hook, with the kernel's own chain of each table in the order in which they are asked, and
    those of our chains that only this hook leads to."""

    name: str
    caption: str
    entries: tuple[Box, ...]
    chains: tuple[Box, ...]


@dataclass(frozen=True)
class Place:
    """Where an arrow ends that leads to no chain."""

    key: str
    label: str
    fate: Fate


@dataclass(frozen=True)
class Drawing:
    """A picture of one family's rules, or of both where they are alike."""

    title: str
    notes: tuple[str, ...]
    frames: tuple[Frame, ...]
    shared: tuple[Box, ...]
    """Chains that more than one hook leads to."""
    unused: tuple[Box, ...]
    """Chains that no rule leads to."""
    places: tuple[Place, ...]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Every chain, frame by frame."""
        framed = (box for frame in self.frames for box in (*frame.entries, *frame.chains))
        return (*framed, *self.shared, *self.unused)
