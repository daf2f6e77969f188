"""The register tile of groups abreast: m pixels of a row x one vector of output channels; and its
weights, packed [vector][row of taps][channel][tap of the row][lane]. Lanes are [output of a
group][group].
"""

from __future__ import annotations

from typing import Any

from konv.kernels.abreast.strip import turned
from konv.kernels.epilogue import activate, finish
from konv.kernels.pack import HEADER, Arguments, emit_pack
from konv.llvm import (
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan

PARAMETERS = (
    "x", "down",  # what the first pixel reads; numbers from one row of outputs to the next
    "list", "count",  # rows of taps: where they read, how many
    "weights", "bias",  # of this vector
    "to", "step", "below",  # results: where, bytes from one pixel to the next, from row to row
    "length", "tiles",  # rows of outputs, tiles in each
    "residual",  # bytes from a result to what is added to it
)  # fmt: skip

# Pixels of tiles that are compiled plainly: as even as tiles are, rows of 7, 14, 28, 56 and of most
# numbers beside have none so short.
SHORT = 6


def emit_tiles(module: Module, plan: Plan, m: int) -> Routine:
    """tiles_m(*PARAMETERS): so many tiles of m pixels in each of the rows."""
    real = REAL[plan.dtype]
    wide, (kernel, stride, _, together) = plan.depth * plan.form[3], plan.form
    lanes = module.target.lanes(plan.dtype)
    pointers = {"x": real, "weights": real, "bias": real, "list": I64}
    params = [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in PARAMETERS]
    with module.function(f"tiles_{m}", params, inline=False, plain=m <= SHORT) as (f, args):
        a: dict[str, Any] = dict(zip(PARAMETERS, args, strict=True))
        with f.loop(a["length"]) as row, f.loop(a["tiles"]) as tile:
            bias = a["bias"].vector(0, lanes)
            sums = [Variable(f, bias) for _ in range(m)]
            first = a["x"] + row * a["down"] + tile * (m * stride * wide)
            with f.loop(a["count"]) as r:
                x = first + a["list"][r]
                weights = a["weights"] + r * (plan.depth * kernel * lanes)
                with f.loop(plan.depth) as c:
                    _add(f, plan, sums, x + c * together, weights + c * (kernel * lanes))
            to = a["to"] + row * a["below"] + tile * (a["step"] * m)
            _store(f, plan, sums, to, a)
        return f.fn


def _add(f: Function, plan: Plan, sums: list[Variable], x: Pointer, weights: Pointer) -> None:
    """One channel of each group of a row of taps: pixel after pixel, whatever reads it."""
    kernel, stride, dilation, together = plan.form
    lanes = sums[0].type.count
    taps = [weights.vector(s * lanes, lanes) for s in range(kernel)]
    for p in range((len(sums) - 1) * stride + (kernel - 1) * dilation + 1):
        reads = [(s, *divmod(p - s * dilation, stride)) for s in range(kernel)]
        users = [(s, j) for s, j, rest in reads if not rest and 0 <= j < len(sums)]
        if not users:
            continue
        at = p * plan.depth * together
        if together > 1:
            one = x.vector(at, together)
            value = f.shuffle(one, one, [lane % together for lane in range(lanes)])
        else:
            value = f.splat(x[at], lanes)
        for s, j in users:
            sums[j].set(f.fma(value, taps[s], sums[j].get()))


def _store(f: Function, plan: Plan, sums: list[Variable], to: Value, a: dict[str, Any]) -> None:
    """Adding 0 turns -0 into 0. A residual is added here, or on the way out of a block."""
    real, together, lanes = REAL[plan.dtype], plan.form[3], sums[0].type.count
    apart = [turned(lane, lanes // together, together) for lane in range(lanes)]
    for j, total in enumerate(sums):
        place, value = (to + a["step"] * j).to_pointer(real), total.get() + 0.0
        if together > 1:
            value = f.shuffle(value, value, apart)
        if not plan.blocked:
            value = finish(f, plan, value, place, a["residual"])
        elif not plan.residual:
            value = activate(f, plan, value)
        place.put(0, value)


def emit_weights(module: Module, plan: Plan) -> None:
    """Add `pack`, a vector a unit."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    kernel, together = plan.form[0], plan.form[3]

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        every: Value = a["groups"] * a["co"]
        return every // lanes

    def body(f: Function, a: Arguments, unit: Value) -> None:
        packed, ci = a["packed"] + HEADER // SIZE[real], a["ci"]
        every, rows = a["groups"] * a["co"], a["taps"] // kernel
        with f.loop(lanes) as lane:
            k = unit * lanes + lane % together * (lanes // together) + lane // together
            source = a["weights"] + k // a["co"] * a["by_group"] + k % a["co"] * a["by_co"]
            to = packed + unit * (lanes * ci * a["taps"]) + lane
            with f.loop(rows) as r, f.loop(ci) as c, f.loop(kernel) as s:
                number = source[(r * kernel + s) * a["by_tap"] + c * a["by_ci"]]
                to[((r * ci + c) * kernel + s) * lanes] = number
            bias = f.var_of(f.constant(real, 0.0))
            with f.when(a["bias"].address().differs(0)):
                bias.set(a["bias"][k] + 0.0)
            (packed + every * ci * a["taps"])[unit * lanes + lane] = bias.get()

    emit_pack(module, plan.dtype, units, body)
