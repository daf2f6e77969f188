"""The packed weights of konv.kernels.spectrum, transformed rows of taps, and what those of
konv.kernels.spectra have in common with them: blocks of outputs.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.fourier.lengths import length_of
from konv.kernels.fourier.weights import emit_taps_in
from konv.kernels.pack import HEADER, Arguments
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.llvm import REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_pack(module: Module, plan: Plan, to_bins: Routine) -> None:
    """pack(weights, bias, packed, ...): rows of taps, [bin][row of taps][input channel]."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    length, row_in = length_of(plan), emit_taps_in(module, plan)
    high, wide = Form.of(plan, lanes).kernel[1:]

    def transform(f: Function, a: Arguments, own: Pointer, to: Pointer, row: Value) -> None:
        line, between = (f.array(real, length.all * lanes) for _ in range(2))
        f.clear(line, f.integer(length.all * lanes))
        ci = a["ci"]
        with f.loop(high) as ky, f.loop(ci) as c:
            taps = own + c * a["by_ci"] + ky * wide * a["by_tap"]
            f.call(row_in, [taps, a["by_co"], a["by_tap"], line])
            there = to + (ky * ci + c) * (2 * row)
            f.call(to_bins, [line, between, there, ci * high * (2 * row), row])

    emit_blocks(module, plan, length.bins * high, transform)


Transform = Callable[[Function, Arguments, Pointer, Pointer, Value], None]


def emit_blocks(module: Module, plan: Plan, points: int, transform: Transform) -> None:
    """pack(weights, bias, packed, ...), of so many complex points for each pair of channels: a unit
    is a vector of a group's outputs; the last vector of a group ends with its last output.
    transform(f, arguments, own, to, row) puts those of one vector, whose weights begin at `own`, to
    `to`, where the outputs of its block are `row` numbers.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)

    def of_group(a: Arguments) -> Value:
        found: Value = (a["co"] + (lanes - 1)) // lanes
        return found

    def units(f: Function, a: Arguments) -> Value:
        return f.integer(a["groups"] * of_group(a))

    def body(f: Function, a: Arguments, unit: Value) -> None:
        vectors, out = of_group(a), a["packed"] + HEADER // SIZE[real]
        group, v = unit // vectors, unit % vectors
        begin = f.least(v * lanes, a["co"] - lanes)
        own = a["weights"] + group * a["by_group"] + begin * a["by_co"]
        # The block that holds this vector, and how many it has
        first = v // plan.vectors * plan.vectors
        wide = f.least(vectors - first, plan.vectors) * lanes
        each = a["ci"] * (2 * points * lanes)
        to = out + (group * vectors + first) * each + (v - first) * lanes
        transform(f, a, own, to, wide)
        bias = out + a["groups"] * vectors * each + unit * lanes
        with f.loop(lanes) as lane:
            bias[lane] = 0.0
            with f.when(a["bias"].address().differs(0)):
                bias[lane] = a["bias"][group * a["co"] + begin + lane] + 0.0

    emit_frame(module, plan.dtype, units, body)
