"""The second row: what one output pixel reads, drawn on a piece of the photograph, per kind.

Kinds in which a channel is looked at by itself show their channels one behind the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from konv.analyze.figure.look import CHANNEL, FAINT, INK, KIND, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from konv.analyze.compare import Comparison
    from konv.analyze.layer import Layer

BESIDE = 5  # pixels shown beside the taps, at least
LEAST = 15  # pixels shown along a side, at least
PLANES = 3  # channels shown one behind the other
SHIFT = 0.14  # of a plane's side: how far one stands behind the next


@dataclass(frozen=True, slots=True)
class Reach:
    """What one output reads, rows and columns of pixels; where it stands; how large it is."""

    rows: list[int]
    columns: list[int]
    centre: tuple[float, float]
    size: float


@dataclass(frozen=True, slots=True)
class Piece:
    """The square piece of the photograph that is shown: first row, first column, side."""

    top: int
    left: int
    side: int

    def extent(self, shift: float = 0.0) -> tuple[float, float, float, float]:
        """Return where its edges stand: left, right, bottom, top; moved up and right by `shift`."""
        left, top = self.left - 0.5 + shift, self.top - 0.5 - shift
        return left, left + self.side, top + self.side, top


def draw(part: SubFigure, layer: Layer, found: Comparison) -> None:
    """Draw a kind's name and its taps."""
    part.text(
        0.06,
        0.965,
        layer.concept.title,
        fontsize=17,
        weight="bold",
        color=KIND[layer.kind],
        va="top",
    )
    part.text(0.06, 0.885, layer.concept.short, fontsize=11, color=FAINT, va="top")
    part.text(0.06, 0.0, _caption(layer), fontsize=10, color=INK, va="bottom")
    axes = part.add_axes((0.06, 0.1, 0.88, 0.73))
    bare(axes)
    axes.set_anchor("NW")
    reach = _reach(layer, found.photograph.focus)
    piece = _piece(reach, found.image.shape[2:])
    if layer.convs[0].groups > 1:
        _planes(axes, layer, found, reach, piece)
    else:
        _whole(axes, layer, found, reach, piece)


def _caption(layer: Layer) -> str:
    """Return what the white square, an output pixel, is made of."""
    conv = layer.convs[0]
    axis, each = conv.axes[0], conv.ci // conv.groups
    taps = f"{axis.kernel} x {axis.kernel} pixels"
    channels = {"transposed": f"all {conv.ci} channels", "grouped": f"{each} of {conv.ci} channels"}
    of = channels.get(layer.kind, f"all {conv.ci} channels")
    if layer.kind == "transposed":
        field = " x ".join(map(str, layer.receptive_field))
        return (
            f"white: an output pixel, {axis.up} to an input pixel;\n"
            f"it reads at most {field} pixels of {of}"
        )
    if layer.kind == "dilated":
        return f"{taps} of {of},\n{axis.dilation} apart: they span {axis.extent} x {axis.extent}"
    if layer.kind == "separable":
        return f"{taps} of one channel;\nthen 1 x 1 of all {conv.ci}"
    return f"white: an output pixel;\nit reads {taps} of {of}"


def _reach(layer: Layer, middle: tuple[float, float]) -> Reach:
    """Return what an output there reads; of a transposed layer's phases, the one with most taps."""
    lines, centre = [], []
    for axis, share in zip(layer.convs[0].axes, middle, strict=True):
        first = max(0, min(int(share * axis.out), axis.out - axis.up))
        near = range(first, min(axis.out, first + axis.up))
        taps = range(axis.kernel)
        read = {o: [s for k in taps if (s := axis.source(o, k)) is not None] for o in near}
        o = max(read, key=lambda o: len(read[o]))
        lines.append(read[o])
        centre.append((o * axis.stride + (axis.extent - 1) / 2 - axis.lo) / axis.up)
    return Reach(lines[0], lines[1], (centre[0], centre[1]), 1 / layer.convs[0].axes[0].up)


def _piece(reach: Reach, sizes: tuple[int, ...]) -> Piece:
    lines = (reach.rows, reach.columns)
    side = min(max(LEAST, *(max(line) - min(line) + 1 + 2 * BESIDE for line in lines)), *sizes)
    top, left = (
        min(max(0, (min(line) + max(line) + 1 - side) // 2), size - side)
        for line, size in zip(lines, sizes, strict=True)
    )
    return Piece(top, left, side)


def _whole(axes: Axes, layer: Layer, found: Comparison, reach: Reach, piece: Piece) -> None:
    """Draw the piece in its colours: all channels at once."""
    pixels = found.photograph.pixels[piece.top :, piece.left :][: piece.side, : piece.side]
    axes.imshow(pixels, extent=piece.extent())
    up = layer.convs[0].axes[0].up
    left, right, bottom, top = piece.extent()
    for step in range(piece.side * up + 1):  # the pixels' borders; transposed: of the output's too
        width = 0.8 if step % up == 0 else 0.35
        axes.plot([left + step / up] * 2, [top, bottom], color="white", lw=width, alpha=0.5)
        axes.plot([left, right], [top + step / up] * 2, color="white", lw=width, alpha=0.5)
    _squares(axes, reach, KIND[layer.kind])
    _output(axes, reach)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _planes(axes: Axes, layer: Layer, found: Comparison, reach: Reach, piece: Piece) -> None:
    """Draw the first channel of each of the first groups, one behind the other."""
    from matplotlib.colors import LinearSegmentedColormap

    conv = layer.convs[0]
    planes = min(PLANES, conv.groups)
    for plane in reversed(range(planes)):
        shift, order = plane * SHIFT * piece.side, 3 - plane / 5
        values = found.image[0, plane * (conv.ci // conv.groups)]
        values = values[piece.top :, piece.left :][: piece.side, : piece.side]
        shades = LinearSegmentedColormap.from_list("plane", ["#0c0d12", CHANNEL[plane], "#ffffff"])
        extent = piece.extent(shift)
        axes.imshow(values, cmap=shades, extent=extent, zorder=order)
        axes.plot(
            [extent[0], extent[1], extent[1], extent[0], extent[0]],
            [extent[2], extent[2], extent[3], extent[3], extent[2]],
            color="white", lw=2.5, zorder=order,
        )  # fmt: skip
        _squares(axes, reach, CHANNEL[plane], shift, order)
    _output(axes, reach)
    left, right, bottom, top = piece.extent()
    more = (planes - 1) * SHIFT * piece.side
    axes.set_xlim(left, right + more)
    axes.set_ylim(bottom, top - more)


def _squares(axes: Axes, reach: Reach, colour: str, shift: float = 0.0, order: float = 3.0) -> None:
    from matplotlib.patches import Rectangle

    for row in reach.rows:
        for column in reach.columns:
            corner = (column - 0.5 + shift, row - 0.5 - shift)
            axes.add_patch(
                Rectangle(corner, 1, 1, fc=colour, ec="white", lw=2.6, alpha=0.5, zorder=order)
            )
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="white", lw=2.8, zorder=order))
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=colour, lw=1.6, zorder=order))


def _output(axes: Axes, reach: Reach) -> None:
    """Draw where the output pixel stands, nearly as large as it is among the input's pixels."""
    from matplotlib.patches import Rectangle

    row, column = reach.centre
    size = reach.size * 0.5
    corner = (column - size / 2, row - size / 2)
    axes.add_patch(Rectangle(corner, size, size, fc="white", ec=INK, lw=1.6, zorder=6))
