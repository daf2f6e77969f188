"""The packed weights of konv.kernels.fourier: transformed, a vector of channels after the other."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_weight_column
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.pack import HEADER, Arguments, put_biases
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value, pointer_to
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [bin of rows][point of a column],
    each a real and an imaginary vector, then all biases; the last vector ends with the last
    channel.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, length = Form.of(plan, lanes), length_of(plan)
    pitch = pitch_of(plan) * lanes
    row_in, column = emit_taps_in(module, plan), emit_weight_column(module, plan)

    def vectors(f: Function, a: Arguments) -> Value:
        return f.integer((a["groups"] + (lanes - 1)) // lanes)

    def body(f: Function, a: Arguments, unit: Value) -> None:
        row, between = (f.array(real, size * lanes) for size in (length.all, 2 * length.all))
        out, channels = a["packed"] + HEADER // SIZE[real], a["groups"]
        bins = out + unit * (length.bins * pitch)
        own = a["weights"] + f.least(unit * lanes, channels - lanes) * a["by_group"]
        f.clear(bins, f.integer(length.bins * pitch))
        f.clear(row, f.integer(length.all * lanes))
        with f.loop(form.kernel[1]) as ky:
            taps = own + ky * form.kernel[2] * a["by_tap"]
            f.call(row_in, [taps, a["by_group"], a["by_tap"], row])
            f.call(to_bins, [row, between, bins + ky * (2 * lanes)])
        with f.loop(length.bins) as k:
            f.call(column, [bins + k * pitch, between])
        with f.when(unit.equals(0)):
            put_biases(f, a, out, length.bins * pitch // lanes, lanes)

    emit_frame(module, plan.dtype, vectors, body)


def emit_taps_in(module: Module, plan: Plan) -> Routine:
    """taps_in(taps, by_channel, by_tap, row): a row of taps of a vector of channels, as a row of
    pixels. A function of its own, for LLVM sees to no loop of `pack` itself.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    params = [("taps", pointer_to(real)), ("by_channel", I64), ("by_tap", I64)]
    with module.function("taps_in", [*params, ("row", pointer_to(real))], inline=False) as (
        f,
        args,
    ):
        taps, by_channel, by_tap, row = args
        apart = form.dilation[2] * lanes
        with f.loop(lanes) as lane, f.loop(form.kernel[2]) as tap:
            row[tap * apart + lane] = taps[lane * by_channel + tap * by_tap]
        return f.fn
