"""A unit of work of konv.kernels.panels: a box of a row of pixels and some output channels of a
group. Its panels are filled, and each is multiplied by some rows of the weight before the next is:
so many that they stay in the second-level cache for all panels. In `runs` some rows are multiplied
by all panels before the next are.
"""

from __future__ import annotations

from functools import partial

from konv.kernels.panels.copy import RECORDS, UNIT, emit_copy, shares
from konv.kernels.panels.cut import HEAD, JOB
from konv.kernels.panels.tile import emit_first, emit_rows, emit_weights
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.words import Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[str, Routine]


def emit_kernel(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, plan.algorithm)
    emit_weights(module, plan.dtype)
    parts = {"copy": emit_copy(module, plan), "sweep": emit_sweep(module, plan)}
    emit_entry(module, partial(_emit_work, plan, parts), plan.residual)
    return module


def _emit_work(plan: Plan, parts: Parts, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of; chunks of output channels vary slowest, so that
    each thread sees part of the weights.
    """
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    size = SIZE[REAL[plan.dtype]]
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    head = Words(call.pointer("weights", I64), HEAD)
    unit["row"] = head["row"]

    def body(number: Value) -> None:
        each = job["units"] // job["chunks"]
        chunk, rest = number // each, number % each
        box, rest = rest % job["boxes"], rest // job["boxes"]
        high, rest = rest % job["high"], rest // job["high"]
        deep, image = rest % job["deep"], rest // job["deep"]
        group, k = chunk // job["parts"], chunk % job["parts"] * job["chunk"]
        channel = group * job["co"] + k
        pixel, last = box * job["box"], box.equals(job["boxes"] - 1)  # which may be larger
        unit["pixels"] = f.select(last, job["length"] - pixel, job["box"])
        unit["rows"] = f.least(job["chunk"], job["co"] - k)
        x = image * job["x_batch"] + group * job["ci"] * job["x_channel"]
        x = x + deep * job["x0"] + high * job["x1"] + pixel * job["x2"]
        y = image * job["y_batch"] + channel * job["y_channel"]
        y = y + deep * job["y0"] + high * job["y1"] + pixel
        unit["x"], unit["y"] = call["x"] + x * size, call["y"] + y * size
        unit["weights"] = head["rows"] + channel * head["row"] * size
        unit["bias"] = head["biases"] + channel * size
        unit["residual"] = call["residual"] if plan.residual else 0
        f.call(parts["copy"], [job.base, unit.base])
        f.call(parts["sweep"], [job.base, unit.base])

    emit_units(f, call, thread, job["units"], body)


def emit_sweep(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit): every tile of the unit. Where pixels are neighbours the first tile of a
    panel fills it: 64 -> 64 @56 0.163 to 0.157 ms, 32 -> 16 @112 0.111 to 0.100 (Zen 3).
    """
    real, lanes, wide = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels
    size, (mr, few, *ends) = SIZE[real], plan.form
    first, narrow = emit_first(module, plan, mr, plan.vectors), emit_rows(module, plan, few, 1)
    tiles = {
        nv: emit_rows(module, plan, rows, nv) for nv, rows in enumerate((mr, *ends), plan.vectors)
    }
    with part_function(module, "sweep", records=RECORDS, plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        panels = unit["scratch"] + job["at_panels"]
        full, vectors = shares(f, plan, lanes, unit["pixels"])
        rest, behind = unit["pixels"] - full * wide, panels + full * job["panel"] * size
        with f.loop(unit["rows"], step=job["rows"]) as k:
            some = f.least(unit["rows"] - k, job["rows"])
            fills = job["x2"].equals(1) & job["runs"].equals(0) & k.equals(0)
            filling = f.select(fills, f.integer(mr), 0)

            def arguments(
                panel: Value, pixel: Value, valid: Value, row: Value, rows: Value, many: Value
            ) -> list[Value]:
                """As PARAMETERS says, from a row of the unit on."""
                weights = unit["weights"] + row * unit["row"] * size
                to = unit["y"] + (row * job["y_channel"] + pixel) * size
                return [
                    panel, job["ci"], weights, unit["row"], unit["bias"] + row * size,
                    to, job["y_channel"], rows, valid, job["far"],
                    unit["x"] + (pixel + wide) * size, job["x_channel"],
                    many, job["panel"], unit["residual"],
                ]  # fmt: skip

            at_once = f.select(job["runs"].differs(0), full, f.integer(1))
            with f.loop(full, step=at_once) as p:
                panel, pixel, valid = panels + p * job["panel"] * size, p * wide, f.integer(wide)
                with f.when(filling > 0):
                    image = unit["x"] + pixel * size
                    one = arguments(panel, pixel, valid, k, some, f.integer(1))
                    f.call(first, [image, *one])
                many = panel, pixel, valid, k + filling, some - filling, at_once
                f.call(tiles[plan.vectors], arguments(*many))
            for nv, tile in tiles.items():
                with f.when(vectors.equals(nv)):
                    last = behind, full * wide, rest, k, some, f.integer(1)
                    f.call(tile, arguments(*last))
            with f.loop(f.select(vectors < plan.vectors, rest, 0), step=lanes) as v:
                panel = behind + v * job["ci"] * size
                left = panel, full * wide + v, rest - v, k, some, f.integer(1)
                f.call(narrow, arguments(*left))
        return f.fn
