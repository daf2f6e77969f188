"""The last row: parameters, multiply-adds, memory, and the time that was measured, a bar a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from konv.analyze import units
from konv.analyze.figure.look import FAINT, INK, KIND, LINE, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.compare import Comparison


ROOM = 1.28  # of the longest bar: its number stands behind it


def draw(part: SubFigure, found: Comparison) -> None:
    """Draw one panel of bars for each quantity."""
    layers, theirs = found.layers, None
    panels: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("parameters", [layer.params for layer in layers], "{:,.0f}".format),
        ("multiply-adds", [layer.macs for layer in layers], units.count),
        ("memory", [layer.bytes for layer in layers], units.size),
    ]
    if found.times:
        times = [min(took.konv.values()) for took in found.times]
        theirs = [min(took.torch.values()) for took in found.times if took.torch]
        panels.append((f"time{', black: PyTorch' if theirs else ''}", times, units.duration))
    row = part.subplots(1, len(panels), squeeze=False)[0]
    part.subplots_adjust(left=0.14, right=0.97, top=0.84, bottom=0.08, wspace=0.12)
    for axes, (title, values, written) in zip(row, panels, strict=True):
        _bars(axes, title, values, written)
    if theirs:
        _marks(row[-1], theirs)
    row[0].set_yticks(range(len(layers)), [layer.concept.title for layer in layers], fontsize=11)
    for label, colour in zip(row[0].get_yticklabels(), KIND.values(), strict=True):
        label.set(color=colour, weight="bold")


def _bars(axes: Axes, title: str, values: list[float], written: Callable[[float], str]) -> None:
    bare(axes)
    axes.barh(range(len(values)), values, color=list(KIND.values()), height=0.68)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * ROOM)
    axes.axvline(0, color=LINE, lw=1)
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=8)
    axes.tick_params(length=0)
    for i, value in enumerate(values):
        axes.text(
            value + max(values) * 0.02, i, written(value), fontsize=10.5, color=FAINT, va="center"
        )


def _marks(axes: Axes, values: list[float]) -> None:
    """Draw what PyTorch takes as a mark across each bar."""
    axes.set_xlim(0, max(axes.get_xlim()[1], max(values) * 1.05))
    for i, value in enumerate(values):
        axes.plot([value, value], [i - 0.42, i + 0.42], color=INK, lw=2.5, zorder=4)
