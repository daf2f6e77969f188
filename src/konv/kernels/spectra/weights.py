"""The packed weights of konv.kernels.spectra: transformed squares of taps, by blocks of outputs."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_column_in
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.fourier.weights import emit_taps_in
from konv.kernels.pack import HEADER, Arguments
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.spectra.cut import points_of
from konv.kernels.strips.form import Form
from konv.llvm import REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): a unit is a vector of a group's outputs; the last vector of
    a group ends with its last output.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    length, pitch, points = length_of(plan), pitch_of(plan) * lanes, points_of(plan)
    row_in, form = emit_taps_in(module, plan), Form.of(plan, lanes)
    # Scaled here as to_pixels scales rows
    column = emit_column_in(module, plan, "weight_column", 1 / length.all)

    def of_group(a: Arguments) -> Value:
        found: Value = (a["co"] + (lanes - 1)) // lanes
        return found

    def units(f: Function, a: Arguments) -> Value:
        return f.integer(a["groups"] * of_group(a))

    def body(f: Function, a: Arguments, unit: Value) -> None:
        row, between, bins = (
            f.array(real, size * lanes)
            for size in (length.all, 2 * length.all, length.bins * pitch_of(plan))
        )
        vectors, out, ci = of_group(a), a["packed"] + HEADER // SIZE[real], a["ci"]
        group, v = unit // vectors, unit % vectors
        begin = f.least(v * lanes, a["co"] - lanes)
        own = a["weights"] + group * a["by_group"] + begin * a["by_co"]
        # The block that holds this vector, and how many it has
        first = v // plan.vectors * plan.vectors
        wide = f.least(vectors - first, plan.vectors) * lanes
        each = ci * (2 * points * lanes)
        to = out + (group * vectors + first) * each + (v - first) * lanes
        f.clear(row, f.integer(length.all * lanes))
        f.clear(bins, f.integer(length.bins * pitch))
        apart = form.dilation[1] * 2 * lanes
        with f.loop(ci) as c:
            with f.loop(form.kernel[1]) as ky:
                taps = own + c * a["by_ci"] + ky * form.kernel[2] * a["by_tap"]
                f.call(row_in, [taps, a["by_co"], a["by_tap"], row])
                f.call(to_bins, [row, between, bins + ky * apart])
            step = ci * (2 * wide)
            with f.loop(length.bins) as k:
                there = to + (k * length.all) * step + c * (2 * wide)
                f.call(column, [bins + k * pitch, between, there, step, wide])
        bias = out + a["groups"] * vectors * each + unit * lanes
        with f.loop(lanes) as lane:
            bias[lane] = 0.0
            with f.when(a["bias"].address().differs(0)):
                bias[lane] = a["bias"][group * a["co"] + begin + lane] + 0.0

    emit_frame(module, plan.dtype, units, body)
