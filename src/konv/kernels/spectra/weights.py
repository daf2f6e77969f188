"""The packed weights of konv.kernels.spectra: transformed squares of taps, by blocks of outputs."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_column_in
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.fourier.weights import emit_taps_in
from konv.kernels.pack import Arguments
from konv.kernels.spectra.cut import points_of
from konv.kernels.spectrum.weights import emit_blocks
from konv.kernels.strips.form import Form
from konv.llvm import REAL, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): squares of taps, [bin][input channel]; 56 points along each
    axis take 220 KB of stack.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    length, pitch = length_of(plan), pitch_of(plan) * lanes
    row_in, form = emit_taps_in(module, plan), Form.of(plan, lanes)
    # Scaled here as to_pixels scales rows
    column = emit_column_in(module, plan, "weight_column", 1 / length.all)

    def transform(f: Function, a: Arguments, own: Pointer, to: Pointer, row: Value) -> None:
        line, between, bins = (
            f.array(real, size)
            for size in (length.all * lanes, 2 * length.all * lanes, length.bins * pitch)
        )
        f.clear(line, f.integer(length.all * lanes))
        f.clear(bins, f.integer(length.bins * pitch))
        step = a["ci"] * (2 * row)
        with f.loop(a["ci"]) as c:
            with f.loop(form.kernel[1]) as ky:
                taps = own + c * a["by_ci"] + ky * form.kernel[2] * a["by_tap"]
                f.call(row_in, [taps, a["by_co"], a["by_tap"], line])
                f.call(to_bins, [line, between, bins + ky * form.dilation[1] * (2 * lanes)])
            with f.loop(length.bins) as k:
                there = to + k * length.all * step + c * (2 * row)
                f.call(column, [bins + k * pitch, between, there, step, row])

    emit_blocks(module, plan, points_of(plan), transform)
