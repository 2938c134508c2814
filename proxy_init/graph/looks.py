"""How the contents of a picture look, in every format: the only place that decides it.

No look is told by colour alone: a row says in words what happens to its packets and how it stands
out, and line widths and dashes repeat that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .drawing import Emphasis, Fate, Picture, Place, Row


@dataclass(frozen=True)
class Look:
    """Colours as #rrggbb; the width of the outline in points."""

    fill: str
    line: str
    text: str = "#000000"
    width: int = 1
    dashed: bool = False
    bold: bool = False


# Orange and blue: distinguishable with most kinds of colour blindness.
_FATES = {
    Fate.CAPTURED: Look("#fdd5a8", "#c65d00"),
    Fate.PASSES: Look("#cfe5fa", "#2f6fad"),
    Fate.REFUSED: Look("#f6c3c3", "#b02a2a"),
    Fate.GOES_ON: Look("#eeeeee", "#555555"),
}
_PALE = Look("#ffffff", "#b8b8b8", text="#6b6b6b")
_MISSING = Look("#ffffff", "#b02a2a", text="#b02a2a", width=2, dashed=True)
_LEGEND = {
    Fate.CAPTURED: "captured: goes to the proxy or the DNS agent",
    Fate.PASSES: "passes: keeps its destination",
    Fate.REFUSED: "dropped or rejected",
    Fate.GOES_ON: "decided by a later rule",
}
_TERMINAL = {
    Fate.CAPTURED: "bold yellow",
    Fate.PASSES: "cyan",
    Fate.REFUSED: "bold red",
    Fate.GOES_ON: "",
}
_EMPHASIS_ON_TERMINALS = {
    Emphasis.NONE: "",
    Emphasis.NEVER_MATCHED: "dim",
    Emphasis.NOT_REACHED: "dim",
    Emphasis.ON_THE_WAY: "bold",
    Emphasis.MISSING: "bold red",
    Emphasis.NOT_WANTED: "bold red",
}


def look(fate: Fate, emphasis: Emphasis) -> Look:
    """How a row or a place looks."""
    plain = _FATES[fate]
    match emphasis:
        case Emphasis.NEVER_MATCHED | Emphasis.NOT_REACHED:
            return _PALE
        case Emphasis.MISSING:
            return _MISSING
        case Emphasis.NOT_WANTED:
            return Look(plain.fill, "#b02a2a", width=3, bold=True)
        case Emphasis.ON_THE_WAY:
            return Look(plain.fill, plain.line, width=3, bold=True)
        case Emphasis.NONE:
            return plain


def look_name(thing: Row | Place) -> str:
    """A name for the look of a row or place: letters and underscores, the same for equal looks."""
    return _look_name(thing.fate, thing.emphasis)


def _look_name(fate: Fate, emphasis: Emphasis) -> str:
    match emphasis:
        case Emphasis.NEVER_MATCHED | Emphasis.NOT_REACHED | Emphasis.MISSING:
            return emphasis.name.lower()
        case Emphasis.NONE:
            return fate.name.lower()
        case _:
            return f"{fate.name}_{emphasis.name}".lower()


def legend(picture: Picture) -> Iterator[tuple[str, Look, str]]:
    """The name, the look and the meaning of each look that has one: first fates, then emphases."""
    rows = [row for drawing in picture.drawings for row in drawing.rows]
    fates = {row.fate for row in rows}
    for fate in Fate:
        if fate in fates:
            yield _look_name(fate, Emphasis.NONE), look(fate, Emphasis.NONE), _LEGEND[fate]
    emphases = {row.emphasis: row.fate for row in reversed(rows)}
    for emphasis in Emphasis:
        if emphasis in emphases and emphasis is not Emphasis.NONE:
            fate = emphases[emphasis]
            yield _look_name(fate, emphasis), look(fate, emphasis), emphasis.value


def on_terminal(thing: Fate | Emphasis) -> str:
    """The style of words about it, as the library rich spells styles."""
    return _TERMINAL[thing] if isinstance(thing, Fate) else _EMPHASIS_ON_TERMINALS[thing]
