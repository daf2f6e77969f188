"""Cells of two sub-pixels a row straight into rows of a contiguous output, where every output has
one tap: the cells of a layer are then a product of two matrices.

    sums  [cell][pair of neighbouring sub-pixels]  ->  a row of pairs for each channel and sub-pixel
                                                       of the other axes

Pairs are numbers of twice the size, so tiles of neighbouring cells are turned as squares of those.
Tiles keep to a row of cells, whose last ones go number by number where they are fewer than a tile.
"""

from __future__ import annotations

from typing import Any

from konv.kernels.direct.flat_tile import add_channels, row_pixels
from konv.kernels.epilogue import finish
from konv.kernels.packing import transpose
from konv.kernels.subpixel.grid import Grid
from konv.kernels.words import part_function
from konv.llvm import F64, I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

PAIR, SQUARE = 2, 4  # numbers; the fewest cells that are turned together
PARAMETERS = (
    "x", "x_step",  # the row's first cell, channels last; elements to the next
    "weights", "bias", "channels",  # of this block; of the input
    "places",  # where the row's first pair of each pair of columns goes, in elements
    "y",  # what these are counted from
    "length",  # cells in the row
    "ask",  # what is read next
    "apart",  # bytes from a result to its residual
)  # fmt: skip


def emit_pair_sweep(module: Module, plan: Plan, nr: int, grid: Grid) -> Routine:
    """sweep(job, unit, weights, bias, first, to, new), as konv.kernels.units calls it: one block of
    nr vectors of columns over the rows of the unit.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    size, count, mr = SIZE[real], nr * lanes // PAIR, row_pixels(plan, nr)
    short = _emit_short(module, plan, nr)
    # Vectors of 16 lanes are turned by fours as well: of rows of 28, 52 or 100 cells, what remains.
    sizes = (mr, mr // 2) if lanes == PAIR * mr > PAIR * SQUARE else (mr,)
    tiles = {cells: _emit_row(module, plan, nr, cells, short) for cells in sizes}
    labels = ("weights", "bias", "first", "to", "new")
    with part_function(module, f"sweep_{tiles[mr].name}", labels, plain=True) as (f, piece, args):
        weights, bias, _, column, _ = args
        job, unit = piece.job, piece.unit
        if plan.packed:
            begin, step = unit["scratch"] + job["at_image"], job["held"]
            down = [job["apart", axis] for axis in range(2)]
        else:
            begin, step = unit["x"], job["x_stride", 2]
            down = [job["x_stride", axis] * size for axis in range(2)]
            for axis, apart in enumerate([*down, step * size]):
                begin = begin + unit["j", axis] * apart
        places, rows = f.array(I64, count), [job["y_stride", axis] for axis in range(2)]
        with f.loop(count) as pair:
            at = column // PAIR + pair
            high, at = at % grid.steps[1], at // grid.steps[1]
            deep, channel = at % grid.steps[0], at // grid.steps[0]
            places[pair] = channel * job["y_channel"] + deep * rows[0] + high * rows[1]
        y = unit["y"] + unit["j", 2] * (PAIR * size)
        behind = weights + job["ci"] * (nr * lanes * size)
        parts = _parts(f, plan, unit["length", 2], tiles)
        with f.loop(unit["length", 0]) as a, f.loop(unit["length", 1]) as b:
            line = y + (unit["j", 0] + a) * rows[0] * (grid.steps[0] * size)
            line = line + (unit["j", 1] + b) * rows[1] * (grid.steps[1] * size)
            here = begin + a * down[0] + b * down[1]
            residual = unit["residual"] if plan.residual else f.integer(0)
            for routine, first, length in parts:
                x_at, y_at = here + first * step * size, line + first * (PAIR * size)
                to = places.address(), y_at, length, behind, residual
                with f.when(length > 0):
                    f.call(routine, [x_at, step, weights, bias, job["ci"], *to])
        return f.fn


def _parts(
    f: Function, plan: Plan, length: Value, tiles: dict[int, Routine]
) -> list[tuple[Routine, Value, Value]]:
    """What computes the cells of a row, by cells of its tiles: where each begins, how many it
    takes. The last tile is the smallest that holds what remains; it overlaps the one before it
    rather than fall short, unless a residual is added, to no number twice.
    """
    most, fewest = max(tiles), min(tiles)
    few = length % most
    parts = [(tiles[most], f.integer(0), length - few)]
    for cells, routine in tiles.items():
        mine = few > fewest if cells > fewest else (few > 0) & (few <= fewest)
        back = f.integer(0) if plan.residual else f.least(cells - few, length - few)
        count = f.select(mine, few + back, 0)
        parts.append((routine, length - few - back, count))
    return parts


def _emit_row(module: Module, plan: Plan, nr: int, mr: int, short: Routine) -> Routine:
    """row(*PARAMETERS): tiles of mr cells; those missing in the last one are its last again."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with module.function(f"pairs_{mr}x{nr}", [(p, I64) for p in PARAMETERS], inline=False) as (
        f,
        args,
    ):
        a: dict[str, Any] = dict(zip(PARAMETERS, args, strict=True))
        x, weights, bias, y = (a[name].to_pointer(real) for name in ("x", "weights", "bias", "y"))
        places = a["places"].to_pointer(I64)
        steps = [f.var(a["x_step"] * m) for m in range(mr)]
        with f.loop(a["length"], step=mr) as cell:
            left = a["length"] - cell
            with f.when(left < mr):
                for m in range(1, mr):
                    steps[m].set(a["x_step"] * f.least(left - 1, m))
            begin = x + cell * a["x_step"]
            cells = [begin + step.get() for step in steps]
            vectors = [bias.vector(n * lanes, lanes) for n in range(nr)]
            sums = [[Variable(f, vector) for vector in vectors] for _ in range(mr)]
            asked = cell * a["channels"]  # of the next block: once in a row
            more = f.select(asked < a["channels"] * (nr * lanes), asked, 0)
            ask = a["ask"].to_pointer(real) + more
            add_channels(f, plan, sums, a, weights, cells, ask)
            values = [[total.get() + 0.0 for total in row] for row in sums]
            to = y + cell * PAIR
            with f.choose(left >= mr) as (full, part):
                with full:
                    for n in range(nr):
                        _put(f, plan, [row[n] for row in values], places + n * lanes // PAIR, to, a)
                with part:
                    block = f.array(real, mr * nr * lanes)
                    for m, row in enumerate(values):
                        for n, value in enumerate(row):
                            block.put((m * nr + n) * lanes, value)
                    f.call(short, [block, places, to, left, a["apart"]])
        return f.fn


def _put(
    f: Function, plan: Plan, rows: list[Value], places: Pointer, to: Pointer, a: dict[str, Any]
) -> None:
    """A vector of columns of neighbouring cells: squares of pairs, and what is left in pairs."""
    pairs = rows[0].lanes // PAIR
    side = min(pairs, len(rows))
    whole = len(rows) // side * side if side >= SQUARE else 0
    for first in range(0, whole, side):
        wide = [f.regard(row, F64, pairs) for row in rows[first : first + side]]
        for pair, column in enumerate(_turn(f, wide)):
            place = to + places[pair] + first * PAIR
            value = f.regard(column, to.element, side * PAIR)
            place.put(0, finish(f, plan, value, place, a["apart"]))
    for m in range(whole, len(rows)):
        for pair in range(pairs):
            place = to + places[pair] + m * PAIR
            value = f.shuffle(rows[m], rows[m], [PAIR * pair + sub for sub in range(PAIR)])
            place.put(0, finish(f, plan, value, place, a["apart"]))


def _turn(f: Function, rows: list[Value]) -> list[Value]:
    """The columns of a square, or of half of one: each is half a vector then."""
    side, lanes = len(rows), rows[0].lanes
    if side == lanes:
        return transpose(f, rows)
    halves = [
        transpose(f, [f.shuffle(row, row, range(at, at + side)) for row in rows])
        for at in range(0, lanes, side)
    ]
    return [column for half in halves for column in half]


def _emit_short(module: Module, plan: Plan, nr: int) -> Routine:
    """short(block, places, to, cells, apart): some cells of a tile, number by number."""
    real, width = REAL[plan.dtype], nr * module.target.lanes(plan.dtype)
    params = [(name, I64) for name in ("block", "places", "to", "cells", "apart")]
    with module.function(f"short_{nr}", params, inline=False, plain=True) as (f, args):
        block, places, to = args[0].to_pointer(real), args[1].to_pointer(I64), args[2]
        with f.loop(width // PAIR) as pair, f.loop(args[3]) as cell:
            line = to.to_pointer(real) + places[pair] + cell * PAIR
            for sub in range(PAIR):
                place = line + sub
                value = block[cell * width + pair * PAIR + sub]
                place[0] = finish(f, plan, value, place, args[4])
        return f.fn
