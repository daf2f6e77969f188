"""Rows of an image in and out of kernels that have a vector of channels in the lanes.

    row_in      a row of the input, padded   ->  [pixel][lane]     pixels of a vector each
    block_out   [z][row][pixel][lane]        ->  the contiguous output of the vector's channels

A contiguous image is transposed in registers, in squares of as many pixels as a vector has lanes,
then of 4 pixels by 4 channels (or 2 by 2 of float64).
"""

from __future__ import annotations

from konv.kernels.epilogue import finish
from konv.kernels.packing import PART, transpose
from konv.kernels.strips.fill import emit_fold
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.words import Words
from konv.llvm import I8, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_row_in(module: Module, plan: Plan) -> Routine:
    """row_in(job, unit, line, x, z, r, width): `width` pixels of row r and plane z under the unit,
    counted from its first source, to `line`.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    fold = emit_fold(module)
    names = ("line", "x", "z", "r", "width")
    with strip_function(module, "row_in", names) as (f, job, unit, args):
        line, x, (z, r, width) = args[0].to_pointer(real), args[1].to_pointer(real), args[2:]
        zero, raw, size = f.zero(real, lanes), unit["raw", 2], job["size", 2]
        deep = f.call(fold, [unit["raw", 0] + z, job["size", 0], job["mode"]])
        high = f.call(fold, [unit["raw", 1] + r, job["size", 1], job["mode"]])
        left = f.least(f.most(0 - raw, f.integer(0)), width)
        end = f.least(f.most(size - raw, f.integer(0)), width)
        with f.choose((deep | high) < 0) as (padding, inside):
            with padding, f.loop(width) as i:
                line.put(i * lanes, zero)
            with inside:
                source = x + deep * job["x_stride", 0] + high * job["x_stride", 1]
                _run_in(f, job, plan, line, source + raw * job["x_stride", 2], left, end)
                zeros = job["mode"].equals(0)
                for first, stop in ((f.integer(0), left), (end, width)):
                    with f.loop(f.select(zeros, stop, 0), start=first) as i:
                        line.put(i * lanes, zero)
                    with f.loop(f.select(zeros, f.integer(0), stop), start=first) as i:
                        column = f.call(fold, [raw + i, size, job["mode"]])
                        with f.choose(column < 0) as (none, one):
                            with none:
                                line.put(i * lanes, zero)
                            with one:
                                there = source + column * job["x_stride", 2]
                                _pixel_in(f, job, plan, line + i * lanes, there)
        return f.fn


def _sides(lanes: int, size: int) -> list[int]:
    """Pixels and channels of the squares that are transposed: of vectors, then of 16 bytes."""
    return sorted({lanes, PART // size}, reverse=True)


def _run_in(
    f: Function, job: Words, plan: Plan, line: Pointer, source: Pointer, left: Value, end: Value
) -> None:
    """Pixels `left` to `end` of a row, which lie in the image; pixel 0 would be at `source`."""
    lanes = f.module.target.lanes(plan.dtype)
    at = f.var(left)
    for side in _sides(lanes, SIZE[line.element]) if plan.packed else ():
        dense = job["x_stride", 2].equals(1)
        whole = f.select(dense, end - (side - 1), f.integer(0))
        with f.loop(whole, start=at.get(), step=side) as i:
            with f.loop(lanes, step=side) as lane:
                to, begin = line + (i * lanes + lane), source + i
                rows = [begin.vector((lane + n) * job["x_channel"], side) for n in range(side)]
                for n, column in enumerate(transpose(f, rows)):
                    to.put(n * lanes, column)
            at.set(i + side)
    with f.loop(end, start=at.get()) as i:
        _pixel_in(f, job, plan, line + i * lanes, source + i * job["x_stride", 2])


def _pixel_in(f: Function, job: Words, plan: Plan, to: Pointer, at: Pointer) -> None:
    """One pixel, a vector of channels."""
    lanes = f.module.target.lanes(plan.dtype)
    if not plan.packed:
        to.put(0, at.vector(0, lanes))
        return
    with f.loop(lanes) as lane:
        to[lane] = at[lane * job["x_channel"]]


def emit_pixels_fill(module: Module, plan: Plan) -> Routine:
    """fill(job, unit, x): the strip of one vector of channels, pixels of pencils."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    row_in = emit_row_in(module, plan)
    with strip_function(module, "fill", ("x",)) as (f, job, unit, (x,)):
        width = unit["slots", 2]
        with f.loop(unit["slots", 0]) as z, f.loop(unit["slots", 1]) as r:
            line = strip_of(job, unit, real) + (z * unit["slots", 1] + r) * width * lanes
            f.call(row_in, [job.base, unit.base, line, x, z, r, width])
        return f.fn


def emit_block_out(module: Module, plan: Plan) -> Routine:
    """block_out(job, unit, y, planes, rows, pitch): a block of rows, `pitch` pixels apart, to the
    output from y on; what is beside the unit's pixels is left.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    names = ("y", "planes", "rows", "pitch")
    with strip_function(module, "block_out", names) as (f, job, unit, args):
        y, (planes, rows, pitch) = args[0].to_pointer(real), args[1:]
        block = (unit.pointer("scratch", I8) + job["at_block"]).cast(real)
        width = unit["length", 2]
        with f.loop(planes) as z, f.loop(rows) as n:
            line = y + z * job["y_stride", 0] + n * job["y_stride", 1]
            source = block + (z * rows + n) * pitch * lanes
            done = f.integer(0)
            for side in _sides(lanes, SIZE[real]):
                whole = width & -side
                with f.loop(whole, start=done, step=side) as i, f.loop(lanes, step=side) as lane:
                    pixels = [source.vector((i + p) * lanes + lane, side) for p in range(side)]
                    for p, column in enumerate(transpose(f, pixels)):
                        to = line + ((lane + p) * job["y_channel"] + i)
                        to.put(0, _finished(f, plan, unit, column, to))
                done = whole
            with f.loop(width, start=done) as i, f.loop(lanes) as lane:
                to = line + (lane * job["y_channel"] + i)
                to[0] = _finished(f, plan, unit, source[i * lanes + lane], to)
        return f.fn


def _finished(f: Function, plan: Plan, unit: Words, value: Value, place: Pointer) -> Value:
    """Without a residual, what is in the block has been activated."""
    return finish(f, plan, value, place, unit["residual"]) if plan.residual else value
