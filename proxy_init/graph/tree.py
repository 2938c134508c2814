"""A picture as a tree for terminals: each chain is below the first rule that leads to it."""

from typing import TYPE_CHECKING

from .drawing import ROUTE, Box, Drawing, Emphasis, Picture, Row
from .looks import on_terminal

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree


def tree(picture: Picture) -> "Tree":
    """One tree of all drawings, for printing with rich."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(picture.title))
    for drawing in picture.drawings:
        _add_drawing(root, drawing)
    return root


def _add_drawing(root: "Tree", drawing: Drawing) -> None:
    from rich.text import Text

    family = root.add(Text("\n".join((drawing.title, *drawing.notes)), "bold"))
    left = {box.key: box for box in drawing.boxes}
    for frame in drawing.frames:
        hook = family.add(Text.assemble((frame.name, "bold"), f": {frame.caption}"))
        for box in frame.entries:
            table = hook.add(Text(f"table {box.table}"))
            del left[box.key]
            _add_rows(table, box, drawing, left)
    for box in drawing.unused:
        unused = family.add(Text(f"{box.name}, table {box.table}: not referenced by any rule"))
        _add_rows(unused, box, drawing, left)


def _add_rows(parent: "Tree", box: Box, drawing: Drawing, left: dict[str, Box]) -> None:
    """Add the rows of a chain, and below each row the chain that it leads to, once."""
    boxes = {each.key: each for each in drawing.boxes}
    labels = {place.key: place.label for place in drawing.places}
    for row in box.rows:
        seen = row.to in boxes and row.to not in left
        node = parent.add(_row(row, labels, seen))
        if row.to in left:
            _add_rows(node, left.pop(row.to), drawing, left)


def _row(row: Row, labels: dict[str, str], seen: bool) -> "Text":
    from rich.text import Text

    style = on_terminal(row.emphasis)
    pale = style == "dim"
    outcome = (row.outcome, "" if pale else on_terminal(row.fate))
    words = Text.assemble(f"{row.title}. {row.match}: ", outcome, style="dim" if pale else "")
    if seen:
        words.append(" (see above)", "dim")
    if row.to == ROUTE:
        words.append(f", {labels[ROUTE]}", "dim")
    if row.remarks:
        sign = "-> " if row.emphasis is Emphasis.ON_THE_WAY else ""
        words.append(f"\n{sign}{', '.join(row.remarks)}", style)
    if row.why:
        words.append(f"\n{row.why}", "italic")
    return words
