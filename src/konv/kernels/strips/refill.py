"""The strips of the lines behind a unit's first, in planes that are always copied.

Padding lies where it lay, so it is written once for a unit (`rim`), and of each line only the rows
and columns that the image has (`refill`), nothing asked of any. A general fill asks of each row and
took as long as the sums of a 5x5 kernel.
"""

from __future__ import annotations

from konv.kernels.strips.fill import put
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.words import Words
from konv.llvm import REAL, Function, Module, Routine, Value
from konv.plan import Plan


def emit_rim(module: Module, plan: Plan) -> Routine:
    """rim(job, unit): zeros around what `refill` writes of the strip."""
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    single = plan.pixels == 1
    row, clear = form.row(single), module.routines["clear"]
    with strip_function(module, "rim") as (f, job, unit, _):
        to, rows, width = strip_of(job, unit, real), unit["slots", 1], unit["slots", 2]
        planes, (left, end) = _inside(f, job, unit, 0), _inside(f, job, unit, 2)
        top, bottom = _inside(f, job, unit, 1)
        with f.loop(unit["slots", 0]) as z, f.loop(rows) as r:
            line = to + (z * rows + r) * row
            there = (z >= planes[0]) & (z < planes[1]) & (r >= top) & (r < bottom)
            f.call(clear, [line, f.integer(0), f.select(there, left, width)])
            with f.when(there & (end < width)):
                f.call(clear, [line, end, width])
        return f.fn


def emit_refill(module: Module, plan: Plan) -> Routine:
    """refill(job, unit, x): the pixels of one channel that a unit reads."""
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    single, lanes, phases = plan.pixels == 1, form.lanes, form.phases
    row, half = form.row(single), form.half(single)
    with strip_function(module, "refill", ("x",)) as (f, job, unit, (x,)):
        (first, last), (top, bottom) = (_inside(f, job, unit, axis) for axis in (0, 1))
        left, end = _inside(f, job, unit, 2)
        begin = left if phases == 1 else f.least((left + 1) // 2 * 2, end)
        whole = begin + (end - begin) // (phases * lanes) * (phases * lanes)
        masks = [f.below(f.most(end - whole - n * lanes, 0), lanes) for n in range(phases)]
        to, source = strip_of(job, unit, real), x.to_pointer(real) + unit["raw", 2]
        with f.loop(last, start=first) as z, f.loop(bottom, start=top) as r:
            line = to + (z * unit["slots", 1] + r) * row
            at = source + (unit["raw", 0] + z) * job["x_stride", 0]
            at = at + (unit["raw", 1] + r) * job["x_stride", 1]
            with f.when(left < begin):
                line[left // 2 + half] = at[left]
            with f.loop(whole, start=begin, step=phases * lanes) as i:
                put(
                    f, form, line, i, [at.vector(i + n * lanes, lanes) for n in range(phases)], half
                )
            with f.when(whole < end):
                parts = [f.load_masked(at + (whole + n * lanes), m) for n, m in enumerate(masks)]
                put(f, form, line, whole, parts, half)
        return f.fn


def _inside(f: Function, job: Words, unit: Words, axis: int) -> tuple[Value, Value]:
    """The slots of an axis that lie in the image: the first, and that behind the last."""
    raw, slots = unit["raw", axis], unit["slots", axis]
    first = f.least(f.most(0 - raw, f.integer(0)), slots)
    return first, f.most(f.least(job["size", axis] - raw, slots), first)
