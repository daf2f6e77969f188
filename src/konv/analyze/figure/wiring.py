"""Under the taps: which input channels reach which outputs, a square for each pair that meets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from konv.analyze.figure.look import FAINT, INK, KIND, LINE, bare
from konv.analyze.filters import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.layer import Layer
    from konv.geometry import Conv


def draw(part: SubFigure, layer: Layer) -> None:
    """Draw one matrix for each convolution of the layer, inputs down, outputs across."""
    convs = layer.convs
    part.text(0.06, 0.95, _words(layer), fontsize=10, color=INK, va="top")
    share = [max(conv.co, 4) for conv in convs]
    panels = part.subplots(1, len(convs), width_ratios=share, squeeze=False)[0]
    part.subplots_adjust(left=0.14, right=0.94, top=0.7, bottom=0.26, wspace=0.3)
    for axes, conv in zip(panels, convs, strict=True):
        _matrix(axes, conv, KIND[layer.kind])


def meets(conv: Conv) -> Array:
    """Return (ci, co): True where an input channel reaches an output channel.

    >>> from konv.geometry import Conv
    >>> meets(Conv.parse("conv2d 1x2x4x4 o4 k3 g2")).astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 1, 1]])
    """
    group_in = np.arange(conv.ci) * conv.groups // conv.ci
    group_out = np.arange(conv.co) * conv.groups // conv.co
    return np.asarray(group_in[:, None] == group_out[None, :])


def _words(layer: Layer) -> str:
    pairs = sum(conv.ci * conv.co // conv.groups for conv in layer.convs)
    taps = " or ".join(f"{conv.axes[0].kernel} x {conv.axes[0].kernel}" for conv in layer.convs)
    return f"pairs of channels that meet: {pairs:,}\nweights, {taps} a pair: {layer.params:,}"


def _matrix(axes: Axes, conv: Conv, colour: str) -> None:
    from matplotlib.colors import ListedColormap

    axes.imshow(
        meets(conv), cmap=ListedColormap(["#eef0f4", colour]), vmin=0, vmax=1, aspect="auto"
    )
    bare(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=LINE)
    if conv.ci <= 16 and conv.co <= 32:
        axes.set_xticks(np.arange(conv.co - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(conv.ci - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", lw=1.0)
        axes.tick_params(which="both", length=0)
    axes.set_ylabel(f"{conv.ci} in", fontsize=9, color=FAINT)
    axes.set_xlabel(f"{conv.co} out", fontsize=9, color=FAINT)
