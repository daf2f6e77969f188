"""The first row: convolution as a magnifying glass that slides over the photograph.

Five panels joined by signs: the photograph with the window's path, what the window sees, the
kernel, their weighted sum, and the feature map as far as it is done. The filter is a real one of
the ordinary layer, and the numbers are those that konv computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from konv.analyze.figure.look import FAINT, INK, KIND, bare, frame
from konv.analyze.filters import Array, channel_mixes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.compare import Comparison

FILTER = 2  # of the bank: an edge, which everyone sees
NEAR = 4  # outputs around the photograph's focus among which the strongest answer is shown
MOST_NUMBERS = 5  # taps along an axis above which numbers in the squares would be too small to read
SMALLEST = 15  # parts of the photograph's height: a window smaller than one is drawn as large
TO_COME = 0.18  # opacity of what the window has not reached
COLOUR = KIND["ordinary"]


def height(found: Comparison) -> float:
    """Return the inches that the row takes."""
    rows, columns = found.image.shape[2:]
    return float(min(5.5, max(3.4, 0.75 + 3.9 * rows / columns)))


def draw(part: SubFigure, found: Comparison, y: Array) -> None:
    """Draw the row; y is the output of the ordinary layer."""
    layer = found.layers[0]
    conv, weight = layer.convs[0], layer.weights[0]
    channel = min(FILTER, conv.co - 1)
    at = strongest(y[0, channel], found.photograph.focus)
    kernel, seen = _spatial(weight[channel]), _seen(found, at)
    widths = (4.2, 0.75, 2.7, 0.35, 2.7, 0.35, 1.35, 0.35, 4.2)
    panels = part.subplots(1, len(widths), width_ratios=widths)
    part.subplots_adjust(left=0.012, right=0.988, top=0.9, bottom=0.06, wspace=0.06)
    for gap, sign in (
        (1, ""),
        (3, "\N{MULTIPLICATION SIGN}"),
        (5, "="),
        (7, "\N{RIGHTWARDS ARROW}"),
    ):
        _sign(panels[gap], sign)
    most = float(np.abs(kernel).max()) or 1.0
    _squares(panels[2], seen, "Greys_r", (0.0, 3**0.5), "what the window sees", _mixed(conv.ci))
    _squares(
        panels[4],
        kernel,
        "RdBu_r",
        (-most, most),
        f"the kernel: {layer.filters[channel]}",
        "weights",
    )
    _sum(panels[6], float(y[0, channel, at[0], at[1]]))
    _unfinished(panels[8], y[0, channel], at)
    _photograph(panels[0], found, at, panels[2])


def strongest(image: Array, focus: tuple[float, float]) -> tuple[int, int]:
    """Return where near the focus of the photograph an output is largest.

    >>> strongest(np.eye(9), (0.1, 0.8))
    (3, 3)
    """
    begins = [max(0, int(share * n) - NEAR) for share, n in zip(focus, image.shape, strict=True)]
    near = np.abs(image[tuple(slice(begin, begin + 2 * NEAR + 1) for begin in begins)])
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    return begins[0] + int(row), begins[1] + int(column)


def _spatial(weight: Array) -> Array:
    """Return the pattern of a filter that is a pattern times the mean of the channels."""
    mix = channel_mixes(weight.shape[0])[0]
    return np.asarray((weight * mix[:, None, None]).sum(axis=0))


def _seen(found: Comparison, at: tuple[int, int]) -> Array:
    """Return the pixels under the kernel at an output, mixed to brightness; padding is zero."""
    conv = found.layers[0].convs[0]
    bright = (found.image[0] * channel_mixes(conv.ci)[0][:, None, None]).sum(axis=0)
    seen = np.zeros([axis.kernel for axis in conv.axes])
    for i, j in np.ndindex(*seen.shape):
        row, column = conv.axes[0].source(at[0], i), conv.axes[1].source(at[1], j)
        if row is not None and column is not None:
            seen[i, j] = bright[row, column]
    return seen


def _mixed(channels: int) -> str:
    """Return what the numbers in the window are: the channels, as the filter mixes them."""
    names = "red + green + blue" if channels == 3 else f"sum of {channels} channels"
    return f"({names}) / {channels**0.5:.2f}" if channels > 1 else "brightness"


def _photograph(axes: Axes, found: Comparison, at: tuple[int, int], lens: Axes) -> None:
    """Draw the photograph, the window and the path it came, and the beam from it to the lens."""
    from matplotlib.patches import ConnectionPatch, Rectangle

    axes.imshow(found.photograph.pixels)
    bare(axes)
    axes.set_title("a window slides over the photograph", fontsize=12, color=INK, pad=8)
    conv = found.layers[0].convs[0]
    side = max(conv.axes[0].extent, found.image.shape[2] / SMALLEST)
    row, column = (
        o * axis.stride - axis.lo + (axis.extent - 1 - side) / 2
        for o, axis in zip(at, conv.axes, strict=True)
    )
    step = 1
    while column - step * side * 1.12 > 0:
        left, alpha = column - step * side * 1.12, max(0.25, 1 - step / 8)
        axes.add_patch(
            Rectangle((left, row), side, side, fill=False, ec="white", lw=1.5, alpha=alpha)
        )
        step += 1
    axes.add_patch(Rectangle((column, row), side, side, fill=False, ec=COLOUR, lw=4))
    axes.add_patch(Rectangle((column, row), side, side, fill=False, ec="white", lw=1.4))
    for end, corner in ((row, (0, 1)), (row + side, (0, 0))):
        beam = ConnectionPatch(
            (column + side, end),
            corner,
            axes.transData,
            lens.transAxes,
            color=COLOUR,
            lw=1.4,
            zorder=10,
        )
        axes.figure.add_artist(beam)


def _squares(
    axes: Axes, values: Array, colours: str, limits: tuple[float, float], title: str, below: str
) -> None:
    axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    frame(axes, COLOUR, 2.0)
    size = len(values)
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.2)
    axes.tick_params(which="both", length=0)
    axes.set_title(title, fontsize=12, color=INK, pad=8)
    axes.set_xlabel(below, fontsize=9.5, color=FAINT, labelpad=6)
    if size <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(values):
            shade: Any = axes.images[0].cmap(axes.images[0].norm(value))
            dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.55
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=26 / size + 5,
                color="white" if dark else INK,
            )  # fmt: skip


def _sign(axes: Axes, sign: str) -> None:
    bare(axes)
    axes.set_facecolor("none")
    axes.text(
        0.5, 0.5, sign, fontsize=28, ha="center", va="center", color=INK, transform=axes.transAxes
    )


def _sum(axes: Axes, value: float) -> None:
    from matplotlib.patches import Rectangle

    bare(axes)
    axes.set_box_aspect(1)
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fc=COLOUR, ec="none"))
    axes.text(
        0.5, 0.5, f"{value:.2f}", fontsize=20, weight="bold", color="white",
        ha="center", va="center", transform=axes.transAxes,
    )  # fmt: skip
    axes.set_title("weighted sum", fontsize=12, color=INK, pad=8)
    axes.set_xlabel("one pixel", fontsize=9.5, color=FAINT, labelpad=6)


def _unfinished(axes: Axes, y: Array, at: tuple[int, int]) -> None:
    """Draw the feature map up to the pixel at hand; what is still to come is faint."""
    from matplotlib.patches import Rectangle

    visible = np.full(y.shape, TO_COME)
    visible[: at[0]] = 1
    visible[at[0], : at[1]] = 1
    most = float(np.quantile(np.abs(y), 0.99)) or 1.0
    axes.imshow(y, cmap="RdBu_r", vmin=-most, vmax=most, alpha=visible)
    frame(axes)
    side = max(3, y.shape[0] // 40)
    corner = (at[1] - side / 2, at[0] - side / 2)
    axes.add_patch(Rectangle(corner, side, side, fc=COLOUR, ec="white", lw=1.2))
    axes.set_title("the pixels, joined: a feature map", fontsize=12, color=INK, pad=8)
