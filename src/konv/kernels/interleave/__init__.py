"""Transposed convolution with enough channels to fill lanes: all sub-pixels of a cell from one
packed image and one table.

    for unit of cells (konv.kernels.subpixel.grid): image and tables, once for all phases
        for block of channels, sub-pixel of the outer axes:
            for sub-pixel of the last axis: one sweep over the unit's tiles, with its own taps
            rows of the output: the sweeps lie interleaved in scratch, so a row of cells is a row

Lanes are output channels, as in konv.kernels.direct, and every sub-pixel has exactly its taps: a
cell's table has all sources of the cell, and a block of weights begins with a list that says where
those of each source lie, or that it has none. Every output is the same chain of multiply-adds as in
konv.kernels.direct.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from konv.geometry import Conv
from konv.kernels.channels import Channels
from konv.kernels.direct.tiles import CALL, TILES
from konv.kernels.interleave.rows import emit_rows_out
from konv.kernels.interleave.weights import emit_sweep_weights, listed
from konv.kernels.microtile import UNROLL, add_channels, tile_function
from konv.kernels.stored import HALVES
from konv.kernels.subpixel.grid import Grid, cell_schedule, cells_of
from konv.kernels.units import emit_kernel
from konv.kernels.words import JOB
from konv.llvm import I64, Module, Routine
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import COMPUTED, Target

name = "interleave"
exact = True
once = True
words = JOB

# Sub-pixels: more of them on the last axis make scratch memory larger than the second-level cache,
# and more in all leave little to do for each.
MOST, SIDE_BY_SIDE = 64, 8
TRIP = 12  # cycles to begin with the next tap, as for konv.kernels.direct
ADDRESS, IN, OUT = 2.0, 0.5, 0.5  # cycles of an address in a table, of a number packed, put out


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Only where zeros are inserted, in steps that no other step divides."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if all(axis.up == 1 for axis in conv.axes):
        return "takes transposed layers with a stride; here no zeros are inserted"
    for axis in conv.axes:
        if axis.up > 1 and (axis.stride > 1 or axis.dilation > 1):
            return f"takes no dilation or second stride beside the stride of {axis.up}"
    steps = Grid.of(conv, False, False).steps
    if prod(steps) > MOST or steps[2] > SIDE_BY_SIDE:
        return (
            f"takes up to {MOST} sub-pixels between inputs, {SIDE_BY_SIDE} on the last axis; "
            f"here {prod(steps)} and {steps[2]}"
        )
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each register tile, cheapest first by `tile_cycles`."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    vectors, form = -(-co // target.lanes(conv.dtype)), Grid.of(conv, False, False).form
    depth = ci if ci < UNROLL else 0
    table = TILES[target.vector_bytes, target.registers]
    tiles = sorted(table, key=lambda tile: (tile_cycles(vectors, *tile), max(tile[1], vectors)))
    return tuple(
        Plan(name, conv.dtype, packed, blocked, mr, nr, depth=depth, form=form) for mr, nr in tiles
    )


def tile_cycles(vectors: int, mr: int, nr: int) -> float:
    """Cycles per cell, channel and tap of a sub-pixel, two loads and two multiply-adds a cycle; all
    blocks are of nr vectors.
    """
    return -(-vectors // nr) * max(mr * nr / 2, (mr + nr) / 2, 4) / mr


def cycles(conv: Conv, target: Target) -> float:
    """Of the multiply-adds of one cell, the best tile."""
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    taps = prod(axis.kernel for axis in conv.axes)
    tiles = TILES[target.vector_bytes, target.registers]
    return conv.ci * taps * min(tile_cycles(vectors, *tile) for tile in tiles)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the tiles of its cells at 92 % of what they could do, and
    what is done once for all sub-pixels.
    """
    grid, cells = Grid.from_form(plan), cells_of(conv, aligned=False)
    vectors = -(-conv.co // conv.groups // target.lanes(plan.dtype))
    taps = prod(axis.kernel for axis in conv.axes)
    loop = conv.ci * taps * tile_cycles(vectors, plan.pixels, plan.vectors) / 0.92
    blocks = conv.groups * -(-vectors // plan.vectors)
    loop += blocks * (taps * TRIP + grid.subpixels * CALL) / plan.pixels
    count = prod(axis.out for axis in cells.axes)
    return count * loop + beside(conv, plan, count, grid)


def beside(conv: Conv, plan: Plan, cells: int, grid: Grid) -> float:
    """Cycles for the table of the cells, for packing the input and for putting out the output."""
    numbers = conv.co * prod(axis.out for axis in conv.axes)
    packed = conv.ci * prod(axis.size for axis in conv.axes) * plan.packed
    return cells * grid.taps * ADDRESS + packed * IN + numbers * OUT


def _channels(conv: Conv, plan: Plan, target: Target) -> Channels:
    """Blocks as the engine sees them: the sweeps of a row of sub-pixels are one."""
    grid, lanes = Grid.from_form(plan), target.lanes(plan.dtype)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    wide = plan.vectors * lanes
    blocks = grid.steps[0] * grid.steps[1] * -(-co // wide)
    columns = blocks * grid.steps[2] * wide
    reduction = grid.full * ci + listed(grid, lanes * COMPUTED[plan.dtype])
    return Channels(
        conv.groups, ci, columns, blocks, 0, columns, reduction, True, plan.dtype
    )  # fmt: skip


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of cells as konv.kernels.schedule cuts them; then, what the output needs."""
    grid = Grid.from_form(plan)
    inner = replace(plan, blocked=True, vectors=plan.vectors * grid.steps[2])
    channels = _channels(conv, plan, target)
    return cell_schedule(conv, inner, target, channels, x, y, threads, aligned=False)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Sweeps of sub-pixels as konv.kernels.interleave.weights packs them."""
    how = _channels(conv, plan, target).packing
    return replace(how, co=conv.co // conv.groups)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles, cells x vectors of channels."""
    return blocks_of(conv, plan, target, aligned=False)


def blocks_of(conv: Conv, plan: Plan, target: Target, aligned: bool) -> Blocks:
    """Of cells; channels that stand in a tile side by side, for each sub-pixel if `aligned`."""
    cells, grid = cells_of(conv, aligned), Grid.from_form(plan)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    width = plan.vectors * target.lanes(plan.dtype)
    if aligned:
        width = max(1, width // grid.subpixels)
    return Blocks(
        pixels=(prod(axis.out for axis in cells.axes), plan.pixels),
        co=(co, width),
        ci=(ci, UNROLL),
        groups=(conv.groups, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    grid, inner = Grid.from_form(plan), replace(plan, blocked=True)

    def tile(module: Module, vectors: int, odd: int) -> Routine:
        with tile_function(module, inner, vectors, odd) as (f, sums, a):
            at = a["weights"].cast(I64)
            with f.loop(a["count"]) as t:
                row = a["rows"] + t * (plan.pixels + 1)
                begin = at[row[0]]
                with f.when(begin >= 0):
                    add_channels(f, inner, sums, a, row, a["weights"] + begin)
            return f.fn

    return emit_kernel(
        inner,
        target,
        tile,
        emit_weights=partial(emit_sweep_weights, grid=grid),
        emit_output=lambda module, width: emit_rows_out(module, plan, grid, width),
        sweeps=grid.steps[2],
    )
