"""The packed weights of konv.kernels.upright: transformed, a vector of channels after the other."""

from __future__ import annotations

from konv.kernels.pack import HEADER, Arguments, alone, note, put_biases
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.kernels.upright.sizes import POINTS, deep_of
from konv.kernels.upright.transforms import WEIGHT_ROWS, dot
from konv.llvm import REAL, SIZE, Function, Module, Value, Variable
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [point][block][column], then all
    biases; the last vector ends with the last channel.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, (_, high, wide) = deep_of(form), form.kernel

    def body(f: Function, a: Arguments, unit: Value) -> None:  # noqa: ARG001 - there is one
        broken, channels = Variable(f, f.constant(real, 0.0)), a["groups"]
        out = a["packed"] + HEADER // SIZE[real]
        with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
            channel = f.least(line, channels - lanes) + lane
            own = a["weights"] + channel * a["by_group"]
            to = out + line * (POINTS * deep * wide) + lane
            with f.loop(deep) as i, f.loop(wide) as k:
                block = []
                for p in range(4):
                    there = i * 4 + p < high
                    value = own[f.select(there, (i * 4 + p) * wide + k, 0) * a["by_tap"]]
                    value = f.select(there, value, 0.0)
                    broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                    block.append(value)
                at = to + (i * wide + k) * lanes
                for n, row in enumerate(WEIGHT_ROWS):
                    at[n * deep * wide * lanes] = dot(f, row, block)
        put_biases(f, a, out, POINTS * deep * wide, lanes)
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, alone, body)
