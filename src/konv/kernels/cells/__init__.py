"""Winograd's tiles over the cells of a transposed layer: fewer multiplications where sub-pixels are
many and every one has two taps an axis.

    cells (konv.kernels.subpixel.grid) are the pixels of an ordinary 2x2 layer of stride 1, whose
    output channels are columns: (channel, sub-pixel)
    tiles of 3 x 3 cells take 16 products a pair of channel and column instead of 36: F(3x3, 2x2),
    at the points 0, 1, -1 and infinity

All of it is konv.kernels.winograd's (which takes strides of two itself, as parts of its
transforms), but for two ends: weights, whose columns are found by a table
(konv.kernels.cells.weights), and results, of which a vector is a run of the output: sub-pixels of a
row of a cell (contiguous), or those and their channels (channels-last). So both leave straight
from registers, with no block in scratch; but for cells that are cropped (konv.kernels.cells.edge).

Layers that enlarge a map of scores (FCN: 21 -> 21 channels, kernels of 16 x 16 in steps of 8) are
like that: few channels in, thousands of columns, and an input transform that is next to nothing.
Where a vector of results will lie is asked for two vectors earlier, as it comes from memory.

Measured in ms on two Zen 3 cores, contiguous / channels-last, beside konv.kernels.subpixel:

    21->21@28 k16 s8     1.11 / 1.01  1.62 / 1.45    21->21@7 k64 s32     1.62 / 1.51  2.06 / 2.28
    21->21@28 k16 s8 p4  1.14 / 1.23  1.67 / 1.59    21->21@64 k16 s8 p4  5.2 / 6.0    8.5 / 9.0
    128->8@32 k16 s8 p4  2.3 / 2.0    5.3 / 4.1      64->64@32 k8 s4 p2     - / 2.3      - / 3.9

Of the first products take three quarters, at half of the peak: a sum has 21 terms only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import lcm, prod

from konv.geometry import Conv
from konv.kernels.cells.edge import Where, emit_edge
from konv.kernels.cells.weights import emit_cell_filters
from konv.kernels.direct.tiles import tile_cost
from konv.kernels.pack import HEADER
from konv.kernels.subpixel.grid import Grid, cells_of, shift_of
from konv.kernels.winograd import TILES, USUAL
from konv.kernels.winograd.cache import SMALL
from konv.kernels.winograd.count import count, tail
from konv.kernels.winograd.cut import Model
from konv.kernels.winograd.pays import EACH, LEAST
from konv.kernels.winograd.records import TILES_JOB
from konv.kernels.winograd.schedule import schedule
from konv.kernels.winograd.sweeps import Ends
from konv.kernels.winograd.transforms import WORDS, Transform, form, transforms
from konv.kernels.winograd.units import emit_kernel
from konv.kernels.words import Piece
from konv.llvm import Function, Module, Value
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "cells"
exact = False
once = False
words = TILES_JOB

# Cells of a tile along an axis. 3 x 3 of them take 16 products for 36, 2 x 2 take 9 for 16.
CELLS = (3, 2)
# Bytes of U for each tile beyond which tiles are of 2 x 2 cells, whose U is half as large: 21 -> 21
# of 64 x 64 taps have 29 MB by 3 x 3, and 8 x 8 cells 9 tiles, which cannot pay for reading them.
MANY = 2**19
# Multiplications saved that pay for the transforms, at least: 6 x 6 cells of 21 -> 21 k16 s8 save
# 1.36 and are 0.93 to 1.04 times as fast.
SAVING = 1.4


def why_not(conv: Conv, target: Target) -> str | None:
    """Only f32 images in one group, kernels of twice the stride."""
    if conv.dtype != "float32":
        return f"takes float32 only, for its rounding; here {conv.dtype}"
    if conv.dims != 2 or conv.groups > 1 or conv.mode != "zeros":
        return "takes images in one group, padded with zeros"
    if conv.ci < LEAST:
        return f"takes {LEAST} channels in or more; here {conv.ci}"
    for axis in conv.axes:
        if axis.up < 2 or axis.kernel != 2 * axis.up or axis.stride > 1 or axis.dilation > 1:
            return "takes transposed layers whose kernel is twice their stride"
    if min(conv.ci, conv.co) >= LEAST and all(axis.up == 2 for axis in conv.axes):
        # Whose parts share the transform in: 128->64@16 0.28 ms, 0.24 there.
        return "leaves steps of two to konv.kernels.winograd"
    if not any(_runs(conv, target, blocked) for blocked in (False, True)):
        return f"takes rows of sub-pixels that fill vectors; here {conv.axes[1].up} of {conv.co}"
    whys = [_too_little(conv, m) for m in CELLS]
    return whys[0] if all(whys) else None


def _runs(conv: Conv, target: Target, blocked: bool) -> bool:
    """Whether the columns of a row of a cell, which are neighbours in the output, fill vectors."""
    run = conv.axes[1].up * (1 if blocked else conv.co)
    return run % target.lanes(conv.dtype) == 0


def _too_little(conv: Conv, m: int) -> str | None:
    """Why tiles of m x m cells do not pay at this image size."""
    axes = cells_of(conv, aligned=True).axes
    pairs = [(axis, Transform.of(axis, m)) for axis in axes]
    tiles, points = prod(count(*pair) for pair in pairs), prod(t.n for _, t in pairs)
    saved = prod(axis.out * axis.kernel for axis in axes) / (tiles * points)
    if saved < SAVING:
        return f"would save a factor of {saved:.1f} of the multiplications, less than {SAVING}"
    size = points * conv.ci * _columns(conv) * BYTES[conv.dtype]
    if size > (MANY if m == CELLS[0] else EACH) * tiles:
        return f"would read {size / 2**20:.0f} MiB of transformed weights for {tiles} tiles"
    return None


def _columns(conv: Conv) -> int:
    return conv.co * prod(axis.up for axis in conv.axes)


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each size of tile, the largest that pays first, and register tile."""
    if not _runs(conv, target, blocked):
        return ()
    vectors = _columns(conv) // target.lanes(conv.dtype)
    table = TILES[target.vector_bytes, target.registers]
    tiles = sorted(table, key=lambda tile: (-tile[1], tile_cost(vectors, *tile)))
    found = []
    for m in CELLS:
        pair = [Transform.of(axis, m) for axis in cells_of(conv, aligned=True).axes]
        aligned = lcm(*(t.outputs * axis.up for t, axis in zip(pair, conv.axes, strict=True)))
        shape = form(*pair) + Grid.of(conv, True, blocked).form
        those = [
            Plan(
                name, conv.dtype, packed, blocked, mr, nr, tail(vectors, nr), alignment=aligned,
                form=shape,
            )
            for mr, nr in tiles
        ]  # fmt: skip
        # What does not pay stands last, not left out: plans are the same for any image size.
        found.append((_too_little(conv, m) is not None, those))
    found.sort(key=lambda each: each[0])
    return tuple(plan for _, those in found for plan in those)


def _ordinary(conv: Conv) -> Conv:
    """The layer over cells, with columns for output channels."""
    return replace(cells_of(conv, aligned=True), co=_columns(conv))


def _grid(plan: Plan) -> Grid:
    return Grid.from_form(replace(plan, form=plan.form[2 * WORDS :]))


def _straight(plan: Plan) -> Plan:
    """Vectors of results leave as those of a channels-last output, whatever the output is."""
    return replace(plan, blocked=False)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """As konv.kernels.winograd's, of the ordinary layer over cells."""
    cells = _ordinary(conv)
    model = Model(cells, _straight(plan), replace(target, l2=USUAL), SMALL)
    stores = model.vectors * prod(axis.out for axis in cells.axes)
    return model.best(threads=1, n=1).cycles + stores


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of tiles of cells as konv.kernels.winograd.schedule cuts them."""
    apart = (axis.up * stride for axis, stride in zip(conv.axes, y[2:], strict=True))
    crops = [(axis.up, shift_of(axis, aligned=True), axis.out) for axis in conv.axes]
    cells, strides = _ordinary(conv), (*y[:2], *apart)
    return schedule(cells, _straight(plan), target, x, strides, threads, crops)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:  # noqa: ARG001 - as konv.plan
    """Weights as konv.kernels.cells.weights packs them."""
    over, along = transforms(plan)
    each = over.n * along.n * conv.ci + 1
    return Packing(HEADER + _columns(conv) * each * BYTES[plan.dtype], 1, conv.co, conv.ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles of tiles; what a tile has of outputs, all are counted as having."""
    axes, pair = cells_of(conv, aligned=True).axes, transforms(plan)
    tiles = prod(count(*each) for each in zip(axes, pair, strict=True))
    each, steps = prod(t.outputs for t in pair), prod(axis.up for axis in conv.axes)
    return Blocks(
        pixels=(tiles * each, plan.pixels * each),
        co=(conv.co, max(1, plan.vectors * target.lanes(plan.dtype) // steps)),
        ci=(conv.ci, LEAST),
        groups=(1, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    grid = _grid(plan)
    weights = partial(emit_cell_filters, grid=grid)
    where, inner = partial(_where, grid, target.lanes(plan.dtype)), _straight(plan)
    edge = partial(emit_edge, plan=inner, transforms=transforms(plan), where=where)
    ends = Ends(place=partial(_place, where), edge=edge)
    return emit_kernel(inner, target, transforms(plan), weights, ends)


def _where(
    grid: Grid,
    lanes: int,
    f: Function,
    piece: Piece,
    vector: Value,
) -> tuple[Value, Value, Value]:
    """As konv.kernels.cells.edge says of a vector of columns."""
    job, column = piece.job, vector * lanes
    _, h, w = grid.steps
    if grid.subpixels_first:
        channel, rest = column // (h * w), column % (h * w)
        return channel * job["y_channel"], rest // w, rest % w
    run = job["co"] // h
    return f.integer(0), column // run, column % run


def _place(where: Where, f: Function, piece: Piece, vector: Value) -> Value:
    """How far in the output a vector of columns lies from the place of its cell in a grid that
    begins with the first output.
    """
    job, (channel, sub, number) = piece.job, where(f, piece, vector)
    down, pixel = (job["y_stride", a] // job["step", a] for a in (1, 2))
    return channel + (sub - job["crop", 1]) * down + number - job["crop", 2] * pixel
