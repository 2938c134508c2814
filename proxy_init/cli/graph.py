"""`graph`: draws the chains for the flags."""

from collections.abc import Mapping, Sequence

from ..config import values
from ..config.flags import Flag
from ..graph.draw import drawings
from ..graph.drawing import Drawing
from .session import print_text, session, wanted_rulesets
from .terminal import on_screen


def _format(item: str) -> str:
    return values.choice(item, "tree", "mermaid", "dot", "svg")


OPTIONS = (
    Flag(
        "format",
        "--format",
        "",
        "tree",
        "[tree|mermaid|dot|svg]",
        "Format of the drawing.",
        check=_format,
    ),
)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the picture in the requested format; needs no privilege."""
    with session(words, environ, OPTIONS) as config:
        kind = _format(config.own["format"].text.strip()) if "format" in config.own else "tree"
        print_text(_drawn(drawings(wanted_rulesets(config)), kind))
    return 0


def _drawn(pictures: Sequence[Drawing], kind: str) -> str:
    if kind == "mermaid":
        from ..graph.mermaid import mermaid_text

        return mermaid_text(pictures)
    if kind == "tree":
        from ..graph.tree import tree

        return on_screen(tree(pictures))
    from ..graph.dot import dot_text, svg_text

    return dot_text(pictures) if kind == "dot" else svg_text(pictures)
