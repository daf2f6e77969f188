"""Register tiles along the rows of a packed image, or of one that lies as it would be packed: what
`direct` computes few input channels with.

Neighbouring pixels of such an image lie a fixed number of elements apart, known when the kernel is
emitted (the stride times the channels), and so do the channels and taps that a pixel reads in a row
of the kernel. So one address a tap serves a whole tile, all else stands in the instructions; there
are no tables of rows (konv.kernels.tables), which such short reductions do not repay:

    for tile of mr pixels of a row:
        for row of taps:                                   THE LOOP
            for number in taps of the row x channels:      unrolled
                load nr vectors of packed weights
                for m in mr pixels: broadcast x[m * ahead + number]; nr multiply-adds

Where a row of taps reads many numbers, or taps are dilated, each tap is a row of its own.

A last tile may reach over the end of its row, into what scratch has there; such pixels are not
stored. Sums are added up in the same order as those of konv.kernels.microtile.
"""

from __future__ import annotations

from typing import Any

from konv.kernels.direct.row_planes import emit_short, put_planes, straight
from konv.kernels.epilogue import activate, add_residual
from konv.kernels.in_place import PARTS, WORDS, extent
from konv.kernels.scratch import LINE
from konv.kernels.stored import element, write
from konv.kernels.tables import TAP
from konv.kernels.words import Piece, part_function
from konv.llvm import (
    I8,
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan

# Bytes of results in planes, in all, from which on stores of AVX-512 ask for the lines behind them:
# they would wait for memory (Granite Rapids: conv1d 1->512@16000 k10 s5, 6.5 MB, 0.40 to 0.26 ms,
# 1->512@48000 k16 s8 0.85 to 0.55, 5x5 1->64@1024 s5 1.9 to 1.0; of many taps no difference, 7x7
# 3->64@448 s2 1.0; of 3 MB 1.03 to 1.05 times as long, of 2 MB 1.1).
LARGE, WIDE = 4 * 1024 * 1024, 64

PARAMETERS = (
    "first", "length",  # pixels of the row to begin and end with
    "lines", "taps", "count",  # where the row's first pixel reads each tap; the taps
    "weights", "tap_stride", "bias",  # of this block; elements from one tap to the next
    "to", "step",  # where the row's results go, bytes from one pixel to the next
    "far",  # not 0 if results go to memory, in planes also if they are LARGE
    # What the unit behind this one packs and this one has not: rows of it, bytes from row to row,
    # planes of each and bytes from one to the next, bytes from pixel to pixel.
    "ask", "ask_rows", "ask_row", "ask_planes", "ask_plane", "ask_step",
    "apart",  # bytes from a result to its residual
    "channels", "plane",  # of this block that are there; numbers from one to the next, in planes
)  # fmt: skip


def emit_row_sweep(module: Module, plan: Plan, nr: int, odd: int) -> Routine:
    """sweep(job, unit, weights, bias, first, to, new), as konv.kernels.units calls it: one block of
    nr vectors over the rows of the unit.
    """
    row, lanes, real = emit_row(module, plan, nr, odd), module.target.lanes(plan.dtype), REAL
    size = SIZE[element(plan.dtype)]
    labels = ("weights", "bias", "first", "to", "new")
    with part_function(module, f"sweep_{row.name}", labels, plain=True) as (f, piece, args):
        weights, bias, _, to, _ = args
        job, unit = piece.job, piece.unit
        direct = straight(plan)
        if plan.blocked and not direct:
            width = plan.vectors * lanes * SIZE[real[plan.dtype]]
            begin, steps = unit["scratch"] + job["at_block"], [f.integer(width)] * 3
            steps[1] = unit["length", 2] * width
            steps[0] = unit["length", 1] * steps[1]
        else:
            steps = [job["y_stride", axis] * size for axis in range(3)]
            begin = unit["y"] + (to * job["y_channel"] if direct else to) * size
            for axis in range(3):
                begin = begin + unit["j", axis] * steps[axis]
        packed = unit["lie"] >= unit["end"]
        ask, *asked = _behind(f, piece, size, packed)
        # Asked for once, not for each block
        rows = f.select(to.equals(0) & (packed | job["far"].differs(0)), job["jump", 1], 0)
        forth = [job["jump", axis] * job["x_stride", axis] * size for axis in range(2)]
        lines, far = piece.part("at_lines", I64), job["far"]
        if direct:
            far = far | f.extend(job["co"] * job["y_channel"] * size >= LARGE, I64)
        with f.loop(unit["length", 0]) as a, f.loop(unit["length", 1]) as b:
            here = lines + (a * unit["length", 1] + b) * unit["taps"] * WORDS
            with f.loop(PARTS) as part:
                first, last, lying = extent(f, unit, part)
                with f.when(last > first):
                    f.call(
                        row,
                        [
                            first, last,
                            here + lying, piece.part("at_taps", I64), unit["taps"],
                            weights, f.integer(plan.depth * nr * lanes), bias,
                            begin + a * steps[0] + b * steps[1], steps[2], far,
                            ask + a * forth[0] + b * forth[1], rows, *asked,
                            unit["residual"] if plan.residual else f.integer(0),
                            job["co"] - to, job["y_channel"],
                        ],
                    )  # fmt: skip
        return f.fn


def _behind(f: Function, piece: Piece, size: int, packed: Value) -> list[Value]:
    """Where the rows lie that the next unit packs and this one has not, if it stands beside this
    one or begins a line of boxes; else somewhere. Of an image that is read where it lies, those of
    the next row of outputs, in planes that only this one reads: rows are short runs to a prefetcher
    (Zen 3: 2x2x2 16->32@64 in steps of two 4.5 to 3.0 ms). No address is wrong.
    """
    job, unit = piece.job, piece.unit
    stride = [job["x_stride", axis] for axis in range(3)]
    along, down = (job["box", a] * job["jump", a] * stride[a] for a in (2, 1))
    back = unit["j", 2] * job["jump", 2] * stride[2]
    beside = unit["j", 2] + job["box", 2] < job["count", 2]
    first = unit["raw", 0] * stride[0] + unit["raw", 2] * stride[2]
    behind = unit["slots", 1] - unit["length", 1] * job["jump", 1]
    next_unit = (unit["raw", 1] + behind) * stride[1] + f.select(beside, along, down - back)
    new = f.most(job["span", 0] + 1 - job["jump", 0], 0)
    next_row = (unit["raw", 1] + job["span", 1] + 1) * stride[1] + new * stride[0]
    first = first + f.select(packed, next_unit, next_row)
    last = job["x_channel"].equals(1)
    planes = f.select(last, f.select(packed, f.integer(1), job["jump", 0]), job["ci"])
    plane = f.select(last, stride[0], job["x_channel"])
    step = job["jump", 2] * stride[2] * size
    return [unit["x"] + first * size, stride[1] * size, planes, plane * size, step]


def emit_row(module: Module, plan: Plan, nr: int, odd: int) -> Routine:
    """row(*PARAMETERS): all tiles of a row."""
    real, lanes, mr = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels
    pointers = {"lines": I64, "taps": I64}
    params = [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in PARAMETERS]
    name = f"row_{mr}x{nr}" + (f"_{odd}" if odd else "")
    short = emit_short(module, plan, nr * lanes) if straight(plan) else None
    with module.function(name, params, inline=False) as (f, args):
        a: dict[str, Any] = dict(zip(PARAMETERS, args, strict=True))
        weights, bias = (a[name].to_pointer(real) for name in ("weights", "bias"))
        ahead = plan.form[0] * SIZE[real]
        with f.loop(a["length"], start=a["first"], step=mr) as tile:
            pixel = tile
            if short:  # the last overlaps the one before it rather than fall short
                pixel = f.most(f.least(tile, a["length"] - mr), a["first"])
            first = pixel * ahead
            vectors = [bias.vector(n * lanes, lanes) for n in range(nr)]
            sums = [[Variable(f, vector) for vector in vectors] for _ in range(mr)]
            _fetch_sources(f, a, pixel, mr)
            if not plan.blocked:
                with f.when(a["far"].differs(0)):
                    _fetch_places(f, a, pixel, mr, nr * lanes * SIZE[element(plan.dtype)])
            with f.loop(a["count"]) as t:
                tap = a["taps"] + t * TAP
                x = (first + a["lines"][t * WORDS]).to_pointer(real)
                _add_tap(f, plan, sums, x, weights + tap[0] * a["tap_stride"])
            if short and module.target.vector_bytes == WIDE:
                with f.choose(a["far"].differs(0)) as (large, small):
                    with large:
                        _store_planes(f, plan, sums, a, pixel, short, ask=True)
                    with small:
                        _store_planes(f, plan, sums, a, pixel, short)
            elif short:
                _store_planes(f, plan, sums, a, pixel, short)
            else:
                _store(f, plan, sums, a, pixel, odd)
        return f.fn


def _fetch_places(f: Function, a: dict[str, Any], pixel: Value, mr: int, size: int) -> None:
    """Ask for the memory that the next tile's results go to: a store would wait for it."""
    place = (a["to"] + (pixel + mr) * a["step"]).to_pointer(I8)
    for _ in range(mr):
        for byte in range(0, size, LINE):
            f.prefetch(place + byte)
        place = place + a["step"]


def _fetch_sources(f: Function, a: dict[str, Any], pixel: Value, mr: int) -> None:
    """Ask for the part of what comes next that lies below or beside this tile: units are packed row
    by row, and the first of each row would be waited for.
    """
    part = a["ask"] + pixel * a["ask_step"]
    with f.loop(a["ask_rows"]) as row, f.loop(a["ask_planes"]) as plane:
        line = part + row * a["ask_row"] + plane * a["ask_plane"]
        with f.loop(a["ask_step"] * mr, step=LINE) as byte:
            f.prefetch((line + byte).to_pointer(I8))


def _add_tap(
    f: Function, plan: Plan, sums: list[list[Variable]], x: Pointer, weights: Pointer
) -> None:
    """All numbers that a row of taps reads, one after the other: neighbouring pixels read the same
    ones, which LLVM would keep for all of them, on the stack.
    """
    nr, lanes = len(sums[0]), sums[0][0].type.count
    for number in range(plan.depth):
        if number:  # behind those of the one before
            x = f.after(x, sums[-1][-1].get())
        vectors = [weights.vector((number * nr + n) * lanes, lanes) for n in range(nr)]
        for m, row in enumerate(sums):
            value = f.splat(x[m * plan.form[0] + number], lanes)
            for total, vector in zip(row, vectors, strict=True):
                total.set(f.fma(value, vector, total.get()))


def _store(
    f: Function, plan: Plan, sums: list[list[Variable]], a: dict[str, Any], pixel: Any, odd: int
) -> None:
    """Write the tile, those of its pixels that are in the row; adding 0 turns -0 into 0."""
    real = REAL[plan.dtype]
    kind = real if plan.blocked else element(plan.dtype)
    lanes, last = sums[0][0].type.count, len(sums[0]) - 1
    begin = (a["to"] + pixel * a["step"]).to_pointer(I8)
    places = [(begin + a["step"] * m).cast(kind) for m in range(len(sums))]
    left = a["length"] - pixel
    added = plan.residual and not plan.blocked
    if added:
        for m, row in enumerate(sums):
            with f.when(left > m):
                for n, total in enumerate(row):
                    count, place = odd if n == last else 0, places[m] + n * lanes
                    value = total.get() + 0.0
                    total.set(add_residual(f, plan, value, place, a["apart"], count))
    values = [[total.get() if added else total.get() + 0.0 for total in row] for row in sums]
    if added or not plan.residual:  # else: on the way from the block to the output
        values = [[activate(f, plan, value) for value in row] for row in values]
    for m, results in enumerate(values):
        with f.when(left > m):
            for n, value in enumerate(results):
                write(f, plan.dtype, places[m] + n * lanes, value, odd if n == last else 0)


def _store_planes(
    f: Function,
    plan: Plan,
    sums: list[list[Variable]],
    a: dict[str, Any],
    pixel: Value,
    short: Routine,
    ask: bool = False,
) -> None:
    """Write the tile, all of it unless the row is shorter; adding 0 turns -0 into 0. `ask`: and ask
    for where the tiles behind it go.
    """
    mr, nr, lanes = len(sums), len(sums[0]), sums[0][0].type.count
    values = [[activate(f, plan, total.get() + 0.0) for total in row] for row in sums]
    to = (a["to"] + pixel * a["step"]).to_pointer(element(plan.dtype))
    left, channels = a["length"] - pixel, a["channels"]
    with f.choose(left >= mr) as (full, part):
        with full:
            put_planes(f, plan, values, to, a["plane"], channels, ask)
        with part:
            block, width = f.array(REAL[plan.dtype], mr * nr * lanes), nr * lanes
            for m, row in enumerate(values):
                for n, value in enumerate(row):
                    block.put(m * width + n * lanes, value)
            f.call(short, [block, to, left, f.least(channels, width), a["plane"]])
