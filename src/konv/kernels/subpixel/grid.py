"""A transposed layer as an ordinary one: the outputs between two inputs become channels.

On an axis with `up` = s, outputs s*j - shift, ..., s*j - shift + s - 1 are the *sub-pixels* of cell
j. Sub-pixel f reads the source j + t - lo' at its tap

    k = e - f + s*t,    e = s*(-lo') + lo + shift,    for the t = 0 .. reach - 1 with 0 <= k < K

as follows from o + k - lo = s*i with o = s*j - shift + f. Two choices of the shift are of use:

    aligned     shift = -1 - lo (mod s) makes e = s - 1: all sub-pixels of a cell read the same
                ceil(K / s) sources, and where K is a multiple of s all of these are taps. The first
                and the last cell may be cropped.
    unshifted   shift = 0: no cell is cropped but at the end, and sub-pixels may read other sources.

Cells are then the pixels of an ordinary layer of stride 1, and what a cell has of outputs are its
channels, called *columns*. An axis without inserted zeros is left as it is: one sub-pixel a cell,
and its own stride and dilation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels.channels import Channels
from konv.kernels.schedule import MODES, schedule
from konv.kernels.words import JOB, PHASE
from konv.plan import Plan, Strides, Work
from konv.target import Target

Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Grid:
    """What a plan says of it, on each of three axes: `kernel` taps, `steps` sub-pixels a cell,
    `reach` sources a cell, and the number `first` = e above. `subpixels_first`: of the columns,
    which a run of the output begins with; else it is channels.
    """

    subpixels_first: bool
    kernel: tuple[int, ...]
    steps: tuple[int, ...]
    reach: tuple[int, ...]
    first: tuple[int, ...]

    @classmethod
    def of(cls, conv: Conv, aligned: bool, subpixels_first: bool) -> Grid:
        """The grid of a layer, whatever its size."""
        axes = [_line(axis, aligned) for axis in conv.axes]
        lines = [(1, 1, 1, 0)] * (3 - conv.dims) + axes
        return cls(subpixels_first, *zip(*lines, strict=True))

    @classmethod
    def from_form(cls, plan: Plan) -> Grid:
        """The inverse of `form`."""
        kind, *rest = plan.form
        return cls(bool(kind), *(tuple(rest[i : i + 3]) for i in range(0, 12, 3)))

    @property
    def form(self) -> tuple[int, ...]:
        """As `Plan.form` holds it."""
        return (int(self.subpixels_first), *self.kernel, *self.steps, *self.reach, *self.first)

    @property
    def subpixels(self) -> int:
        """Of a cell."""
        return prod(self.steps)

    @property
    def taps(self) -> int:
        """Sources of a cell."""
        return prod(self.reach)

    @property
    def mixed(self) -> bool:
        """Whether a source meets a tap in some sub-pixels of an aligned cell and in others none."""
        return any(k % s for k, s in zip(self.kernel, self.steps, strict=True))

    @property
    def full(self) -> int:
        """Taps of the sub-pixel that has most."""
        return prod(-(-k // s) for k, s in zip(self.kernel, self.steps, strict=True))


def shift_of(axis: Axis, aligned: bool) -> int:
    """Sub-pixels of the first cell that lie before the first output."""
    return (-1 - axis.lo) % axis.up if aligned else 0


def _line(axis: Axis, aligned: bool) -> Three | tuple[int, ...]:
    """Kernel, step, reach and e of an axis."""
    step = axis.up
    if step == 1:
        return axis.kernel, 1, axis.kernel, 0
    # The least and the last source of cell 0: those of the last tap of sub-pixel 0 and so on.
    before = _before(axis, aligned)
    first = axis.lo + shift_of(axis, aligned) - step * before
    # k = first - f + s*t <= K - 1 for f = s - 1 at most.
    reach = (axis.kernel - 1 - first + step - 1) // step + 1
    return axis.kernel, step, reach, first


def _before(axis: Axis, aligned: bool) -> int:
    """lo': how far before cell j its first source lies."""
    # k = first - f + s*t >= 0 needs t >= (f - first) / s; the least is that of f = 0.
    return (axis.lo + shift_of(axis, aligned)) // axis.up


def cells_of(conv: Conv, aligned: bool) -> Conv:
    """The ordinary layer over the cells of a transposed one; channels are as they were."""
    axes = tuple(_cells(axis, aligned) for axis in conv.axes)
    # What cropped sub-pixels read may lie further out than the mode can supply: nobody sees it.
    return replace(conv, axes=axes, mode="zeros", transposed=False)


def _cells(axis: Axis, aligned: bool) -> Axis:
    if axis.up == 1:
        return axis
    _, step, reach, _ = _line(axis, aligned)
    cells = -(-(axis.out + shift_of(axis, aligned)) // step)
    lo = _before(axis, aligned)
    return Axis(axis.size, reach, lo=lo, hi=cells + reach - 1 - lo - axis.size)


def cell_schedule(
    conv: Conv,
    plan: Plan,
    target: Target,
    channels: Channels,
    x: Strides,
    y: Strides,
    threads: int,
    aligned: bool,
    tables: bool = True,
) -> Work:
    """The work of the cells of a layer: that of an ordinary layer whose channels are columns, and
    then what the way out needs, which is where the cells lie in the output. `tables`: as
    konv.kernels.schedule has it.
    """
    grid = Grid.of(conv, aligned, False)
    cells = cells_of(conv, aligned)
    cells = replace(cells, co=cells.co * grid.subpixels)
    made = schedule(cells, plan, target, channels, x, y, threads, in_lines=True, tables=tables)
    words = made.words
    words[JOB.index("mode")] = MODES[conv.mode]
    words[JOB.index("channels")] = conv.co // conv.groups
    for a, axis in enumerate(conv.axes, start=3 - conv.dims):
        words[JOB.index(f"outputs{a}")] = axis.out
        if axis.up > 1:
            words[JOB.index(f"step{a}")] = axis.up
            record = words[JOB.index(f"at_phases{a}")]
            words[record + PHASE.index("first")] = -shift_of(axis, aligned)
    return made
