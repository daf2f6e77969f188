"""How a weight gradient of konv.kernels.gradient.pencils is cut into boxes, parts and units."""

from __future__ import annotations

from math import prod

from konv.geometry import ONE, Axis, Conv
from konv.kernels import schedule
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient.boxes import Boxes
from konv.kernels.gradient.cut import Sizes, Work, complete
from konv.kernels.lines import Line
from konv.kernels.scratch import LINE
from konv.plan import Plan, Strides
from konv.target import COMPUTED, Target

# Bytes of x under a row of a box, all channels of a unit: they wait in a cache for the row below.
NEAR = 256 * 1024
SEGMENT = 16  # outputs of a row in a box, at least
STEP = 32  # outputs of a row that are computed for a vector of channels before the next
OUTPUTS = 1024  # of a box, about: the rows above a box are read twice
OUTPUTS_OF_PART = 512  # at least


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient.pencils, for x and dy with these
    strides.
    """
    lanes, size = target.lanes(plan.dtype), COMPUTED[plan.dtype]
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    axes = (ONE,) * (3 - conv.dims) + conv.axes
    kernel_rows, taps = axes[0].kernel * axes[1].kernel, prod(axis.kernel for axis in axes)
    boxes = _boxes(conv, axes, kernel_rows * conv.co * size)
    lines = -(-conv.co // lanes)
    shared = max(1, LINE // (lanes * size))
    room = NEAR // (kernel_rows * boxes.lines[2].slots * lanes * size * shared)
    chunks = max(-(-lines // (max(1, room) * shared)), -(-2 * threads // boxes.parts))
    each = min(lines, -(-lines // (chunks * shared)) * shared)  # whole cache lines of channels
    chunks = -(-lines // each)
    numbers = prod(conv.in_shape) + prod(conv.out_shape)
    words = {
        "units": boxes.parts * chunks, "ranges_co": chunks, "lines": lines, "lines_each": each,
        "segment": max(1, STEP // plan.pixels) * plan.pixels,
        "far": int(numbers * size >= schedule.FAR),
    }  # fmt: skip
    parts = {
        "at_rows": kernel_rows * 2 * 8,
        "at_zeros": each * lanes * size,
        "at_beside": boxes.lines[2].box * (axes[2].kernel + 1) * 8,
        "at_sums": each * taps * lanes * size,
    }
    return complete(conv, Sizes(boxes, words, parts, []), x, y, threads)


def _boxes(conv: Conv, axes: tuple[Axis, ...], slot: int) -> Boxes:
    """Boxes of rows so short that they stay near; `slot`: bytes of a column under a row, all
    channels.
    """
    lines, last = [Line(axis) for axis in axes], axes[2]
    segment = (NEAR // slot - last.extent) // last.stride + 1
    lines[2].cut(max(SEGMENT, segment))
    left = max(1, OUTPUTS // lines[2].box)
    for line in lines[1::-1]:
        line.cut(left)
        left = max(1, left // line.box)
    return Boxes.over(conv, lines, left, OUTPUTS_OF_PART)
