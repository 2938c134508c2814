"""A drawing in the DOT language of Graphviz, and as SVG, which the program `dot` renders."""

import subprocess
from collections.abc import Iterator, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from ..errors import ApplyFailed, NodeCannot
from .drawing import Box, Drawing, Fate, Frame, Row

if TYPE_CHECKING:
    from graphviz import Digraph

# Orange and blue: distinguishable with most kinds of colour blindness.
FILLS = {
    Fate.CAPTURED: "#fdd5a8",
    Fate.PASSES: "#cfe5fa",
    Fate.REFUSED: "#f6c3c3",
    Fate.GOES_ON: "#eeeeee",
}
LINES = {
    Fate.CAPTURED: "#c65d00",
    Fate.PASSES: "#2f6fad",
    Fate.REFUSED: "#b02a2a",
    Fate.GOES_ON: "#555555",
}
LEGEND = {
    Fate.CAPTURED: "captured: goes to the proxy or the DNS agent",
    Fate.PASSES: "passes: keeps its destination",
    Fate.REFUSED: "dropped or rejected",
    Fate.GOES_ON: "decided by a later rule",
}
HOW_TO_READ = "The kernel tries the rules of a chain from the top; the first match decides."
_WIDTH = 46
_START = "start"
_HEADER = "#37474f"


def dot_text(drawings: Sequence[Drawing]) -> str:
    """The graph in the DOT language."""
    return str(_graph(drawings).source)


def svg_text(drawings: Sequence[Drawing]) -> str:
    """The graph as SVG. Raises NodeCannot if the program `dot` is not installed."""
    from graphviz import ExecutableNotFound

    graph = _graph(drawings)
    try:
        return str(graph.pipe(format="svg", encoding="utf-8"))
    except ExecutableNotFound as error:
        raise NodeCannot(
            "--format svg needs the program dot of Graphviz, which is not installed: "
            "apt-get install graphviz, or use --format dot and render it elsewhere"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ApplyFailed(f"the program dot of Graphviz failed: {error}") from error


def _graph(drawings: Sequence[Drawing]) -> "Digraph":
    from graphviz import Digraph

    graph = Digraph(
        "proxy_init",
        graph_attr={
            "rankdir": "LR",
            "nodesep": "0.25",
            "ranksep": "0.7",
            "fontname": "Helvetica",
            "labelloc": "t",
            "label": _title(drawings),
        },
        node_attr={"shape": "plain", "fontname": "Helvetica", "fontsize": "11"},
        edge_attr={"fontname": "Helvetica", "fontsize": "10", "arrowsize": "0.7"},
    )
    for drawing in drawings:
        if len(drawings) == 1:
            _draw(graph, drawing, "")
            continue
        with graph.subgraph(name=f"cluster_{drawing.title}") as family:
            family.attr(label=drawing.title, fontsize="16", style="dashed", color="#999999")
            _draw(family, drawing, f"{drawing.title}_")
    # An invisible node, joined to all nodes of the left column: dot keeps the order of its edges.
    graph.node(_START, style="invis", shape="point", width="0")
    for drawing in drawings:
        prefix = f"{drawing.title}_" if len(drawings) > 1 else ""
        for name in (*(f.name for f in drawing.frames), *(box.key for box in drawing.unused)):
            graph.edge(_START, prefix + name, style="invis")
    return graph


def _title(drawings: Sequence[Drawing]) -> str:
    fates = {row.fate for drawing in drawings for box in drawing.boxes for row in box.rows}
    legend = "".join(
        f'<TD BGCOLOR="{FILLS[fate]}">{escape(LEGEND[fate])}</TD>' for fate in Fate if fate in fates
    )
    title = " and ".join(drawing.title for drawing in drawings)
    heading = f"{title}: which connections go to the proxy" if drawings else "no rules"
    notes = "".join(f"<BR/>{escape(note)}" for drawing in drawings for note in drawing.notes)
    header = f"<B>{escape(heading)}</B><BR/>{escape(HOW_TO_READ)}{notes}"
    if not legend:
        return f"<{header}>"
    return (
        f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6" CELLPADDING="4">'
        f'<TR><TD COLSPAN="{len(fates)}">{header}</TD></TR><TR>{legend}</TR></TABLE>>'
    )


def _draw(graph: "Digraph", drawing: Drawing, prefix: str) -> None:
    for frame in drawing.frames:
        _draw_frame(graph, frame, prefix)
    for box in drawing.shared:
        graph.node(prefix + box.key, _table((box,)))
    if drawing.unused:
        with graph.subgraph(name=f"cluster_{prefix}unused") as unused:
            unused.attr(
                label="not referenced by any rule", fontsize="12", style="dotted", color="#888888"
            )
            for box in drawing.unused:
                unused.node(prefix + box.key, _table((box,)))
    for place in drawing.places:
        graph.node(
            prefix + place.key,
            "\n".join(wrap(place.label, 28)),
            shape="box",
            style="rounded,filled",
            fillcolor=FILLS[place.fate],
            color=LINES[place.fate],
            penwidth="2",
            fontsize="13",
            margin="0.2,0.15",
        )
    _draw_arrows(graph, drawing, prefix)


def _draw_frame(graph: "Digraph", frame: Frame, prefix: str) -> None:
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
        cluster.node(prefix + frame.name, _table(frame.entries))
        for box in frame.chains:
            cluster.node(prefix + box.key, _table((box,)))


def _draw_arrows(graph: "Digraph", drawing: Drawing, prefix: str) -> None:
    chains = {box.key for box in drawing.boxes}
    node_of = {box.key: frame.name for frame in drawing.frames for box in frame.entries}
    for box in drawing.boxes:
        for row in box.rows:
            if row.to:
                graph.edge(
                    f"{prefix}{node_of.get(box.key, box.key)}:{_port(box, row)}:e",
                    prefix + row.to + (f":{row.to}:w" if row.to in chains else ""),
                    color=LINES[row.fate],
                )


def _port(box: Box, row: Row) -> str:
    return f"{box.key}_{row.number}"


def _table(boxes: Sequence[Box]) -> str:
    """Chains below each other, as an HTML-like label (man 7 graphviz, "HTML-like labels")."""
    return "".join(
        (
            '<<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="4" '
            'COLOR="#999999" BGCOLOR="white">',
            *(line for number, box in enumerate(boxes) for line in _table_rows(box, number)),
            "</TABLE>>",
        )
    )


def _table_rows(box: Box, number: int) -> Iterator[str]:
    then = "then " if number else ""
    yield (
        f'<TR><TD COLSPAN="3" PORT="{box.key}" ALIGN="LEFT" BGCOLOR="{_HEADER}">'
        f'<FONT COLOR="white">{then}<B>{escape(box.name)}</B> '
        f'<FONT POINT-SIZE="10">table {box.table}</FONT></FONT></TD></TR>'
    )
    yield from (_table_row(box, row) for row in box.rows)


def _table_row(box: Box, row: Row) -> str:
    fill = FILLS[row.fate]
    return (
        f'<TR><TD VALIGN="TOP">{row.number}</TD>'
        f'<TD ALIGN="LEFT" BALIGN="LEFT">{"".join(_row_text(row))}</TD>'
        f'<TD PORT="{_port(box, row)}" BGCOLOR="{fill}">{escape(row.outcome)}</TD></TR>'
    )


def _row_text(row: Row) -> Iterator[str]:
    if row.why:
        yield "<BR/>".join(map(escape, wrap(row.why, _WIDTH))) + "<BR/>"
    match = "<BR/>".join(map(escape, wrap(row.match, _WIDTH)))
    yield f'<FONT POINT-SIZE="9.5" COLOR="#555555">{match}</FONT>'
