"""Colours and sizes that all parts of the figure share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH = 17.0  # inches
INK, FAINT, LINE, PAPER = "#1d2433", "#6b7385", "#c9ced8", "#f4f5f8"

# Okabe and Ito's colours, which those who see fewer colours can tell apart too.
KIND = {
    "ordinary": "#0072B2",
    "transposed": "#D55E00",
    "dilated": "#009E73",
    "grouped": "#B5508A",
    "separable": "#C98A00",
}
CHANNEL = ("#c23b3b", "#2f8f4e", "#3b62c2")  # of red, green and blue, or of the first three groups


def split(
    part: Figure | SubFigure,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
) -> list[SubFigure]:
    """Cut a part of the figure into rows, of these relative heights, or into columns."""
    made = part.subfigures(rows, columns, squeeze=False, height_ratios=heights)
    return list(made.flat)


def bare(axes: Axes) -> None:
    """Take away ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def frame(axes: Axes, colour: str = LINE, width: float = 1.0) -> None:
    """Leave a frame only."""
    bare(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
