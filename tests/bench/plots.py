"""The plots of docs/performance.md, as SVG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "proxy-init",  # the same drawing gives the same file
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

from matplotlib import pyplot  # noqa: E402  after its settings

from .cases import Case  # noqa: E402
from .connections import Walked  # noqa: E402

COLOURS = {
    "proxy-init": "#1f6feb",
    "proxy-init, as a list": "#54aeff",
    "script of 1.0.0": "#8c959f",
    "iptables-restore": "#d29922",
    "proxy-init, nft": "#8250df",
}
OTHERS = "#57606a"


def draw(
    milliseconds: Mapping[Case, float],
    microseconds: Mapping[Walked, float],
    machine: str,
    directory: Path,
) -> None:
    """Draw medians: `milliseconds` of whole processes, `microseconds` of connections."""
    usual = {case: taken for case, taken in milliseconds.items() if not case.length}
    figure, axes = pyplot.subplots(figsize=(8, 0.3 * len(usual) + 1.2))
    labels = [f"{case.job}, {case.by}" for case in usual]
    colours = [COLOURS.get(case.by, OTHERS) for case in usual]
    bars = axes.barh(labels, usual.values(), color=colours)
    axes.bar_label(bars, fmt=" %.0f")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, median")
    _save(figure, "A whole process, in a new network namespace", machine, directory / "times.svg")

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for by, colour in COLOURS.items():
        mine = {case: ms for case, ms in milliseconds.items() if case.by == by}
        points = [(case.length, ms) for case, ms in mine.items() if case.length]
        axes.loglog(*zip(*points, strict=True), marker="o", color=colour, label=by)
    axes.set_xlabel("CIDRs in -x")
    axes.set_ylabel("milliseconds, median")
    axes.legend(frameon=False)
    _save(figure, "A whole process, by the length of -x", machine, directory / "cidrs.svg")

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for how in dict.fromkeys(walked.how for walked in microseconds):
        points = [(walked.length, us) for walked, us in microseconds.items() if walked.how == how]
        axes.plot(*zip(*points, strict=True), marker="o", label=how)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("CIDRs in -x")
    axes.set_ylabel("microseconds, median")
    axes.legend(frameon=False)
    title = "To establish a connection through the rules"
    _save(figure, title, machine, directory / "connections.svg")


def _save(figure: Any, title: str, machine: str, path: Path) -> None:
    figure.suptitle(title)
    figure.text(0.99, 0.01, machine, ha="right", va="bottom", fontsize=7, color=OTHERS)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
