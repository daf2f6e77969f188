"""Rows of an image in and out of kernels that have a vector of channels in the lanes.

    row_in      a row of the input, padded   ->  [pixel][lane]     pixels of a vector each
    block_out   [z][row][pixel][lane]        ->  the contiguous output of the vector's channels

A contiguous image is transposed in registers, in squares of as many pixels as a vector has lanes.
What is left of a row is a square of which some pixels are not there, where lanes can be masked; on
the way out with AVX2, whose stores under a mask are slow, squares of 16 bytes a side.
"""

from __future__ import annotations

from konv.kernels.epilogue import activate, apart, finish
from konv.kernels.packing import PART, transpose
from konv.kernels.strips.fill import emit_fold
from konv.kernels.strips.form import FEW, Form
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.words import Words
from konv.llvm import I8, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

# Bytes of vectors from which on machines mask loads, and of those whose stores are as quick so.
MASKS, WIDE = 32, 64


def emit_row_in(module: Module, plan: Plan, guarded: bool = False, few: int = 0) -> Routine:
    """row_in(job, unit, line, x, z, r, width): `width` pixels of row r and plane z under the unit,
    counted from its first source, to `line`. `guarded`: nobody reads padding that may be skipped.
    `few`: channels, where there are less than lanes; others are zeros then.
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
        blank, begin, stop = width, f.integer(0), width  # what else is written of rows
        if guarded:
            skips = unit["skip"].differs(0)
            blank, begin = f.select(skips, begin, width), f.select(skips, left, begin)
            stop = f.select(skips, end, width)
        with f.choose((deep | high) < 0) as (padding, inside):
            with padding, f.loop(blank) as i:
                line.put(i * lanes, zero)
            with inside:
                source = x + deep * job["x_stride", 0] + high * job["x_stride", 1]
                run = source + raw * job["x_stride", 2]
                _run_in(f, job, plan, line, run, (left, end), few)
                zeros = job["mode"].equals(0)
                for first, last in ((begin, left), (end, stop)):
                    with f.loop(f.select(zeros, last, 0), start=first) as i:
                        line.put(i * lanes, zero)
                    with f.loop(f.select(zeros, f.integer(0), last), start=first) as i:
                        column = f.call(fold, [raw + i, size, job["mode"]])
                        with f.choose(column < 0) as (none, one):
                            with none:
                                line.put(i * lanes, zero)
                            with one:
                                there = source + column * job["x_stride", 2]
                                _pixel_in(f, job, plan, line + i * lanes, there, few)
        return f.fn


def _run_in(
    f: Function,
    job: Words,
    plan: Plan,
    line: Pointer,
    source: Pointer,
    ends: tuple[Value, Value],
    few: int,
) -> None:
    """Pixels of a row from one to another, which lie in the image; pixel 0 would be at `source`."""
    (left, end), lanes = ends, f.module.target.lanes(plan.dtype)
    at, none = f.var(left), [f.zero(line.element, lanes)] * (lanes - few if few else 0)
    channels = few or lanes
    dense = job["x_stride", 2].equals(1)
    if plan.packed:
        with f.loop(f.select(dense, end - (lanes - 1), 0), start=left, step=lanes) as i:
            rows = [(source + i).vector(n * job["x_channel"], lanes) for n in range(channels)]
            for n, column in enumerate(transpose(f, rows + none)):
                line.put((i + n) * lanes, column)
            at.set(i + lanes)
    if plan.packed and f.module.target.vector_bytes >= MASKS:
        some = end - at.get()
        with f.when(dense & (some > 0)):
            mask, begin, to = f.below(some, lanes), source + at.get(), line + at.get() * lanes
            rows = [f.load_masked(begin + job["x_channel"] * n, mask) for n in range(channels)]
            for n, column in enumerate(transpose(f, rows + none)):
                with f.when(some > n):
                    to.put(n * lanes, column)
            at.set(end)
    with f.loop(end, start=at.get()) as i:
        _pixel_in(f, job, plan, line + i * lanes, source + i * job["x_stride", 2], few)


def _pixel_in(f: Function, job: Words, plan: Plan, to: Pointer, at: Pointer, few: int) -> None:
    """One pixel, a vector of channels."""
    lanes = f.module.target.lanes(plan.dtype)
    if not plan.packed:
        to.put(0, f.load_first(at, 0, lanes, few) if few else at.vector(0, lanes))
        return
    if few:
        to.put(0, f.zero(to.element, lanes))
    with f.loop(few or lanes) as lane:
        to[lane] = at[lane * job["x_channel"]]


def emit_pixels_fill(module: Module, plan: Plan) -> Routine:
    """fill(job, unit, x): the strip of one vector of channels, pixels of pencils."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    row_in = emit_row_in(module, plan, guarded=form.direct or form.kernel[2] > FEW)
    with strip_function(module, "fill", ("x",)) as (f, job, unit, (x,)):
        width = unit["slots", 2]
        with f.loop(unit["slots", 0]) as z, f.loop(unit["slots", 1]) as r:
            line = strip_of(job, unit, real) + (z * unit["slots", 1] + r) * width * lanes
            f.call(row_in, [job.base, unit.base, line, x, z, r, width])
        return f.fn


def _sides(lanes: int, size: int) -> list[int]:
    """Pixels and channels of the squares on the way out: of vectors, then of 16 bytes where stores
    under a mask are slow.
    """
    return sorted({lanes, PART // size}, reverse=True)


def emit_block_out(module: Module, plan: Plan) -> Routine:
    """block_out(job, unit, y, planes, rows, pitch): a block of rows, `pitch` pixels apart, to the
    output from y on; what is beside the unit's pixels is left.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    names = ("y", "planes", "rows", "pitch")
    with strip_function(module, "block_out", names) as (f, job, unit, args):
        y, (planes, rows, pitch) = args[0].to_pointer(real), args[1:]
        block = (unit.pointer("scratch", I8) + job["at_block"]).cast(real)
        width, wide = unit["length", 2], module.target.vector_bytes == WIDE
        with f.loop(planes) as z, f.loop(rows) as n:
            line = y + z * job["y_stride", 0] + n * job["y_stride", 1]
            source = block + (z * rows + n) * pitch * lanes
            done = f.integer(0)
            for side in _sides(lanes, SIZE[real])[: 1 if wide else 2]:
                whole = width & -side
                with f.loop(whole, start=done, step=side) as i, f.loop(lanes, step=side) as lane:
                    pixels = [source.vector((i + p) * lanes + lane, side) for p in range(side)]
                    for p, column in enumerate(transpose(f, pixels)):
                        to = line + ((lane + p) * job["y_channel"] + i)
                        to.put(0, _finished(f, plan, unit, column, to))
                done = whole
            if wide:
                _part_out(f, job, unit, plan, source, line, done)
            else:
                with f.loop(width, start=done) as i, f.loop(lanes) as lane:
                    to = line + (lane * job["y_channel"] + i)
                    to[0] = _finished(f, plan, unit, source[i * lanes + lane], to)
        return f.fn


def _part_out(
    f: Function, job: Words, unit: Words, plan: Plan, source: Pointer, line: Pointer, done: Value
) -> None:
    """The pixels of a row from `done` on, less than a vector."""
    lanes = f.module.target.lanes(plan.dtype)
    some = unit["length", 2] - done
    with f.when(some > 0):
        mask = f.below(some, lanes)
        pixels = [source.vector((done + f.least(some - 1, n)) * lanes, lanes) for n in range(lanes)]
        for n, column in enumerate(transpose(f, pixels)):
            to, value = line + (job["y_channel"] * n + done), column
            if plan.residual:
                value = activate(f, plan, value + f.load_masked(apart(to, unit["residual"]), mask))
            f.store_masked(to, value, mask)


def _finished(f: Function, plan: Plan, unit: Words, value: Value, place: Pointer) -> Value:
    """Without a residual, what is in the block has been activated."""
    return finish(f, plan, value, place, unit["residual"]) if plan.residual else value
