"""A unit of work of konv.kernels.shifted: a box of outputs, all filters.

for unit in units, taken by threads one after the other:
    for line of pixels that the box reads, all of them or a row: for piece of it:
        products of all rows of the weight                           konv.kernels.panels
    for filter: for row of outputs: the sums of its taps             konv.kernels.shifted.sums
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from konv.kernels.pack import HEADER, Arguments, emit_pack
from konv.kernels.panels.copy import emit_copy
from konv.kernels.panels.cut import HEAD
from konv.kernels.panels.tile import PACKED
from konv.kernels.panels.units import emit_sweep
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.scratch import LINE
from konv.kernels.shifted.cut import JOB
from konv.kernels.shifted.fill import emit_fill
from konv.kernels.shifted.sums import RECORDS, UNIT, emit_sums
from konv.kernels.words import Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[str, Routine]


def emit_kernel(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, plan.algorithm)
    product = replace(plan, activation="", residual=False)
    _emit_weights(module, plan.dtype)
    parts = {
        "copy": (emit_copy if plan.packed else emit_fill)(module, product),
        "sweep": emit_sweep(module, product),
    }
    parts["products"] = _emit_products(module, plan, parts)
    parts["sums"] = emit_sums(module, plan)
    emit_entry(module, partial(_emit_work, plan, parts), plan.residual)
    return module


def _emit_work(plan: Plan, parts: Parts, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of."""
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    size = SIZE[REAL[plan.dtype]]
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    head = Words(call.pointer("weights", I64), HEAD)
    unit["row"], unit["weights"], unit["bias"] = head["row"], head["rows"], head["biases"]
    rows = job["filters"] * job["taps"]
    unit["rows"] = rows
    unit["edges"] = head["biases"] + rows * size
    unit["biases"] = head["biases"] + rows * (2 * size)
    unit["residual"] = 0

    def body(number: Value) -> None:
        rest = number
        for axis in (1, 0):
            j = rest % job[f"boxes_{axis}"] * job[f"box_{axis}"]
            rest = rest // job[f"boxes_{axis}"]
            width = f.least(job[f"box_{axis}"], job[f"count_{axis}"] - j)
            pixels = job[f"size_{axis}"]
            first = f.least(f.most(j + job[f"least_{axis}"], 0), pixels)
            end = f.least(f.most(j + width + job[f"most_{axis}"], first), pixels)
            if axis == 1:  # rows go on from one to the next
                whole = job["boxes_1"].equals(1)
                first, end = f.select(whole, f.integer(0), first), f.select(whole, pixels, end)
            unit[f"j_{axis}"], unit[f"width_{axis}"] = j, width
            unit[f"first_{axis}"], unit[f"seen_{axis}"] = first, end - first
        x = rest * job["x_batch"] + unit["first_0"] * job["x_0"] + unit["first_1"] * job["x_1"]
        unit["image"] = call["x"] + x * size
        unit["out"] = call["y"] + rest * job["out_batch"] * size
        f.call(parts["products"], [job.base, unit.base])
        apart = call["residual"] if plan.residual else f.integer(0)
        f.call(parts["sums"], [job.base, unit.base, apart])

    emit_units(f, call, thread, job["units"], body)


def _emit_products(module: Module, plan: Plan, parts: Parts) -> Routine:
    """products(job, unit): of all rows of the weight and all pixels that the unit's box reads."""
    size, lanes = SIZE[REAL[plan.dtype]], module.target.lanes(plan.dtype)
    more = max(0, len(plan.form) - 2) * lanes  # that the last panel may have
    with part_function(module, "products", writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        _,
    ):
        job, unit = piece.job, piece.unit
        dense, width = job["dense"].differs(0), unit["seen_1"]
        lines = f.select(dense, f.integer(1), unit["seen_0"])
        length = f.select(dense, unit["seen_0"] * width, width)
        to = unit["scratch"] + job["at_products"]
        with f.loop(lines) as line:
            begin, done = unit["image"] + line * job["x_0"] * size, f.var(0)
            with f.forever() as end:
                left = length - done.get()
                f.leave_if(end, left <= 0)
                pixels = f.select(left <= job["piece"] + more, left, job["piece"])
                unit["pixels"] = pixels
                unit["x"] = begin + done.get() * job["x_1"] * size
                unit["y"] = to + (line * width + done.get()) * size
                f.call(parts["copy"], [job.base, unit.base])
                f.call(parts["sweep"], [job.base, unit.base])
                done.add(pixels)
        return f.fn


def _emit_weights(module: Module, dtype: str) -> None:
    """Add `pack`: [filter][tap][ci], each row on cache lines of its own; a zero for each, which its
    products begin with; what it makes of a pixel of padding, zero unless a number of it is not
    finite; then the biases.
    """
    real = REAL[dtype]
    line = LINE // SIZE[real]

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        every: Value = (a["co"] * a["taps"] + (PACKED - 1)) // PACKED
        return every

    def body(f: Function, a: Arguments, unit: Value) -> None:
        every, begin = a["co"] * a["taps"], unit * PACKED
        row = (((a["ci"] + (line - 1)) // line) | 1) * line
        rows = a["packed"] + HEADER // SIZE[real]
        zeros = rows + every * row
        edges, biases = zeros + every, zeros + every * 2
        with f.when(unit.equals(0)):
            head = Words(a["packed"].cast(I64), HEAD)
            head["rows"], head["biases"], head["row"] = rows.address(), zeros.address(), row
            f.clear(zeros, every)
            with f.choose(a["bias"].address().differs(0)) as (some, none):
                with some, f.loop(a["co"]) as k:
                    biases[k] = a["bias"][k] + 0.0
                with none:
                    f.clear(biases, a["co"])
        with f.loop(f.least(every, begin + PACKED), start=begin) as number:
            k, tap = number // a["taps"], number % a["taps"]
            source, to = a["weights"] + k * a["by_co"] + tap * a["by_tap"], rows + number * row
            edge = f.var_of(f.constant(real, 0.0))
            with f.loop(a["ci"]) as c:
                value = source[c * a["by_ci"]]
                to[c] = value
                edge.set(f.fma(value, f.constant(real, 0.0), edge.get()))
            edges[number] = edge.get()

    emit_pack(module, dtype, units, body)
