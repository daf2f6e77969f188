"""A unit of work of groups abreast: a box of pixels and some cells.

for unit in units, taken by threads one after the other:
    strip of the unit's input                             konv.kernels.abreast.strip
    for cell, vector of output channels, depth:
        tiles of pixels along rows                        konv.kernels.abreast.tile
        contiguous output: rows out of the block          konv.kernels.results
"""

from __future__ import annotations

from functools import partial
from typing import Any

from konv.kernels.abreast.strip import JOB, RECORDS, UNIT, emit_strip
from konv.kernels.abreast.tile import emit_tiles, emit_weights
from konv.kernels.pack import HEADER
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.results import emit_output_squares, put_row
from konv.kernels.tables import emit_slots
from konv.kernels.words import AXES, Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[Any, Routine]


def emit_kernel(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, plan.algorithm)
    emit_weights(module, plan)
    parts: Parts = {"slots": emit_slots(module), "strip": emit_strip(module, plan)}
    for m in range(1, plan.pixels + 1):
        parts[m] = emit_tiles(module, plan, m)
    parts["rows"] = _emit_rows(module, plan, parts)
    parts["cells"] = _emit_cells(module, plan, parts)
    emit_entry(module, partial(_emit_work, plan, parts), plan.residual)
    return module


def _emit_work(plan: Plan, parts: Parts, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of."""
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    piece = Piece(job, unit)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["weights"] = call["weights"] + HEADER
    size = SIZE[REAL[plan.dtype]]

    def body(number: Value) -> None:
        chunk, rest = number % job["chunks"], number // job["chunks"]
        unit["cell"] = chunk * job["chunk"]
        unit["some"] = f.least(job["chunk"], job["cells"] - unit["cell"])
        for axis in reversed(AXES):
            j = rest % job["boxes", axis] * job["box", axis]
            rest = rest // job["boxes", axis]
            length = f.least(job["box", axis], job["count", axis] - j)
            raw = j * job["jump", axis] + job["least", axis]
            slots = (length - 1) * job["jump", axis] + job["span", axis] + 1
            unit["j", axis], unit["length", axis] = j, length
            unit["raw", axis], unit["slots", axis] = raw, slots
            table, raws = piece.part(("at_slots", axis), I64), job.base + job["at_raws", axis]
            shape = job["size", axis], job["x_stride", axis], job["mode"]
            f.call(parts["slots"], [table, raws, raw, slots, *shape])
        unit["x"] = call["x"] + rest * job["x_batch"] * size
        unit["y"] = call["y"] + rest * job["y_batch"] * size
        unit["residual"] = call["residual"] if plan.residual else 0
        f.call(parts["strip"], [job.base, unit.base])
        f.call(parts["cells"], [job.base, unit.base])

    emit_units(f, call, thread, job["units"], body)


def _emit_cells(module: Module, plan: Plan, parts: Parts) -> Routine:
    """cells(job, unit): every vector of output channels, depth by depth."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    size = SIZE[real]
    squares = emit_output_squares(module, plan, lanes) if plan.blocked else {}
    with part_function(module, "cells", cold=True, records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        reduction = job["rows"] * (plan.depth * plan.form[0] * lanes)
        weights = unit.pointer("weights", real)
        biases = weights + job["cells"] * job["vectors"] * reduction
        steps = [job["y_stride", axis] * size for axis in AXES]
        begin = unit["y"]
        for axis in AXES:
            begin = begin + unit["j", axis] * steps[axis]
        with (
            f.loop(unit["some"]) as cell,
            f.loop(job["vectors"]) as v,
            f.loop(unit["length", 0]) as d,
        ):
            k = (unit["cell"] + cell) * job["vectors"] + v
            x = piece.part("at_strip", real) + cell * job["plane"]
            x = x + d * (job["jump", 0] * job["face"])
            to = begin + d * steps[0] + k * (lanes * size) * job["y_channel"]
            results = [to, steps[2], steps[1]]
            if plan.blocked:
                row = unit["length", 2] * (lanes * size)
                results = [unit["scratch"] + job["at_block"], f.integer(lanes * size), row]
            arguments = [x, weights + k * reduction, biases + k * lanes, *results]
            f.call(parts["rows"], [job.base, unit.base, *arguments])
            if plan.blocked:
                block, width = piece.part("at_block", real), unit["length", 2]
                residual = [unit["residual"]] if plan.residual else []
                # Rows as long as those of the output are one.
                full = width.equals(job["y_stride", 1])
                run = f.select(full, unit["length", 1] * width, width)
                sizes = run, f.integer(lanes), job["y_channel"], f.integer(1)
                with f.loop(f.select(full, f.integer(1), unit["length", 1])) as h:
                    line = (to + h * steps[1]).to_pointer(real)
                    source = block + h * width * lanes
                    put_row(f, plan, squares, lanes, source, line, sizes, residual)
        return f.fn


def _emit_rows(module: Module, plan: Plan, parts: Parts) -> Routine:
    """rows(job, unit, x, weights, bias, to, step, below): one vector of output channels at one
    depth. Rows go in tiles as even as can be: some of one size, then some a pixel shorter.
    """
    real = REAL[plan.dtype]
    labels = ("x", "weights", "bias", "to", "step", "below")
    wide, most, stride = plan.depth * plan.form[3], plan.pixels, plan.form[1]
    with part_function(module, "rows", labels, cold=True, records=RECORDS) as (f, piece, args):
        job, unit = piece.job, piece.unit
        x, weights, bias, to, step, below = args
        width = unit["length", 2]
        count = (width + (most - 1)) // most
        each, more = width // count, width % count
        first = more * (each + 1)
        listed, down = job.base + job["at_rows"], job["jump", 1] * job["pitch"]
        starts = x.to_pointer(real), x.to_pointer(real) + first * (stride * wide)
        begins, sizes = (to, to + first * step), (each + 1, each)
        for start, begin, now, tiles in zip(
            starts, begins, sizes, (more, count - more), strict=True
        ):
            with f.when(tiles > 0):
                for m in range(1, most + 1):
                    with f.when(now.equals(m)):
                        f.call(parts[m], [
                            start, down, listed, job["rows"], weights, bias, begin, step, below,
                            unit["length", 1], tiles, unit["residual"],
                        ])  # fmt: skip
        return f.fn
