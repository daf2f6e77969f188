"""Groups abreast: layers with few channels a group, several groups side by side in the lanes.

    for vector of output channels: for tile of m pixels of a row, in registers over all of it:
        for row of taps: for c in channels of a group:                  THE LOOP
            load the weights of the row's taps                          one vector each
            for each pixel that the tile reads:
                its number c, in the lanes of its group;                for all taps that read it
                one multiply-add for each of those

A vector of eight lanes holds two groups of four output channels, which take turns, or a part of one
larger group. Inputs lie in a strip in scratch (konv.kernels.abreast.strip), [pixel][channel of a
group][group]: so the numbers c of all groups are one load that repeats them over the lanes, as
loads do without help; permuted from [group][channel of a group], 128@56 and 256@28 in 32 groups
took 1.18 to 1.29 times as long (Granite Rapids). Neighbouring pixels share all but one of their
sources, so one load serves as many multiply-adds as there are taps in a row, where
konv.kernels.direct needs one each, and fills no lanes beyond a group. Results are put back into the
order of channels once.

Every output is one chain of multiply-adds in the order rows of taps, channels, taps of a row.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels.abreast.cut import Cells, Cut
from konv.kernels.abreast.strip import JOB
from konv.kernels.abreast.units import emit_kernel
from konv.kernels.pack import HEADER
from konv.kernels.stored import HALVES
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "abreast"
exact = True
once = True
words = JOB

TAPS = 7  # of the last axis: each has its weights in a register
FARTHEST = 4  # stride and dilation of the last axis: beyond, strips would hold what nobody reads
DEEPEST = 64  # channels of a group: more have vectors of their own, and weights that fill a cache
USUAL = 512 * 1024  # bytes of second-level cache that the model of cost takes
LONGEST = 14  # pixels in a tile: each number of them is a function to compile


def why_not(conv: Conv, target: Target) -> str | None:
    """Whole vectors only, and no phases."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.groups == 1:
        return "is for grouped layers"
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no transposed layers"
    row, ci, co = conv.axes[-1], conv.ci // conv.groups, conv.co // conv.groups
    if not 2 <= row.kernel <= TAPS:
        return f"takes 2 to {TAPS} taps along a row; here {row.kernel}"
    if max(row.stride, row.dilation) > FARTHEST:
        return f"takes strides and dilations of rows up to {FARTHEST}"
    if ci > DEEPEST:
        return f"takes up to {DEEPEST} channels a group; here {ci}"
    lanes = target.lanes(conv.dtype)
    together = lanes // co
    if co % lanes and (lanes % co or conv.groups % together or ci > co or co == 1):
        return f"takes output channels that fill vectors of {lanes}, in equal groups"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan: tiles as long as registers allow."""
    row, lanes, co = conv.axes[-1], target.lanes(conv.dtype), conv.co // conv.groups
    # Two are for the pixel at hand and, with SSE, a product.
    most = min(target.registers - row.kernel - 2, LONGEST)
    form = (row.kernel, row.stride, row.dilation, max(1, lanes // co))
    depth = conv.ci // conv.groups
    return (Plan(name, conv.dtype, packed, blocked, most, 1, depth=depth, form=form),)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: tiles at 90 % of what they could do, strips, results. Numbers
    into a strip cost what decides as measured: with 16 channels a group and more, contiguous images
    are taken from `direct` in steps of two (512@28 0.25 ms, direct 0.41, Zen 3), channels-last ones
    left to it (512@14 0.21, direct 0.15).
    """
    lanes, row = target.lanes(plan.dtype), conv.axes[-1]
    kernel, stride, *_ = plan.form
    # Boxes as for any machine's cache: which plan is best shall not hang on it.
    cut = Cut(conv.with_batch(1), plan, replace(target, l2=USUAL), 1)
    pieces = -(-row.out // plan.pixels)
    m = row.out / pieces
    read = (m - 1) * min(stride, kernel) + kernel
    each = max(kernel * m / 2, 4 * kernel, (read + kernel) / 2)
    taps = prod(axis.kernel for axis in conv.axes[:-1])
    tile = taps * plan.depth * (each + 1) + 30
    outputs = prod(axis.out for axis in conv.axes)
    loop = conv.co / lanes * outputs / m * tile / 0.9
    copied = conv.ci * cut.copied * (0.25 if plan.packed else 0.6)
    return loop + copied + conv.co * outputs * (0.7 if plan.blocked else 0)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.abreast.cut cuts them."""
    return Cut(conv, plan, target, threads).work(x, y)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:  # noqa: ARG001 - as the protocol
    """A block a vector, each [row of taps][channel][tap][lane], then the biases."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    numbers = conv.co * (ci * prod(axis.kernel for axis in conv.axes) + 1)
    return Packing(HEADER + numbers * BYTES[plan.dtype], conv.groups, co, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles run along rows."""
    cells = Cells.of(conv, plan, target)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    return Blocks((conv.axes[-1].out, plan.pixels), (co, co), (ci, ci), (conv.groups, cells.groups))


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target)
