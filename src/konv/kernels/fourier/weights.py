"""The packed weights of konv.kernels.fourier: transformed, a vector of channels after the other."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_weight_column
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.pack import HEADER, Arguments, note, put_biases
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value, Variable, pointer_to
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [bin of rows][point of a column],
    each a real and an imaginary vector, then all biases; the last vector ends with the last
    channel. The first word of packed weights says whether all are finite, as konv.kernels.pack has
    it.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, length = Form.of(plan, lanes), length_of(plan)
    pitch = pitch_of(plan) * lanes
    row_in, column = _emit_row_in(module, plan), emit_weight_column(module, plan)

    def vectors(f: Function, a: Arguments) -> Value:
        return f.integer((a["groups"] + (lanes - 1)) // lanes)

    def body(f: Function, a: Arguments, unit: Value) -> None:
        sizes = length.all, 2 * length.all, 1
        row, between, lost = (f.array(real, size * lanes) for size in sizes)
        out, channels = a["packed"] + HEADER // SIZE[real], a["groups"]
        bins = out + unit * (length.bins * pitch)
        own = a["weights"] + f.least(unit * lanes, channels - lanes) * a["by_group"]
        for cleared, count in (
            (bins, length.bins * pitch),
            (row, length.all * lanes),
            (lost, lanes),
        ):
            f.clear(cleared, f.integer(count))
        with f.loop(form.kernel[1]) as ky:
            taps = own + ky * form.kernel[2] * a["by_tap"]
            f.call(row_in, [taps, a["by_group"], a["by_tap"], row, lost])
            f.call(to_bins, [row, between, bins + ky * (2 * lanes)])
        with f.loop(length.bins) as k:
            f.call(column, [bins + k * pitch, between])
        with f.when(unit.equals(0)):
            put_biases(f, a, out, length.bins * pitch // lanes, lanes)
        broken = Variable(f, f.constant(real, 0.0))
        with f.loop(lanes) as lane:
            broken.set(broken.get() + lost[lane])
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, vectors, body)


def _emit_row_in(module: Module, plan: Plan) -> Routine:
    """weight_row(taps, by_group, by_tap, row, lost): a row of taps of a vector of channels, as a
    row of pixels; `lost` keeps 0 times them, which is not 0 if some are not finite.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    wide = Form.of(plan, lanes).kernel[2]
    params = [("taps", pointer_to(real)), ("by_group", I64), ("by_tap", I64)]
    params += [("row", pointer_to(real)), ("lost", pointer_to(real))]
    with module.function("weight_row", params, inline=False) as (f, args):
        taps, by_group, by_tap, row, lost = args
        with f.loop(lanes) as lane, f.loop(wide) as tap:
            row[tap * lanes + lane] = taps[lane * by_group + tap * by_tap]
        total, zero = Variable(f, lost.vector(0, lanes)), f.zero(real, lanes)
        with f.loop(wide * lanes, step=lanes) as i:
            total.set(f.fma(row.vector(i, lanes), zero, total.get()))
        lost.put(0, total.get())
        return f.fn
