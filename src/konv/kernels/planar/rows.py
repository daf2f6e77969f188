"""Rows of results leave the block of a planar kernel, [channel][pixel over the strip's pitch], for
the output: contiguous rows as vectors, channels-last ones in transposed squares.
"""

from __future__ import annotations

from konv.kernels.epilogue import activate, apart, finish
from konv.kernels.packing import transpose
from konv.kernels.planar.pair import in_pairs
from konv.kernels.planar.strip import PHASE, RECORDS
from konv.kernels.words import AXES, Piece, Words, part_function
from konv.llvm import REAL, SIZE, Function, Module, Pointer, Routine, Type, Value
from konv.plan import Plan


def emit_rows_out(module: Module, plan: Plan) -> Routine:
    """rows_out(job, unit, depth, channel, valid): `valid` channels from `channel` on, at a depth of
    the box.
    """
    real = REAL[plan.dtype]
    labels = ("depth", "channel", "valid")
    with part_function(module, "rows_out", labels, records=RECORDS) as (f, piece, args):
        depth, channel, valid = args
        job, unit = piece.job, piece.unit
        block, corner = piece.part("at_block", real), output_corner(f, piece, real, depth, channel)
        with f.loop(unit["length", 1]) as row:
            line = corner + row * (job["step", 1] * job["y_stride", 1])
            source = block + row * (job["pitch"] * (2 if in_pairs(plan) else 1))
            if plan.blocked:
                _contiguous(f, plan, piece, source, line, valid)
            else:
                _channels_last(f, plan, piece, source, line, valid)
        return f.fn


def output_corner(f: Function, piece: Piece, real: Type, depth: Value, channel: Value) -> Pointer:
    """Where the first result of a depth of the box goes."""
    job, unit = piece.job, piece.unit
    phase = Words(job.base + unit["phase"], PHASE)
    corner = unit.pointer("y", real) + channel * job["y_channel"]
    for axis, j in zip(AXES, (depth, f.integer(0), f.integer(0)), strict=True):
        out = (unit["j", axis] + j) * job["step", axis] + phase["first", axis]
        corner = corner + out * job["y_stride", axis]
    return corner


def _contiguous(
    f: Function, plan: Plan, piece: Piece, source: Pointer, line: Pointer, valid: Value
) -> None:
    job, width = piece.job, piece.unit["row"]
    step = f.integer(1) if in_pairs(plan) else job["step", 2]
    lanes = f.module.target.lanes(plan.dtype)
    whole = width & -lanes
    with f.loop(valid) as k:
        row, to = source + k * job["block"], line + k * job["y_channel"]
        with f.choose(step.equals(1)) as (dense, spread):
            with dense:
                with f.loop(whole, step=lanes) as i:
                    to.put(i, _finished(f, plan, piece, row.vector(i, lanes), to + i))
                with f.when(whole < width):
                    value, rest = row.vector(whole, lanes), f.between(lanes, 0, width - whole)
                    if plan.residual:
                        place = apart(to + whole, piece.unit["residual"])
                        value = activate(f, plan, value + f.load_masked(place, rest))
                    f.store_masked(to + whole, value, rest)
            with spread, f.loop(width) as i:
                to[i * step] = _finished(f, plan, piece, row[i], to + i * step)


def _finished(f: Function, plan: Plan, piece: Piece, value: Value, place: Pointer) -> Value:
    """Without a residual, tiles have activated what they put into the block."""
    return finish(f, plan, value, place, piece.unit["residual"]) if plan.residual else value


def _channels_last(
    f: Function, plan: Plan, piece: Piece, source: Pointer, line: Pointer, valid: Value
) -> None:
    job, width = piece.job, piece.unit["length", 2]
    side = 16 // SIZE[source.element]
    step, whole = job["step", 2] * job["y_stride", 2], valid & -side

    def one(k: Value, i: Value) -> None:
        to = line + (i * step + k)
        to[0] = _finished(f, plan, piece, (source + k * job["block"])[i], to)

    with f.loop(width, step=side) as i, f.choose(i + side <= width) as (square, rest):
        with square:
            with f.loop(whole, step=side) as k:
                rows = [(source + (k + n) * job["block"]).vector(i, side) for n in range(side)]
                for n, pixel in enumerate(transpose(f, rows)):
                    to = line + ((i + n) * step + k)
                    to.put(0, _finished(f, plan, piece, pixel, to))
            with f.loop(valid, start=whole) as k, f.loop(side) as m:
                one(k, i + m)
        with rest, f.loop(width - i) as m, f.loop(valid) as k:
            one(k, i + m)
