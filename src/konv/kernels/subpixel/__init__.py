"""Transposed convolution by cells: the outputs between two inputs become channels of an ordinary
layer.

    cells, not pixels, stand in the tiles          konv.kernels.subpixel.grid says what a cell is
    for unit of cells: tables, packed image        once for all phases, as in konv.kernels.units
        for block of columns: (channel, sub-pixel) in the lanes
            for tile of cells:                     konv.kernels.microtile, taps x channels
            block out of scratch: runs of columns  konv.kernels.weave

A reduction is `kernel / stride` taps an axis: a matrix product of (cells) x (taps, channels) x
(columns), at its peak whatever the number of channels, as sub-pixels fill the lanes that channels
leave empty. The columns of a group in order, fastest first:

    output contiguous       sub-pixel of w, of h, of d, channel
    output channels-last    channel, sub-pixel of w, of h, of d

so that in either case a run of columns is a run of the output. Every output is the same chain of
multiply-adds as in konv.kernels.direct.

Where the kernel is the stride, every output has one tap, and the cells of a layer are a product of
two matrices. Its results leave *straight* from registers, without block or tables: channels-last
by the tiles of konv.kernels.direct.flat_tile, contiguous by those of konv.kernels.subpixel.pairs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from konv.geometry import Conv
from konv.kernels import interleave
from konv.kernels.channels import Channels
from konv.kernels.direct.flat_tile import emit_flat_sweep
from konv.kernels.direct.tiles import (
    CALL,
    ROW_CALL,
    ROW_TRIP,
    TILES,
    flat_cost,
    last_block,
    tile_cost,
)
from konv.kernels.microtile import UNROLL, add_channels, emit_tile, tile_function
from konv.kernels.stored import HALVES
from konv.kernels.subpixel.grid import Grid, cell_schedule, cells_of, shift_of
from konv.kernels.subpixel.pairs import PAIR, emit_pair_sweep
from konv.kernels.subpixel.weights import emit_cell_weights
from konv.kernels.units import emit_kernel
from konv.kernels.weave import emit_weave
from konv.kernels.words import JOB
from konv.llvm import INTEGER, REAL, Module, Routine
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import Target

name = "subpixel"
exact = True
once = True
words = JOB

CROPPED = 1.15
STRAIGHT = 14  # words of the form where results leave straight: pixels of the last block's tiles
# Of rows of a contiguous output that are woven out of registers: cells that are turned together, by
# the bytes of a vector; cells of the smallest tile, and how much more than there are in a row tiles
# may take; channels that make a layer deep.
WOVEN, CELLS, FULL, DEEP = {32: 4, 64: 8}, 4, 1.08, 512
# Cycles a number of those with AVX-512 (conv1d 16->192@8000: 0.67 ms, in konv.kernels.planar 0.55;
# Granite Rapids).
WEAVE = 0.4
# And of a run of channels of a group in a channels-last output (depthwise 16x16 in steps of 8,
# 19@64 3.7 ms, konv.kernels.depthwise 1.3; 64@16 1.1 and .14; Granite Rapids).
SHORT = 5
MASKED = 64  # bytes of a vector from which on leaving lanes out of a multiply-add costs nothing


def why_not(conv: Conv, target: Target) -> str | None:
    """Only where zeros are inserted, and where it multiplies less than konv.kernels.interleave."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if all(axis.up == 1 for axis in conv.axes):
        return "takes transposed layers with a stride; here no zeros are inserted"
    for axis in conv.axes:
        if axis.up > 1 and (axis.stride > 1 or axis.dilation > 1):
            return f"takes no dilation or second stride beside the stride of {axis.up}"
        if axis.kernel % axis.up and target.vector_bytes < MASKED:
            return f"takes kernels that are multiples of stride {axis.up}; here {axis.kernel}"
    grid, lanes = Grid.of(conv, True, True), target.lanes(conv.dtype)
    cells, channels = _cycles(conv, grid, target), interleave.cycles(conv, target)
    # A cropped cell is computed whole: an image of 8 has 9 cells an axis, one of 32 has 33.
    cropped = any(shift_of(axis, aligned=True) for axis in conv.axes)
    if cells * (CROPPED if cropped else 1) > channels:
        co = conv.co // conv.groups
        return f"would multiply more than with channels in the lanes: {co} a group, {lanes} lanes"
    return None


def _cycles(conv: Conv, grid: Grid, target: Target) -> float:
    """Of one cell, the best tile."""
    vectors, tiles = _vectors(conv, grid, target), TILES[target.vector_bytes, target.registers]
    return conv.ci * grid.taps * min(tile_cost(vectors, *tile) for tile in tiles)


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each register tile, cheapest first by `tile_cost`; for some layers another whose
    results leave straight.
    """
    grid = Grid.of(conv, True, blocked)
    ci, vectors = conv.ci // conv.groups, _vectors(conv, grid, target)
    depth = ci if ci < UNROLL else 0
    table = TILES[target.vector_bytes, target.registers]
    straight: tuple[Plan, ...] = ()
    if _is_product(conv, grid, target) and (not blocked or _has_pairs(conv, grid, target)):
        straight = _straight_plans(conv, grid, target, (packed, blocked), depth)
    if straight and not blocked:
        return straight
    tiles = sorted(table, key=lambda tile: (tile_cost(vectors, *tile), max(tile[1], vectors)))
    through = tuple(
        Plan(
            name, conv.dtype, packed, blocked, mr, nr, last_block(vectors, nr, 0), 0, depth,
            form=grid.form,
        )
        for mr, nr in tiles
    )  # fmt: skip
    return straight + through if _fills_tiles(conv, target) else through + straight


def _is_product(conv: Conv, grid: Grid, target: Target) -> bool:
    """Whether results may leave straight: one tap an output, no cell cropped, and rows of
    sub-pixels that are runs, which they are of one group, of whole vectors and wider than a block.
    """
    if conv.groups > 1 or grid.taps > 1 or grid.mixed:
        return False
    if any(axis.out != axis.size * axis.up or axis.lo != axis.up - 1 for axis in conv.axes):
        return False
    run, lanes = grid.steps[2] * conv.co, target.lanes(conv.dtype)
    machine = target.vector_bytes, target.registers
    most = max(nr for _, nr in TILES[machine])
    # As for direct's tiles along pixels, SSE has no register left for them.
    return machine != (16, 16) and run % lanes == 0 and run >= most * lanes


def _has_pairs(conv: Conv, grid: Grid, target: Target) -> bool:
    """Whether rows of a contiguous output may be woven out of registers: of pairs of sub-pixels as
    numbers of twice the size.
    """
    return grid.steps[2] == PAIR and conv.dtype == "float32" and target.vector_bytes in WOVEN


def _fills_tiles(conv: Conv, target: Target) -> bool:
    """Whether tiles fill rows of cells, the last four perhaps a tile of their own. Of deep layers
    with AVX-512, where the way out is little and a row of 14 would take 16, never (512->256@14 0.76
    ms through scratch, 0.85 straight; @28 the same, @32 3.84 and 3.72; Granite Rapids).
    """
    if target.vector_bytes == MASKED and conv.ci >= DEEP:
        return False
    width = conv.axes[-1].size
    return -(-width // CELLS) * CELLS <= width * FULL


def _straight_plans(
    conv: Conv, grid: Grid, target: Target, layouts: tuple[bool, bool], depth: int
) -> tuple[Plan, ...]:
    """As those of direct for layers of one tap; with AVX-512, tiles of whole squares of pairs."""
    vectors = _vectors(conv, grid, target)
    table = TILES[target.vector_bytes, target.registers]
    if layouts[1] and target.vector_bytes == MASKED:
        table = tuple(tile for tile in table if tile[0] % WOVEN[MASKED] == 0)
    tails = {(mr, nr): last_block(vectors, nr, 0) for mr, nr in table}
    most = {
        tile: next(m for m, n in sorted(table, reverse=True) if n >= tail)
        for tile, tail in tails.items()
    }
    return tuple(
        Plan(
            name, conv.dtype, *layouts, *tile, tails[tile], 0, depth,
            form=(*grid.form, most[tile]),
        )
        for tile in sorted(table, key=lambda tile: flat_cost(vectors, tile, most[tile]))
    )  # fmt: skip


def _is_straight(plan: Plan) -> bool:
    return len(plan.form) == STRAIGHT


def _vectors(conv: Conv, grid: Grid, target: Target) -> int:
    """Vectors of columns of a group."""
    return -(-(conv.co // conv.groups * grid.subpixels) // target.lanes(conv.dtype))


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the tiles of its cells at 92 % of what they could do, and
    what is done once for all sub-pixels (`interleave.beside`).
    """
    grid = Grid.from_form(plan)
    vectors, cells = _vectors(conv, grid, target), cells_of(conv, aligned=True)
    loop = conv.ci * grid.taps * tile_cost(vectors, plan.pixels, plan.vectors) / 0.92
    blocks = conv.groups * -(-vectors // plan.vectors)
    if _is_straight(plan):
        loop += blocks * (ROW_TRIP + ROW_CALL) / plan.pixels
        if plan.blocked and target.vector_bytes == MASKED:
            loop += conv.co * grid.subpixels * WEAVE
        return prod(axis.size for axis in conv.axes) * (
            loop + conv.ci * interleave.IN * plan.packed
        )
    loop += blocks * (grid.taps * interleave.TRIP + CALL) / plan.pixels
    count = prod(axis.out for axis in cells.axes)
    beside = interleave.beside(conv, plan, count, grid)
    if conv.groups > 1 and not plan.blocked:
        beside += conv.groups * prod(axis.out for axis in conv.axes) * SHORT
    return count * loop + beside


def _channels(conv: Conv, plan: Plan, target: Target) -> Channels:
    """Columns stand where an ordinary layer has channels."""
    grid = Grid.from_form(plan)
    cells = replace(cells_of(conv, aligned=True), co=conv.co * grid.subpixels)
    channels = Channels.of(cells, _as_blocked(plan), target, per_channel=False)
    return replace(channels, reduction=(channels.ci + grid.mixed) * grid.taps)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of cells as konv.kernels.schedule cuts them; then, what the output needs."""
    channels, tables = _channels(conv, plan, target), not _is_straight(plan)
    inner = _as_blocked(plan)
    return cell_schedule(conv, inner, target, channels, x, y, threads, aligned=True, tables=tables)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Blocks of columns as konv.kernels.subpixel.weights packs them."""
    return replace(_channels(conv, plan, target).packing, co=conv.co // conv.groups)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles, cells x vectors of columns."""
    return interleave.blocks_of(conv, plan, target, aligned=True)


def _as_blocked(plan: Plan) -> Plan:
    """Cells go through a block in scratch, whatever the output is, unless they leave straight."""
    return replace(plan, blocked=not _is_straight(plan))


def _emit_masked_tile(module: Module, plan: Plan, nr: int) -> Routine:
    """A tile whose sums take a tap only in the lanes that have it: 0 times an infinite input must
    not make a NaN of a sum that has no such product.
    """
    lanes, integer = module.target.lanes(plan.dtype), INTEGER[REAL[plan.dtype]]
    with tile_function(module, plan, nr, 0) as (f, sums, a):
        wide = nr * lanes
        with f.loop(a["count"]) as t:
            row = a["rows"] + t * (plan.pixels + 1)
            weights = a["weights"] + row[0] * (a["tap_stride"] + wide)
            bits = (weights + a["tap_stride"]).cast(integer)
            masks = [bits.vector(n * lanes, lanes).differs(0) for n in range(nr)]
            add_channels(f, plan, sums, a, row, weights, masks)
        return f.fn


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    grid, inner = Grid.from_form(plan), _as_blocked(plan)

    def tile(module: Module, vectors: int, odd: int) -> Routine:
        if grid.mixed:
            return _emit_masked_tile(module, inner, vectors)
        return emit_tile(module, inner, vectors, odd)

    weights = partial(emit_cell_weights, grid=grid)
    if _is_straight(plan) and plan.blocked:

        def pairs(module: Module, _: Plan, vectors: int, odd: int) -> Routine:  # noqa: ARG001
            return emit_pair_sweep(module, inner, vectors, grid)

        return emit_kernel(inner, target, tile, emit_weights=weights, emit_sweep=pairs)
    if _is_straight(plan):
        sweep = partial(emit_flat_sweep, steps=grid.steps)
        return emit_kernel(inner, target, tile, emit_weights=weights, emit_sweep=sweep)
    return emit_kernel(
        inner,
        target,
        tile,
        emit_weights=weights,
        emit_output=lambda module, width: emit_weave(module, plan, grid, width),
    )
