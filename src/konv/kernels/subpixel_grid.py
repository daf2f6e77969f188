"""A transposed layer as an ordinary one: the outputs between two inputs become channels.

On an axis with `up` = s, outputs s*j - shift, ..., s*j - shift + s - 1 are the *sub-pixels* of cell
j. The shift, 0 <= shift < s, is the one for which sub-pixel f reads at its tap

    k = s - 1 - f + s*t          the source j + t - lo',    lo' = (lo + shift - (s - 1)) / s

so that all sub-pixels of a cell read the same sources t = 0 .. r - 1, r = ceil(K / s): follow from
o + k - lo = s*i with o = s*j - shift + f, and lo + shift = s - 1 (mod s). Where K is a multiple of
s, none of these taps lies outside the kernel. Cells are then the pixels of an ordinary layer with r
taps and stride 1 an axis, and co * s^dims output channels, called *columns* here. An axis without
inserted zeros is left as it is: one sub-pixel a cell, and its own stride and dilation.

The columns of a group in order, fastest first:

    output contiguous       sub-pixel of w, of h, of d, channel
    output channels-last    channel, sub-pixel of w, of h, of d

so that in either case a run of columns is a run of the output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from konv.geometry import Axis, Conv
from konv.plan import Plan


@dataclass(frozen=True, slots=True)
class Grid:
    """What a plan says of it: `kernel` taps, `steps` sub-pixels a cell, on each of three axes;
    whether sub-pixels come before channels in the order of columns.
    """

    subpixels_first: bool
    kernel: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, conv: Conv, blocked: bool) -> Grid:
        missing = (1,) * (3 - conv.dims)
        kernel = tuple(axis.kernel for axis in conv.axes)
        return cls(blocked, missing + kernel, missing + tuple(axis.up for axis in conv.axes))

    @classmethod
    def from_form(cls, plan: Plan) -> Grid:
        """The inverse of `form`."""
        first, *rest = plan.form
        return cls(bool(first), tuple(rest[:3]), tuple(rest[3:]))

    @property
    def form(self) -> tuple[int, ...]:
        """As `Plan.form` holds it."""
        return (int(self.subpixels_first), *self.kernel, *self.steps)

    @property
    def subpixels(self) -> int:
        """Of a cell."""
        return prod(self.steps)

    @property
    def reach(self) -> tuple[int, ...]:
        """Sources that a cell reads on each axis."""
        return tuple(-(-k // s) for k, s in zip(self.kernel, self.steps, strict=True))


def shift_of(axis: Axis) -> int:
    """Sub-pixels of the first cell that lie before the first output."""
    return (-1 - axis.lo) % axis.up


def cells_of(conv: Conv) -> Conv:
    """The ordinary layer over the cells of a transposed one; its channels are the columns."""
    axes = tuple(_cells(axis) for axis in conv.axes)
    # What cropped sub-pixels read may lie further out than the mode can supply: nobody sees it.
    columns = conv.co * prod(axis.up for axis in conv.axes)
    return replace(conv, co=columns, axes=axes, mode="zeros", transposed=False)


def _cells(axis: Axis) -> Axis:
    step = axis.up
    if step == 1:
        return axis
    shift, reach = shift_of(axis), -(-axis.kernel // step)
    cells = -(-(axis.out + shift) // step)
    lo = (axis.lo + shift - (step - 1)) // step
    return Axis(axis.size, reach, lo=lo, hi=cells + reach - 1 - lo - axis.size)
