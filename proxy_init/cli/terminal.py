"""Text for terminals: formatted with rich, 80 columns wide, in colour only on a terminal."""

import os
import shutil
import sys
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 80


def on_screen(*things: "RenderableType") -> str:
    """`things` formatted with rich, in colour if stdout is a terminal and NO_COLOR is not set.

    Lines have at most 80 columns, or fewer on a narrow terminal.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR")
    output = StringIO()
    console = Console(
        file=output,
        width=min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH) if terminal else WIDTH,
        force_terminal=coloured,
        color_system="auto" if coloured else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
    for thing in things:
        console.print(thing)
    return "".join(_trimmed(output.getvalue().splitlines(keepends=True)))


def _trimmed(lines: Iterable[str]) -> Iterable[str]:
    """Lines without the trailing spaces that rich adds."""
    return (line.rstrip() + "\n" for line in lines)
