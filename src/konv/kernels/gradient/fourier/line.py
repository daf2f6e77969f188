"""The gradients of one vector of channels, of konv.kernels.gradient.fourier."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_column_back, emit_column_products
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.fourier.rows import emit_to_bins, emit_to_pixels
from konv.kernels.fourier.steps import clear_rows, emit_rows
from konv.kernels.gradient import records
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import JOB, UNIT, part
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.kernels.words import Words
from konv.llvm import I64, REAL, Function, Module, Routine, Value, pointer_to
from konv.plan import Plan

BEHIND = len(records.JOB), len(records.JOB) + len(JOB)  # where in a job the words of x and dy begin


def emit_line(module: Module, plan: Plan) -> Routine:
    """line(job, scratch, x, dy, dw, number): of the vector of channels of that number."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, length, pitch = Form.of(plan, lanes), length_of(plan), pitch_of(plan) * lanes
    into = emit_row_in(module, plan), emit_to_bins(module, plan)
    products, back = emit_column_products(module, plan), emit_column_back(module, plan)
    to_pixels, block_out = emit_to_pixels(module, plan), emit_block_out(module, plan)
    params = [("job", pointer_to(I64)), ("scratch", I64), *((n, pointer_to(real)) for n in "xyw")]
    with module.function("line", [*params, ("number", I64)], inline=False) as (f, args):
        base, scratch, x, dy, dw, number = args
        images, jobs = Words(base, records.JOB)["n"], [Words(base + at, JOB, True) for at in BEHIND]
        units = [Words(f.array(I64, len(UNIT)), UNIT) for _ in jobs]
        for unit in units:
            unit["scratch"], unit["raw", 0] = scratch, 0
        (job, its), unit = jobs, units[0]
        begin = f.least(number * lanes, job["channels"] - lanes)
        sources = x + begin * job["x_channel"], dy + begin * its["x_channel"]
        strip, between, tile, other, sums, block, zeros = (
            part(job, unit, f"at_{name}", real)
            for name in ("strip", "between", "tiles", "others", "sums", "block", "zeros")
        )
        for cleared, count in ((sums, length.bins * pitch), (zeros, lanes)):
            with f.loop(count, step=lanes) as i:
                cleared.put(i, f.zero(real, lanes))
        with (
            f.loop(images) as image,
            f.loop(job["boxes", 1]) as down,
            f.loop(job["boxes", 2]) as across,
        ):
            reach, there = [taps - 1 for taps in form.kernel[1:]], []
            for a, more in enumerate((reach, [0, 0])):
                size = _place(f, jobs[a], units[a], (down, across), more, length.all)
                source = sources[a] + image * jobs[a]["x_batch"]
                parts = strip, between, (tile, other)[a]
                there.append(
                    emit_rows(f, plan, into, jobs[a], units[a], source, parts, (size[0], size[1]))
                )
            with f.loop(length.bins) as k:
                bins = [each + k * pitch for each in (tile, other, sums)]
                for rows, own in zip(there, bins, strict=False):
                    clear_rows(f, own, rows, length.all, lanes)
                f.call(products, [*bins[:2], between, bins[2]])
        with f.loop(length.bins) as k:
            f.call(back, [sums + k * pitch, between, tile + k * pitch])
        unit["length", 2] = form.kernel[2]
        with f.loop(form.kernel[1]) as ky:
            f.call(to_pixels, [tile + ky * (2 * lanes), between, block, zeros])
            to = dw + begin * job["y_channel"] + ky * job["y_stride", 1]
            f.call(block_out, [job.base, unit.base, to, 1, 1, length.all])
        return f.fn


def _place(
    f: Function, job: Words, unit: Words, at: tuple[Value, Value], more: list[int], most: int
) -> list[Value]:
    """Write down where in an image a tile lies, for outputs of boxes and so many pixels more that
    they read; rows and pixels of it, of padding no more than a transform holds.
    """
    found = []
    for axis, (box, further) in enumerate(zip(at, more, strict=True), start=1):
        first = box * job["box", axis]
        slots = f.least(job["box", axis], job["out", axis] - first) + further
        unit["raw", axis], unit["slots", axis] = first - job["lo", axis], slots
        found.append(f.least(slots, most))
    return found
