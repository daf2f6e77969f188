"""The figure of a report: how many times as fast konv is as the best of the others, line by line.
Of several others it says which one that is.

Without others, konv's share of what the machine can do at best, by the roofline.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from konv.bench import ratios
from konv.bench.results import WARM, Measured, Report, Row
from konv.errors import KonvError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "ordinary": "#4477aa",
    "dilated": "#ee6677",
    "grouped": "#228833",
    "depthwise": "#ccbb44",
    "transposed": "#aa3377",
}  # Paul Tol's bright scheme: told apart by colour-blind readers too
FAINT = 0.4  # opacity of a noisy line


def draw(report: Report, path: Path) -> None:
    """Write the figure; its kind follows from the file's suffix. KonvError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise KonvError("A figure needs matplotlib: pip install 'konv[viz]'.") from None
    bars = _bars(report)
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    rivals = ratios.rivals(report.competitors)
    several = len({rival.library for rival in rivals}) > 1
    for at, (row, measured, value) in enumerate(bars):
        alpha = FAINT if measured.noise else 1.0
        said = f"{value:.2f}" if rivals else f"{value:.0%}"
        if several:
            said += f" {ratios.fastest(measured)}"
        _bar(axes, at, value, said, 1.0 if rivals else 0.0, COLOURS[row.family], alpha)
    axes.set_yticks(range(len(bars)), [row.name for row, _, _ in bars], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    if rivals:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.2 if several else 0.1)  # room for what is said
        axes.set_xlabel("times as fast as the best of the others (log scale); faint: noisy")
    else:
        axes.set_xlabel("share of what this machine can do at best; faint: noisy")
    _legend(report, axes)
    axes.set_title(_title(report), fontsize=9)
    figure.savefig(path, dpi=150)


def _bar(
    axes: Axes, at: int, value: float, said: str, origin: float, colour: str, alpha: float
) -> None:
    """Draw a bar from the origin to a value, and what is said of it beyond its end."""
    axes.barh(at, value - origin, left=origin, color=colour, alpha=alpha)
    less = value < origin
    axes.annotate(
        said,
        (value, at),
        (-3 if less else 3, 0),
        textcoords="offset points",
        horizontalalignment="right" if less else "left",
        verticalalignment="center",
        fontsize=7,
    )


def _bars(report: Report) -> list[tuple[Row, Measured, float]]:
    """Return the lines measured warm, by family, each with its value."""
    found = []
    for family in ratios.families(report):
        for row, measured in ratios.pairs(report, WARM, family):
            shares = (share(report, row, measured) for share in _SHARES)
            value = ratios.best(measured) or max((s for s in shares if s), default=None)
            if value is not None:
                found.append((row, measured, value))
    return found


_SHARES = (ratios.of_peak, ratios.of_bandwidth)


def _legend(report: Report, axes: Axes) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[family], label=family) for family in ratios.families(report)]
    axes.legend(handles=handles, fontsize=8, loc="best")


def _title(report: Report) -> str:
    machine, threads = report.machine, report.settings["threads"]
    return f"{machine['processor']}, {threads} threads\n{fill(machine['versions'], 110)}"
