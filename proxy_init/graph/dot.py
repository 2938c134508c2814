"""A picture in the DOT language of Graphviz, and as SVG, which the program `dot` renders."""

import subprocess
from collections.abc import Iterator, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from ..errors import ApplyFailed, NodeCannot
from .drawing import Box, Drawing, Emphasis, Frame, Picture, Place, Row
from .looks import legend, look

if TYPE_CHECKING:
    from graphviz import Digraph

HOW_TO_READ = "The kernel tries the rules of a chain from the top; the first match decides."
_WIDTH = 46
_REMARK_WIDTH = 16
_TITLE_WIDTH = 110
_START = "start"
_HEADER = "#37474f"


def dot_text(picture: Picture) -> str:
    """The graph in the DOT language."""
    return str(_graph(picture).source)


def svg_text(picture: Picture) -> str:
    """The graph as SVG. Raises NodeCannot if the program `dot` is not installed."""
    from graphviz import ExecutableNotFound

    graph = _graph(picture)
    try:
        return str(graph.pipe(format="svg", encoding="utf-8"))
    except ExecutableNotFound as error:
        raise NodeCannot(
            "--format svg needs the program dot of Graphviz, which is not installed: "
            "apt-get install graphviz, or use --format dot and render it elsewhere"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ApplyFailed(f"the program dot of Graphviz failed: {error}") from error


def _graph(picture: Picture) -> "Digraph":
    from graphviz import Digraph

    graph = Digraph(
        "proxy_init",
        graph_attr={
            "rankdir": "LR",
            "nodesep": "0.25",
            "ranksep": "0.7",
            "fontname": "Helvetica",
            "labelloc": "t",
            "label": _title(picture),
        },
        node_attr={"shape": "plain", "fontname": "Helvetica", "fontsize": "11"},
        edge_attr={"fontname": "Helvetica", "fontsize": "10", "arrowsize": "0.7"},
    )
    for prefix, drawing in picture.prefixed:
        if not prefix:
            _draw(graph, drawing, "")
            continue
        with graph.subgraph(name=f"cluster_{drawing.title}") as family:
            family.attr(label=drawing.title, fontsize="16", style="dashed", color="#999999")
            _draw(family, drawing, prefix)
    # An invisible node, joined to all nodes of the left column: dot keeps the order of its edges.
    graph.node(_START, style="invis", shape="point", width="0")
    for prefix, drawing in picture.prefixed:
        for name in (*(f.name for f in drawing.frames), *(box.key for box in drawing.unused)):
            graph.edge(_START, prefix + name, style="invis")
    return graph


def _title(picture: Picture) -> str:
    parts = list(legend(picture))
    cells = "".join(
        f'<TD BGCOLOR="{look.fill}" COLOR="{look.line}" BORDER="{look.width}"{_style(look.dashed)}>'
        f'<FONT COLOR="{look.text}">{escape(words)}</FONT></TD>'
        for _, look, words in parts
    )
    titles = " and ".join(drawing.title for drawing in picture.drawings)
    heading = f"{titles}: {picture.title}" if titles else picture.title
    notes = [note for drawing in picture.drawings for note in drawing.notes]
    lines = [*_broken(heading, _TITLE_WIDTH, "<B>{}</B>"), escape(HOW_TO_READ)]
    lines += [line for note in notes for line in _broken(note, _TITLE_WIDTH, "<B>{}</B>")]
    header = "<BR/>".join(lines)
    if not cells:
        return f"<{header}>"
    return (
        f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6" CELLPADDING="4">'
        f'<TR><TD COLSPAN="{len(parts)}">{header}</TD></TR><TR>{cells}</TR></TABLE>>'
    )


def _broken(text: str, width: int, form: str = "{}") -> list[str]:
    return [form.format(escape(line)) for line in wrap(text, width)]


def _draw(graph: "Digraph", drawing: Drawing, prefix: str) -> None:
    remarks = any(row.remarks for row in drawing.rows)
    for frame in drawing.frames:
        _draw_frame(graph, frame, prefix, remarks)
    for box in drawing.shared:
        graph.node(prefix + box.key, _table((box,), remarks))
    if drawing.unused:
        with graph.subgraph(name=f"cluster_{prefix}unused") as unused:
            unused.attr(
                label="not referenced by any rule", fontsize="12", style="dotted", color="#888888"
            )
            for box in drawing.unused:
                unused.node(prefix + box.key, _table((box,), remarks))
    for place in drawing.places:
        _draw_place(graph, place, prefix)
    _draw_arrows(graph, drawing, prefix)
    _draw_way(graph, drawing, prefix)


def _draw_place(graph: "Digraph", place: Place, prefix: str) -> None:
    its = look(place.fate, place.emphasis)
    graph.node(
        prefix + place.key,
        "\n".join(wrap(place.label, 28)),
        shape="box",
        style="rounded,filled",
        fillcolor=its.fill,
        color=its.line,
        penwidth=str(1 + its.width),
        fontsize="13",
        margin="0.2,0.15",
    )


def _draw_frame(graph: "Digraph", frame: Frame, prefix: str, remarks: bool) -> None:
    with graph.subgraph(name=f"cluster_{prefix}{frame.name}") as cluster:
        cluster.attr(
            label=f"{frame.name}: {frame.caption}",
            fontsize="14",
            style="rounded,filled",
            fillcolor="#fafafa",
            color="#888888",
            labeljust="l",
        )
        # The built-in chains are one node, because dot may reorder several.
        cluster.node(prefix + frame.name, _table(frame.entries, remarks))
        for box in frame.chains:
            cluster.node(prefix + box.key, _table((box,), remarks))


def _draw_arrows(graph: "Digraph", drawing: Drawing, prefix: str) -> None:
    chains = {box.key for box in drawing.boxes}
    nodes = _nodes(drawing)
    for box in drawing.boxes:
        for row in box.rows:
            if row.to and not (drawing.way and drawing.way.follows(box, row)):
                its = look(row.fate, row.emphasis)
                graph.edge(
                    f"{prefix}{nodes[box.key]}:{_port(box.key, row.key)}:e",
                    prefix + row.to + (f":{row.to}:w" if row.to in chains else ""),
                    color=its.line,
                    penwidth=str(its.width),
                    style="dashed" if its.dashed else "solid",
                    **({"label": "missing"} if row.emphasis is Emphasis.MISSING else {}),
                )


def _nodes(drawing: Drawing) -> dict[str, str]:
    """The node that each chain is in."""
    entries = {box.key: frame.name for frame in drawing.frames for box in frame.entries}
    return {box.key: entries.get(box.key, box.key) for box in drawing.boxes}


def _draw_way(graph: "Digraph", drawing: Drawing, prefix: str) -> None:
    """Thick arrows from the start to the end, each with the number of the step that it leads to."""
    if not drawing.way:
        return
    nodes = _nodes(drawing)
    rows = {(box.key, row.key): row for box in drawing.boxes for row in box.rows}
    start, end = drawing.way.start, drawing.way.end
    color = look(end.fate, end.emphasis).line
    here = prefix + start.key
    leads_to: str | None = None
    for step, (chain, key) in enumerate(drawing.way.stops, start=1):
        stop = f"{prefix}{nodes[chain]}:{_port(chain, key)}"
        # Only along arrows that are there anyway: others would change the order of the columns.
        constraint = "true" if leads_to in (None, chain) else "false"
        graph.edge(
            here,
            f"{stop}_w:w",
            label=f" {step} ",
            color=color,
            penwidth="3.5",
            fontsize="14",
            constraint=constraint,
        )
        here, leads_to = f"{stop}:e", rows[chain, key].to or ""
    graph.edge(here, prefix + end.key, color=color, penwidth="3.5")


def _port(chain: str, row: int) -> str:
    return f"{chain}_{row}"


def _style(dashed: bool) -> str:
    return ' STYLE="dashed"' if dashed else ""


def _table(boxes: Sequence[Box], remarks: bool) -> str:
    """Chains below each other, as an HTML-like label (man 7 graphviz, "HTML-like labels")."""
    return "".join(
        (
            '<<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="4" '
            'COLOR="#999999" BGCOLOR="white">',
            *(
                line
                for number, box in enumerate(boxes)
                for line in _table_rows(box, number, remarks)
            ),
            "</TABLE>>",
        )
    )


def _table_rows(box: Box, number: int, remarks: bool) -> Iterator[str]:
    then = "then " if number else ""
    yield (
        f'<TR><TD COLSPAN="{4 if remarks else 3}" PORT="{box.key}" ALIGN="LEFT" '
        f'BGCOLOR="{_HEADER}"><FONT COLOR="white">{then}<B>{escape(box.name)}</B> '
        f'<FONT POINT-SIZE="10">table {escape(box.table)}</FONT></FONT></TD></TR>'
    )
    yield from (_table_row(box, row, remarks) for row in box.rows)


def _table_row(box: Box, row: Row, remarks: bool) -> str:
    its = look(row.fate, row.emphasis)
    port = _port(box.key, row.key)
    plain = row.emphasis is Emphasis.NONE
    edge = "" if plain else f' BORDER="{its.width}" COLOR="{its.line}"{_style(its.dashed)}'
    form = "<B>{}</B>" if its.bold else "{}"
    said = [line for remark in row.remarks for line in _broken(remark, _REMARK_WIDTH, form)]
    remark = "<BR/>".join(said)
    words = "{}" if plain else f'<FONT COLOR="{its.text}">{{}}</FONT>'
    return (
        f'<TR><TD VALIGN="TOP" PORT="{port}_w"{edge}>{words.format(row.title)}</TD>'
        f'<TD ALIGN="LEFT" BALIGN="LEFT"{edge}>{words.format("".join(_row_text(row)))}</TD>'
        + (f"<TD{edge}>{words.format(remark) if remark else ''}</TD>" if remarks else "")
        + f'<TD PORT="{port}" BGCOLOR="{its.fill}"{edge}>{words.format(escape(row.outcome))}'
        "</TD></TR>"
    )


def _row_text(row: Row) -> Iterator[str]:
    if row.why:
        yield "<BR/>".join(_broken(row.why, _WIDTH)) + "<BR/>"
    match = "<BR/>".join(_broken(row.match, _WIDTH))
    pale = look(row.fate, row.emphasis).text
    color = "#555555" if row.emphasis is Emphasis.NONE else pale
    yield f'<FONT POINT-SIZE="9.5" COLOR="{color}">{match}</FONT>'
