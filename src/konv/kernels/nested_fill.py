"""Rows of an image in and out of konv.kernels.nested, which has channels in the lanes."""

from __future__ import annotations

from konv.kernels.packing import transpose
from konv.kernels.strip_fill import emit_fold
from konv.kernels.strip_form import strip_function
from konv.kernels.words import Words
from konv.llvm import I8, REAL, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

SIDE = 4  # pixels by channels of a square that is transposed in registers


def emit_rows_in(module: Module, plan: Plan) -> Routine:
    """rows_in(job, unit, x, r, width): row r under the unit's tiles, padded, to its place in the
    ring.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    fold = emit_fold(module)
    names = ("x", "r", "width")
    with strip_function(module, "rows_in", names) as (f, job, unit, (address, r, width)):
        ring = (unit.pointer("scratch", I8) + job["at_strip"]).cast(real)
        line = ring + (r & 7) * width * lanes
        zero, raw, size = f.zero(real, lanes), unit["raw", 2], job["size", 2]
        high = f.call(fold, [unit["raw", 1] + r, job["size", 1], job["mode"]])
        left = f.least(f.most(0 - raw, f.integer(0)), width)
        end = f.least(f.most(size - raw, f.integer(0)), width)
        with f.choose(high < 0) as (padding, inside):
            with padding, f.loop(width) as i:
                line.put(i * lanes, zero)
            with inside:
                source = address.to_pointer(real) + high * job["x_stride", 1]
                at = f.var(left)
                if plan.packed:
                    dense = job["x_stride", 2].equals(1)
                    whole = f.select(dense, end - (SIDE - 1), f.integer(0))
                    with f.loop(whole, start=left, step=SIDE) as i:
                        _square_in(f, job, line + i * lanes, source + (raw + i), lanes)
                        at.set(i + SIDE)
                with f.loop(end, start=at.get()) as i:
                    _pixel(f, job, plan, line, i, source + (raw + i) * job["x_stride", 2], lanes)
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
                                _pixel(f, job, plan, line, i, there, lanes)
        return f.fn


def _pixel(
    f: Function, job: Words, plan: Plan, line: Pointer, i: Value, at: Pointer, lanes: int
) -> None:
    """One pixel, a vector of channels."""
    if not plan.packed:
        line.put(i * lanes, at.vector(0, lanes))
        return
    with f.loop(lanes) as lane:
        line[i * lanes + lane] = at[lane * job["x_channel"]]


def _square_in(f: Function, job: Words, to: Pointer, source: Pointer, lanes: int) -> None:
    """SIDE neighbouring pixels of a contiguous image, a vector of channels."""
    with f.loop(lanes, step=SIDE) as lane:
        rows = [source.vector((lane + n) * job["x_channel"], SIDE) for n in range(SIDE)]
        for n, column in enumerate(transpose(f, rows)):
            to.put(lane + n * lanes, column)


def emit_rows_out(module: Module, plan: Plan) -> Routine:
    """rows_out(job, unit, o, y): the block of a row of tiles, to the contiguous output."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with strip_function(module, "rows_out", ("o", "y")) as (f, job, unit, (o, address)):
        block = (unit.pointer("scratch", I8) + job["at_block"]).cast(real)
        width, pitch = unit["length", 2], (unit["length", 2] + 3) // 4 * (4 * lanes)
        whole = width & -SIDE
        rows = f.least(unit["length", 1] - o * 4, f.integer(4))
        with f.loop(rows) as n:
            line, source = address.to_pointer(real) + (o * 4 + n) * job["y_stride", 1], block
            source = source + n * pitch
            with f.loop(whole, step=SIDE) as i, f.loop(lanes, step=SIDE) as lane:
                pixels = [source.vector((i + p) * lanes + lane, SIDE) for p in range(SIDE)]
                for p, column in enumerate(transpose(f, pixels)):
                    line.put((lane + p) * job["y_channel"] + i, column)
            with f.loop(width, start=whole) as i, f.loop(lanes) as lane:
                line[lane * job["y_channel"] + i] = source[i * lanes + lane]
        return f.fn
