"""Depthwise convolution with channels in the lanes, a vector of them at a time.

konv.kernels.strips has the loops. A tile is `pixels` neighbouring outputs of a row; weights are
vectors, so nothing is splat and no lane lies beside an image: taps in the padding are left out one
by one, and of a kernel as large as its map three quarters are. Channels-last images are read where
they lie; contiguous ones are transposed into the strip, and out of a block, which pays from 8 taps
down a column or 20 along a row on (27x27 512@14 contiguous: 0.28 ms so, 0.60 in planes), and of
small maps from 5 along each axis that has any.

Two cores of an Emerald Rapids (AVX-512), ms of a call between PyTorch tensors, channels-last in and
out, and PyTorch's in that layout:

    3x3 32@112      0.083  0.100    3x3 s2 96@112   0.190  0.176    13x13 64@56   0.28  1.22
    3x3 192@28      0.039  0.064    3x3 960@7       0.032  0.058    13x13 1024@7  0.096  0.25
    3x3 d2 128@32   0.052  0.062    7x7 96@56       0.120  0.195    27x27 512@14  0.29  0.57

The kernel of 7x7 96@56 alone takes 0.094 ms, 89 % of the peak, if arrays begin on a cache line,
0.134 if every vector crosses one.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels.pack import HEADER
from konv.kernels.stored import HALVES
from konv.kernels.strips import costs, emit_kernel
from konv.kernels.strips import cut as strip_cut
from konv.kernels.strips.fill import emit_pack
from konv.kernels.strips.form import FEW, form_of
from konv.kernels.strips.job import JOB
from konv.kernels.strips.lane_rows import emit_pixels_fill
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "pencils"
exact = True
once = False
words = JOB

# Outputs of a tile by bytes in a vector and the number of registers: of up to 4 taps along the row,
# and of more; the reasons are those of konv.kernels.planes. Of 5x5, channels-last, 14 take .90 to
# .98 of the time that 7 take, in maps of 7 columns 1.18 (Granite Rapids).
TILES = {(16, 16): (7, 5), (32, 16): (7, 7), (16, 32): (7, 14), (64, 32): (7, 14)}


# Taps of a column alone from which on a map is turned (5x1 to 21x1 of channels-last maps of 7 to 56
# columns 1.2 to 3.4 times as fast, AVX2 code 1.3 to 3.8; 64@128, whose rows begin in one set of the
# cache, .8, 3x1 .83 to 1.3; Granite Rapids).
COLUMN = 5
# Taps of a column that is read as such, of which more would be read too often (35x1 64@56,
# contiguous: 0.30 ms, konv.kernels.planar 0.15; 51x5 96@56 0.65 and 1.4; Granite Rapids).
LONGEST = 31
# Taps of a row from which on contiguous images are transposed, however few the rows: planes read
# most of their slots from two lines of the cache (of 512@400 31 taps .165 to .061 ms, of 512@500 51
# .30 to .154, 75 .43 to .186, of 256@500 23 .074 to .058, but 17 .042 to .052; 5x51 96@56 .60 to
# .34, 3x21 64@56 .124 to .100; AVX2 code .92 to 2.7 times as fast; Granite Rapids). Of fewer taps,
# LEAST along each axis that has any, only small images are, of which planes fill few lanes: 7x7
# 1024@7 .047 to .029, 512@14 .069 to .052, 5x5 960@7 .033 to .027, 512@8 .032 to .019, 5 taps
# 448@50 .015 to .010 (AVX2 code .97 to 1.3); 7x7 192@28 1.07, 96@56 .75, 5 taps 256@500 .71.
ROW, LEAST = 20, 5
LAYOUT = 30  # cycles a vector that these cost at sizes above SMALL, which leaves them to others
WIDE, SMALL = 64, 256  # bytes of vectors; outputs of a small map


def why_not(conv: Conv, target: Target) -> str | None:
    """One channel in and out a group, no inserted zeros, a vector of channels."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.ci != conv.groups or conv.co != conv.groups:
        return f"takes one channel in and out a group; here {ci} and {co}"
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no transposed layer with a stride"
    if conv.co < target.lanes(conv.dtype):
        return f"takes {target.lanes(conv.dtype)} channels or more; here {conv.co}"
    *_, high, wide = (1, *(axis.kernel for axis in conv.axes))
    if conv.dims > 2 and high > LONGEST and wide == 1:
        return f"takes up to {LONGEST} taps down a column of a volume alone; here {high}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan, or one for each tile that may take so many taps, first the smaller where rows are
    no longer, and for each way to read an image; none for few taps between contiguous images, which
    planes do without packing.
    """
    conv = _as_rows(conv, packed, blocked)
    form = form_of(conv)
    if packed and blocked and not _pays(form):
        return ()
    if form[1] > LONGEST and form[2] == 1:
        return ()
    few, many = TILES[target.vector_bytes, target.registers]
    tiles = [few] if form[2] <= 4 else [many, few] if many > few else [many]
    return tuple(
        Plan(name, conv.dtype, packed, blocked, pixels, 1, form=(*form, way))
        for way in _ways(conv, form, target, packed)
        for pixels in sorted(tiles, reverse=conv.axes[-1].out > few)
    )


def _pays(form: tuple[int, ...]) -> bool:
    """Whether contiguous images may be transposed for so many taps."""
    deep, high, wide = form[:3]
    return _many(form) or (deep == 1 and wide >= LEAST and (high == 1 or high >= LEAST))


def _many(form: tuple[int, ...]) -> bool:
    """Whether they are whatever their size."""
    return form[1] > FEW or form[2] >= ROW


def _ways(conv: Conv, form: tuple[int, ...], target: Target, packed: bool) -> list[int]:
    """1: tiles of konv.kernels.strips.walk, which read images where they lie, if those lie channels
    last and padding and weights allow it, and ask for what is not there, of a strip too; 0: tiles
    of konv.kernels.strips.tile, from a strip. The better one first.

    Few taps along a row are read where they lie, and more if no other row of taps reads the same
    pixels (of 1024@4096 9 taps 1.76 to .66 ms, AVX2 code 3.6 to .70; of 512@400 31 1.17 and 1.04
    times as fast). Of many rows of many taps a strip has pixels of a column in sets of the cache
    that they do not share: with AVX-512 it is faster for all but small maps (9x9 384@14 .88 of the
    speed, 13x13 1024@7 .76; 64@56 1.0 to 1.1, 13x13 1.1 to 1.25; Granite Rapids).
    """
    if packed:  # from a strip whatever the tile
        return [int(LEAST <= form[2] <= FEW)]
    if form[2] <= FEW or form[0] * form[1] == 1:
        return [1]
    if target.vector_bytes < WIDE:
        return [0]
    small = prod(axis.out for axis in conv.axes) <= SMALL
    return [1, 0] if small else [0, 1]


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of output pixels and vectors of channels."""
    if _is_column(conv, plan.packed, plan.blocked):
        x, y = (*x[:2], *x[:1:-1]), (*y[:2], *y[:1:-1])
    return strip_cut.cut(_as_rows(conv, plan.packed, plan.blocked), plan, target, x, y, threads)


def _is_column(conv: Conv, packed: bool, blocked: bool) -> bool:
    """Whether taps are a column alone whose axis changes places with the other: outputs side by
    side share what they read along a row. Pixels of a channels-last image lie apart on every axis,
    so it does not matter which of them is a row.
    """
    high, wide = [axis.kernel for axis in conv.axes] if conv.dims == 2 else (1, 1)
    return not (packed or blocked) and wide == 1 and high >= COLUMN


def _as_rows(conv: Conv, packed: bool, blocked: bool) -> Conv:
    """The layer as tiles see it."""
    return replace(conv, axes=conv.axes[::-1]) if _is_column(conv, packed, blocked) else conv


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image, as konv.kernels.strips.costs counts them; rows of
    taps that lie in padding are left out. Of dilated layers that is not counted: large images would
    lose more than small ones gain (9x9 d2 192@112 .75, 96@14 1.39, AVX2 code).
    """
    conv = _as_rows(conv, plan.packed, plan.blocked)
    *_, down, _ = (ONE, *conv.axes)
    cycles = costs.cycles(conv, plan, target)
    if down.dilation == 1:
        cycles *= down.taps(conv.mode) / (down.out * down.kernel)
    pixels = prod(axis.out for axis in conv.axes)
    if plan.packed and plan.blocked and pixels > SMALL and not _many(plan.form):
        cycles += LAYOUT * pixels * -(-conv.co // target.lanes(conv.dtype))
    return cycles


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every vector's taps, then all biases."""
    lanes = target.lanes(plan.dtype)
    numbers = -(-conv.co // lanes) * lanes * (conv.params // conv.co + 1)
    return Packing(HEADER + numbers * BYTES[conv.dtype], conv.groups, 1, 1)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles of outputs, and the channels that stand side by side."""
    return Blocks(
        pixels=(prod(axis.out for axis in conv.axes), plan.pixels),
        co=(1, 1),
        ci=(1, 1),
        groups=(conv.groups, target.lanes(plan.dtype)),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    emit_pack(module, plan)
    return emit_kernel(plan, emit_pixels_fill(module, plan), module)
