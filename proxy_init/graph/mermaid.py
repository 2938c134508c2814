"""A picture as a Mermaid flowchart, which GitHub and others render in Markdown."""

from collections.abc import Iterator
from itertools import pairwise

from .drawing import Box, Drawing, Emphasis, Picture, Place, Row
from .looks import Look, legend, look, look_name

# Not *, ` or <: labels may be parsed as Markdown. Lines must not start like list items either.
_PLAIN = frozenset(" .,:()/-+!→…=_")


def mermaid_text(picture: Picture) -> str:
    """The flowchart: each chain is a column of its rules, which are tried from the top."""
    return "".join(f"{line}\n" for line in _lines(picture))


def _lines(picture: Picture) -> Iterator[str]:
    yield "flowchart TB"
    for prefix, drawing in picture.prefixed:
        yield from _drawing(picture.title, drawing, prefix)
    if not picture.drawings:
        yield f"  nothing[{_quoted(picture.title)}]"
        return
    yield f"  subgraph legend[{_quoted('colours and lines')}]"
    for name, _, words in legend(picture):
        yield f"    legend_{name}[{_quoted(words)}]:::{name}"
    yield "  end"
    looks = {name: its for name, its, _ in legend(picture)}
    for drawing in picture.drawings:
        things: list[Row | Place] = [*drawing.rows, *drawing.places]
        for thing in things:
            looks[look_name(thing)] = look(thing.fate, thing.emphasis)
    for name, each in looks.items():
        yield f"  classDef {name} {_style(each)}"


def _style(look: Look) -> str:
    more = ",stroke-dasharray:6 4" if look.dashed else ""
    more += ",font-weight:bold" if look.bold else ""
    return (
        f"fill:{look.fill},stroke:{look.line},stroke-width:{look.width}px,color:{look.text},"
        f"text-align:left{more}"
    )


def _drawing(heading: str, drawing: Drawing, prefix: str) -> Iterator[str]:
    title = (f"{drawing.title}: {heading}", *drawing.notes)
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
        yield f"  {prefix}{place.key}([{_quoted(place.label)}]):::{look_name(place)}"
    yield "  end"
    yield from _arrows(drawing, prefix)
    yield from _way(drawing, prefix)


def _box(box: Box, prefix: str) -> Iterator[str]:
    yield f"    subgraph {prefix}{box.key}[{_quoted(f'{box.name}, table {box.table}')}]"
    for row in box.rows:
        lines = [f"({row.title}) {row.why or row.match}"]
        if row.why:
            lines.append(f"({row.match})")
        lines.append(row.outcome)
        if row.remarks:
            lines.append(", ".join(row.remarks))
        yield f"      {prefix}{_id(box.key, row.key)}[{_quoted(*lines)}]:::{look_name(row)}"
    yield "    end"


def _arrows(drawing: Drawing, prefix: str) -> Iterator[str]:
    first = {box.key: _id(box.key, box.rows[0].key) for box in drawing.boxes}
    for box in drawing.boxes:
        for row, following in pairwise(box.rows):
            yield f"  {prefix}{_id(box.key, row.key)} --- {prefix}{_id(box.key, following.key)}"
        for row in box.rows:
            if row.to and not (drawing.way and drawing.way.follows(box, row)):
                tail, head = _id(box.key, row.key), first.get(row.to, row.to)
                yield f"  {prefix}{tail} {_arrow(drawing, row)} {prefix}{head}"
    for frame in drawing.frames:
        for entry, after in pairwise(frame.entries):
            last = _id(entry.key, entry.rows[-1].key)
            yield f"  {prefix}{last} -. then .-> {prefix}{first[after.key]}"


def _arrow(drawing: Drawing, row: Row) -> str:
    if row.emphasis is Emphasis.MISSING:
        return "-. missing .->"
    return "-->" if drawing.way else "==>"


def _way(drawing: Drawing, prefix: str) -> Iterator[str]:
    """Thick arrows along a packet's way, each with the number of the step that it leads to."""
    if not drawing.way:
        return
    stops = [_id(*stop) for stop in drawing.way.stops]
    here = drawing.way.start.key
    for step, stop in enumerate(stops, start=1):
        yield f"  {prefix}{here} == {step} ==> {prefix}{stop}"
        here = stop
    yield f"  {prefix}{here} ==> {prefix}{drawing.way.end.key}"


def _id(box: str, row: int) -> str:
    return f"{box}_r{row}"


def _quoted(*lines: str) -> str:
    """A quoted label; <br> is its only element, all other markup becomes entity codes."""
    return '"' + "<br>".join(map(_escaped, lines)) + '"'


def _escaped(text: str) -> str:
    return "".join(
        char if (char.isascii() and char.isalnum()) or char in _PLAIN else f"#{ord(char)};"
        for char in text
    )
