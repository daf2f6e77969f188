"""The third row: four feature maps of each kind, of the same filters where kinds can share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from konv.analyze.figure.look import FAINT, KIND, bare, frame, split
from konv.analyze.filters import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.compare import Comparison
    from konv.analyze.layer import Layer

TOP = 0.9  # of the row's height: above stands its title
SHOWN = (1, 2, 4, 10)  # of the bank: centre-surround, two edges, an edge in other channels
BRIGHT = 0.98  # quantile that is given the full colour: a few strong pixels would pale the rest


def height(found: Comparison, width: float) -> float:
    """Return the inches that the row takes where a column is `width` inches wide."""
    rows, columns = found.image.shape[2:]
    return float(width * rows / columns / (TOP - 0.03))


def draw(part: SubFigure, layers: tuple[Layer, ...], results: list[Array]) -> None:
    """Draw four channels of each result, (1, co, height, width)."""
    columns = split(part, columns=len(layers))
    for column, layer, y in zip(columns, layers, results, strict=True):
        size = f"{y.shape[2]} x {y.shape[3]}"
        column.text(
            0.06, 0.97, f"feature maps, {size}", fontsize=11, weight="bold", va="top",
            color=KIND[layer.kind],
        )  # fmt: skip
        panels = column.subplots(2, 2, squeeze=False)
        column.subplots_adjust(
            left=0.06, right=0.94, top=TOP, bottom=0.03, wspace=0.04, hspace=0.04
        )
        for axes in panels.flat:
            bare(axes)
        for axes, channel in zip(panels.flat, shown(y.shape[1]), strict=False):
            _map(axes, y[0, channel], layer.filters[channel])


def shown(channels: int) -> list[int]:
    """Return which of so many channels are shown: four where there are four.

    >>> shown(24), shown(6), shown(2)
    ([1, 2, 4, 10], [1, 2, 4, 0], [1, 0])
    """
    order = [*(n for n in SHOWN if n < channels), *range(channels)]
    return list(dict.fromkeys(order))[: len(SHOWN)]


def _map(axes: Axes, values: Array, label: str) -> None:
    values = np.sign(values) * np.sqrt(
        np.abs(values)
    )  # or weak edges would vanish beside strong ones
    most = float(np.quantile(np.abs(values), BRIGHT)) or 1.0
    axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="antialiased")
    frame(axes, width=0.6)
    axes.text(
        0.03, 0.965, label, fontsize=7.5, color=FAINT, va="top", transform=axes.transAxes,
        bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none", "alpha": 0.85},
    )  # fmt: skip
