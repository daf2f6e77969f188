"""Strided transposed depthwise layers, and so the gradient of the image of strided ones.

    for unit in units, taken by threads from shares of their own:      a box of cells, some lines
        fill the strip: the input under the box, padded                a quarter of the results
        for cell, or vector of cells:
            for sub-pixel: sums over its own taps                      no inserted zero is met
            store its row

Contiguous images have cells of a row in the lanes, a channel at a time (konv.kernels.spread.rows):
the sums of a row of sub-pixels are woven into the run of outputs that they are. Channels-last ones
have channels in the lanes (konv.kernels.spread.pixels), of all lines of the unit one tile after the
other, so memory is met in its own order.

Two cores of a Zen 3, ms of a call, those of konv.kernels.depthwise, those of PyTorch:

    3x3 s2, to 96@112     contiguous .25 1.32 6.9     channels-last .25 .34 .33
    3x3 s2, to 144@56     contiguous .14 .56  .38     channels-last .12 .15 .22

An output is one chain of multiply-adds over its taps, the same wherever it lies; what is added for
a tap of padding is weight x 0, read from the strip.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels.pack import HEADER
from konv.kernels.spread import cut as spread_cut
from konv.kernels.spread.form import cells_plan, count, form_of, over_cells, taps_plan
from konv.kernels.spread.pixels import emit_pixels
from konv.kernels.spread.rows import emit_rows
from konv.kernels.stored import HALVES
from konv.kernels.strips import costs, emit_run
from konv.kernels.strips.fill import emit_pack
from konv.kernels.strips.job import JOB
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "spread"
exact = True
once = False
words = JOB

TAPS, SUBPIXELS = 64, 16  # of a cell, as all are unrolled
WOVEN = 4  # sub-pixels of a row
REACH = 256  # pixels under a cell, for which a row of the strip has room
ROWS, PIXELS = 2, 7  # cells of a tile: rows that a box is cut into, pixels that share weights


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """One channel in and out a group, inserted zeros, no stride, few taps."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.ci != conv.groups or conv.co != conv.groups:
        return f"takes one channel in and out a group; here {ci} and {co}"
    if all(axis.up == 1 for axis in conv.axes):
        return "takes transposed layers with a stride only"
    if any(axis.stride > 1 for axis in conv.axes):
        return "takes no layer that has strides of both kinds"
    taps = prod(axis.kernel for axis in conv.axes)
    if taps > TAPS:
        return f"takes up to {TAPS} taps; here {taps}"
    cell = prod(axis.up for axis in conv.axes)
    if cell > SUBPIXELS or conv.axes[-1].up > WOVEN:
        return f"takes up to {SUBPIXELS} sub-pixels a cell, {WOVEN} along rows; here more"
    if conv.axes[-1].extent > REACH:
        return f"takes taps over {REACH} columns; here {conv.axes[-1].extent}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan where input and output are of one layout, channels-last with a vector of them."""
    if packed != blocked or not (packed or conv.co >= target.lanes(conv.dtype)):
        return ()
    pixels = (1 if conv.dims == 1 else ROWS) if packed else PIXELS
    form = (*form_of(conv), int(packed))  # as weights are packed another way for each layout
    return (Plan(name, conv.dtype, packed, blocked, pixels, 1, form=form),)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of cells and lines of channels."""
    return spread_cut.cut(conv, plan, target, x, y, threads)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image: two multiply-adds a cycle and two for what else is
    done for a vector of results; or moving the arrays once.
    """
    lanes = target.lanes(conv.dtype)
    *outer, last = (axis.out for axis in over_cells(conv, plan).axes)
    vectors = conv.co * -(-last // lanes) if plan.packed else last * -(-conv.co // lanes)
    each = prod(plan.form[:3]) / 2 + 2 * count(plan.form)
    return max(vectors * prod(outer) * each, costs.moved(conv))


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every line's taps, then all biases."""
    lanes = 1 if plan.packed else target.lanes(plan.dtype)
    numbers = -(-conv.co // lanes) * lanes * (conv.params // conv.co + 1)
    return Packing(HEADER + numbers * BYTES[conv.dtype], conv.groups, 1, 1)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles of cells, and the channels that stand side by side."""
    lanes = target.lanes(plan.dtype)
    return Blocks(
        pixels=(
            prod(axis.out for axis in over_cells(conv, plan).axes),
            lanes if plan.packed else plan.pixels,
        ),
        co=(1, 1),
        ci=(1, 1),
        groups=(conv.groups, 1 if plan.packed else lanes),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    emit_pack(module, taps_plan(plan))
    lines = emit_rows(module, plan) if plan.packed else emit_pixels(module, plan)
    return emit_run(module, cells_plan(plan), lines)
