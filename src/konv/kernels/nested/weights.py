"""The packed weights of konv.kernels.nested: transformed, a vector of channels after the other."""

from __future__ import annotations

from konv.kernels.nested.sizes import blocks_of
from konv.kernels.nested.transforms import WEIGHT_ROWS, dot
from konv.kernels.pack import HEADER, Arguments, alone, note
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import REAL, SIZE, Function, Module, Pointer, Value, Variable
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [point][block row][block column],
    then all biases; the last vector ends with the last channel.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = blocks_of(form)

    def body(f: Function, a: Arguments, unit: Value) -> None:  # noqa: ARG001 - there is one
        broken, channels = Variable(f, f.constant(real, 0.0)), a["groups"]
        out = a["packed"] + HEADER // SIZE[real]
        with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
            channel = f.least(line, channels - lanes) + lane
            own = a["weights"] + channel * a["by_group"]
            to = out + line * (49 * deep * wide) + lane
            with f.loop(deep) as i, f.loop(wide) as k:
                ws = _block(f, form, own, a["by_tap"], i * 4, k * 4, broken)
                at = to + (i * wide + k) * lanes
                for n, row in enumerate(WEIGHT_ROWS):
                    column = [dot(f, row, [ws[p][q] for p in range(4)]) for q in range(4)]
                    for m, other in enumerate(WEIGHT_ROWS):
                        point = (n * 7 + m) * deep * wide * lanes
                        at[point] = dot(f, other, column)
        put_biases(f, a, out, 49 * deep * wide, lanes)
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, alone, body)


def put_biases(f: Function, a: Arguments, out: Pointer, each: int, lanes: int) -> None:
    """All biases, behind the weights, of which a channel has so many."""
    channels = a["groups"]
    padded = (channels + (lanes - 1)) // lanes * lanes
    biases = out + padded * each
    with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
        biases[line + lane] = 0.0
        with f.when(a["bias"].address().differs(0)):
            biases[line + lane] = a["bias"][f.least(line, channels - lanes) + lane] + 0.0


def _block(
    f: Function, form: Form, own: Pointer, by_tap: Value, i: Value, k: Value, broken: Variable
) -> list[list[Value]]:
    """The 4 x 4 weights from tap (i, k) on, 0 beyond the kernel."""
    found = []
    for p in range(4):
        row = []
        for q in range(4):
            ky, kx = i + p, k + q
            there = (ky < form.kernel[1]) & (kx < form.kernel[2])
            tap = f.select(there, ky * form.kernel[2] + kx, 0)
            value = own[tap * by_tap]
            value = f.select(there, value, 0.0)
            broken.set(f.fma(value, f.constant(value.type, 0.0), broken.get()))
            row.append(value)
        found.append(row)
    return found
