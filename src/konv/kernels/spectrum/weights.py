"""The packed weights of konv.kernels.spectrum: rows of taps, transformed, by blocks of outputs."""

from __future__ import annotations

from konv.kernels.fourier.lengths import length_of
from konv.kernels.fourier.weights import emit_taps_in
from konv.kernels.pack import HEADER, Arguments
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): a unit is a vector of a group's outputs; the last vector of
    a group ends with its last output.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    length, row_in = length_of(plan), emit_taps_in(module, plan)
    form = Form.of(plan, lanes)
    high = form.kernel[1]

    def of_group(a: Arguments) -> Value:
        found: Value = (a["co"] + (lanes - 1)) // lanes
        return found

    def units(f: Function, a: Arguments) -> Value:
        return f.integer(a["groups"] * of_group(a))

    def body(f: Function, a: Arguments, unit: Value) -> None:
        row, between = (f.array(real, length.all * lanes) for _ in range(2))
        vectors, out, ci = of_group(a), a["packed"] + HEADER // SIZE[real], a["ci"]
        group, v = unit // vectors, unit % vectors
        begin = f.least(v * lanes, a["co"] - lanes)
        own = a["weights"] + group * a["by_group"] + begin * a["by_co"]
        # The block that holds this vector, and how many it has
        first = v // plan.vectors * plan.vectors
        wide = f.least(vectors - first, plan.vectors) * lanes
        each = ci * high * (2 * length.bins * lanes)
        to = out + (group * vectors + first) * each + (v - first) * lanes
        f.clear(row, f.integer(length.all * lanes))
        with f.loop(high) as ky, f.loop(ci) as c:
            taps = own + c * a["by_ci"] + ky * form.kernel[2] * a["by_tap"]
            f.call(row_in, [taps, a["by_co"], a["by_tap"], row])
            there = to + (ky * ci + c) * (2 * wide)
            f.call(to_bins, [row, between, there, ci * high * (2 * wide), wide])
        bias = out + a["groups"] * vectors * each + unit * lanes
        with f.loop(lanes) as lane:
            bias[lane] = 0.0
            with f.when(a["bias"].address().differs(0)):
                bias[lane] = a["bias"][group * a["co"] + begin + lane] + 0.0

    emit_frame(module, plan.dtype, units, body)
