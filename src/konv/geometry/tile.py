"""Tiles of one layer: which box of the input a box of the output needs, exactly.

The crop ends at the true borders of the image and is never padded elsewhere, so that padding acts
only where it acts in the whole; then the tiles of the output, put together, are the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

from konv.errors import ProblemError
from konv.geometry.axis import Axis
from konv.geometry.bounds import integer
from konv.geometry.conv import Conv
from konv.geometry.padding import Mode


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a convolution: `conv` takes the pixels in `inputs` to the outputs in `outputs`.

    Both are boxes of one (start, stop) an axis; x[..., start:stop] is the crop. The padding that
    remains at each side is what ``axis.overhang()`` of conv's axes says: none inside the image.
    """

    outputs: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[int, int], ...]
    conv: Conv

    @classmethod
    def of(cls, conv: Conv, outputs: Sequence[tuple[int, int]]) -> Tile:
        """Return the tile of `conv` that computes the box `outputs`, one (start, stop) an axis.

        ProblemError for a box that is empty or not within the output.

        >>> conv = Conv.of((1, 8, 100, 100), 8, 3, padding=1)
        >>> part = Tile.of(conv, [(0, 50), (50, 100)])
        >>> part.inputs, str(part.conv)
        (((0, 51), (49, 100)), 'conv2d 1x8x51x51 o8 k3 p1:0x0:1')
        """
        if len(outputs) != conv.dims:
            raise ProblemError(
                f"outputs has {len(outputs)} ranges for {conv.dims} spatial axes. "
                f"Use one (start, stop) for each."
            )
        box = [(integer(start, "start"), integer(stop, "stop")) for start, stop in outputs]
        parts = [
            tile_axis(axis, start, stop, conv.mode)
            for axis, (start, stop) in zip(conv.axes, box, strict=True)
        ]
        inputs, axes = (tuple(column) for column in zip(*parts, strict=True))
        return cls(tuple(box), inputs, replace(conv, axes=axes))


def tile_axis(
    axis: Axis, start: int, stop: int, mode: Mode = "zeros"
) -> tuple[tuple[int, int], Axis]:
    """Return the input range that outputs start..stop-1 need, and the axis on that range alone.

    >>> tile_axis(Axis(100, 3, stride=2, lo=1, hi=1), 10, 20)
    ((19, 40), Axis(size=21, kernel=3, stride=2, dilation=1, lo=0, hi=0, up=1))
    """
    if not 0 <= start < stop <= axis.out:
        raise ProblemError(
            f"outputs {start}:{stop} are no part of the axis. Use 0 <= start < stop <= {axis.out}."
        )
    alone = _moved(axis, 0, axis.size, axis.lo - start * axis.stride, stop - start)
    first, last = alone.reads() or (0, 0)
    first, last = _needed(first, last, axis.size, mode)
    lo = alone.lo + first * axis.up
    return (first, last + 1), _moved(axis, first, last + 1, lo, stop - start)


def _moved(axis: Axis, first: int, end: int, lo: int, out: int) -> Axis:
    """Return the axis on pixels first..end-1 with `out` outputs, and hi to match."""
    hi = axis.extent + (out - 1) * axis.stride - ((end - first - 1) * axis.up + 1) - lo
    return Axis(end - first, axis.kernel, axis.stride, axis.dilation, lo, hi, axis.up)


def _needed(first: int, last: int, size: int, mode: Mode) -> tuple[int, int]:
    """Return the first and last pixel to have for reads at first..last, at least one.

    Where the reads leave the image, the pixels that the mode brings in are needed as well.
    """
    before, after = max(0, -first), max(0, last - (size - 1))
    if mode == "circular" and (before or after):
        return 0, size - 1  # they come from the opposite border
    first, last = min(max(first, 0), size - 1), min(max(last, 0), size - 1)
    if mode == "reflect":
        last = max(last, before) if before else last
        first = min(first, size - 1 - after) if after else first
    return first, last


def halo(axis: Axis) -> tuple[int, int]:
    """Return how many pixels a tile reads before and after those it owns, in the input.

    A tile that starts and stops at legal origins owns the input between them; the rest that it
    reads belongs to its neighbours, or lies beyond the border.

    >>> halo(Axis(100, 3, stride=2, lo=1, hi=1)), halo(Axis(100, 4, lo=2, hi=2, up=2))
    ((1, 0), (1, 1))
    """
    phases = [phase for phase in axis.phases() if phase.taps]
    before = max((-min(phase.sources) for phase in phases), default=0)
    after = max((max(phase.sources) - (phase.stride - 1) for phase in phases), default=0)
    return max(0, before), max(0, after)


def origin_steps(axis: Axis) -> tuple[int, int]:
    """Return the steps of legal origins: input pixels, and the outputs that they become.

    A crop of the input whose first pixel is a multiple of the first number goes through the layer
    as it is, with its own padding; its outputs are those of the whole from the same multiple of the
    second number on, but for the outputs within the halo of a cut. Elsewhere a stride would fall
    between its steps.

    >>> origin_steps(Axis(100, 3, stride=2)), origin_steps(Axis(100, 4, lo=2, hi=2, up=2))
    ((2, 1), (1, 2))
    """
    common = gcd(axis.stride, axis.up)
    return axis.stride // common, axis.up // common
