"""A drawing as a Mermaid flowchart, which GitHub and others render in Markdown."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from .dot import FILLS, LEGEND, LINES
from .drawing import Box, Drawing, Fate, Row

# Not *, ` or <: labels may be parsed as Markdown. Lines must not start like list items either.
_PLAIN = frozenset(" .,:()/-+!→…=_")


def mermaid_text(drawings: Sequence[Drawing]) -> str:
    """The flowchart: each chain is a column of its rules, which are tried from the top."""
    return "".join(f"{line}\n" for line in _lines(drawings))


def _lines(drawings: Sequence[Drawing]) -> Iterator[str]:
    yield "flowchart TB"
    for drawing in drawings:
        prefix = f"{drawing.title}_" if len(drawings) > 1 else ""
        yield from _drawing(drawing, prefix)
    fates = {row.fate for drawing in drawings for box in drawing.boxes for row in box.rows}
    used = [fate for fate in Fate if fate in fates]
    if not used:
        yield f"  nothing[{_quoted('no rules')}]"
        return
    yield f"  subgraph legend[{_quoted('colours')}]"
    for fate in used:
        yield f"    legend_{fate.name.lower()}[{_quoted(LEGEND[fate])}]:::{fate.name.lower()}"
    yield "  end"
    for fate in used:
        yield (
            f"  classDef {fate.name.lower()} "
            f"fill:{FILLS[fate]},stroke:{LINES[fate]},color:#000000,text-align:left"
        )


def _drawing(drawing: Drawing, prefix: str) -> Iterator[str]:
    title = (drawing.title, *drawing.notes)
    yield f"  subgraph {prefix}family[{_quoted(*title)}]"
    for frame in drawing.frames:
        yield f"  subgraph {prefix}{frame.name}[{_quoted(f'{frame.name}: {frame.caption}')}]"
        for box in (*frame.entries, *frame.chains):
            yield from _box(box, prefix)
        yield "  end"
    for box in drawing.shared:
        yield from _box(box, prefix)
    if drawing.unused:
        yield f"  subgraph {prefix}unused[{_quoted('not referenced by any rule')}]"
        for box in drawing.unused:
            yield from _box(box, prefix)
        yield "  end"
    for place in drawing.places:
        name = place.fate.name.lower()
        yield f"  {prefix}{place.key}([{_quoted(place.label)}]):::{name}"
    yield "  end"
    yield from _arrows(drawing, prefix)


def _box(box: Box, prefix: str) -> Iterator[str]:
    yield f"    subgraph {prefix}{box.key}[{_quoted(f'{box.name}, table {box.table}')}]"
    for row in box.rows:
        lines = [f"({row.number}) {row.why or row.match}"]
        if row.why:
            lines.append(f"({row.match})")
        lines.append(row.outcome)
        yield f"      {prefix}{_id(box, row)}[{_quoted(*lines)}]:::{row.fate.name.lower()}"
    yield "    end"


def _arrows(drawing: Drawing, prefix: str) -> Iterator[str]:
    first = {box.key: _id(box, box.rows[0]) for box in drawing.boxes}
    for box in drawing.boxes:
        for row, following in pairwise(box.rows):
            yield f"  {prefix}{_id(box, row)} --- {prefix}{_id(box, following)}"
        for row in box.rows:
            if row.to:
                yield f"  {prefix}{_id(box, row)} ==> {prefix}{first.get(row.to, row.to)}"
    for frame in drawing.frames:
        for entry, after in pairwise(frame.entries):
            last = _id(entry, entry.rows[-1])
            yield f"  {prefix}{last} -. then .-> {prefix}{first[after.key]}"


def _id(box: Box, row: Row) -> str:
    return f"{box.key}_r{row.number}"


def _quoted(*lines: str) -> str:
    """A quoted label; <br> is its only element, all other markup becomes entity codes."""
    return '"' + "<br>".join(map(_escaped, lines)) + '"'


def _escaped(text: str) -> str:
    return "".join(
        char if (char.isascii() and char.isalnum()) or char in _PLAIN else f"#{ord(char)};"
        for char in text
    )
