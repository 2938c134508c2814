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


class Emphasis(Enum):
    """Why a row stands out or stays in the background, in words."""

    NONE = ""
    NEVER_MATCHED = "never matched"
    NOT_REACHED = "not reached by this packet"
    ON_THE_WAY = "matched by this packet"
    MISSING = "missing in the kernel"
    NOT_WANTED = "not wanted by these flags"


@dataclass(frozen=True)
class Row:
    """A rule: its number in its chain, the packets that it matches, what happens to them, and why.

    After many similar rules, one row stands for those left out. `key` is unique in the chain; a
    rule that is missing in the kernel has no `number`. `to` is the chain or place that an arrow
    leads to. `remarks` say what was counted or seen of the rule.
    """

    key: int
    number: int | None
    match: str
    outcome: str
    fate: Fate
    why: str
    to: str | None = None
    remarks: tuple[str, ...] = ()
    emphasis: Emphasis = Emphasis.NONE

    @property
    def title(self) -> str:
        """The number as text; a dash if there is none."""
        return str(self.number or "-")


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
    emphasis: Emphasis = Emphasis.NONE


@dataclass(frozen=True)
class Way:
    """A packet's way: the place where it starts, the rows that it matches, in order and each as the
    keys of its box and row, and the place where it ends."""

    start: Place
    stops: tuple[tuple[str, int], ...]
    end: Place

    def follows(self, box: Box, row: Row) -> bool:
        """Whether the packet goes along the arrow of a row."""
        after = (*(chain for chain, _ in self.stops[1:]), self.end.key)
        steps = zip(self.stops, after, strict=True) if self.stops else ()
        return ((box.key, row.key), row.to) in steps


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
    """Of a way, the start and the end are among them."""
    way: Way | None = None

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Every chain, frame by frame."""
        framed = (box for frame in self.frames for box in (*frame.entries, *frame.chains))
        return (*framed, *self.shared, *self.unused)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row, chain by chain."""
        return tuple(row for box in self.boxes for row in box.rows)


@dataclass(frozen=True)
class Picture:
    """What a format renders: a heading, and a drawing for each family that has rules."""

    title: str
    drawings: tuple[Drawing, ...]

    @property
    def prefixed(self) -> tuple[tuple[str, Drawing], ...]:
        """Each drawing with a prefix that makes its keys unique in the picture."""
        several = len(self.drawings) > 1
        return tuple((f"{each.title}_" if several else "", each) for each in self.drawings)
