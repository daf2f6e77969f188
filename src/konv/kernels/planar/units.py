"""A unit of work of the planar kernel: a box of pixels and some groups.

for unit in units, taken by threads one after the other:
    strip of the unit's input                             konv.kernels.planar.strip
    for phase of the outputs, group, block of nc output channels, depth:
        for tile of vectors of pixels                     konv.kernels.planar.tile
        rows of results leave                             konv.kernels.planar.rows
"""

from __future__ import annotations

from functools import partial

from konv.kernels.pack import HEADER
from konv.kernels.planar.pair import Pair, in_pairs
from konv.kernels.planar.rows import emit_rows_out, output_corner
from konv.kernels.planar.strip import JOB, PHASE, RECORDS, UNIT, emit_strip
from konv.kernels.planar.tile import at_once, by_rows, emit_tiles, emit_weights
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.tables import emit_slots
from konv.kernels.words import AXES, Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[str, Routine]

# Tiles take a row at a time where that makes at most one vector in so many more than running on
# from row to row.
FULL = 8


def emit_kernel(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, plan.algorithm)
    nc, tail, *_ = plan.form
    pair = Pair.from_form(plan)
    emit_weights(module, plan.dtype, nc)
    parts = {
        "slots": emit_slots(module),
        "strip": emit_strip(module, plan),
        "rows": emit_rows_out(module, plan),
        "full": emit_tiles(module, plan, nc, pair),
    }
    if tail:
        parts["last"] = emit_tiles(module, plan, tail, pair)
    parts["block"] = _emit_block(module, plan, parts)
    parts["groups"] = _emit_groups(module, plan, parts)
    parts["phases"] = _emit_phases(module, parts, pair is not None)
    emit_entry(module, partial(_emit_work, plan, parts), plan.residual)
    return module


def _emit_work(plan: Plan, parts: Parts, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of."""
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    piece = Piece(job, unit)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["weights"] = call["weights"] + HEADER

    def body(number: Value) -> None:
        chunk, rest = number % job["chunks"], number // job["chunks"]
        unit["group"] = chunk * job["chunk"]
        unit["groups"] = f.least(job["chunk"], job["groups"] - unit["group"])
        for axis in reversed(AXES):
            unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
            rest = rest // job["boxes", axis]
            unit["raw", axis] = unit["j", axis] * job["jump", axis] + job["least", axis]
            left = job["count", axis] - unit["j", axis]
            unit["width", axis] = f.least(job["box", axis], left)
            arguments = [
                piece.part(("at_slots", axis), I64), job.base + job["at_raws", axis],
                unit["raw", axis], job["kept", axis] * job["length", axis],
                job["size", axis], job["x_stride", axis], job["mode"],
            ]  # fmt: skip
            f.call(parts["slots"], arguments)
        size = SIZE[REAL[plan.dtype]]
        unit["x"] = call["x"] + rest * job["x_batch"] * size
        unit["y"] = call["y"] + rest * job["y_batch"] * size
        unit["residual"] = call["residual"] if plan.residual else 0
        f.call(parts["strip"], [job.base, unit.base])
        f.call(parts["phases"], [job.base, unit.base])

    emit_units(f, call, thread, job["units"], body)


def _emit_phases(module: Module, parts: Parts, pairs: bool) -> Routine:
    """phases(job, unit): every phase of the outputs in the unit's box, or `pairs` of them."""
    with part_function(module, "phases", writes=True, cold=True, records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        every = job["phases", 0] * job["phases", 1] * job["phases", 2]
        together = job["phases", 2] if pairs else f.integer(1)
        with f.loop(every, step=together) as number:
            unit["phase"] = job["at_phases"] + number * len(PHASE)
            phase = Words(job.base + unit["phase"], PHASE)
            for axis in AXES:
                rest = f.least(unit["width", axis], phase["outputs", axis] - unit["j", axis])
                unit["length", axis] = f.most(rest, 0)
            unit["row"] = unit["length", 2]
            if pairs:
                with f.when(together > 1):
                    second = Words(job.base + (unit["phase"] + len(PHASE)), PHASE)
                    rest = f.least(unit["width", 2], second["outputs", 2] - unit["j", 2])
                    unit["row"] = unit["length", 2] + f.most(rest, 0)
            pixels = unit["length", 0] * unit["length", 1] * unit["length", 2]
            with f.when(pixels > 0):
                f.call(parts["groups"], [job.base, unit.base])
        return f.fn


def _emit_groups(module: Module, plan: Plan, parts: Parts) -> Routine:
    """groups(job, unit): every group of the unit, every block of its output channels."""
    nc, tail, *_ = plan.form
    with part_function(module, "groups", cold=True, records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        reduction = job["ci"] * job["taps"]
        with f.loop(unit["groups"]) as g:
            group = unit["group"] + g
            with f.loop(job["co"], step=nc) as k:
                weights = (group * job["co"] + k) * reduction
                arguments = [job.base, unit.base, g, group * job["co"] + k, weights]
                if not tail:
                    f.call(parts["block"], [*arguments, f.integer(nc)])
                else:
                    valid = f.least(job["co"] - k, nc)
                    f.call(parts["block"], [*arguments, valid])
        return f.fn


def _emit_block(module: Module, plan: Plan, parts: Parts) -> Routine:
    """block(job, unit, g, channel, weights, valid): `valid` output channels from `channel` on, of
    the g-th group of the unit.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    pairs = in_pairs(plan)
    labels = ("g", "channel", "weights", "valid")
    with part_function(module, "block", labels, records=RECORDS, plain=True) as (f, piece, args):
        g, channel, weights, valid = args
        job, unit = piece.job, piece.unit
        phase = Words(job.base + unit["phase"], PHASE)
        packed = unit.pointer("weights", real)
        reduction = job["ci"] * job["taps"]
        biases = packed + job["groups"] * job["co"] * reduction
        strip = piece.part("at_strip", real) + g * job["ci"] * job["plane"]
        outputs = (unit["length", 1] - 1) * job["pitch"] + unit["length", 2]
        vectors = (outputs + (lanes - 1)) // lanes
        straight = f.integer(0).differs(0)
        if at_once(plan, module.target):
            straight = job["step", 2].equals(1) & (job["pitch"] >= lanes)
        rows = f.select(straight, unit["length", 1], f.integer(0))
        wide = (unit["length", 2] + (lanes - 1)) // lanes
        by_row = f.integer(0).differs(0)
        if by_rows(plan, module.target):
            filled = wide * unit["length", 1] * FULL <= vectors * (FULL + 1)
            by_row = filled if pairs else job["step", 2].equals(1) & filled
            rows = f.select(by_row, unit["length", 1], rows)
        down = job["step", 1] * job["y_stride", 1]
        with f.loop(unit["length", 0]) as depth:
            corner, block = (
                output_corner(f, piece, real, depth, channel),
                piece.part("at_block", real),
            )
            direct = straight | by_row
            to = f.select(direct, corner.address(), block.address()).to_pointer(real)
            with f.loop(f.select(by_row, rows, f.integer(1))) as row:
                arguments = [
                    strip + (depth * job["face"] + row * job["pitch"]),
                    packed + weights, biases + channel,
                    job.base + phase["at_taps"], phase["reach"], job["ci"], job["plane"],
                    job["taps"], to + row * down,
                    f.select(direct, job["y_channel"], job["block"]),
                    job["pitch"], unit["row"], down, rows,
                    unit["residual"], f.select(by_row, wide, vectors),
                ]  # fmt: skip
                if "last" not in parts:
                    f.call(parts["full"], arguments)
                else:
                    with f.choose(valid >= plan.form[0]) as (full, last):
                        with full:
                            f.call(parts["full"], arguments)
                        with last:
                            f.call(parts["last"], arguments)
            with f.when(rows.equals(0)):
                f.call(parts["rows"], [job.base, unit.base, depth, channel, valid])
        return f.fn
