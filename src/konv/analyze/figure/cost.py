"""The last row: parameters, multiply-adds, memory, and the time that was measured, a bar a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from konv.analyze.figure.look import FAINT, INK, KIND, LINE, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.compare import Comparison


def draw(part: SubFigure, found: Comparison) -> None:
    """Draw one panel of bars for each quantity."""
    layers = found.layers
    quantities: list[tuple[str, list[float], str]] = [
        ("parameters", [layer.params for layer in layers], "{:,.0f}"),
        ("multiply-adds, in millions", [layer.macs / 1e6 for layer in layers], "{:,.1f}"),
        ("memory, in MiB", [layer.bytes / 2**20 for layer in layers], "{:,.1f}"),
    ]
    if found.times:
        times = [min(took.konv.values()) * 1e3 for took in found.times]
        quantities.append(("time in konv, in ms, better layout", times, "{:,.2f}"))
    panels = part.subplots(1, len(quantities), squeeze=False)[0]
    part.subplots_adjust(left=0.14, right=0.97, top=0.84, bottom=0.08, wspace=0.12)
    for axes, (title, values, form) in zip(panels, quantities, strict=True):
        _bars(axes, title, values, form, list(KIND.values()))
    panels[0].set_yticks(range(len(layers)), [layer.concept.title for layer in layers], fontsize=11)
    for label, colour in zip(panels[0].get_yticklabels(), KIND.values(), strict=True):
        label.set(color=colour, weight="bold")


def _bars(axes: Axes, title: str, values: list[float], form: str, colours: list[str]) -> None:
    bare(axes)
    axes.barh(range(len(values)), values, color=colours, height=0.68)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.28)
    axes.axvline(0, color=LINE, lw=1)
    axes.set_title(title, fontsize=12, color=INK, loc="left", pad=8)
    axes.tick_params(length=0)
    for i, value in enumerate(values):
        axes.text(value + max(values) * 0.02, i, form.format(value), fontsize=10.5, color=FAINT, va="center")
