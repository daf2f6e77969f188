"""The packed weights of konv.kernels.fourier: transformed, a vector of channels after the other."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_weight_column
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.pack import HEADER, Arguments, note, put_biases
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import REAL, SIZE, Function, Module, Routine, Value, Variable
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [bin of rows][point of a column],
    each a real and an imaginary vector, then all biases; the last vector ends with the last
    channel. The first word of packed weights says whether all are finite, as konv.kernels.pack has
    it.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, length = Form.of(plan, lanes), length_of(plan)
    pitch, column = pitch_of(plan) * lanes, emit_weight_column(module, plan)
    high, wide = form.kernel[1:]

    def vectors(f: Function, a: Arguments) -> Value:
        return f.integer((a["groups"] + (lanes - 1)) // lanes)

    def body(f: Function, a: Arguments, unit: Value) -> None:
        broken, channels = Variable(f, f.constant(real, 0.0)), a["groups"]
        out = a["packed"] + HEADER // SIZE[real]
        row, between = (f.array(real, size * lanes) for size in (length.all, 2 * length.all))
        bins = out + unit * (length.bins * pitch)
        first = f.least(unit * lanes, channels - lanes)
        f.clear(bins, f.integer(length.bins * pitch))
        f.clear(row, f.integer(length.all * lanes))
        with f.loop(high) as ky:
            with f.loop(lanes) as lane:
                own = a["weights"] + (first + lane) * a["by_group"]
                with f.loop(wide) as kx:
                    value = own[(ky * wide + kx) * a["by_tap"]]
                    broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                    row[kx * lanes + lane] = value
            f.call(to_bins, [row, between, bins + ky * (2 * lanes)])
        with f.loop(length.bins) as k:
            f.call(column, [bins + k * pitch, between])
        with f.when(unit.equals(0)):
            put_biases(f, a, out, length.bins * pitch // lanes, lanes)
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, vectors, body)
