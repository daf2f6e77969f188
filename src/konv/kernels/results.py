"""A block of results out of the channels-last form that tiles work on, into contiguous memory:

    block   [pixel][channel] in scratch      ->  [channel][d][h][w] of the output

Transposing goes through registers in squares, as in konv.kernels.packing.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.epilogue import activate_all, add_residual, finish
from konv.kernels.packing import transpose
from konv.kernels.stored import element, write
from konv.kernels.tables import split
from konv.kernels.words import AXES, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan

AHEAD = 128  # bytes that planes are asked for in advance: 1x1 64->256@129 5.7 to 5.0 ms, Zen 3

Squares = dict[int, Routine]


def _in_squares(
    f: Function, channels: Value, small: int, side: int, square: Callable[[Value, int, int], None]
) -> Value:
    """Call square(channel, pixel, side) until fewer channels are left than a small square has; how
    many were done.
    """
    whole, rest = channels & -side, channels & -small
    with f.loop(whole, step=side) as c:
        square(c, 0, side)
    if side > small:
        with f.loop(rest, start=whole, step=small) as c:
            for first in range(0, side, small):
                square(c, first, small)
    return rest


def emit_output(module: Module, plan: Plan, width: int) -> Routine:
    """output(job, unit, channel, valid): a block of `width` channels a pixel goes from scratch to
    `valid` channels of the contiguous output, from `channel` on; a residual is added on the way.
    """
    real = REAL[plan.dtype]
    squares = emit_output_squares(module, plan, width)
    labels = ("channel", "valid")
    with part_function(module, "output", labels, cold=True) as (f, piece, (channel, valid)):
        job, unit = piece.job, piece.unit
        block, plane, step = piece.part("at_block", real), job["y_channel"], job["step", 2]
        first = [unit["j", a] * job["step", a] + unit["first", a] for a in AXES]
        corner = unit.pointer("y", element(plan.dtype)) + (channel * plane + first[2])
        dense = step.equals(1)
        full = dense & unit["length", 2].equals(job["y_stride", 1]) & job["step", 1].equals(1)
        run = f.select(full, unit["length", 1] * unit["length", 2], unit["length", 2])
        residual = [unit["residual"]] if plan.residual else []
        with f.loop(unit["pixels"], step=run) as pixel:
            j = split(pixel, unit)
            source, line = block + pixel * width, corner
            for a in (0, 1):
                line = line + (j[a] * job["step", a] + first[a]) * job["y_stride", a]
            put_row(f, plan, squares, width, source, line, (run, valid, plane, step), residual)
        return f.fn


def emit_output_squares(module: Module, plan: Plan, width: int) -> Squares:
    """What `put_row` calls, by the pixels of a square; of one, what fills no other."""
    sides = sorted({16 // SIZE[REAL[plan.dtype]], module.target.lanes(plan.dtype)}, reverse=True)
    squares = {side: _emit_output_square(module, plan, width, side) for side in sides}
    return squares | {1: _emit_output_rest(module, plan, width)}


def put_row(
    f: Function,
    plan: Plan,
    squares: Squares,
    width: int,
    source: Pointer,
    line: Pointer,
    sizes: tuple[Value, Value, Value, Value],
    residual: list[Value],
) -> None:
    """A row of pixels in scratch, `width` channels each, goes into planes of the output. `sizes`:
    pixels, channels of them that are valid, from plane to plane, from pixel to pixel.
    """
    run, valid, plane, step = sizes
    dense, squared = step.equals(1), f.integer(0)
    for side, square in squares.items():
        if side == 1:
            with f.when(squared < run):
                f.call(square, [source, line, squared, *sizes, *residual])
            return
        end = f.select(dense & (run >= side), run, squared)
        if plan.residual:  # no place is finished twice, so the last square does not overlap
            end = f.select(end.equals(run), run & -side, squared)
        with f.loop(end, start=squared, step=side) as i:
            # The last overlaps the one before it rather than fall short.
            at = f.least(i, end - side)
            f.call(square, [source + at * width, line + at, plane, valid, *residual])
        squared = end


def _put(f: Function, plan: Plan, value: Value, place: Pointer, apart: Value | None = None) -> None:
    """One number; without a residual, tiles have activated what they put into the block."""
    value = finish(f, plan, value, place, apart) if plan.residual else value
    write(f, plan.dtype, place, value)


def _emit_output_rest(module: Module, plan: Plan, width: int) -> Routine:
    """rest(source, line, first, run, valid, plane, step): pixels of a row one by one."""
    names = ("first", "run", "valid", "plane", "step", *(("residual",) if plan.residual else ()))
    ends = [("source", pointer_to(REAL[plan.dtype])), ("line", pointer_to(element(plan.dtype)))]
    params = [*ends, *((name, I64) for name in names)]
    with module.function("rest", params, inline=False, plain=True) as (f, args):
        source, line, first, run, valid, plane, step, *residual = args
        # Pixels innermost: they share cache lines and pages.
        with f.loop(valid) as c:
            channel_line = line + c * plane
            with f.loop(run, start=first) as i:
                _put(f, plan, source[i * width + c], channel_line + i * step, *residual)
        return f.fn


def _emit_output_square(module: Module, plan: Plan, width: int, side: int) -> Routine:
    """square(source, line, plane, valid): `side` neighbouring pixels, `valid` channels. A function
    of its own: inlined where it is used it takes LLVM 50 ms to compile, so 4.
    """
    real = REAL[plan.dtype]
    names = ("plane", "valid", "residual") if plan.residual else ("plane", "valid")
    ends = [("source", pointer_to(real)), ("line", pointer_to(element(plan.dtype)))]
    params = [*ends, *((name, I64) for name in names)]
    with module.function(f"square_{side}", params, inline=False, plain=not plan.residual) as (
        f,
        args,
    ):
        source, line, plane, valid, *residual = args

        def square(c: Value, first: int, side: int) -> None:
            rows = [source.vector(c + (first + i) * width, side) for i in range(side)]
            columns, place, places = transpose(f, rows), line + (c * plane + first), []
            for _ in columns:
                places.append(place)
                place = place + plane
            if plan.residual:
                added = zip(columns, places, strict=True)
                columns = [add_residual(f, plan, value, to, *residual) for value, to in added]
                columns = activate_all(f, plan, columns)
            for to, column in zip(places, columns, strict=True):
                write(f, plan.dtype, to, column)
                f.prefetch(to + AHEAD // SIZE[element(plan.dtype)])

        done = _in_squares(f, valid, 16 // SIZE[real], side, square)
        with f.loop(valid, start=done) as c:
            for i in range(side):
                _put(f, plan, source[c + i * width], line + (c * plane + i), *residual)
        return f.fn
