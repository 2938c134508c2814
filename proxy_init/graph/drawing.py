"""The contents of a picture of the rules, for every format: hooks, chains, rows, arrows.

A hook is a point in the kernel where a packet traverses the tables in their order. Each of our
chains is drawn with the one hook that leads to it, or outside the hooks if several do.
"""

from dataclasses import dataclass
from enum import Enum

ROUTE = "policy_route"
"""The key of the place that the policy route of mode TPROXY leads to."""


class Fate(Enum):
    """What happens to the packets that a row matches."""

    CAPTURED = "captured"
    PASSES = "passes"
    REFUSED = "refused"
    GOES_ON = "goes on"


@dataclass(frozen=True)
class Row:
    """A rule: its number in its chain, the packets that it matches, what happens to them, and why.

    After many similar rules, one row stands for those left out. `to` is the chain or place that an
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
    """A hook: its built-in chain of each table in the order of traversal, and those of our chains
    that only this hook leads to."""

    name: str
    caption: str
    entries: tuple[Box, ...]
    chains: tuple[Box, ...]


@dataclass(frozen=True)
class Place:
    """The end of an arrow that does not lead to a chain."""

    key: str
    label: str
    fate: Fate


@dataclass(frozen=True)
class Drawing:
    """A picture of the rules of one family, or of both if they are the same."""

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
